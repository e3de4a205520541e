"""CroW: sum pooling with cross-dimensional weights.

A position weighs the square root of its share of all activations; a channel weighs the logarithm
of how rare its activations are. Source: Kalantidis, Mellina and Osindero, "Cross-dimensional
weighting for aggregated deep convolutional features", ECCV workshops 2016, sections 3.2 and 3.3
(a = b = 2).
"""

from __future__ import annotations

import numpy as np

from blcf_utils.pooling.maps import Positions, positions
from blcf_utils.search.windows import Window


def crow_pool(
    maps: np.ndarray, weights: np.ndarray | None = None, box: Window | None = None
) -> np.ndarray:
    """Return the CroW descriptor: (C, h, w) to (C,), (B, C, h, w) to (B, C), not normalised.

    Args:
        maps, weights, box: as for :func:`positions`, maps not negative; weights multiply CroW's
            own. Positions that weigh nothing do not say how rare a channel is.
    """
    read = positions(maps, weights, box)
    spatial = _spatial(read)
    if read.weights is not None:
        spatial = spatial * read.weights
    pooled = np.matmul(spatial[:, None, :], read.values)[:, 0]
    return read.vectors((pooled * _rarity(read)).astype(np.float32))


def crow_spatial_weights(feature_map: np.ndarray) -> np.ndarray:
    """Return how much CroW counts each position: (C, h, w) to (h, w), and (B, ...)."""
    read = positions(feature_map)
    return read.vectors(_spatial(read).reshape(-1, *read.shape))


def crow_channel_weights(
    feature_map: np.ndarray, weights: np.ndarray | None = None, box: Window | None = None
) -> np.ndarray:
    """Return how much CroW counts each channel: (C, h, w) to (C,), and (B, ...)."""
    read = positions(feature_map, weights, box)
    return read.vectors(_rarity(read))


def _spatial(read: Positions) -> np.ndarray:
    total = read.values.sum(axis=2)
    norms = np.sqrt((total * total).sum(axis=1, keepdims=True))
    return np.sqrt(total / np.maximum(norms, 1e-12))


def _rarity(read: Positions) -> np.ndarray:
    fires = (read.values > 0).astype(np.float32)
    if read.weights is None:
        share = fires.mean(axis=1)
    else:
        taking = (read.weights > 0).astype(np.float32)
        counts = np.maximum(taking.sum(axis=1, keepdims=True), 1)
        share = np.matmul(taking[:, None, :], fires)[:, 0] / counts
    some = share > 0
    total = np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
    return np.log(total / np.where(some, share, 1)) * some
