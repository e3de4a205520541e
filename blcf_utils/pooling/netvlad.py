"""NetVLAD: VLAD with soft assignment, from k-means or from a trained layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blcf_utils.errors import StudyError
from blcf_utils.pooling.maps import Window, positions
from blcf_utils.pooling.vlad import residual_sums, unit_positions

# Trained: weights (K, C) and bias (K,) of the assignment, which need not be the centroids'.
Assignment = tuple[np.ndarray, np.ndarray]


def netvlad_alpha(descriptors: np.ndarray, centroids: np.ndarray, ratio: float = 100.0) -> float:
    """Return the sharpness with which k-means centroids start NetVLAD's soft assignment.

    exp(alpha (d2 - d1)) is ``ratio`` for the mean difference of the squared distances d1, d2 of a
    descriptor to its nearest and second nearest centroid.

    Args:
        descriptors: (N, C) L2-normalised.
        centroids: (K, C), K >= 2.
        ratio: of the two largest shares of a typical descriptor.

    Source: Arandjelovic et al., CVPR 2016, section 3 (and their initialisation).
    """
    squared = (centroids * centroids).sum(axis=1) - 2 * descriptors @ centroids.T
    two = np.partition(squared, 1, axis=1)[:, :2]
    gap = float((two[:, 1] - two[:, 0]).mean())
    return float(np.log(ratio) / max(gap, 1e-12))


def netvlad_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    centroids: np.ndarray,
    alpha: float | None = None,
    assignment: Assignment | None = None,
) -> np.ndarray:
    """Return the NetVLAD vector: (C, h, w) to (K * C,), batches likewise, unit length.

    Args:
        maps, weights, box: as for ``maps.positions``.
        centroids: (K, C).
        alpha: softmax of 2 alpha c.x - alpha |c|^2, from :func:`netvlad_alpha`.
        assignment: weights (K, C) and bias (K,) of a trained layer, in place of alpha.

    Raises:
        StudyError: neither or both of alpha and assignment, or shapes that do not fit.

    Source: Arandjelovic et al., "NetVLAD: CNN architecture for weakly supervised place
    recognition", CVPR 2016, equations 1 to 4.
    """
    if (alpha is None) == (assignment is None):
        raise StudyError("NetVLAD: expected either alpha or assignment; give one of them")
    read = positions(maps, weights, box)
    unit = unit_positions(read, centroids)
    if assignment is None:
        planes, bias = 2 * alpha * centroids, -alpha * (centroids * centroids).sum(axis=1)
    else:
        planes, bias = assignment
    logits = unit @ planes.T.astype(np.float32) + bias.astype(np.float32)
    logits -= logits.max(axis=2, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=2, keepdims=True)
    return read.vectors(residual_sums(unit, shares, read.weights, centroids))


def netvlad_parameters(state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Assignment]:
    """Return centroids and assignment of a trained layer, from a state dict.

    Reads ``centroids`` (K, C), ``conv.weight`` (K, C, 1, 1) and, where there is one, ``conv.bias``,
    under any prefix: the names of the public PyTorch implementations.

    Raises:
        StudyError: no such tensors, or shapes that do not fit.
    """
    found = {}
    for name in ("centroids", "conv.weight", "conv.bias"):
        keys = [key for key in state if key == name or key.endswith(f".{name}")]
        found[name] = np.asarray(state[keys[-1]], np.float32) if keys else None
    centroids, planes = found["centroids"], found["conv.weight"]
    if centroids is None or planes is None or planes.size != centroids.size:
        raise StudyError(
            "NetVLAD: expected centroids (K, C) and conv.weight (K, C, 1, 1) in the state dict, "
            f"found {', '.join(state)[:200]}; give the weights of a NetVLAD layer"
        )
    bias = found["conv.bias"]
    bias = np.zeros(len(centroids), np.float32) if bias is None else bias
    return centroids, (planes.reshape(centroids.shape), bias)
