"""Result tables: published beside measured, on disk."""

from __future__ import annotations

import csv
import io
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.published import TableInfo, dataset_of, load_published, number, table_info
from blcf_utils.results.seeds import show_seeds, write_seeds
from blcf_utils.results.shown import beside, markdown

LONG = ("row", "column", "published", "measured", "status", "seconds", "config_digest")
PER_QUERY = ("row", "column", "query", "ap")
NOT_RUN = "not run: "


@dataclass(frozen=True)
class Measurement:
    """One measured cell of a table.

    Attributes:
        row: row label; the published one where the slides have the row.
        column: dataset and variant, such as ``instre-mini/gs``.
        value: what was measured (mAP as a fraction of 1), or None when it was not run.
        status: ``measured`` or ``not run: <why>``.
        seconds: wall time that this cell took.
        config_digest: digest of the configuration that made it.
        per_query: AP by query id, where the value is a mean over queries.
        seeds: what each seed gave, where the value is a mean over seeds of a training.
    """

    row: str
    column: str
    value: float | int | str | None
    status: str = "measured"
    seconds: float = 0.0
    config_digest: str = ""
    per_query: dict[str, float] | None = None
    seeds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        cell = f"measurement {self.row!r}, {self.column!r}"
        if not self.row or not self.column:
            raise StudyError(f"{cell}: expected a row and a column, found a blank name")
        if self.status == "measured":
            if self.value is None:
                raise StudyError(f"{cell}: expected a value; without one say 'not run: <why>'")
        elif not self.status.startswith(NOT_RUN) or self.value is not None:
            raise StudyError(
                f"{cell}: expected status 'measured', or 'not run: <why>' and no value, "
                f"found {self.status!r} and {self.value!r}"
            )
        for value in (self.value, self.seconds, *(self.per_query or {}).values(), *self.seeds):
            if isinstance(value, numbers.Real) and not math.isfinite(value):
                raise StudyError(f"{cell}: expected finite numbers, found {value!r}")


