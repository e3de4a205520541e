"""Bootstrap intervals of every measured mean over queries, and of its gain over the first row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.tables import read_per_query

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


def paired_bootstrap(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    samples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Return the mean of a - b over the queries both have, with a percentile bootstrap interval.

    Queries are drawn with replacement, the two systems' APs of a query always together (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; in retrieval Sakai, SIGIR
    2006).

    Args:
        a: AP by query id.
        b: AP by query id of the other system.
        samples: bootstrap samples.
        seed: of the draws; the same seed gives the same interval.
        level: coverage, 0.95 for a 95 % interval.

    Returns:
        (mean difference, low, high).

    Raises:
        StudyError: the two share no query.
    """
    shared = [query for query in a if query in b]
    if not shared:
        raise StudyError(
            f"paired bootstrap: expected queries that both systems have, found none among "
            f"{len(a)} and {len(b)}"
        )
    difference = np.array([a[query] - b[query] for query in shared], dtype=np.float64)
    generator = np.random.default_rng(seed)
    # Blocks bound the memory: 10,000 samples of 1,250 queries would be 100 MB of indices.
    block = max(1, 1_000_000 // len(shared))
    means = np.concatenate(
        [
            difference[
                generator.integers(len(shared), size=(min(block, samples - start), len(shared)))
            ].mean(axis=1)
            for start in range(0, samples, block)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(difference.mean()), float(low), float(high)
