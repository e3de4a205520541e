"""A result table for reading: measured and published, best and differences, what was not run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import pandas as pd

from blcf_utils.datasets import REGISTRY
from blcf_utils.datasets.base import STANDIN
from blcf_utils.results.published import TableInfo, dataset_of, number, table_info

MEASURED, PUBLISHED = "Measured", "Published"
NOTHING, NOT_RUN_MARK = "–", "*"
GROUP = " / "  # parts a row's label into the group it belongs to and its name
_ABSENT = re.compile(r"not run: (\S+) is not in profile (\S+)")


def shown_number(value: float, decimals: int) -> str:
    """Return a number for reading: so many decimals, but never 0.000 for what is not zero.

    Whole numbers above 1 stay whole; from 10 on four digits are enough, and no exponent is needed.
    """
    if value.is_integer() and abs(value) > 1:
        return str(int(value))
    if 0 < abs(value) < 10**-decimals:
        return f"{value:.2g}"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.{decimals}f}"


def _measured(value: object, decimals: int) -> str:
    return shown_number(value, decimals) if isinstance(value, float) else str(value)


def _printed(value: object) -> str:
    """Show a published value with the digits it was printed with: three for a share of 1."""
    if not isinstance(value, float) or abs(value) >= 1:
        return f"{value:g}" if isinstance(value, float) else str(value)
    return shown_number(value, 3)


@dataclass(frozen=True, repr=False)
class Shown:
    """A result table for reading; Jupyter shows it as HTML, and ``markdown()`` as Markdown.

    Attributes:
        said: whose images and which network, a sentence.
        cells: text by row and (``Measured`` or ``Published``, column); rows without any value are
            left out. ``–`` is no value, ``*`` a cell that was not run.
        best: the cells (row, column of ``cells``) that no other of their column exceeds.
        gains: difference to the first row, by cell; ``first`` names that row.
        not_run: why to names of cells.
    """

    said: str
    cells: pd.DataFrame
    best: frozenset[tuple]
    gains: Mapping[tuple, str]
    first: str
    not_run: Mapping[str, str]

    @property
    def legend(self) -> str:
        """What the signs in the cells mean, a sentence; maybe empty."""
        parts = [
            "Bold: the best of a column." if self.best else "",
            f"Small: the difference to the first row, {self.first}." if self.gains else "",
        ]
        return " ".join(filter(None, parts))

    def __repr__(self) -> str:
        return "\n".join(filter(None, [self.said, self.cells.to_string(), self.legend]))

    def groups(self) -> dict[str, list[str]]:
        """Return the rows by group, both in their order; what has no group is in ``""``."""
        found: dict[str, list[str]] = {}
        for row in self.cells.index:
            found.setdefault(row.rpartition(GROUP)[0], []).append(row)
        return found

    def _repr_html_(self) -> str:
        lines = [f"<p>{escape(self.said)}</p>" if self.said else "", *self._table()]
        if self.legend:
            lines.append(f'<p class="soft">{escape(self.legend)}</p>')
        if self.not_run:
            why = "".join(f"<li>{escape(w)}: {escape(n)}</li>" for w, n in self.not_run.items())
            head = f"<summary>{NOT_RUN_MARK} not run, and why</summary>"
            lines.append(f"<details>{head}<ul>{why}</ul></details>")
        return "\n".join(filter(None, lines))

    def _table(self) -> list[str]:
        columns = list(self.cells.columns)
        if not columns:
            return []
        lines = ['<div class="scroll"><table class="shown"><thead>', *_heads(columns), "</thead>"]
        for group, rows in self.groups().items():
            lines.append("<tbody>")
            if group:
                wide = len(columns) + 1
                head = f'<th scope="rowgroup" colspan="{wide}"><span>{escape(group)}</span></th>'
                lines.append(f'<tr class="group">{head}</tr>')
            for row in rows:
                cells = "".join(self._cell(row, column) for column in columns)
                name = escape(row.rpartition(GROUP)[2])
                lines.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
            lines.append("</tbody>")
        return [*lines, "</table></div>"]

    def _cell(self, row: str, column: tuple[str, str]) -> str:
        text, gain = self.cells.loc[row, column], self.gains.get((row, column))
        inner = f"<b>{escape(text)}</b>" if (row, column) in self.best else escape(text)
        small = f"<br><small>{gain}</small>" if gain else ""
        soft = " soft" if column[0] == PUBLISHED or text in (NOTHING, NOT_RUN_MARK) else ""
        kind = "n" if len(text) < 2 or number(text) is not None else ""
        return f'<td class="{(kind + soft).strip()}">{inner}{small}</td>'

    def markdown(self) -> str:
        """Return everything but the sentence as Markdown; not run is one footnote."""
        lines = []
        columns = [f"{name} {half.lower()}" for half, name in self.cells.columns]
        for group, rows in self.groups().items():
            if group:
                lines.append([f"**{group}**", *[""] * len(columns)])
            for row in rows:
                line = [row.rpartition(GROUP)[2]]
                for column in self.cells.columns:
                    text, gain = self.cells.loc[row, column], self.gains.get((row, column))
                    text = f"**{text}**" if (row, column) in self.best else text
                    text = "\\*" if text == NOT_RUN_MARK else text
                    line.append(f"{text} ({gain})" if gain else text)
                lines.append(line)
        frame = pd.DataFrame(lines, columns=["row", *columns])
        why = "; ".join(f"{why}: {names}" for why, names in self.not_run.items())
        legend = self.legend.replace("Small", "In brackets")
        parts = [legend, f"\\* *Not run.* {why}." if why else ""]
        return "\n".join([markdown(frame, index=False), *(f"{p}\n" for p in parts if p)])


def _heads(columns: Sequence[tuple[str, str]]) -> list[str]:
    """Return the rows of a table's head: Measured and Published, datasets, their columns.

    A dataset is a head of its own where columns are parts of it (``oxford5k/gs``).
    """
    levels = [[(half, half) for half, _ in columns]]
    if any("/" in name for _, name in columns):
        levels.append([(half, name.rpartition("/")[0]) for half, name in columns])
    lines = []
    for level in levels:
        cells = [(half, name, len([*same])) for (half, name), same in groupby(level)]
        heads = "".join(
            f'<th scope="colgroup" colspan="{count}" class="{half.lower()}">{escape(name)}</th>'
            if name
            else f'<td colspan="{count}"></td>'
            for half, name, count in cells
        )
        lines.append(f"<tr><td></td>{heads}</tr>")
    names = "".join(
        f'<th scope="col"{_soft(half)}>{_breaking(name.rpartition("/")[2])}</th>'
        for half, name in columns
    )
    return [*lines, f'<tr><th scope="col">row</th>{names}</tr>']


def _soft(half: str) -> str:
    return ' class="soft"' if half == PUBLISHED else ""


def _breaking(name: str) -> str:
    """Return a column's name as HTML that may break between its parts: it is wider than numbers."""
    parts = r"(?<=[_-])(?=.)|(?=\+)|(?<=[a-z])(?=\d)"
    return re.sub(parts, "<wbr>", escape(name)).replace("expansion", "expan&shy;sion")


