"""Query expansion: the best images of a first search join the query of a second one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blcf_utils.config.profile import ExpansionConfig
from blcf_utils.words.histograms import Sparse


def expand_query(
    query: Sparse, found: Sequence[Sparse], scores: Sequence[float], config: ExpansionConfig
) -> Sparse:
    """Return the average of a query's histogram and those of the images it found, unit length.

    Global expansion (GQE) hands over the histograms of whole images, local expansion (LQE) those
    of the windows in which re-ranking localised the query.

    Args:
        query: (words, unit-length weights) of the query.
        found: the same of the best images, best first; the first ``config.images`` are used.
        scores: their scores, which weigh them with ``config.alpha``; an image whose score is not
            above 0 has nothing of the query and does not join.
        config: N, alpha, weight of the query.

    Returns:
        (words, weights): the query itself when N is 0 or nothing was found. Histograms are averaged
        before idf, which the index puts on the result.

    Source: Chum et al., ICCV 2007 (average query expansion); Mohedano et al., ICMR 2016 (N = 10,
    local expansion); Radenovic et al., TPAMI 2019 (alpha-QE).
    """
    used = list(found)[: config.images]
    if not used:
        return query
    positive = np.maximum(np.asarray(scores[: len(used)], np.float64), 0)
    gains = np.where(positive > 0, positive**config.alpha, 0)
    if not gains.any():
        return query
    parts = [(query, config.query_weight), *zip(used, gains, strict=True)]
    words = np.concatenate([words for (words, _), _ in parts])
    values = np.concatenate([values * float(gain) for (_, values), gain in parts])
    distinct, inverse = np.unique(words, return_inverse=True)
    sums = np.bincount(inverse, values, minlength=len(distinct))
    norm = np.sqrt((sums * sums).sum())
    kept = sums > 0
    return distinct[kept].astype(np.int64), (sums[kept] / norm).astype(np.float32)
