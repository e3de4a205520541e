"""Refinement of a dense ranking: average query expansion, and R-MAC's localised re-ranking."""

from __future__ import annotations

import numpy as np

from blcf_utils.config.comparison import ComparisonConfig
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features
from blcf_utils.pooling.aml import localise_all
from blcf_utils.pooling.compared.methods import FittedMethod
from blcf_utils.search.query import Ranking
from blcf_utils.search.windows import Window


def ranked(scores: np.ndarray) -> Ranking:
    """Return images best first, ties in database order."""
    order = np.argsort(-scores, kind="stable")
    return Ranking(order, scores[order])


def expand_average(
    query: np.ndarray, vectors: np.ndarray, ranking: Ranking, images: int
) -> np.ndarray:
    """Return L2(query + sum of the vectors of the best images), (D,).

    Source: average query expansion, Chum et al., ICCV 2007, as CroW and CAM use it.
    """
    best = vectors[ranking.images[:images]]
    return normalise_rows((query + best.sum(axis=0))[None])[0]


def rerank_aml(
    query: np.ndarray,
    query_maximum: np.ndarray,
    aspect: float,
    ranking: Ranking,
    features: Features,
    ready: FittedMethod,
    config: ComparisonConfig,
) -> tuple[Ranking, dict[int, Window]]:
    """Re-rank the first images by approximate max-pooling localisation, and expand the query.

    In each of the first ``config.rerank`` images the window is sought whose maxima look most like
    the query's. The R-MAC vectors of these windows order the images; then the mean of the query
    and of the best ``config.rmac_expansion`` windows orders them again. The other images keep
    their order behind them.

    Args:
        query: R-MAC vector of the query's box, (D,).
        query_maximum: MAC of the same box, (C,).
        aspect: width / height of the box in cells.
        ranking: of the whole database.
        features: feature maps of the database.
        ready: R-MAC, for the vectors of windows.
        config: how many images are looked at, how many join.

    Returns:
        The ranking, and the window of each image that was looked at.

    Source: Tolias et al., ICLR 2016, section 4, and the authors' code, which scores windows, and
    only those of the list that was re-ranked.
    """
    first = ranking.images[: config.rerank]
    if not len(first):
        return ranking, {}
    windows, _ = localise_all(features, first, query_maximum, aspect)
    looked = {int(i): tuple(window) for i, window in zip(first, windows.tolist(), strict=True)}
    boxes = ready.describe_windows(features, looked)
    found = boxes @ query
    if config.rmac_expansion:
        best = np.argsort(-found, kind="stable")[: config.rmac_expansion]
        found = boxes @ normalise_rows(np.mean([query, *boxes[best]], axis=0)[None])[0]
    order = np.argsort(-found, kind="stable")
    again, found = first[order], found[order]
    # Scores of the two parts are not comparable; the rest stays below.
    rest = ranking.images[config.rerank :]
    below = ranking.scores[config.rerank :]
    if len(below):
        below = below - max(0.0, float(below.max() - found.min()) + 1e-6)
    return Ranking(np.concatenate([again, rest]), np.concatenate([found, below])), looked
