"""Pieces of the report: an executed notebook, a result table or a record as HTML.

Everything works without a network: figures are embedded, formulas become MathML, and nothing is
loaded from anywhere else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from blcf_utils.published import table_info
from blcf_utils.tables import NOT_RUN, read_table, shown_number, verdicts

# Nothing that needs a script: a widget shows its text, which names what it is.
SHOWN_TYPES = [
    "text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain",
]  # fmt: skip
LINK = re.compile(r'<a((?: [^>]*)? )href="([^"]*)"([^>]*)>(.*?)</a>', re.S)
COMPARED = ("reproduced", "close", "differs")
VERDICT_COLOURS = {
    "reproduced": "good", "holds": "good", "close": "mid", "differs": "bad", "fails": "bad",
    "does not hold": "bad", "done": "good", "failed": "bad", "interrupted": "bad",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of an HTML table: what is shown, and by what it is sorted."""

    shown: str
    key: str | None = None
    css: str = ""


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML instead of text for a script to typeset."""

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        inner = body if name.rstrip("*") == "equation" else rf"\begin{{{name}}}{body}\end{{{name}}}"
        return _mathml(inner, "block")


def markdown_to_html(source: str) -> str:
    """Return Markdown with LaTeX formulas as HTML with MathML."""
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def notebook_to_html(path: Path, others: Collection[str] = ()) -> tuple[str, str]:
    """Return an executed notebook's title (its first heading) and its body as HTML.

    Args:
        path: the executed notebook.
        others: names of the notebooks that have a page of their own; a link to one of them leads
            to its page, a link to any other file of the repository becomes plain text.
    """
    notebook = nbformat.read(path, as_version=4)
    title, heading = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ +(.+?) *#*$", cell.source, re.M)
            heading = found[-1] if found else heading
            title = title or (found[0] if found else "")
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs if (shown := _shown(output))]
        # What a reader who does not see a figure is told, unless the notebook says better.
        cell.metadata.setdefault("alt", f"Figure of the section {_plain(heading)!r}")
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
    )
    exporter.register_filter("markdown2html", markdown_to_html)
    body, _ = exporter.from_notebook_node(notebook)
    return _plain(title) or path.stem, LINK.sub(lambda link: _relink(link, others), body)


def html_table(
    header: Sequence[str | Cell], rows: Iterable[Sequence[object]], caption: str = ""
) -> str:
    """Return a sortable table; numbers align right and sort as numbers.

    Args:
        header: column titles.
        rows: cells as :class:`Cell`, or values to be escaped.
        caption: what the table shows.
    """
    heads = []
    for item in header:
        cell = item if isinstance(item, Cell) else Cell(html.escape(item))
        css = f' class="{cell.css}"' if cell.css else ""
        heads.append(f'<th scope="col"{css}><button type="button">{cell.shown}</button></th>')
    lines = []
    for row in rows:
        lines.append("<tr>" + "".join(_td(value) for value in row) + "</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def definition_list(record: dict) -> str:
    """Return a record as a list of names and values; nested records become nested lists."""
    parts = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            shown = definition_list(value)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            shown = "".join(
                definition_list(item) if isinstance(item, dict) else html.escape(str(item))
                for item in value
            )
        elif isinstance(value, list | tuple):
            shown = html.escape(", ".join(map(str, value))) or "none"
        else:
            shown = html.escape(str(value)) if value not in (None, "", {}) else "none"
        parts.append(f"<dt>{html.escape(str(name).replace('_', ' '))}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def table_to_html(table_id: str, folder: Path, context: dict[str, str]) -> str:
    """Return a result table: published beside measured, verdicts, and why cells were not run.

    Args:
        table_id: a table in ``folder/tables`` in the study's long form.
        folder: the profile's results folder.
        context: what the run used, for the verdicts (``{"backbone": ...}``).
    """
    info, table = table_info(table_id), read_table(table_id, folder)
    parts = []
    if info.slide:
        parts.append(
            f"<p>Published on the slide “{html.escape(info.slide)}”: "
            f"{html.escape(info.context)}.</p>"
        )
    parts.append(_beside(table, info.decimals))
    parts.append(
        '<p class="soft">measured: this run, on the dataset that the column names; published: the '
        "thesis' slides, on their own datasets and networks. A number is compared only with a "
        "number of the same dataset and network.</p>"
    )
    parts.append(_not_run(table))
    compared = _compared(table_id, folder, context)
    if len(compared):
        rows = [
            [v.row, v.column, _number(v.published, info.decimals),
             _number(v.measured, info.decimals), _number(v.difference, info.decimals, sign=True),
             _number(v.tolerance, info.decimals), verdict_cell(v.verdict)]
            for v in compared.itertuples()
        ]  # fmt: skip
        head = ["row", "column", "published", "measured", "difference", "tolerance", "verdict"]
        parts.append("<h2>Like with like</h2>" + html_table(head, rows))
        reason = next((r for r in compared["reason"] if r), "")
        parts.append(f'<p class="soft">Why this tolerance: {html.escape(reason)}.</p>')
    if info.notes:
        parts.append(f"<h2>Notes</h2><p>{html.escape(info.notes)}</p>")
    return "\n".join(part for part in parts if part)


def table_summary(table_id: str, folder: Path, context: dict[str, str]) -> tuple[str, str, str]:
    """Return how many cells were measured, how many not, and the verdicts, for an overview."""
    measured = read_table(table_id, folder)["status"].eq("measured")
    verdict = _compared(table_id, folder, context)["verdict"]
    told = [f"{(verdict == name).sum()} {name}" for name in COMPARED if (verdict == name).any()]
    return str(measured.sum()), str((~measured).sum()), ", ".join(told) or "nothing to compare"


def claims_summary(path: Path) -> tuple[str, ...]:
    """Return how many claims hold, do not hold or could not be tested in this run."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "measured" not in frame:
        return ()
    answers = frame["measured"].str.partition(":")[0].str.strip().value_counts()
    return tuple(f"{count} {answer}" for answer, count in answers.items())


