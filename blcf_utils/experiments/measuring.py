"""What every experiment shares: timing and scoring one cell, and saying why one was not run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from blcf_utils.finetuning.splits import instance_of
from blcf_utils.ground.settings import digest_of
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.intervals import paired_bootstrap
from blcf_utils.results.published import dataset_of, load_published
from blcf_utils.results.tables import Measurement
from blcf_utils.search.query import Ranking
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

MODES = ("gs", "ls")
# Ends the column of a dataset scored as published code misread its ground truth.
PUBLISHED_CODE = "/published code"


def elsewhere(study: Study, table_id: str) -> dict[str, str]:
    """Why the slides' own columns are empty: their datasets are not in this profile."""
    columns = {dataset_of(name) for name in published_columns(table_id)}
    return {
        column: f"{column} is not in profile {study.profile.name}"
        for column in columns
        if column not in study.profile.all_datasets
    }


def published_columns(table_id: str) -> list[str]:
    """Return the columns of a published table, in order."""
    return load_published(table_id)["column"].unique().tolist()


def published_rows(table_id: str) -> list[str]:
    """Return the rows of a published table, in order."""
    return load_published(table_id)["row"].unique().tolist()


def measure(
    bench: Pipeline, row: str, column: str, rank: Callable[[], dict[str, Ranking]]
) -> Measurement:
    """Score one method; ``seconds`` is the time to rank the database for every query once.

    What the ranking needs (features, words, index, pooled vectors) must be there already.
    """
    rankings, seconds = timed(rank)
    return scored(bench, row, column, rankings, seconds)


def timed(rank: Callable[[], dict[str, Ranking]]) -> tuple[dict[str, Ranking], float]:
    """Return rankings and the wall time of making them."""
    started = time.perf_counter()
    rankings = rank()
    return rankings, time.perf_counter() - started


def scored(
    bench: Pipeline,
    row: str,
    column: str,
    rankings: dict[str, Ranking],
    seconds: float,
    besides: str = "",
) -> Measurement:
    """Score rankings that took so many seconds.

    ``besides`` is a digest of what determines them beside the profile's settings.
    """
    evaluation, digest = bench.evaluate(rankings), bench.config_digest()
    return Measurement(
        row,
        column,
        evaluation.mean,
        "measured",
        round(seconds, 4),
        digest_of([digest, besides]) if besides else digest,
        evaluation.per_query,
    )


def misscored(bench: Pipeline, rankings: dict[str, Ranking]) -> Evaluation | None:
    """Score rankings as published code did; None where that read the ground truth right."""
    truth = bench.dataset.published_code
    return truth and bench.evaluate(rankings, truth)


def beside(cell: Measurement, misscored: Evaluation | None) -> list[Measurement]:
    """Return a cell and, in a column of its own, the score of published code if there is one."""
    if misscored is None:
        return [cell]
    other = replace(
        cell,
        column=cell.column + PUBLISHED_CODE,
        value=misscored.mean,
        config_digest=digest_of([cell.config_digest, PUBLISHED_CODE]),
        per_query=misscored.per_query,
    )
    return [cell, other]


def instances_of(study: Study, dataset: str) -> dict[str, str]:
    """Return the instance that each query of a dataset shows."""
    return {query.id: instance_of(query) for query in study.open(dataset).dataset.queries}


def gain(
    study: Study, dataset: str, ours: Mapping[str, float], other: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return what one search of a dataset gains over another, with its interval.

    Args:
        study, dataset: whose queries they are.
        ours, other: AP by query.

    Returns:
        (mean difference, low, high): the wider of the paired bootstrap intervals by query and by
        instance.
    """
    return paired_bootstrap(ours, other, instances_of(study, dataset))


def intervals_frame(
    lines: Mapping[tuple[str, ...], tuple[float, float, float]],
    names: tuple[str, ...],
    what: str = "gain",
) -> pd.DataFrame:
    """Return values with their intervals: columns ``what``, low, high; empty without lines.

    Args:
        lines: what was measured, such as (dataset, row), to its value, low and high.
        names: of the index levels.
        what: name of the value's column.
    """
    levels = [[key[level] for key in lines] for level in range(len(names))]
    index = pd.MultiIndex.from_arrays(levels, names=names)
    table = pd.DataFrame(list(lines.values()), index=index, columns=[what, "low", "high"])
    return table.replace([-np.inf, np.inf], np.nan)  # of a single instance, which tells nothing
