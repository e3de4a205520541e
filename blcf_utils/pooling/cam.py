"""CAM: one vector for each class, weighted by where in the image the class is seen.

Source: Jimenez, Alvarez and Giró-i-Nieto, "Class-weighted convolutional features for visual
instance search", BMVC 2017.
"""

from __future__ import annotations

import numpy as np

from blcf_utils.features.networks.heads import ClassifierHead
from blcf_utils.features.rows import normalise_rows
from blcf_utils.pooling.crow import crow_channel_weights
from blcf_utils.pooling.maps import positions
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import Whitening


def class_activation_maps(maps: np.ndarray, linear: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return where each class is seen: (C, h, w) to (n, h, w), in [0, 1].

    Negative activations count 0; each map is divided by its maximum.

    Args:
        maps: (C, h, w).
        linear: (all classes, C) weights of the classifier.
        classes: (n,) numbers of classes.
    """
    read = positions(maps)
    seen = np.maximum(linear[classes] @ read.values[0].T, 0)
    seen /= np.maximum(seen.max(axis=1, keepdims=True), 1e-12)
    return seen.reshape(len(classes), *read.shape)


def predicted_classes(
    maps: np.ndarray, head: ClassifierHead, count: int, box: Window | None = None
) -> np.ndarray:
    """Return the most likely classes, best first: (C, h, w) to (count,), and (B, ...).

    Args:
        maps, box: as for ``maps.positions``.
        head: with a linear layer.
        count: how many.
    """
    read = positions(maps, box=box)
    scores = read.values.mean(axis=1) @ head.linear.T + head.bias
    return read.vectors(np.argsort(-scores, axis=1, kind="stable")[:, :count])


def cam_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    head: ClassifierHead,
    classes: np.ndarray,
) -> np.ndarray:
    """Return one vector a class: (C, h, w) to (n, C); or of B maps, (B, n, C).

    F_c = crow(k) * sum_ij cam_c(i, j) f_k(i, j), the channel weights those of CroW.

    Args:
        maps, weights, box: as for ``maps.positions``; a class is sought inside the box.
        head: with a linear layer.
        classes: numbers of the classes of each map.
    """
    read = positions(maps, weights, box)
    classes = np.asarray(classes).reshape(len(read.values), -1)
    seen = np.maximum(np.matmul(head.linear[classes], read.values.transpose(0, 2, 1)), 0)
    seen /= np.maximum(seen.max(axis=2, keepdims=True), 1e-12)
    if read.weights is not None:
        seen = seen * read.weights[:, None, :]
    rarity = crow_channel_weights(maps, weights, box).reshape(len(read.values), 1, -1)
    return read.vectors((np.matmul(seen, read.values) * rarity).astype(np.float32))


def cam_descriptor(class_vectors: np.ndarray, whitening: Whitening | None = None) -> np.ndarray:
    """Return the sum of post-processed class vectors: (n, C) to (D,), (B, n, C) to (B, D).

    Args:
        class_vectors: from :func:`cam_pool`.
        whitening: learned on class vectors of another dataset; L2 only when None.
    """
    rows = class_vectors.reshape(-1, class_vectors.shape[-1])
    unit = normalise_rows(rows) if whitening is None else whitening.apply(rows)
    return unit.reshape(*class_vectors.shape[:-1], -1).sum(axis=-2)
