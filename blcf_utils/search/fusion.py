"""Late fusion: one ranking of two, by their scores or by their ranks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from blcf_utils.config.profile import FusionConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.query import Ranking


def normalised_scores(scores: np.ndarray, how: str) -> np.ndarray:
    """Return scores on a scale of their own, float64; their order does not change.

    Args:
        scores: (n,).
        how: ``max`` divides by the largest magnitude, ``minmax`` brings them to 0..1, ``zscore``
            to mean 0 and standard deviation 1, ``none`` leaves them. Where that would divide by
            zero (all 0 with ``max``, all equal otherwise) they become 0.
    """
    values = np.asarray(scores, np.float64)
    if how == "none":
        return values
    if how == "max":
        largest = np.abs(values).max(initial=0)
        return values / largest if largest > 0 else values
    if np.ptp(values) == 0:
        return np.zeros_like(values)
    if how == "minmax":
        return (values - values.min()) / np.ptp(values)
    return (values - values.mean()) / values.std()


def fuse(first: Ranking, second: Ranking, config: FusionConfig) -> Ranking:
    """Fuse two rankings of the same images.

    ``score`` adds normalised scores, weight w and 1 - w. ``rank`` adds w / (k + rank) and
    (1 - w) / (k + rank), ranks from 1 (reciprocal rank fusion: Cormack, Clarke and Buettcher,
    SIGIR 2009); images of equal score share their best rank. Equal results are ordered by image
    number.

    Raises:
        StudyError: rankings of different images, or with scores that rise along the ranking.
    """
    images, scores_a = _by_number(first, "first")
    others, scores_b = _by_number(second, "second")
    if not np.array_equal(images, others):
        raise StudyError(
            f"fusion: expected two rankings of the same images, found {len(images)} and "
            f"{len(others)} images, of which {len(np.intersect1d(images, others))} in both; rank "
            "the whole database in both searches"
        )
    if config.kind == "score":
        one = normalised_scores(scores_a, config.normalise)
        two = normalised_scores(scores_b, config.normalise)
    else:
        one, two = (
            1 / (config.rank_constant + rankdata(-scores, method="min"))
            for scores in (scores_a, scores_b)
        )
    fused = config.weight * one + (1 - config.weight) * two
    order = np.argsort(-fused, kind="stable")
    return Ranking(images[order], fused[order])


def fuse_all(
    first: Mapping[str, Ranking], second: Mapping[str, Ranking], config: FusionConfig
) -> dict[str, Ranking]:
    """Fuse the rankings of every query.

    Raises:
        StudyError: a query that only one of the two searches ranked.
    """
    single = sorted(set(first) ^ set(second))
    if single:
        raise StudyError(
            f"fusion: expected two rankings for every query, found one for {single[0]}; fuse "
            "searches of the same dataset"
        )
    return {query: fuse(ranking, second[query], config) for query, ranking in first.items()}


def _by_number(ranking: Ranking, which: str) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(ranking.scores)
    if (np.diff(scores) > 0).any():
        raise StudyError(
            f"fusion: expected scores that fall along the {which} ranking, found one that rises; "
            "fuse rankings whose scores made their order"
        )
    order = np.argsort(ranking.images, kind="stable")
    return np.asarray(ranking.images)[order], scores[order]
