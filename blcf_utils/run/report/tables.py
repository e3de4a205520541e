"""What the report's page of a result table shows, as frames of text for its template."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from blcf_utils.results.published import table_info
from blcf_utils.results.tables import (
    NOT_RUN,
    beside,
    read_per_query,
    read_table,
    shown_number,
)
from blcf_utils.results.verdicts import verdicts

COMPARED = ("reproduced", "close", "differs")
# A page with more values of single queries than this is too slow to open.
MOST_VALUES = 12_000


def result_table(table_id: str, folder: Path, context: dict[str, str]) -> dict:
    """Return a result table for the template ``table.html``.

    Args:
        table_id: a table in ``folder/tables`` in the study's long form.
        folder: the profile's results folder.
        context: what the run used, for the verdicts (``{"backbone": ...}``).

    Returns:
        ``info`` (:class:`TableInfo`), ``beside`` (published beside measured), ``not_run`` (why to
        names of cells), ``compared`` (verdicts on like with like) and the ``reason`` of their
        tolerance, ``per_query`` (column to the values behind its means; empty when a page cannot
        show so many), ``data_of_queries`` (whether there are any) and ``summary`` (measured cells,
        other cells, verdicts).
    """
    info, table = table_info(table_id), read_table(table_id, folder)
    judged = verdicts(table_id, folder, context)
    judged = judged[judged["verdict"].isin(COMPARED)]
    measured = table["status"].eq("measured")
    counts = {verdict: (judged["verdict"] == verdict).sum() for verdict in COMPARED}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    values = read_per_query(table_id, folder)

    def shown(value: object) -> object:
        return shown_number(value, info.decimals) if isinstance(value, float) else value

    return {
        "info": info,
        "beside": _beside(table, info.decimals),
        "not_run": _not_run(table),
        "compared": judged.drop(columns="reason").map(shown, na_action="ignore"),
        "reason": next(filter(None, judged["reason"]), ""),
        "per_query": _per_query(values),
        "data_of_queries": bool(values),
        "summary": (measured.sum(), (~measured).sum(), told or "nothing to compare"),
    }


def _beside(table: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Return the table for reading, the columns that this run measured first."""
    shown = beside(table, decimals)
    for cell in table[table["status"] != "measured"].itertuples():
        if (name := f"{cell.column} measured") in shown:
            shown.loc[cell.row, name] = "not run"
    measured = {name for name in table["column"] if f"{name} measured" in shown}
    order = sorted(shown, key=lambda name: name.rpartition(" ")[0] not in measured)
    return shown[order].reset_index()


def _not_run(table: pd.DataFrame) -> dict[str, str]:
    reasons = {}
    for status, part in table[table["status"] != "measured"].groupby("status", sort=False):
        names = []
        for column, cells in part.groupby("column", sort=False):
            whole = len(cells) == (table["column"] == column).sum()
            names.append(column if whole else f"{column} ({', '.join(cells['row'])})")
        reasons[status.removeprefix(NOT_RUN)] = "; ".join(names)
    return reasons


def _per_query(values: dict[tuple[str, str], dict[str, float]]) -> dict[str, pd.DataFrame]:
    """Return the values behind a table's means: column to a frame of queries by rows."""
    if sum(map(len, values.values())) > MOST_VALUES:
        return {}
    frames = {}
    for column in dict.fromkeys(column for _, column in values):
        of_rows = {row: each for (row, other), each in values.items() if other == column}
        shown = pd.DataFrame(of_rows).map("{:.3f}".format, na_action="ignore")
        frames[column] = shown.rename_axis("query").reset_index()
    return frames