def plain_table_to_html(path: Path) -> str:
    """Return any CSV file as a sortable table."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = [[verdict_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return html_table([name.replace("_", " ") for name in frame.columns], rows)


def verdict_cell(text: str) -> Cell:
    """Return a cell coloured by the verdict or status that it states, if it states one."""
    colour = VERDICT_COLOURS.get(text.partition(":")[0].strip(), "")
    css = "n" if _is_number(text) else colour
    return Cell(html.escape(text), css=css)


def _mathml(latex: str, display: str) -> str:
    known = re.sub(r"\\operatorname\*?(?=\s*\{)", r"\\mathrm", latex.strip())
    # The converter has no "aligned" and no "gathered"; "split" lays out the same.
    known = re.sub(r"(\\(?:begin|end)\{)(?:aligned|gathered)\}", r"\1split}", known)
    try:
        return to_mathml(known, display=display)
    except Exception:  # the converter raises whatever its parser meets: the reader gets the source
        return f"<code>{html.escape(latex.strip())}</code>"


def _shown(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Reduce an output to its best form that needs no script; None when it has none."""
    if "data" in output:
        best = next((kind for kind in SHOWN_TYPES if kind in output.data), None)
        if best is None:
            return None
        output.data = nbformat.from_dict({best: output.data[best]})
    return output


def _relink(link: re.Match, others: Collection[str]) -> str:
    before, address, after, text = link.groups()
    path, sign, fragment = address.partition("#")
    name = path.removesuffix(".ipynb")
    if not path or re.match(r"[a-z]+:", path):
        return link.group()
    if name != path and name in others:
        return f'<a{before}href="{name}.html{sign}{fragment}"{after}>{text}</a>'
    return text


def _plain(markdown: str) -> str:
    return re.sub(r"[`*$]", "", markdown).strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _td(value: object) -> str:
    if not isinstance(value, Cell):
        text = str(value)
        value = Cell(html.escape(text), css="n" if _is_number(text) else "")
    key = f' data-key="{html.escape(value.key)}"' if value.key is not None else ""
    css = f' class="{value.css}"' if value.css else ""
    return f"<td{css}{key}>{value.shown}</td>"


def _number(value: object, decimals: int, *, sign: bool = False, css: str = "") -> Cell:
    if isinstance(value, float):
        if pd.isna(value):
            return Cell("–", css=f"n {css}".strip())
        shown = ("+" if sign and value >= 0 else "") + shown_number(value, decimals)
        return Cell(shown, key=repr(value), css=f"n {css}".strip())
    return Cell(html.escape(str(value)), css=css)


def _compared(table_id: str, folder: Path, context: dict[str, str]) -> pd.DataFrame:
    judged = verdicts(table_id, folder, context)
    return judged[judged["verdict"].isin(COMPARED)]


def _beside(table: pd.DataFrame, decimals: int) -> str:
    cells = {(c.row, c.column): c for c in table.itertuples()}
    header: list[str | Cell] = ["row"]
    halves = []
    for column in table["column"].unique():
        part = table[table["column"] == column]
        for what in ("measured", "published"):
            if part[what].notna().any():
                halves.append((column, what))
                css = "published" if what == "published" else ""
                header.append(Cell(f"{html.escape(column)}<br>{what}", css=css))
    rows = []
    for row in table["row"].unique():
        line: list[object] = [row]
        for column, what in halves:
            cell = cells.get((row, column))
            value = getattr(cell, what) if cell else float("nan")
            if what == "measured" and cell and cell.status != "measured":
                line.append(
                    Cell(f'<span title="{html.escape(cell.status)}">not run</span>', "", "soft")
                )
            else:
                css = "published" if what == "published" else ""
                line.append(_number(value, decimals, css=css))
        rows.append(line)
    return html_table(header, rows)


def _not_run(table: pd.DataFrame) -> str:
    items = []
    for status, part in table[table["status"] != "measured"].groupby("status", sort=False):
        names = []
        for column, cells in part.groupby("column", sort=False):
            whole = len(cells) == (table["column"] == column).sum()
            names.append(column if whole else f"{column} ({', '.join(cells['row'])})")
        why = status.removeprefix(NOT_RUN)
        items.append(f"<li>{html.escape(why)}: {html.escape('; '.join(names))}</li>")
    return f"<h2>Not run, and why</h2><ul>{''.join(items)}</ul>" if items else ""
