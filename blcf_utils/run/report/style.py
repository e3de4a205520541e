"""The look of the report: one style sheet for screens, phones and paper."""

from pygments.formatters import HtmlFormatter

CSS = """
:root { --ink: #1c2430; --soft: #5a6675; --line: #d8dee6; --wash: #f4f6f9; --link: #0b57a4;
  --good: #0a6b3b; --mid: #8a5a00; --bad: #a11d2b; }
* { box-sizing: border-box; }
html { color-scheme: light; -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
a { color: var(--link); }
a:focus-visible, button:focus-visible, summary:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100vw; }
.skip:focus { left: 1rem; top: .5rem; background: #fff; padding: .5rem; z-index: 2; }
header.site { border-bottom: 1px solid var(--line); background: var(--wash); }
header.site nav, main, footer.site { max-width: 60rem; margin: 0 auto; padding: .75rem 1rem; }
header.site ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem;
  margin: 0; padding: 0; }
header.site a { text-decoration: none; }
header.site a:hover { text-decoration: underline; }
[aria-current="page"] { color: var(--ink); font-weight: 650; }
main { padding-top: 1.5rem; padding-bottom: 3rem; }
h1, h2, h3, h4 { line-height: 1.25; margin: 2em 0 .6em; text-wrap: balance; }
h1 { font-size: 1.9rem; margin-top: .4em; } h2 { font-size: 1.4rem; } h3 { font-size: 1.15rem; }
p, ul, ol { max-width: 44rem; }
img, svg { max-width: 100%; height: auto; }
.anchor-link { visibility: hidden; text-decoration: none; padding-left: .3em; }
h1:hover .anchor-link, h2:hover .anchor-link, h3:hover .anchor-link { visibility: visible; }
.scroll, .output_html, .text_cell_render { overflow-x: auto; }
figure { margin: 1rem 0; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; }
.scroll { margin: 1rem 0; max-height: 90vh; overflow: auto; }
.scroll table { margin: 0; }
details { margin: .6rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .92rem; }
table.dataframe { border: 0; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .35rem .7rem; border: 0 solid var(--line); border-bottom-width: 1px;
  text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
.dataframe thead tr:not(:last-child) th { border-bottom: 0; padding-bottom: 0; }
tbody th, .scroll td:first-child { min-width: 7.5em; max-width: 14em; }
td.long { min-width: 14em; }
.scroll td:first-child, .scroll th:first-child { position: sticky; left: 0; background: #fff; }
.scroll thead th { position: sticky; top: 0; background: #fff; z-index: 1; }
.scroll thead th:first-child { z-index: 2; }
.output_html thead th { text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.published, th.published { color: var(--soft); }
th button { all: unset; cursor: pointer; font-weight: 650; }
th button:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
th button::after { content: " \\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort="ascending"] button::after { content: " \\2191"; color: var(--ink); }
th[aria-sort="descending"] button::after { content: " \\2193"; color: var(--ink); }
.good { color: var(--good); } .mid { color: var(--mid); } .bad { color: var(--bad); }
.soft { color: var(--soft); }
.legend { list-style: none; padding: 0; }
.legend li { border-left: 1rem solid var(--kind); padding-left: .5rem; margin: .2rem 0; }
.relevant { --kind: var(--good); } .wrong { --kind: var(--bad); } .junk { --kind: var(--soft); }
.asked { --kind: var(--link); }
.query { margin-top: 1.6rem; border-top: 1px solid var(--line); }
.query h3 { margin: .8rem 0 0; overflow-wrap: anywhere; }
.query h3 small { color: var(--soft); font-weight: 400; }
.query p { margin: .2rem 0 .6rem; }
.hits { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.7rem, 1fr)); gap: .6rem; }
.hit { margin: 0; max-width: 8.5rem; }
.shot { position: relative; width: fit-content; border: 3px solid var(--kind); }
.junk .shot { border-style: dashed; } .wrong .shot { border-style: double; border-width: 5px; }
.shot img { display: block; max-height: 8rem; width: auto; }
.shot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.shot rect { fill: none; stroke: #fff; stroke-width: 4; vector-effect: non-scaling-stroke; }
.shot rect + rect { stroke: var(--kind); stroke-width: 2; }
.hit figcaption { color: var(--kind); font-size: .8rem; line-height: 1.3; margin: .2rem 0 0; }
.notice { border-left: 4px solid var(--mid); background: var(--wash); padding: .6rem 1rem; }
.rehearsal { position: sticky; top: 0; z-index: 1; max-width: none; margin: 0 0 1rem;
  padding: .6rem 1rem; color: #fff; background: var(--bad); font-weight: 650; }
.cell { margin: 1rem 0; }
.input_area, .output_stream, .output_error, pre { border-radius: 4px; }
.highlight pre, .output_text pre, main > pre { margin: 0; padding: .7rem .9rem; overflow-x: auto;
  font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.highlight pre { background: var(--wash); border: 1px solid var(--line); border-radius: 4px; }
.output_stderr pre { background: #fdf6e8; }
.output_error pre { background: #fdeef0; }
.injected-label { color: var(--soft); font-size: .85rem; margin: 0 0 .2rem; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .9em; }
math { font-size: 1.08em; }
math[display="block"] { margin: 1rem 0; overflow-x: auto; }
.steps { display: flex; justify-content: space-between; gap: 1rem; margin-top: 3rem;
  border-top: 1px solid var(--line); padding-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer.site { border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem; }
@media screen and (min-width: 64rem) {
  /* A table of many columns is not cut by the width that suits text. */
  .many { width: max-content; min-width: 100%; max-width: calc(100vw - 4rem);
    position: relative; left: 50%; transform: translateX(-50%); }
}
@media (max-width: 40rem) {
  h1 { font-size: 1.5rem; } dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; }
  th, td { padding: .3rem .45rem; }
}
@media print {
  header.site, .steps, .skip, .anchor-link, th button::after { display: none; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  a { color: inherit; text-decoration: none; }
  img, tr, pre, figure, .query { break-inside: avoid; }
  h1, h2, h3, summary { break-after: avoid; }
  .scroll, .output_html, .text_cell_render, pre { overflow: visible; max-height: none; }
  .scroll td:first-child, .scroll thead th { position: static !important; }
  pre { white-space: pre-wrap; }
  table { font-size: 8pt; } td.n { white-space: normal; }
  th, td { padding: .15rem .3rem; overflow-wrap: break-word; min-width: 0 !important; }
  details th, details td, .dataframe th, .dataframe td { overflow-wrap: anywhere; }
  .many, .output_html:has(thead th:nth-child(9)) { page: wide; }
  .many table, .output_html:has(thead th:nth-child(9)) table { font-size: 6.5pt; }
  .shot, .legend li { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .hits { grid-template-columns: repeat(9, 1fr); gap: .3rem; }
}
@page { margin: 14mm; }
@page wide { size: A4 landscape; margin: 10mm; }
"""


def style_sheet() -> str:
    """Return the whole style sheet, code colours included."""
    return CSS.strip() + "\n" + HtmlFormatter(style="friendly").get_style_defs(".highlight") + "\n"
