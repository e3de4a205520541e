"""NetVLAD: VLAD with soft assignment, started by k-means or read from a trained layer.

Arandjelovic, Gronat, Torii, Pajdla and Sivic, "NetVLAD: CNN architecture for weakly supervised
place recognition", CVPR 2016, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.vlad import joined, unit_positions
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import Whitening

# Weights (K, D) and bias (K,) of the assignment; once trained they are not the centroids' any more.
Assignment = tuple[np.ndarray, np.ndarray]


def netvlad_alpha(descriptors: np.ndarray, centroids: np.ndarray, ratio: float = 100.0) -> float:
    """Return the sharpness with which k-means centroids start NetVLAD's soft assignment.

    exp(alpha (d2 - d1)) is ``ratio`` for the mean difference of the squared distances d1, d2 of a
    descriptor to its nearest and second nearest centroid: the largest share of a typical descriptor
    is then ``ratio`` times the second largest.

    Args:
        descriptors: (N, D), L2-normalised (and whitened) as those that are pooled.
        centroids: (K, D), K >= 2.
        ratio: above 1; the authors' code takes 100, on products with normalised centroids.

    Raises:
        StudyError: fewer than two centroids, no descriptors, shapes that do not fit, a ratio of 1
            or less, or descriptors that are all as near to two centroids.
    """
    if descriptors.ndim != 2 or not len(descriptors) or len(centroids) < 2:
        raise StudyError(
            "NetVLAD: expected descriptors (N, D) and at least two centroids, found "
            f"{descriptors.shape} and {centroids.shape}; raise comparison.netvlad_words"
        )
    if descriptors.shape[1] != centroids.shape[1] or ratio <= 1:
        raise StudyError(
            f"NetVLAD: expected descriptors of {centroids.shape[1]} values and a ratio above 1, "
            f"found {descriptors.shape[1]} and {ratio}; use those the centroids were learned on"
        )
    squared = (centroids * centroids).sum(axis=1) - 2 * (descriptors @ centroids.T)
    two = np.partition(squared, 1, axis=1)[:, :2]
    gap = float((two[:, 1] - two[:, 0]).mean(dtype=np.float64))
    if gap <= 0:
        raise StudyError(
            "NetVLAD: expected centroids that differ, found two that are equally near to every "
            "descriptor; lower comparison.netvlad_words"
        )
    return float(np.log(ratio) / gap)


def netvlad_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    centroids: np.ndarray,
    alpha: float | None = None,
    assignment: Assignment | None = None,
    whitening: Whitening | None = None,
) -> np.ndarray:
    """Return the NetVLAD vector: (C, h, w) to (K * D,), (B, C, h, w) to (B, K * D).

    Unlike most pooled vectors the result has unit length: each word's sum of residuals is
    normalised by itself, then the whole.

    Args:
        maps, weights, box: as for ``maps.positions``; a weight multiplies a descriptor's residuals.
        centroids: (K, D).
        alpha: assigns by the softmax of 2 alpha c.x - alpha |c|^2; from :func:`netvlad_alpha`.
        assignment: weights (K, D) and bias (K,) of a trained layer, in place of alpha.
        whitening: of the L2-normalised local descriptors, C to D; left out when None.

    Raises:
        StudyError: neither or both of alpha and assignment, or shapes that do not fit.

    Source: equations 2 to 4.
    """
    if (alpha is None) == (assignment is None):
        raise StudyError(
            "NetVLAD: expected either alpha or assignment, found "
            f"{'neither' if alpha is None else 'both'}; give one of them"
        )
    read = positions(maps, weights, box)
    unit = unit_positions(read, centroids, whitening)
    if assignment is None:
        planes = 2 * alpha * centroids
        bias = -alpha * (centroids * centroids).sum(axis=1)
    else:
        planes, bias = assignment
        if planes.shape != centroids.shape or bias.shape != (len(centroids),):
            raise StudyError(
                f"NetVLAD: expected assignment weights {centroids.shape} and bias "
                f"{(len(centroids),)} as there are centroids, found {planes.shape} and "
                f"{bias.shape}; read both with netvlad_parameters"
            )
    logits = unit.reshape(-1, unit.shape[2]) @ planes.astype(np.float32).T
    logits += bias.astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits, out=logits)
    shares /= shares.sum(axis=1, keepdims=True)
    shares = shares.reshape(*unit.shape[:2], -1)
    if read.weights is not None:
        shares *= read.weights[:, :, None]
    sums = np.matmul(shares.transpose(0, 2, 1), unit)
    sums -= shares.sum(axis=1)[:, :, None] * centroids
    return read.vectors(joined(sums).astype(np.float32, copy=False))


def netvlad_parameters(state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Assignment]:
    """Return centroids (K, C) and assignment of a trained layer, from a state dict.

    Reads ``centroids`` (K, C), ``conv.weight`` (K, C, 1, 1) and, where there is one, ``conv.bias``
    (K,), all under one prefix: the names of the public PyTorch implementations.

    Args:
        state: names to arrays, or to tensors on the CPU.

    Raises:
        StudyError: no such layer or several, shapes that do not fit, or values that are not finite.
    """
    mend = "give the state dict of one NetVLAD layer"
    prefixes = [
        key.removesuffix("centroids")
        for key in state
        if key.split(".")[-1] == "centroids"
        and f"{key.removesuffix('centroids')}conv.weight" in state
    ]
    if len(prefixes) != 1:
        raise StudyError(
            "NetVLAD: expected one centroids (K, C) beside a conv.weight (K, C, 1, 1) in the state "
            f"dict, found {len(prefixes)} among {', '.join(list(state)[:8])}; {mend}"
        )
    centroids = _array(state[f"{prefixes[0]}centroids"])
    planes = _array(state[f"{prefixes[0]}conv.weight"])
    bias = state.get(f"{prefixes[0]}conv.bias")
    bias = np.zeros(len(centroids), np.float32) if bias is None else _array(bias)
    fits = centroids.ndim == 2 and bias.shape == (len(centroids),)
    if not fits or planes.reshape(len(planes), -1).shape != centroids.shape:
        raise StudyError(
            "NetVLAD: expected centroids (K, C), conv.weight (K, C, 1, 1) and conv.bias (K,), "
            f"found {centroids.shape}, {planes.shape} and {bias.shape}; {mend}"
        )
    if not all(np.isfinite(values).all() for values in (centroids, planes, bias)):
        raise StudyError(
            f"NetVLAD: expected finite weights under {prefixes[0]}centroids and conv, found NaN or "
            "infinite ones; fetch the file again"
        )
    return centroids, (planes.reshape(centroids.shape), bias)


def _array(values) -> np.ndarray:
    values = values.detach() if hasattr(values, "detach") else values
    return np.ascontiguousarray(values, np.float32)
