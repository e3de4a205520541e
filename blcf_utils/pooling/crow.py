"""CroW: sum pooling with cross-dimensional weights."""

from __future__ import annotations

import numpy as np


def crow_pool(feature_map: np.ndarray, cells: np.ndarray | None = None) -> np.ndarray:
    """Return the CroW descriptor of a feature map: (C, h, w) to (C,), not normalised.

    A position weighs the square root of its share of all activations; a channel weighs the
    logarithm of how rare its activations are.

    Args:
        feature_map: (C, h, w), not negative.
        cells: (h, w) further weights or booleans of the positions, times CroW's own; 1 each when
            None. Positions that weigh nothing do not say how rare a channel is.

    Source: Kalantidis, Mellina and Osindero, "Cross-dimensional weighting for aggregated deep
    convolutional features", ECCV workshops 2016, sections 3.2 and 3.3 (a = b = 2).
    """
    total = feature_map.sum(axis=0)
    spatial = np.sqrt(total / max(np.sqrt((total * total).sum()), 1e-12))
    counted = feature_map > 0
    if cells is not None:
        spatial = spatial * cells
        counted = counted[:, cells > 0]
    share = (
        counted.reshape(len(counted), -1).mean(axis=1) if counted.size else np.zeros(len(counted))
    )
    fires = share > 0
    rarity = np.log(max(share.sum(), 1e-12) / np.where(fires, share, 1)) * fires
    pooled = np.tensordot(feature_map, spatial, axes=2) * rarity
    return pooled.astype(feature_map.dtype)
