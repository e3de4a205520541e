"""Tables t08 and t09: spatial weightings for sum pooling and for words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from blcf_utils.experiments.measuring import MODES, elsewhere, gains_frame, scored, timed
from blcf_utils.ground.errors import known
from blcf_utils.ground.progress import progress
from blcf_utils.results.intervals import paired_bootstrap
from blcf_utils.results.tables import Measurement, read_per_query
from blcf_utils.saliency.weight_maps import StoredWeights
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking
from blcf_utils.study.study import Study

Rank = Callable[[], dict[str, Ranking]]


def weighted_sum_pooling_table(study: Study, weightings: tuple[str, ...] = ()) -> pd.DataFrame:
    """Measure sum pooling under every weighting (table t08).

    Args:
        study: the study; its profile says whether the pooled vectors are whitened.
        weightings: the rows; every one that can run here when empty.
    """

    def prepare(name: str, mode: Mode, weighting: str) -> tuple[Rank, StoredWeights | None]:
        study.database_sums(name, weighting)
        rank = partial(study.sum_pooling, name, mode, weighting=weighting)
        return rank, study.weights(name, weighting, 1)

    return _table(study, "t08_saliency_sum_pooling", weightings, prepare)


def weighted_words_table(study: Study, weightings: tuple[str, ...] = ()) -> pd.DataFrame:
    """Measure bags of local convolutional features under every weighting (table t09)."""

    def prepare(name: str, mode: Mode, weighting: str) -> tuple[Rank, StoredWeights | None]:
        study.index(name, weighting)
        rank = partial(study.search, name, mode, weighting=weighting)
        return rank, study.weights(name, weighting)

    return _table(study, "t09_saliency_blcf", weightings, prepare)


def _table(
    study: Study,
    table_id: str,
    weightings: tuple[str, ...],
    prepare: Callable[[str, Mode, str], tuple[Rank, StoredWeights | None]],
) -> pd.DataFrame:
    """Measure every weighting, global and local; ``seconds`` rank the database for every query."""
    cells = []
    for name in study.datasets:
        rows = progress(
            weightings or study.weightings(), label=f"weightings of {name}", unit="weighting"
        )
        for row in rows:
            for mode in MODES:
                column, why = f"{name}/{mode}", study.why_not(name, row)
                if why:
                    cells.append(Measurement(row, column, None, f"not run: {why}"))
                    continue
                rank, weights = prepare(name, mode, row)
                ranked = timed(rank)
                key = weights.key if weights else ""
                cells.append(scored(study, row, column, name, *ranked, besides=key))
    return study.write_table(table_id, cells, not_run=elsewhere(study, table_id))


def weighting_gains(study: Study, table_id: str, mode: Mode = "gs") -> pd.DataFrame:
    """Return the gain of every measured weighting over none, with its paired bootstrap interval.

    Args:
        study: a study whose table ``table_id`` (t08 or t09) is written.
        table_id: ``t08_saliency_sum_pooling`` or ``t09_saliency_blcf``.
        mode: ``gs`` or ``ls``.

    Returns:
        Columns gain, low, high; index (dataset, weighting).
    """
    values = read_per_query(table_id, study.results)
    lines = {}
    for name in study.datasets:
        column = f"{name}/{mode}"
        for row in study.weightings():
            if row != NONE and (row, column) in values and (NONE, column) in values:
                lines[name, row] = paired_bootstrap(values[row, column], values[NONE, column])
    return gains_frame(lines, ("dataset", "weighting"))


def query_gains(
    study: Study, table_id: str, weighting: str, mode: Mode = "gs"
) -> dict[str, dict[str, float]]:
    """Return the AP gain of a weighting over none for every query, by dataset.

    Nothing where the table has no AP of any query, as on stand-ins.

    Raises:
        StudyError: the table has no such weighting for one of the study's datasets.
    """
    values, gains = read_per_query(table_id, study.results), {}
    for name in study.datasets if values else ():
        column = f"{name}/{mode}"
        if (weighting, column) not in values or (NONE, column) not in values:
            measured = dict.fromkeys(row for row, of in values if of == column)
            raise known(f"measured weighting of {table_id}, {column}", weighting, measured)
        ours, none = values[weighting, column], values[NONE, column]
        gains[name] = {query: ap - none[query] for query, ap in ours.items()}
    return gains
