"""Average precision as the benchmarks define it, and mean average precision of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.ground.errors import StudyError


def average_precision(
    ranking: np.ndarray, positives: Sequence[int], junk: Sequence[int] = (), ap: str = "trapezoid"
) -> float:
    """Return the average precision of one ranking.

    ``trapezoid`` is Oxford's compute_ap (Philbin et al., CVPR 2007): junk is removed before ranks
    are counted, and the precision-recall curve is integrated with trapezoids, starting at
    precision 1. For the j-th positive (from 0) at rank r (from 0) it adds
    (j/r + (j+1)/(r+1)) / 2 / positives, with j/r read as 1 at r = 0. ``rectangular`` adds
    (j+1)/(r+1) / positives (TREC). scikit-learn's ``average_precision_score`` is neither: it knows
    no junk and reads higher than the trapezoid.

    Args:
        ranking: item numbers, best first; items left out count as never found.
        positives: numbers of the relevant items.
        junk: numbers of items that count neither way; an item in both is junk.
        ap: ``trapezoid`` or ``rectangular``.

    Raises:
        StudyError: no positives, an item ranked twice, or an unknown ``ap``.
    """
    ranking = np.asarray(ranking)
    if len(positives) == 0:
        raise StudyError("average precision: a query needs at least one positive, found none")
    if len(np.unique(ranking)) != len(ranking):
        raise StudyError("average precision: expected each item once in a ranking, found repeats")
    kept = ranking[~np.isin(ranking, junk)]
    ranks = np.flatnonzero(np.isin(kept, positives))
    return average_precision_of_ranks(ranks, len(positives), ap)


def average_precision_of_ranks(ranks: np.ndarray, positives: int, ap: str = "trapezoid") -> float:
    """Return the average precision where the positives that were found have these ranks.

    Args:
        ranks: rising, from 0, junk not counted.
        positives: how many there are, found or not.
        ap: as for :func:`average_precision`.

    Raises:
        StudyError: an unknown ``ap``.
    """
    found = np.arange(len(ranks))
    after = (found + 1) / (ranks + 1)
    if ap == "rectangular":
        return float(after.sum() / positives)
    if ap != "trapezoid":
        raise StudyError(f"average precision: expected trapezoid or rectangular, found {ap!r}")
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    return float(((before + after) / 2).sum() / positives)


def precision_recall(
    ranking: np.ndarray, positives: Sequence[int], junk: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall after each ranked item that is not junk."""
    kept = np.asarray(ranking)[~np.isin(ranking, junk)]
    hits = np.cumsum(np.isin(kept, positives))
    return hits / np.arange(1, len(kept) + 1), hits / len(positives)


@dataclass(frozen=True)
class Evaluation:
    """The score of one method on one dataset.

    Attributes:
        per_query: query id to average precision.
    """

    per_query: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean average precision over the queries."""
        return float(np.mean(list(self.per_query.values())))


def unit_ranking(dataset: Dataset, ranking: np.ndarray) -> np.ndarray:
    """Turn a ranking of images into one of units: each unit at its best image (TRECVID shots)."""
    if dataset.units is None:
        return ranking
    units = dataset.unit_numbers[ranking]
    _, first = np.unique(units, return_index=True)
    return units[np.sort(first)]


def evaluate(dataset: Dataset, rankings: Mapping[str, np.ndarray]) -> Evaluation:
    """Score one ranking of database images per query by the dataset's protocol.

    Args:
        dataset: its queries, junk and protocol.
        rankings: query id to image numbers, best first.

    Raises:
        StudyError: a query without a ranking.
    """
    missing = [q.id for q in dataset.queries if q.id not in rankings]
    if missing:
        raise StudyError(
            f"{dataset.name}: {len(missing)} of {len(dataset.queries)} queries have no ranking, "
            f"first {missing[0]}; rank every query"
        )
    return Evaluation({q.id: evaluate_query(dataset, q, rankings[q.id]) for q in dataset.queries})


def evaluate_query(dataset: Dataset, query: Query, ranking: np.ndarray) -> float:
    """Return the average precision of one ranking of database images by the dataset's protocol."""
    units = unit_ranking(dataset, ranking)
    return average_precision(units, query.positives, query.junk, dataset.protocol.ap)
