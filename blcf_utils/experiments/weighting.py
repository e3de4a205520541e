"""Tables t08 and t09: spatial weightings for sum pooling and for words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from blcf_utils.experiments.measuring import (
    MODES,
    beside,
    elsewhere,
    gain,
    intervals_frame,
    misscored,
    scored,
    timed,
)
from blcf_utils.ground.errors import known
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.saliency.weight_maps import StoredWeights
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study
from blcf_utils.study.weightings import weighting_names

Rank = Callable[[], dict[str, Ranking]]


def weighted_sum_pooling_table(study: Study, weightings: tuple[str, ...] = ()) -> pd.DataFrame:
    """Measure sum pooling under every weighting (table t08).

    It pools the last layer of large images (``sum_pooling.full_layer``, ``full_longest_side``), and
    the weights are those of that layer's cells. The slides do not say so; it is inferred from
    their numbers: t08's "None" (Oxford .680 and .686, Paris .779 and .765) agrees with t03's "as in
    [20]" (.672 and .683, .774 and .763), not with "as ours" (.621 and .583, .712 and .742).

    Args:
        study: the study; its profile says whether the pooled vectors are whitened.
        weightings: the rows; every one that can run here when empty.
    """

    def prepare(bench: Pipeline, mode: Mode, weighting: str) -> tuple[Rank, StoredWeights | None]:
        bench.database_sums(weighting)
        rank = partial(bench.sum_pooling, mode, weighting=weighting)
        return rank, bench.weightings.weights(weighting, 1)

    benches = [study.open(name).at_full_resolution() for name in study.datasets]
    return _table(study, benches, "t08_saliency_sum_pooling", weightings, prepare)


def weighted_words_table(study: Study, weightings: tuple[str, ...] = ()) -> pd.DataFrame:
    """Measure bags of local convolutional features under every weighting (table t09)."""

    def prepare(bench: Pipeline, mode: Mode, weighting: str) -> tuple[Rank, StoredWeights | None]:
        bench.index(weighting)
        rank = partial(bench.search, mode, weighting=weighting)
        return rank, bench.weightings.weights(weighting)

    of_saliency = study.of_saliency_work
    benches = [of_saliency.open(name) for name in study.datasets]
    return _table(of_saliency, benches, "t09_saliency_blcf", weightings, prepare)


def _table(
    study: Study,
    benches: list[Pipeline],
    table_id: str,
    weightings: tuple[str, ...],
    prepare: Callable[[Pipeline, Mode, str], tuple[Rank, StoredWeights | None]],
) -> pd.DataFrame:
    """Measure every weighting, global and local; ``seconds`` rank the database for every query."""
    cells = []
    for bench in benches:
        name, rows = bench.name, weightings or bench.weightings.names()
        rows = progress(rows, label=f"weightings of {name}", unit="weighting")
        for row in rows:
            for mode in MODES:
                column, why = f"{name}/{mode}", bench.weightings.unavailable_because(row)
                if why:
                    cells.append(Measurement(row, column, None, f"not run: {why}"))
                    continue
                rank, weights = prepare(bench, mode, row)
                rankings, seconds = timed(rank)
                key = weights.key if weights else ""
                cell = scored(bench, row, column, rankings, seconds, besides=key)
                cells += beside(cell, misscored(bench, rankings))
    return study.results.table(table_id, cells, not_run=elsewhere(study, table_id))


def weighting_gains(study: Study, table_id: str, mode: Mode = "gs") -> pd.DataFrame:
    """Return the gain of every measured weighting over none, with its paired bootstrap interval.

    Args:
        study: a study whose table ``table_id`` (t08 or t09) is written.
        table_id: ``t08_saliency_sum_pooling`` or ``t09_saliency_blcf``.
        mode: ``gs`` or ``ls``.

    Returns:
        Columns gain, low, high; index (dataset, weighting).
    """
    values = study.results.per_query(table_id)
    lines = {}
    for name in study.datasets:
        column = f"{name}/{mode}"
        for row in weighting_names(study.profile):
            if row != NONE and (row, column) in values and (NONE, column) in values:
                lines[name, row] = gain(study, name, values[row, column], values[NONE, column])
    return intervals_frame(lines, ("dataset", "weighting"))


def query_gains(
    study: Study, table_id: str, weighting: str, mode: Mode = "gs"
) -> dict[str, dict[str, float]]:
    """Return the AP gain of a weighting over none for every query, by dataset.

    Raises:
        StudyError: the table has no such weighting for one of the study's datasets.
    """
    values, gains = study.results.per_query(table_id), {}
    for name in study.datasets:
        column = f"{name}/{mode}"
        if (weighting, column) not in values or (NONE, column) not in values:
            measured = dict.fromkeys(row for row, of in values if of == column)
            raise known(f"measured weighting of {table_id}, {column}", weighting, measured)
        ours, none = values[weighting, column], values[NONE, column]
        gains[name] = {query: ap - none[query] for query, ap in ours.items()}
    return gains
