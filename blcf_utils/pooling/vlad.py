"""VLAD of local convolutional descriptors: what each word's descriptors differ from it by."""

from __future__ import annotations

import numpy as np

from blcf_utils.errors import StudyError
from blcf_utils.features import normalise_rows
from blcf_utils.pooling.maps import Positions, Window, positions


def vlad_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    centroids: np.ndarray,
) -> np.ndarray:
    """Return the VLAD vector: (C, h, w) to (K * C,), (B, C, h, w) to (B, K * C), unit length.

    Each L2-normalised local descriptor goes to its nearest centroid; each centroid adds up the
    residuals; each sum is normalised by itself (intra-normalisation), then the whole.

    Args:
        maps, weights, box: as for ``maps.positions``; a weight multiplies its residual.
        centroids: (K, C).

    Source: Ng, Yang and Davis, "Exploiting local features from deep networks for image retrieval",
    CVPR workshops 2015 (K = 100, intra-normalisation, PCA to 128); Arandjelovic and Zisserman,
    "All about VLAD", CVPR 2013.
    """
    read = positions(maps, weights, box)
    unit = unit_positions(read, centroids)
    nearest = (unit @ centroids.T - 0.5 * (centroids * centroids).sum(axis=1)).argmax(axis=2)
    chosen = np.zeros((*nearest.shape, len(centroids)), np.float32)
    np.put_along_axis(chosen, nearest[:, :, None], 1, axis=2)
    return read.vectors(residual_sums(unit, chosen, read.weights, centroids))


def unit_positions(read: Positions, centroids: np.ndarray) -> np.ndarray:
    """Return L2-normalised local descriptors, (B, n, C).

    Raises:
        StudyError: centroids of another length than the descriptors.
    """
    channels = read.values.shape[2]
    if centroids.ndim != 2 or centroids.shape[1] != channels:
        raise StudyError(
            f"VLAD: expected centroids (K, {channels}) as the map has channels, found "
            f"{centroids.shape}; learn them on the same layer"
        )
    return normalise_rows(read.values.reshape(-1, channels)).reshape(read.values.shape)


def residual_sums(
    unit: np.ndarray, shares: np.ndarray, weights: np.ndarray | None, centroids: np.ndarray
) -> np.ndarray:
    """Return sum_i a_ik w_i (x_i - c_k), intra-normalised and normalised, (B, K * C).

    Args:
        unit: (B, n, C) local descriptors.
        shares: (B, n, K) how much each descriptor belongs to each centroid.
        weights: (B, n) or None.
        centroids: (K, C).
    """
    shares = shares if weights is None else shares * weights[:, :, None]
    sums = np.matmul(shares.transpose(0, 2, 1), unit)
    sums -= shares.sum(axis=1)[:, :, None] * centroids
    each = normalise_rows(sums.reshape(-1, sums.shape[2])).reshape(len(sums), -1)
    return normalise_rows(each).astype(np.float32)
