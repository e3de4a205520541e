"""MAC: the maximum of each channel over all positions."""

from __future__ import annotations

import numpy as np

from blcf_utils.pooling.maps import positions
from blcf_utils.search.windows import Window


def mac_pool(
    maps: np.ndarray, weights: np.ndarray | None = None, box: Window | None = None
) -> np.ndarray:
    """Return the maximum activation of each channel: (C, h, w) to (C,), (B, C, h, w) to (B, C).

    Args:
        maps, weights, box: as for :func:`positions`; weights multiply the map.

    Source: Tolias, Sicre and Jégou, "Particular object retrieval with integral max-pooling of CNN
    activations", ICLR 2016, section 3.1.
    """
    read = positions(maps, weights, box)
    return read.vectors(read.weighted().max(axis=1))
