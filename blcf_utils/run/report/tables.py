"""What the report's page of a result table shows, as frames of text for its template."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from blcf_utils.results.published import network_of, table_info
from blcf_utils.results.shown import beside, shown_number
from blcf_utils.results.tables import read_per_query, read_table
from blcf_utils.results.verdicts import verdicts

COMPARED = ("reproduced", "close", "differs")
# A page with more values of single queries than this is too slow to open.
MOST_VALUES = 12_000


def result_table(table_id: str, folder: Path, context: dict[str, str]) -> dict:
    """Return a result table for the template ``table.html``.

    Args:
        table_id: a table in ``folder/tables`` in the study's long form.
        folder: the profile's results folder.
        context: what the run used, for the verdicts (see ``verdicts``).

    Returns:
        ``info`` (:class:`TableInfo`), ``shown`` (published beside measured, as HTML), ``compared``
        (verdicts on like with like) and the ``reason`` of their tolerance, ``per_query`` (column
        to the values behind its means; empty when a page cannot show so many),
        ``data_of_queries`` (whether there are any) and ``summary`` (measured cells, other cells,
        verdicts).
    """
    info, table = table_info(table_id), read_table(table_id, folder)
    table.attrs["network"] = network_of(table_id, context)
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
        "shown": beside(table)._repr_html_(),
        "compared": judged.drop(columns="reason").map(shown, na_action="ignore"),
        "reason": next(filter(None, judged["reason"]), ""),
        "per_query": _per_query(values),
        "data_of_queries": bool(values),
        "summary": (measured.sum(), (~measured).sum(), told or "–"),
    }


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
