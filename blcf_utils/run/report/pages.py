"""Pieces of the report: result tables, values of single queries and records as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from blcf_utils.results.published import dataset_of, table_info
from blcf_utils.results.tables import NOT_RUN, read_per_query, read_table, shown_number
from blcf_utils.results.verdicts import verdicts

# More columns than this and a table takes a wide sheet when it is printed.
MANY_COLUMNS = 8
# More numbers than this and a page only offers them as data.
MOST_NUMBERS = 12_000
# Longer texts than this get a column that is wide enough to be read on a phone.
LONG_TEXT = 40
TAG = re.compile(r"<[^>]*>")
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


def html_table(
    header: Sequence[str | Cell], rows: Iterable[Sequence[object]], caption: str = ""
) -> str:
    """Return a table; numbers align right. The report's script makes its columns sort.

    Args:
        header: column titles.
        rows: cells as :class:`Cell`, or values to be escaped.
        caption: what the table shows.
    """
    heads = []
    for item in header:
        cell = item if isinstance(item, Cell) else Cell(html.escape(item))
        css = f' class="{cell.css}"' if cell.css else ""
        heads.append(f'<th scope="col"{css}>{cell.shown}</th>')
    lines = []
    for row in rows:
        lines.append("<tr>" + "".join(_td(value) for value in row) + "</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    css = "scroll many" if len(heads) > MANY_COLUMNS else "scroll"
    return (
        f'<div class="{css}"><table>{title}<thead><tr>{"".join(heads)}</tr></thead>\n'
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
        shown = partial(number_cell, decimals=info.decimals)
        rows = [
            [v.row, v.column, shown(v.published), shown(v.measured),
             shown(v.difference, sign=True), shown(v.tolerance), verdict_cell(v.verdict)]
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


def per_query_to_html(table_id: str, folder: Path, anchors: Mapping[str, Mapping[str, str]]) -> str:
    """Return the values behind a table's means, query by query, folded up; empty without any.

    Args:
        table_id: a table in ``folder/tables``.
        folder: the profile's results folder.
        anchors: dataset to query id to the address of what is shown of that query.
    """
    values = read_per_query(table_id, folder)
    if not values:
        return ""
    data = f"data/per_query/{table_id}.csv"
    link = f'<a href="{data}" download>{table_id}.csv of every query</a>'
    parts = ["<h2>Query by query</h2>"]
    if sum(map(len, values.values())) > MOST_NUMBERS:
        return f"{parts[0]}<p>The values behind every mean, as data: {link}.</p>"
    parts.append(f"<p>The values whose mean is a cell of the table; as data: {link}.</p>")
    for column in dict.fromkeys(column for _, column in values):
        of_rows = {row: each for (row, other), each in values.items() if other == column}
        pages = anchors.get(dataset_of(column), {})
        lines = []
        for query in dict.fromkeys(q for each in of_rows.values() for q in each):
            name = html.escape(query)
            shown = f'<a href="{html.escape(pages[query])}">{name}</a>' if query in pages else name
            numbers = (each.get(query) for each in of_rows.values())
            lines.append([Cell(shown, key=query), *(_rounded(number) for number in numbers)])
        parts.append(
            f"<details><summary>{html.escape(column)}: {len(lines)} queries</summary>"
            f"{html_table(['query', *(Cell(_breakable(row)) for row in of_rows)], lines)}</details>"
        )
    return "\n".join(parts)


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


def number_cell(value: object, decimals: int, *, sign: bool = False, css: str = "") -> Cell:
    """Return a number with so many decimals as a cell that sorts by its exact value."""
    if isinstance(value, float):
        if pd.isna(value):
            return Cell("–", css=f"n {css}".strip())
        shown = ("+" if sign and value >= 0 else "") + shown_number(value, decimals)
        return Cell(shown, key=repr(value), css=f"n {css}".strip())
    return Cell(html.escape(str(value)), css=css)


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
    css = value.css
    if len(TAG.sub("", value.shown)) > LONG_TEXT:
        css = f"{css} long".strip()
    key = f' data-key="{html.escape(value.key)}"' if value.key is not None else ""
    css = f' class="{css}"' if css else ""
    return f"<td{css}{key}>{value.shown}</td>"


def _breakable(name: str) -> str:
    """Return an escaped name that may be broken after its + and /."""
    return re.sub(r"(?<=[+/])(?=\S)", "<wbr>", html.escape(name))


def _rounded(value: float | None) -> Cell:
    # Without an exact key: a page holds thousands of these.
    return Cell("–" if value is None else f"{value:.3f}", css="n")


def _compared(table_id: str, folder: Path, context: dict[str, str]) -> pd.DataFrame:
    judged = verdicts(table_id, folder, context)
    return judged[judged["verdict"].isin(COMPARED)]


def _beside(table: pd.DataFrame, decimals: int) -> str:
    cells = {(c.row, c.column): c for c in table.itertuples()}
    header: list[str | Cell] = ["row"]
    halves = []
    measured = table.loc[table["measured"].notna(), "column"].unique().tolist()
    # This run's columns first: a table of many datasets is wider than a page.
    for column in dict.fromkeys([*measured, *table["column"]]):
        part = table[table["column"] == column]
        for what in ("measured", "published"):
            if part[what].notna().any():
                halves.append((column, what))
                css = "published" if what == "published" else ""
                header.append(Cell(f"{_breakable(column)}<br>{what}", css=css))
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
                line.append(number_cell(value, decimals, css=css))
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
