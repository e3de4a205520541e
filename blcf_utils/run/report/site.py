"""The report: a small static site of a profile's executed notebooks, tables, claims and origin."""

from __future__ import annotations

import html
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.published import table_info
from blcf_utils.results.rehearsal import banner, rehearsed_datasets
from blcf_utils.results.tables import LONG
from blcf_utils.run.record import read_run, results_folder
from blcf_utils.run.report.claims import claims_to_html
from blcf_utils.run.report.notebooks import notebook_to_html
from blcf_utils.run.report.pages import (
    Cell,
    claims_summary,
    definition_list,
    html_table,
    number_cell,
    per_query_to_html,
    plain_table_to_html,
    table_summary,
    table_to_html,
    verdict_cell,
)
from blcf_utils.run.report.queries import QueriesPage, query_pages
from blcf_utils.run.report.script import SCRIPT
from blcf_utils.run.report.style import style_sheet

CLAIMS = "claims"
DATA = "data"
PER_QUERY = "per_query"
PLAIN_INTRODUCTIONS = {
    "intervals": "<p>Every mean over queries with its 95 % bootstrap interval (low to high), and "
    "its gain over the first row of its table in the same column, with the interval of the paired "
    "difference: one that holds 0 cannot tell the two rows apart.</p>",
}


@dataclass(frozen=True)
class Page:
    """A page: its file, its title, its body, the group it is listed in, and its summary."""

    file: str
    title: str
    body: str
    group: str
    summary: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The file name without its suffix."""
        return self.file.removesuffix(".html")


def write_report(profile: str, results: Path | None = None) -> Path:
    """Write ``<results>/<profile>/report`` and return its ``index.html``.

    The site needs no network and no server: every figure is embedded, every link is relative.

    Args:
        profile: name of the profile whose results are reported.
        results: the folder that holds one folder per profile, instead of ``results``.

    Raises:
        StudyError: nothing has been run yet.
    """
    folder = results_folder(profile, results)
    record = read_run(folder)
    notebooks = sorted(
        path
        for path in (folder / "notebooks").glob("*.ipynb")
        if not path.name.startswith(".") and not path.name.endswith(".failed.ipynb")
    )
    tables = sorted((folder / "tables").glob("*.csv"))
    if not notebooks and not tables:
        raise StudyError(
            f"{folder}: no executed notebook and no table to report; run blcf run "
            f"--profile {profile} first"
        )
    site = folder / "report"
    shutil.rmtree(site, ignore_errors=True)
    names = {path.stem for path in notebooks}
    queries = query_pages(record, folder, site)
    pages = [_notebook_page(path, names) for path in notebooks]
    pages += [_table_page(path, folder, record, queries) for path in tables]
    pages += [Page(q.file, f"Queries of {q.dataset}", q.body, "queries") for q in queries]
    pages.sort(key=lambda page: ("notebook", "table", "queries", "claims").index(page.group))
    pages.append(_provenance_page(record))
    pages.insert(0, _index_page(profile, record, pages, queries))
    for path in tables:
        write_text(site / DATA / path.name, path.read_text(encoding="utf-8"))
        of_queries = folder / PER_QUERY / path.name
        if of_queries.is_file():
            write_text(site / DATA / PER_QUERY / path.name, of_queries.read_text(encoding="utf-8"))
    write_text(site / "report.css", style_sheet())
    notice = _rehearsal_notice(folder)
    for number, page in enumerate(pages):
        before = pages[number - 1] if number else None
        after = pages[number + 1] if number + 1 < len(pages) else None
        write_text(site / page.file, _layout(profile, page, pages, before, after, notice))
    return site / "index.html"


def _rehearsal_notice(folder: Path) -> str:
    """Return what stands above every page of a rehearsal's report, nothing above others."""
    stand_ins = rehearsed_datasets(folder)
    return f'<p class="rehearsal">{html.escape(banner(stand_ins))}</p>\n' if stand_ins else ""


def _notebook_page(path: Path, others: set[str]) -> Page:
    title, body = notebook_to_html(path, others)
    return Page(f"{path.stem}.html", title, body, "notebook")


def _table_page(path: Path, folder: Path, record: dict, queries: list[QueriesPage]) -> Page:
    header = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    name = path.stem
    title, summary = name.replace("_", " "), ("", "", "")
    if header == ",".join(LONG):
        title, context = table_info(name).title, _context(record)
        anchors = {
            page.dataset: {query: f"{page.file}#{place}" for query, place in page.anchors.items()}
            for page in queries
        }
        body, summary = table_to_html(name, folder, context), table_summary(name, folder, context)
        body += per_query_to_html(name, folder, anchors)
    elif name == CLAIMS:
        title, summary, body = "Claims of the slides", claims_summary(path), claims_to_html(path)
    else:
        body = PLAIN_INTRODUCTIONS.get(name, "") + plain_table_to_html(path)
    link = f'<p>The same as data: <a href="{DATA}/{path.name}" download>{path.name}</a></p>'
    heading = f"<h1>{html.escape(title)}</h1>"
    group = "claims" if name == CLAIMS else "table"
    return Page(f"{name}.html", title, f"{heading}\n{body}\n{link}", group, summary)


def _link(page: Page, text: str) -> Cell:
    return Cell(f'<a href="{page.file}">{html.escape(text)}</a>', key=text)


def _context(record: dict) -> dict[str, str]:
    """Say which network made the tables, for the verdicts: only like is compared with like."""
    features = record.get("profile", {}).get("document", {}).get("features", {})
    backbone = features.get("backbone")
    return {"backbone": BackboneConfig(**backbone).label} if backbone else {}