def beside(table: pd.DataFrame, decimals: int | None = None) -> Shown:
    """Return a result table for reading, what was measured beside what the thesis published.

    A number stands under the name of the dataset it belongs to; a column without any value is left
    out. Where all values are mAP, the best of each column is marked, and where the rows are no list
    of methods with attributes of their own, the difference to the first row stands with each.

    Args:
        table: of ``read_table`` or ``write_table``, whose ``attrs`` say which table (``id``) and
            with which network it was measured (``network``).
        decimals: of measured values; the table's own by default.
    """
    info = table_info(table.attrs["id"]) if "id" in table.attrs else TableInfo(title="")
    decimals = info.decimals if decimals is None else decimals
    rows, names = list(table["row"].unique()), list(table["column"].unique())
    values = {(row, column): (m, p) for row, column, p, m in _four(table)}
    cells, numbers = {}, {}
    for half, place in ((MEASURED, 0), (PUBLISHED, 1)):
        for name in names:
            found = {row: values[row, name][place] for row in rows if (row, name) in values}
            told = {row: value for row, value in found.items() if not _nan(value)}
            if not told:
                continue
            numbers[half, name] = {r: v for r, v in told.items() if isinstance(v, float)}
            for row in rows:
                value = told.get(row)
                absent = NOT_RUN_MARK if half == MEASURED and row in found else NOTHING
                shown = _printed(value) if half == PUBLISHED else _measured(value, decimals)
                cells[row, (half, name)] = absent if value is None else shown
    columns = list(numbers)
    kept = [r for r in rows if any(cells[r, c] not in (NOTHING, NOT_RUN_MARK) for c in columns)]
    text = [[cells[row, column] for column in columns] for row in kept]
    index = pd.Index(kept, name="row")
    frame = pd.DataFrame(text, index, pd.MultiIndex.from_tuples(columns) if columns else None)
    of_map = {c: found for c, found in numbers.items() if info.holds_map(c[1])}
    of_methods = bool(info.attributes or info.map_columns)
    best, gains = set(), {}
    for column, found in of_map.items():
        top = cells[max(found, key=found.__getitem__), column] if len(found) > 1 else None
        best |= {(row, column) for row in found if cells[row, column] == top}
        if kept[0] in found and not of_methods:
            first = found[kept[0]]
            gains |= {(r, column): f"{v - first:+.3f}" for r, v in found.items() if r != kept[0]}
    said = _sentence(table, info, columns)
    return Shown(said, frame, frozenset(best), gains, kept[0] if gains else "", _why(table, info))


