"""R-MAC regions: the square windows, at several scales, that regional max pooling looks at."""

from __future__ import annotations

import math

import numpy as np

_OVERLAP = 0.4  # wanted share of a largest square that its neighbour covers
_MOST_STEPS = 6


def rmac_regions(shape: tuple[int, int], levels: int = 3) -> np.ndarray:
    """Return the R-MAC regions of a feature map.

    At level l the squares have side floor(2 w / (l + 1)), w being the shorter side of the map; l
    of them stand along the shorter side and l + m along the longer, where m brings the overlap of
    the largest squares nearest to 40 %.

    Args:
        shape: (h, w) of the map, in cells.
        levels: number of scales.

    Returns:
        (n, 4) int64 of y0, y1, x0, x1, ends excluded; 20 regions for a 4:3 map, 14 for a square.

    Source: Tolias, Sicre and Jégou, "Particular object retrieval with integral max-pooling of CNN
    activations", ICLR 2016; the arithmetic is that of the authors' code.
    """
    height, width = shape
    short, long = min(shape), max(shape)
    steps = 0
    if long > short:
        counts = np.arange(2, _MOST_STEPS + 2)
        overlaps = (short - (long - short) / (counts - 1)) / short
        steps = int(np.abs(overlaps - _OVERLAP).argmin()) + 1
    regions = []
    for level in range(1, levels + 1):
        side = max(1, int(2 * short // (level + 1)))
        rows = _starts(height, side, level + (steps if height > width else 0))
        columns = _starts(width, side, level + (steps if width > height else 0))
        regions += [(y, y + side, x, x + side) for y in rows for x in columns]
    return np.array(regions, np.int64)


def _starts(length: int, side: int, count: int) -> list[int]:
    half = side // 2 - 1
    step = (length - side) / (count - 1) if count > 1 else 0
    return [math.floor(half + i * step) - half for i in range(count)]