def _provenance_page(record: dict) -> Page:
    parts = ["<h1>Where these results come from</h1>"]
    if "provenance" in record:
        parts.append("<h2>Code, packages and machine</h2>" + definition_list(record["provenance"]))
        parts.append("<h2>Profile</h2>" + definition_list(record["profile"]))
    seen = {}
    stages = []
    for name, entry in record["notebooks"].items():
        seen |= {data["dataset"]: data for data in entry.get("datasets", [])}
        for stage in entry.get("stages", []):
            how = "reused" if stage.get("reused") else "made"
            stages.append(
                [name, stage["stage"], stage.get("label", ""), stage.get("key", ""), how,
                 Cell(f"{stage.get('seconds', 0):.1f}", css="n"),
                 stage.get("peak_rss_so_far_mb", "")]
            )  # fmt: skip
    if seen:
        columns = ("dataset", "images", "queries", "manifest", "ground_truth")
        rows = [[data.get(column, "") for column in columns] for data in seen.values()]
        parts.append("<h2>Datasets</h2>" + html_table([c.replace("_", " ") for c in columns], rows))
    if stages:
        header = ["notebook", "stage", "of", "key", "", "seconds", "peak MB so far"]
        parts.append("<h2>Stages</h2>" + html_table(header, stages))
    if len(parts) == 1:
        parts.append("<p>These results have no run.json: they were not written by blcf run.</p>")
    return Page("provenance.html", "Provenance", "\n".join(parts), "provenance")


def _index_page(profile: str, record: dict, pages: list[Page], queries: list[QueriesPage]) -> Page:
    document = record.get("profile", {}).get("document", {})
    about = document.get("description", "")
    parts = [f"<h1>Instance search with visual words: profile {html.escape(profile)}</h1>"]
    if about:
        parts.append(f"<p>{html.escape(about[:1].upper() + about[1:])}.</p>")
    if record["notebooks"]:
        titles = {page.file: page.title for page in pages}
        rows = []
        for name, entry in record["notebooks"].items():
            page = f"{name}.html"
            shown = html.escape(titles.get(page, ""))
            link = f'<a href="{page}">{html.escape(name)}</a>' if shown else html.escape(name)
            memory = f"{entry['peak_rss_mb']}" if entry.get("peak_rss_mb") else "–"
            rows.append(
                [Cell(link, key=name), Cell(shown), verdict_cell(entry["status"]),
                 Cell(f"{entry['seconds']:.1f}", css="n"), Cell(memory, css="n")]
            )  # fmt: skip
        header = ["notebook", "about", "status", "seconds", "peak MB"]
        parts.append("<h2>Notebooks</h2>" + html_table(header, rows))
        failed = [
            f"<p class='notice'>{html.escape(name)} {html.escape(entry['status'])}: "
            f"{html.escape(entry['message'])}</p>"
            for name, entry in record["notebooks"].items()
            if entry.get("message")
        ]
        parts += failed
    tables = [page for page in pages if page.group == "table"]
    if tables:
        header = ["table", "about", "measured cells", "not run", "like with like"]
        rows = [[_link(page, page.stem), Cell(html.escape(page.title)), *page.summary]
                for page in tables]  # fmt: skip
        parts.append("<h2>Tables</h2>" + html_table(header, rows))
    if queries:
        rows = dict.fromkeys(row for page in queries for row in page.means)
        lines = [
            [Cell(f'<a href="{page.file}">{html.escape(page.dataset)}</a>', key=page.dataset),
             len(page.anchors),
             *(number_cell(page.means.get(row, math.nan), 3) for row in rows)]
            for page in queries
        ]  # fmt: skip
        header = ["queries of", "queries", *(f"mAP {row}" for row in rows)]
        parts.append("<h2>Queries and what they find</h2>" + html_table(header, lines))
    claims = next((page for page in pages if page.group == "claims"), None)
    if claims:
        told = f": {', '.join(claims.summary)}" if claims.summary else ""
        parts.append(f'<h2>Claims</h2><p><a href="{claims.file}">{html.escape(claims.title)}</a>'
                     f"{html.escape(told)}.</p>")  # fmt: skip
    parts.append(
        '<p>Revision, versions, machine and stages: <a href="provenance.html">provenance</a>. '
        f"Run it again with <code>blcf run --profile {html.escape(profile)}</code>.</p>"
    )
    return Page("index.html", f"Profile {profile}", "\n".join(parts), "index")


def _layout(
    profile: str,
    page: Page,
    pages: list[Page],
    before: Page | None,
    after: Page | None,
    notice: str = "",
) -> str:
    groups = [("index", "Overview"), ("notebook", "Notebooks"), ("table", "Tables"),
              ("queries", "Queries"), ("claims", "Claims"),
              ("provenance", "Provenance")]  # fmt: skip
    links = []
    for group, label in groups:
        first = next((p for p in pages if p.group == group), None)
        if first:
            current = ' aria-current="page"' if page.group == group else ""
            links.append(f'<li><a href="{first.file}"{current}>{label}</a></li>')
    steps = []
    for other, rel, arrow in ((before, "prev", "← {}"), (after, "next", "{} →")):
        text = arrow.format(html.escape(other.title)) if other else ""
        steps.append(f'<a rel="{rel}" href="{other.file}">{text}</a>' if other else "<span></span>")
    title = html.escape(f"{page.title} · BLCF Study, {profile}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="report.css">
<link rel="icon" href="data:,">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header class="site"><nav aria-label="Report"><ul>{"".join(links)}</ul></nav></header>
<main id="content">
{notice}{page.body}
<nav class="steps" aria-label="Next and previous page">{"".join(steps)}</nav>
</main>
<footer class="site">BLCF Study · profile {html.escape(profile)}</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""