def _four(table: pd.DataFrame) -> Iterable[tuple]:
    return table[["row", "column", "published", "measured"]].itertuples(index=False)


def _nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _sentence(table: pd.DataFrame, info: TableInfo, columns: Sequence[tuple[str, str]]) -> str:
    """Say whose images the values are of, and which network saw them."""
    told = []
    theirs = "a network the slides do not name" if info.backbone == "unknown" else info.backbone
    ours = table.attrs.get("network", "") if info.with_network else ""
    for half, verb, network in ((MEASURED, "Measured", ours), (PUBLISHED, "Published", theirs)):
        names = [name for one, name in columns if one == half and name not in info.attributes]
        if info.rows_are_datasets:
            names = table.loc[table[half.lower()].notna(), "row"]
        if datasets := dict.fromkeys(map(dataset_of, names)):
            kinds: dict[str, list[str]] = {}
            for name in datasets:
                kinds.setdefault(_kind(name), []).append(name)
            whose = " and ".join(f"{_and(part)} ({kind})" for kind, part in kinds.items())
            told.append(f"{verb} on {whose}" + (f" with {network}." if network else "."))
    return " ".join(told)


def _kind(dataset: str) -> str:
    """Say whose images a dataset has."""
    if dataset in REGISTRY and REGISTRY[dataset].rendered:
        return "rendered by this study"
    return "stand-ins" if dataset.endswith(STANDIN) else "photographs"


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _why(table: pd.DataFrame, info: TableInfo) -> dict[str, str]:
    """Return why cells were not run, to their names: whole columns and rows by their own.

    Of other cells, ``row, row (column, column)``: what has one reason in the same columns.
    """
    missing = table[(table["status"] != "measured") & ~table["column"].isin(info.attributes)]
    ran = table[(table["status"] == "measured") & ~table["column"].isin(info.attributes)]
    reasons: dict[str, dict[str, dict[str, None]]] = {}
    for row, column, status in missing[["row", "column", "status"]].itertuples(index=False):
        dataset = _ABSENT.fullmatch(status)
        why = f"not in profile {dataset[2]}" if dataset else status.removeprefix("not run: ")
        name, columns = row.rpartition(GROUP)[2], reasons.setdefault(why, {})
        if column not in ran["column"].to_numpy():
            columns.setdefault(dataset_of(column) if dataset else column, {})
        elif row not in ran["row"].to_numpy():
            columns.setdefault(name, {})
        else:
            columns.setdefault(name, {})[column] = None
    return {why: "; ".join(_joined(columns)) for why, columns in reasons.items()}


def _joined(columns: Mapping[str, Mapping[str, None]]) -> list[str]:
    """Return names with the columns they stand for, those of the same columns together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, of_name in columns.items():
        alike.setdefault(tuple(of_name), []).append(name)
    return [
        ", ".join(names) + (f" ({', '.join(where)})" if where else "")
        for where, names in alike.items()
    ]


def markdown(frame: pd.DataFrame, index: bool = True) -> str:
    """Return a frame of text as a Markdown table, cell by cell as it is (no number is reparsed)."""

    def line(cells: Iterable[object]) -> str:
        return (
            "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
        )

    names = [frame.index.name or ""] if index else []
    lines = [line([*names, *frame.columns]), line(["---"] * (len(names) + frame.shape[1]))]
    for label, *cells in frame.itertuples():
        lines.append(line([label, *cells] if index else cells))
    return "\n".join(lines) + "\n"
