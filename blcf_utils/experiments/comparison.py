"""Tables t10, t11, t13 and x04: BLCF beside the compared methods, on the same images and maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from blcf_utils.experiments.measuring import elsewhere, gains_frame, timed
from blcf_utils.features.stored import batches
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.pooling.compared.rows import ROWS, T10, T11, T13, Row, rows_of
from blcf_utils.pooling.patches import patch_set_scores
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.intervals import paired_bootstrap
from blcf_utils.results.tables import Measurement, read_per_query
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking, region_histogram
from blcf_utils.study.study import Study

EXPANDED = "+expansion"
TOP = 100  # images of a timed answer
TIMED_QUERIES, TIMED_IMAGES = 30, 128
SIFT_BYTES = 128 + 4 * 4  # of a keypoint: descriptor, place, size and angle


@dataclass(frozen=True)
class Compared:
    """What one row found on one dataset.

    Attributes:
        row, dataset: which.
        scores: (mode, expanded) to its evaluation and the seconds of ranking for every query.
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
    found = []
    for name in study.profile.all_datasets:
        for row in progress(rows, label=f"methods on {name}", unit="method"):
            why = study.why_not_compared(name, row)
            found.append(Compared(row, name, {}, why) if why else _compared(study, name, row))
    return found


def _compared(study: Study, name: str, row: Row) -> Compared:
    one = study.of_row(row)
    rank = partial(_rank, one, name, row)
    rank("ls", False)  # describes the images, before anything is timed
    scores = {}
    for mode, expanded in (("gs", False), ("ls", False), ("ls", True)):
        if (expanded and not one.expands(row)) or (mode == "gs" and row.method == "sift"):
            continue  # SIFT is verified for local search only: minutes for what nobody asks
        rankings, seconds = timed(partial(rank, mode, expanded))
        scores[mode, expanded] = one.evaluate(name, rankings), seconds
    costs = {"words": _words_cost, "sift": _sift_cost, "detector": _detector_cost}
    cost = costs.get(row.method, _dense_cost)
    return Compared(row, name, scores, **cost(one, name, row), digest=_digest(one, name, row))


def _rank(study: Study, name: str, row: Row, mode: Mode, expanded: bool) -> dict[str, Ranking]:
    if row.method == "words":
        recipe = row.expanded if expanded else row.recipe
        if mode == "gs":
            recipe = recipe.replace("LS", "GS", 1)
        return study.search(name, recipe, weighting=row.weighting)
    if row.method == "sift":
        return study.sift_verified(name, mode)
    if row.method == "detector":
        return study.detector_search(name, row.id, mode, expanded)
    return study.compared(name, row.method, mode, expanded, row.dimensions)


def _digest(study: Study, name: str, row: Row) -> str:
    if row.method == "detector":
        return digest_of([study.config_digest(name), study.detected(name, row.id).key])
    if row.method in ("words", "sift"):
        weights = study.weights(name, row.weighting) if row.method == "words" else None
        return digest_of([study.config_digest(name), row.id, weights.key if weights else ""])
    ready = study.compared_method(name, row.method, row.dimensions)
    return digest_of([study.config_digest(name), row.id, ready.document])


def median_ms(answers: Sequence[Callable[[], object]]) -> float:
    """Return the median milliseconds of the calls, after one that is not timed."""
    answers[0]()
    seconds = []
    for answer in answers:
        started = time.perf_counter()
        answer()
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def best_of(scores: np.ndarray, top: int = TOP) -> np.ndarray:
    """Return the numbers of the best images, best first."""
    best = np.argpartition(-scores, min(top, len(scores) - 1))[:top]
    return best[np.argsort(-scores[best], kind="stable")]