def _text(value: object) -> str:
    """Return a value at full precision: numbers read back to the same number."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        raise StudyError(f"expected a number or a text in a table, found {value!r}")
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    return str(value)


def _csv(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return out.getvalue()


def _read(path: Path, header: tuple[str, ...], mend: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; {mend}") from None
    except ValueError as error:
        raise StudyError(f"{path}: not a table ({error}); {mend}") from None
    if tuple(table.columns) != header:
        raise StudyError(
            f"{path}: expected the header {','.join(header)}, "
            f"found {','.join(table.columns)}; {mend}"
        )
    return table


def _why_not_run(row: str, column: str, not_run: Mapping) -> str:
    for key in ((row, column), column, row, dataset_of(column)):
        if key in not_run:
            return str(not_run[key])
    return "not in this profile"


def write_table(
    table_id: str,
    measurements: Iterable[Measurement],
    folder: Path,
    *,
    decimals: int | None = None,
    not_run: Mapping[str | tuple[str, str], str] | None = None,
    title: str = "",
    network: str = "",
) -> pd.DataFrame:
    """Write ``tables/<id>.csv``, ``tables/<id>.md`` and, with APs, ``per_query/<id>.csv``.

    What several seeds gave goes to ``tables/seeds.csv`` (:mod:`results.seeds`).

    Rows and columns come in the published order, then new ones in the order given; the same input
    gives the same bytes. The whole table is replaced.

    Args:
        table_id: a published id or one of your own, ``x01_name``.
        measurements: the measured cells.
        folder: the profile's results folder.
        decimals: digits of measured values in the .md file; the table's own by default. The CSV
            always has full precision.
        not_run: why published cells were not run, by (row, column), column, row or dataset.
        title: title of a table the thesis does not have.
        network: what the measured values were made with, for the sentence above the table.

    Returns:
        The table as :func:`read_table` returns it.

    Raises:
        StudyError: unknown id, or two measurements of one cell.
    """
    info = table_info(table_id)
    if title:
        info = info.model_copy(update={"title": title})
    published = {
        (row, column): value
        for row, column, value in load_published(table_id)[["row", "column", "value"]].itertuples(
            index=False
        )
    }
    measured: dict[tuple[str, str], Measurement] = {}
    for item in measurements:
        key = (item.row, item.column)
        if key in measured:
            raise StudyError(f"{table_id}: two measurements of row {key[0]!r}, column {key[1]!r}")
        measured[key] = item

    cells = dict.fromkeys([*published, *measured])
    rows = {row: i for i, row in enumerate(dict.fromkeys(row for row, _ in cells))}
    columns = {name: i for i, name in enumerate(dict.fromkeys(column for _, column in cells))}
    lines, queries, seeds = [], [], []
    for row, column in sorted(cells, key=lambda cell: (rows[cell[0]], columns[cell[1]])):
        item = measured.get((row, column)) or Measurement(
            row, column, None, NOT_RUN + _why_not_run(row, column, not_run or {})
        )
        ran = item.status == "measured"
        lines.append(
            [
                row,
                column,
                published.get((row, column), ""),
                _text(item.value),
                item.status,
                _text(float(item.seconds)) if ran else "",
                item.config_digest,
            ]
        )
        for query, ap in (item.per_query or {}).items():
            queries.append([row, column, str(query), _text(float(ap))])
        if item.seeds:
            seeds.append((row, column, item.seeds))

    folder = Path(folder)
    per_query = folder / "per_query" / f"{table_id}.csv"
    if queries:
        write_text(per_query, _csv(PER_QUERY, queries))
    else:
        per_query.unlink(missing_ok=True)
    write_seeds(folder, table_id, seeds)
    write_text(folder / "tables" / f"{table_id}.csv", _csv(LONG, lines))
    table, decimals = read_table(table_id, folder), info.decimals if decimals is None else decimals
    table.attrs["network"] = network
    page = _page(table_id, info, table, show_seeds(folder, table_id, decimals), decimals)
    write_text(folder / "tables" / f"{table_id}.md", page)
    return table


def read_table(table_id: str, folder: Path) -> pd.DataFrame:
    """Read a run's table in long form.

    Returns:
        Columns row, column, published, measured, status, seconds, config_digest. Published and
        measured are numbers where they are numbers, text where they are not (``7-220``), and NaN
        where there is none; ``attrs["id"]`` is the table's id.
    """
    path = Path(folder) / "tables" / f"{table_id}.csv"
    table = _read(path, LONG, "run the notebook that writes this table (blcf run)")
    for name in ("published", "measured"):
        values = [np.nan if text == "" else number(text) for text in table[name]]
        mixed = [
            text if value is None else value
            for value, text in zip(values, table[name], strict=True)
        ]
        table[name] = pd.Series(mixed, index=table.index, dtype=object)
    table["seconds"] = [float(text or "nan") for text in table["seconds"]]
    table.attrs["id"] = table_id
    return table


def read_per_query(table_id: str, folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Read the APs of a run's table: (row, column) -> query id -> AP; empty when it has none."""
    path = Path(folder) / "per_query" / f"{table_id}.csv"
    if not path.is_file():
        return {}
    aps: dict[tuple[str, str], dict[str, float]] = {}
    table = _read(path, PER_QUERY, "run the notebook that writes this table (blcf run)")
    for row, column, query, ap in table.itertuples(index=False):
        aps.setdefault((row, column), {})[query] = float(ap)
    return aps


def wide(table: pd.DataFrame, what: str = "measured") -> pd.DataFrame:
    """Return one part of a long table as rows x columns, without rows and columns that are empty.

    Args:
        table: a table from :func:`read_table` or :func:`write_table`.
        what: ``measured``, ``published``, ``status``, ``seconds`` or ``config_digest``.
    """
    if what not in LONG[2:]:
        raise StudyError(f"wide: expected one of {', '.join(LONG[2:])}, found {what!r}")
    spread = table.set_index(["row", "column"])[what].unstack("column")
    spread = spread.reindex(index=table["row"].unique(), columns=table["column"].unique())
    spread = spread.dropna(how="all").dropna(axis=1, how="all").infer_objects()
    spread.columns.name = None
    return spread


def _page(
    table_id: str, info: TableInfo, table: pd.DataFrame, seeds: pd.DataFrame, decimals: int
) -> str:
    shown = beside(table, decimals)
    parts = [f"# {table_id}: {info.title}\n"]
    if info.slide:
        parts.append(f"Published: slide {info.slide}. {info.context}\n")
    if shown.said:
        parts.append(f"{shown.said}\n")
    parts.append(shown.markdown())
    if len(seeds):
        parts.append("Trained rows are means over seeds; mean ± standard deviation:\n")
        parts.append(markdown(seeds))
    if info.notes:
        parts.append(f"{info.notes}\n")
    return "\n".join(parts)
