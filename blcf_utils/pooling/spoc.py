"""SPoC: sum pooling with a Gaussian centre prior."""

from __future__ import annotations

import numpy as np

from blcf_utils.pooling.maps import positions
from blcf_utils.search.windows import Window

SIGMA = 1 / 6  # of the shorter side: a third of the way from the centre to the nearest border


def spoc_prior(shape: tuple[int, int], sigma: float = SIGMA) -> np.ndarray:
    """Return the centre prior exp(-d^2 / 2 s^2), (h, w) float32, s = sigma * min(h, w) cells.

    d is the distance of a position to the middle of the map.
    """
    height, width = shape
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    squared = y[:, None] ** 2 + x**2
    return np.exp(-0.5 * squared / (sigma * min(shape)) ** 2).astype(np.float32)


def spoc_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    sigma: float = SIGMA,
) -> np.ndarray:
    """Return the sum over positions under a centre prior: (C, h, w) to (C,), and (B, ...).

    Args:
        maps, weights, box: as for :func:`positions`; weights multiply the prior, which is centred
            on the box.
        sigma: of the prior, as a share of the shorter side.

    Source: Babenko and Lempitsky, "Aggregating local deep features for image retrieval", ICCV
    2015, section 4.
    """
    read = positions(maps, weights, box)
    prior = spoc_prior(read.shape, sigma).reshape(1, 1, -1)
    share = prior if read.weights is None else prior * read.weights[:, None, :]
    return read.vectors(np.matmul(share, read.values)[:, 0])
