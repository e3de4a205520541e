"""Bootstrap intervals of every measured mean over queries, and of its gain over the first row."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from blcf_utils.artefacts import write_text
from blcf_utils.evaluation import Evaluation
from blcf_utils.tables import paired_bootstrap, read_per_query

KEY = ("table", "row", "column")


def write_intervals(folder: Path, table_ids: list[str]) -> pd.DataFrame:
    """Write ``tables/intervals.csv``: what a mean over so many queries can tell.

    Args:
        folder: the profile's results.
        table_ids: the tables; those without values per query are passed over.

    Returns:
        One line per measured mean, by table, row and column: ``mean`` with its 95 % bootstrap
        interval (``low``, ``high``) and the number of ``queries``; ``gain`` over the table's first
        row in the same column with its paired interval (``gain_low``, ``gain_high``).
    """
    lines = []
    for table_id in table_ids:
        first: dict[str, dict[str, float]] = {}
        for (row, column), values in read_per_query(table_id, folder).items():
            mean = Evaluation(values)
            low, high = mean.interval()
            gain = paired_bootstrap(values, first.setdefault(column, values))
            numbers = (mean.mean, low, high, len(values), *gain)
            lines.append((table_id, row, column, *numbers))
    columns = ("mean", "low", "high", "queries", "gain", "gain_low", "gain_high")
    table = pd.DataFrame(lines, columns=[*KEY, *columns]).set_index(list(KEY))
    text = table.round(4).to_csv(lineterminator="\n")
    write_text(Path(folder) / "tables" / "intervals.csv", text)
    return table


def show_intervals(table: pd.DataFrame, table_id: str) -> pd.DataFrame:
    """Return one table's intervals for reading: ``0.530 [0.471, 0.589], +0.012 [...]``."""
    if table_id not in table.index.get_level_values("table"):  # nothing measured
        return pd.DataFrame()
    part = table.loc[table_id]
    shown = [
        f"{m:.3f} [{low:.3f}, {high:.3f}]" + (f", {g:+.3f} [{gl:+.3f}, {gh:+.3f}]" if g else "")
        for m, low, high, _, g, gl, gh in part.itertuples(index=False)
    ]
    spread = pd.Series(shown, index=part.index).unstack("column")
    rows, columns = (part.index.get_level_values(level).unique() for level in ("row", "column"))
    spread = spread.reindex(index=rows, columns=columns).fillna("–")
    spread.columns.name = None
    return spread
