"""What every seed of a training gave: the values that a table's means over seeds are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from blcf_utils.ground.artefacts import write_text

SEEDS = ("table", "row", "column", "seed", "value")


def write_seeds(folder: Path, table_id: str, cells: Sequence[tuple[str, str, Sequence[float]]]):
    """Replace a table's lines of ``tables/seeds.csv``; there is no such file without any line.

    Args:
        folder: the profile's results.
        table_id: which table.
        cells: row, column and the value of every seed, seeds numbered from 0.
    """
    path, kept = Path(folder) / "tables" / "seeds.csv", read_seeds(folder)
    found = [
        (table_id, row, column, seed, float(value))
        for row, column, values in cells
        for seed, value in enumerate(values)
    ]
    fresh = pd.DataFrame(found, columns=list(SEEDS))
    kept = kept[kept["table"] != table_id]
    whole = pd.concat([part for part in (kept, fresh) if len(part)] or [fresh])
    if len(whole):
        # Tables in their order whichever was written last, cells as the table has them.
        whole = whole.sort_values("table", kind="stable")
        write_text(path, whole.to_csv(index=False, lineterminator="\n"))
    else:
        path.unlink(missing_ok=True)


def read_seeds(folder: Path) -> pd.DataFrame:
    """Return the values of every seed: columns table, row, column, seed, value; maybe no line."""
    path = Path(folder) / "tables" / "seeds.csv"
    if not path.is_file():
        return pd.DataFrame(columns=list(SEEDS))
    text = dict.fromkeys(("table", "row", "column"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, encoding="utf-8")


def show_seeds(folder: Path, table_id: str, decimals: int = 3) -> pd.DataFrame:
    """Return a table's trained rows for reading: ``0.530 ± 0.021``, mean and standard deviation.

    The deviation is the sample's (n - 1). Rows and columns are the table's; a frame without rows
    where nothing was trained with several seeds.
    """
    seeds = read_seeds(folder)
    part = seeds[seeds["table"] == table_id]
    cells = part.groupby(["row", "column"], sort=False)["value"]
    spread = cells.agg(["mean", "std"])
    shown = [f"{mean:.{decimals}f} ± {std:.{decimals}f}" for mean, std in spread.to_numpy()]
    wide = pd.Series(shown, index=spread.index, dtype=object).unstack("column")
    wide = wide.reindex(index=part["row"].unique(), columns=part["column"].unique()).fillna("–")
    wide.columns.name = None
    return wide
