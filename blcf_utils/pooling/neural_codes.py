"""Neural Codes: activations of the fully connected layers of a classifier.

The papers forward a resized image or patch. Here the stored feature map, or its window, is
max-pooled to the grid that the layers expect: the image is forwarded once, at its own aspect ratio.
A network without fully connected layers (EfficientNet, ResNet) averages that grid, as its
classifier does with the maps of a whole image.
Source: Babenko et al., "Neural codes for image retrieval", ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from blcf_utils.features.networks.heads import ClassifierHead
from blcf_utils.pooling.patches import window_grid
from blcf_utils.search.windows import Window

# (N, C, g, g) float32 to (N, F) float32.
Encode = Callable[[np.ndarray], np.ndarray]


def encode(head: ClassifierHead) -> Encode:
    """Return what maps pooled windows (N, C, g, g) to their activations (N, F)."""
    layers = head.fully_connected

    @torch.inference_mode()
    def run(pooled: np.ndarray) -> np.ndarray:
        # Windows come with their channels last in memory, which layers read faster than a copy.
        return layers(torch.from_numpy(np.asarray(pooled, np.float32))).numpy()

    return run


def neural_codes(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    head: ClassifierHead,
) -> np.ndarray:
    """Return fully connected activations: (C, h, w) to (F,), (B, C, h, w) to (B, F).

    Args:
        maps, weights, box: as for ``maps.positions``.
        head: the classifier behind the maps' layer.
    """
    whole = (0, maps.shape[-2], 0, maps.shape[-1])
    window = np.array([whole if box is None else box])
    pooled = window_grid(maps, window, (head.grid, head.grid), weights)
    codes = encode(head)(pooled.reshape(-1, *pooled.shape[-3:]))
    return codes[0] if maps.ndim == 3 else codes