def _dense_cost(study: Study, name: str, row: Row) -> dict[str, float]:
    """Return size and speed of a dense method."""
    database = np.ascontiguousarray(study.described(name, row.method, row.dimensions))
    queries = study.described_queries(name, row.method, "ls", row.dimensions)[:TIMED_QUERIES]
    if database.ndim == 3:
        answers = [lambda q=q: best_of(patch_set_scores(q[None], database)[0]) for q in queries]
    else:
        answers = [lambda q=q: best_of(database @ q) for q in queries]
    ready = study.compared_method(name, row.method, row.dimensions)
    features = study.comparison_maps(row.method).features(name)
    some = np.arange(min(TIMED_IMAGES, features.n_database))
    stored = list(batches(features, some))
    ready.describe(stored[0][1])
    started = time.perf_counter()
    for _, maps in stored:
        ready.describe(maps)
    seconds = time.perf_counter() - started
    return {
        "values": float(np.prod(database.shape[1:])),
        "bytes": float(database[0].nbytes),
        "milliseconds": median_ms(answers),
        "images_per_second": len(some) / max(seconds, 1e-9),
    }


def _words_cost(study: Study, name: str, row: Row) -> dict[str, float]:
    """Return size and speed of words in an inverted file."""
    index, base = study.index(name, row.weighting), study.searcher(name).base
    queries = base.dataset.queries[:TIMED_QUERIES]
    held = [region_histogram(base.regions(query, "ls")) for query in queries]
    size, answers = index.nbytes, [lambda h=h: index.search(*h, TOP) for h in held]
    if row.recipe != "LS":  # re-ranking reads the assignment maps, two bytes a position
        maps, searcher = base.maps, study.searcher(name, row.weighting)
        size += 2 * int(maps.shapes[: maps.n_database].prod(axis=1).sum())
        answers = [lambda q=q: searcher.run(row.recipe, q) for q in queries]
    return {
        "values": index.entries / index.n_images,
        "bytes": size / index.n_images,
        "milliseconds": median_ms(answers),
    }


def _sift_cost(study: Study, name: str, row: Row) -> dict[str, float]:
    """Return size and speed of SIFT words, whose matches are verified by geometry."""
    index, queries = study.sift_index(name), len(study.dataset(name).queries)
    keypoints = study.sift_features(name).n_database_descriptors / index.n_images
    started = time.perf_counter()
    study.sift_search(name, "ls")
    seconds = time.perf_counter() - started + study.verification_seconds(name, "ls")
    return {
        "values": index.entries / index.n_images,
        "bytes": index.nbytes / index.n_images + SIFT_BYTES * keypoints,
        "milliseconds": 1e3 * seconds / queries,
    }


def _detector_cost(study: Study, name: str, row: Row) -> dict[str, float]:
    """Return size and speed of a detector's image vectors."""
    database = study.detected(name, row.id).vectors
    queries = study.detector_queries(name, row.id, "ls")[:TIMED_QUERIES]
    return {
        "values": float(database.shape[1]),
        "bytes": float(database[0].nbytes),
        "milliseconds": median_ms([lambda q=q: best_of(database @ q) for q in queries]),
    }


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
                cells.append(
                    Measurement(label, column, scores.mean, "measured", seconds, one.digest, aps)
                )
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
    return study.write_table(T10, cells, not_run=_why(study, T10))


def expansion_table(study: Study, found: Sequence[Compared]) -> pd.DataFrame:
    """Write the comparison with query expansion (table t11): local search."""
    cells = [*_attributes(found, T11), *_cells(found, T11, {("ls", True): ""})]
    return study.write_table(T11, cells, not_run=_why(study, T11))


def state_of_the_art_table(study: Study, found: Sequence[Compared]) -> pd.DataFrame:
    """Write every method, without and with expansion (table t13): local search."""
    variants = {("ls", False): "", ("ls", True): EXPANDED}
    cells = [*_attributes(found, T13), *_cells(found, T13, variants)]
    return study.write_table(T13, cells, not_run=_why(study, T13))


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
    return study.write_table("x04_compactness", cells)


def method_gains(study: Study, against: str = "BLCF LS", mode: Mode = "ls") -> pd.DataFrame:
    """Return what every method gains over one of them, with its paired bootstrap interval.

    Args:
        study: a study whose table x04 is written.
        against: a row of that table.
        mode: ``gs`` or ``ls``.

    Returns:
        Columns gain, low, high; index (dataset, method).
    """
    values, lines = read_per_query("x04_compactness", study.results), {}
    for name in study.datasets:
        column = f"{name}/{mode}"
        for row in dict.fromkeys(row for row, of in values if of == column and row != against):
            lines[name, row] = paired_bootstrap(values[row, column], values[against, column])
    return gains_frame(lines, ("dataset", "method"))
