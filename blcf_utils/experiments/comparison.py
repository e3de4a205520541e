"""Tables t10, t11, t13 and x04: BLCF beside the compared methods, on the same images and maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from blcf_utils.experiments.measuring import (
    beside,
    elsewhere,
    gain,
    intervals_frame,
    misscored,
    timed,
)
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.pooling.compared.row_kinds import T10, T11, T13, Row
from blcf_utils.pooling.compared.rows import ROWS, rows_of
from blcf_utils.pooling.compared.vectors import describe_together
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.tables import Measurement
from blcf_utils.search.boxes import Mode
from blcf_utils.study.comparison import Comparison
from blcf_utils.study.study import Study

EXPANDED = "+expansion"


@dataclass(frozen=True)
class Compared:
    """What one row found on one dataset.

    Attributes:
        row, dataset: which.
        scores: (mode, expanded) to its evaluation and the seconds of ranking for every query.
        misscored: the same evaluations as published code makes them, where it is mistaken.
        why: why nothing was measured, or "".
        values: length of its vector, or the distinct words of an image.
        bytes: memory of one image.
        milliseconds: median time of one query's first 100 images, without describing the query.
        images_per_second: descriptions from stored feature maps; 0 where it was not timed.
        digest: of what determines the numbers.
    """

    row: Row
    dataset: str
    scores: dict[tuple[Mode, bool], tuple[Evaluation, float]]
    misscored: dict[tuple[Mode, bool], Evaluation | None] = field(default_factory=dict)
    why: str = ""
    values: float = 0
    bytes: float = 0
    milliseconds: float = 0
    images_per_second: float = 0
    digest: str = ""


def compare_methods(study: Study, rows: Sequence[Row] = ROWS) -> list[Compared]:
    """Measure every row that can run on every dataset: global, local, local with expansion.

    Those that the profile measures among distractors in the comparison only are the last.
    """
    study, found = study.of_saliency_work, []
    for name in study.profile.all_datasets:
        comparison = study.comparison(name)
        why = {row.id: row.unavailable_because(comparison) for row in rows}
        on = {row.id: row.on(comparison) for row in rows if not why[row.id]}
        described = (row.vectors(on[row.id]) for row in rows if row.id in on)
        describe_together([vectors for vectors in described if vectors is not None])
        for row in progress(rows, label=f"methods on {name}", unit="method"):
            if why[row.id]:
                found.append(Compared(row, name, {}, why=why[row.id]))
            else:
                found.append(_compared(on[row.id], row))
    return found


def _compared(comparison: Comparison, row: Row) -> Compared:
    bench, scores, mistaken = comparison.bench, {}, {}
    row.rank(comparison, "ls", False)  # makes what it needs, before anything is timed
    for mode, expanded in (("gs", False), ("ls", False), ("ls", True)):
        if mode in row.modes and (row.expands or not expanded):
            rankings, seconds = timed(partial(row.rank, comparison, mode, expanded))
            scores[mode, expanded] = bench.evaluate(rankings), seconds
            mistaken[mode, expanded] = misscored(bench, rankings)
    digest = digest_of([bench.config_digest(), *row.key(comparison)])
    return Compared(row, bench.name, scores, mistaken, **row.cost(comparison), digest=digest)


def _cells(
    found: Sequence[Compared], table_id: str, variants: dict[tuple[Mode, bool], str]
) -> list[Measurement]:
    """Return the cells of a table: ``variants`` maps (mode, expanded) to the column's ending."""
    cells = []
    for one in found:
        label = one.row.labels.get(table_id)
        if label is None:
            continue
        for variant, ending in variants.items():
            column = one.dataset + ending
            if variant in one.scores:
                scores, seconds = one.scores[variant]
                seconds, aps = round(seconds, 4), scores.per_query
                digest = one.digest
                cell = Measurement(label, column, scores.mean, "measured", seconds, digest, aps)
                cells += beside(cell, one.misscored[variant])
            else:
                why = one.why or "its paper has no expansion"
                cells.append(Measurement(label, column, None, f"not run: {why}"))
    return cells


def _attributes(found: Sequence[Compared], table_id: str) -> list[Measurement]:
    """Return the columns that describe a row: whether it is off the shelf, its vector's length."""
    cells = []
    for row in rows_of(table_id):
        of_row = [one for one in found if one.row.id == row.id and not one.why]
        if not of_row:
            continue
        label = row.labels[table_id]
        values = round(float(np.mean([one.values for one in of_row])))
        if table_id != T13:
            shelf = "yes" if row.off_the_shelf else "No"
            cells.append(Measurement(label, "off_the_shelf", shelf))
        cells.append(Measurement(label, "dim", values))
    return cells


def _why(study: Study, table_id: str) -> dict:
    """Say why published cells were not run: their row cannot, or their dataset is not here."""
    return {
        **elsewhere(study, table_id),
        "off_the_shelf": "no dataset of this profile measured the row",
        "dim": "no dataset of this profile measured the row",
    }


def comparison_table(study: Study, found: Sequence[Compared]) -> pd.DataFrame:
    """Write the comparison without expansion (table t10): local search."""
    cells = [*_attributes(found, T10), *_cells(found, T10, {("ls", False): ""})]
    return study.results.table(T10, cells, not_run=_why(study, T10))


def expansion_table(study: Study, found: Sequence[Compared]) -> pd.DataFrame:
    """Write the comparison with query expansion (table t11): local search."""
    cells = [*_attributes(found, T11), *_cells(found, T11, {("ls", True): ""})]
    return study.results.table(T11, cells, not_run=_why(study, T11))


def state_of_the_art_table(study: Study, found: Sequence[Compared]) -> pd.DataFrame:
    """Write every method, without and with expansion (table t13): local search."""
    variants = {("ls", False): "", ("ls", True): EXPANDED}
    cells = [*_attributes(found, T13), *_cells(found, T13, variants)]
    return study.results.table(T13, cells, not_run=_why(study, T13))


def compactness_table(study: Study, found: Sequence[Compared]) -> pd.DataFrame:
    """Write accuracy beside size and speed of every method that ran (table x04)."""
    cells = []
    for one in found:
        if one.why:
            continue
        label, name = one.row.label, one.dataset
        for (mode, expanded), (scores, seconds) in one.scores.items():
            column = f"{name}/{mode}{EXPANDED if expanded else ''}"
            seconds = round(seconds, 4)
            cells.append(
                Measurement(
                    label, column, scores.mean, "measured", seconds, one.digest, scores.per_query
                )
            )
        costs = {
            "bytes per image": one.bytes,
            "ms per query": one.milliseconds,
            "images per s": one.images_per_second,
        }
        cells += [
            Measurement(label, f"{name}/{what}", float(value), config_digest=one.digest)
            for what, value in costs.items()
            if value
        ]
    return study.results.table("x04_compactness", cells)


def method_gains(study: Study, against: str = "BLCF LS", mode: Mode = "ls") -> pd.DataFrame:
    """Return what every method gains over one of them, with its paired bootstrap interval.

    Args:
        study: a study whose table x04 is written.
        against: a row of that table.
        mode: ``gs`` or ``ls``.

    Returns:
        Columns gain, low, high; index (dataset, method).
    """
    values, lines = study.results.per_query("x04_compactness"), {}
    for name in study.datasets:
        column = f"{name}/{mode}"
        for row in dict.fromkeys(row for row, of in values if of == column and row != against):
            lines[name, row] = gain(study, name, values[row, column], values[against, column])
    return intervals_frame(lines, ("dataset", "method"))
