"""VLAD of local convolutional descriptors: what each word's descriptors differ from it by.

Ng, Yang and Davis, "Exploiting local features from deep networks for image retrieval", CVPR
workshops 2015: 100 words, intra-normalised residual sums (Arandjelovic and Zisserman, "All about
VLAD", CVPR 2013), L2, then PCA whitening to 128, which is the caller's. Open there and chosen here:
local descriptors are L2-normalised, by themselves, before they are assigned.
"""

from __future__ import annotations

import numba
import numpy as np

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.maps import Positions, positions
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import Whitening


def vlad_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    centroids: np.ndarray,
    whitening: Whitening | None = None,
    power: float = 1.0,
    intra: bool = True,
) -> np.ndarray:
    """Return the VLAD vector: (C, h, w) to (K * D,), (B, C, h, w) to (B, K * D).

    Each local descriptor goes to its nearest centroid, and each centroid adds up the residuals.
    Unlike most pooled vectors the result has unit length (or is 0, where nothing weighs anything).
    A position without any activation counts as the descriptor 0.

    Args:
        maps, weights, box: as for ``maps.positions``; a weight multiplies its residual.
        centroids: (K, D), learned on descriptors that were normalised and whitened as here.
        whitening: of the L2-normalised local descriptors, C to D; left out when None.
        power: each value v of a sum becomes sign(v) |v|^power first; 1 leaves it.
        intra: give each word's sum unit length before the whole has.

    Raises:
        StudyError: centroids of another length than the descriptors, or a power outside (0, 1].
    """
    read = positions(maps, weights, box)
    unit = unit_positions(read, centroids, whitening)
    sums = residual_sums(unit, nearest_words(unit, centroids), read.weights, centroids)
    return read.vectors(joined(sums, power, intra))


def unit_positions(
    read: Positions, centroids: np.ndarray, whitening: Whitening | None = None
) -> np.ndarray:
    """Return L2-normalised local descriptors, whitened on request: (B, n, D) float32.

    Raises:
        StudyError: centroids of another length than the descriptors.
    """
    channels = read.values.shape[2]
    if whitening is not None and len(whitening.projection) != channels:
        raise StudyError(
            f"VLAD: expected a whitening of {channels} channels as the map has, found "
            f"{len(whitening.projection)}; learn it on the same layer"
        )
    length = channels if whitening is None else whitening.dimensions
    if centroids.ndim != 2 or centroids.shape[1] != length:
        what = "the map has channels" if whitening is None else "the whitening has directions"
        raise StudyError(
            f"VLAD: expected centroids (K, {length}) as {what}, found {centroids.shape}; learn "
            "them on the same layer and with the same whitening"
        )
    rows = read.values.reshape(-1, channels)
    unit = normalise_rows(rows) if whitening is None else whitening.apply(rows)
    return unit.reshape(*read.values.shape[:2], length)


def nearest_words(descriptors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the nearest centroid of each descriptor: (B, n, D) to (B, n) int64.

    The first of equally near ones.
    """
    rows = descriptors.reshape(-1, descriptors.shape[2])
    scores = rows @ centroids.T
    scores -= 0.5 * (centroids * centroids).sum(axis=1)
    return scores.argmax(axis=1).reshape(descriptors.shape[:2])


def residual_sums(
    descriptors: np.ndarray, words: np.ndarray, weights: np.ndarray | None, centroids: np.ndarray
) -> np.ndarray:
    """Return the weighted sum of each word's residuals, (B, K, D) float32.

    Args:
        descriptors: (B, n, D) float32.
        words: (B, n) the word of each.
        weights: (B, n) float32, or None for 1 each.
        centroids: (K, D).
    """
    count, _, length = descriptors.shape
    sums = np.zeros((count, len(centroids), length), np.float32)
    if weights is None:
        weights = np.ones(words.shape, np.float32)
    _add_residuals(descriptors, words, weights, np.ascontiguousarray(centroids, "f4"), sums)
    return sums


def joined(sums: np.ndarray, power: float = 1.0, intra: bool = True) -> np.ndarray:
    """Return the words' sums side by side at unit length: (B, K, D) to (B, K * D) float32.

    Args:
        sums: (B, K, D).
        power, intra: as for :func:`vlad_pool`.

    Raises:
        StudyError: a power outside (0, 1].
    """
    if not 0 < power <= 1:
        raise StudyError(f"VLAD: expected a power above 0 and up to 1, found {power}; 1 is none")
    if power != 1:
        sums = np.sign(sums) * np.abs(sums) ** np.float32(power)
    count, _, length = sums.shape
    if intra:
        sums = normalise_rows(sums.reshape(-1, length))
    return normalise_rows(sums.reshape(count, -1))


@numba.njit(cache=True, nogil=True)
def _add_residuals(descriptors, words, weights, centroids, sums):
    """Add each descriptor's weighted residual to its word's sum."""
    for b in range(descriptors.shape[0]):
        for i in range(descriptors.shape[1]):
            word, weight = words[b, i], weights[b, i]
            if weight == 0:
                continue
            row, centre, total = descriptors[b, i], centroids[word], sums[b, word]
            for d in range(row.shape[0]):
                total[d] += weight * (row[d] - centre[d])
