"""R-MAC: maxima of square regions at several scales, normalised, whitened and added."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from blcf_utils.features.rows import normalise_rows
from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.rmac_kernels import window_maxima
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import Whitening

_OVERLAP = 0.4  # wanted share of a largest square that its neighbour covers
_MOST_STEPS = 6


def rmac_regions(shape: tuple[int, int], levels: int = 3) -> np.ndarray:
    """Return the R-MAC regions of a feature map.

    At level l the squares have side floor(2 w / (l + 1)), w being the shorter side of the map; l
    of them stand along the shorter side and l + m along the longer, where m brings the overlap of
    the largest squares nearest to 40 %. A level whose side is 0, on a map of one or two cells, has
    no squares.

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
        # As it stands in the authors' code: another order of operations breaks ties otherwise.
        overlaps = (short**2 - short * ((long - short) / (counts - 1))) / short**2
        steps = int(np.abs(overlaps - _OVERLAP).argmin()) + 1
    regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if not side:
            break
        rows = _starts(height, side, level + (steps if height > width else 0))
        columns = _starts(width, side, level + (steps if width > height else 0))
        regions += [(y, y + side, x, x + side) for y in rows for x in columns]
    return np.array(regions, np.int64)


def region_maxima(
    maps: np.ndarray,
    levels: int = 3,
    whole: bool = False,
    weights: np.ndarray | None = None,
    box: Window | None = None,
) -> np.ndarray:
    """Return the maximum of each channel in every R-MAC region: (R, C), or (B, R, C) for batches.

    Args:
        maps, weights, box: as for ``maps.positions``; the regions lie inside the box.
        levels: number of scales.
        whole: add the whole window as one more region, as cnnimageretrieval-pytorch does.
    """
    read = positions(maps, weights, box)
    height, width = read.shape
    regions = _windows(height, width, levels, whole)
    values = np.ascontiguousarray(read.weighted()).reshape(-1, height, width, read.values.shape[2])
    out = np.empty((len(values), len(regions), values.shape[3]), np.float32)
    window_maxima(values, regions, out)
    return read.vectors(out)


def rmac_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    levels: int = 3,
    whole: bool = False,
    whitening: Whitening | None = None,
) -> np.ndarray:
    """Return the R-MAC vector: (C, h, w) to (D,), (B, C, h, w) to (B, D), not normalised.

    Each region's maxima are L2-normalised, whitened, L2-normalised again, and added. The vector of
    a mirrored map is the same only where the authors' rounding keeps the grid symmetric: where n
    windows of a side s on a length L leave room L - s that n - 1 divides, at every level.

    Args:
        maps, weights, box: as for ``maps.positions``.
        levels, whole: as for :func:`region_maxima`.
        whitening: learned on region vectors of another dataset; left out when None.

    Source: Tolias, Sicre and Jégou, ICLR 2016, section 3.2.
    """
    single = np.ndim(maps) == 3
    found = region_maxima(maps[None] if single else maps, levels, whole, weights, box)
    rows = found.reshape(-1, found.shape[-1])
    unit = normalise_rows(rows) if whitening is None else whitening.apply(rows)
    pooled = unit.reshape(*found.shape[:2], -1).sum(axis=1)
    return pooled[0] if single else pooled


@lru_cache(maxsize=256)
def _windows(height: int, width: int, levels: int, whole: bool) -> np.ndarray:
    """Return the regions, and the whole window if asked for; not to be written to."""
    regions = rmac_regions((height, width), levels)
    return np.concatenate([regions, [[0, height, 0, width]]]) if whole else regions


def _starts(length: int, side: int, count: int) -> list[int]:
    half = side // 2 - 1
    step = (length - side) / (count - 1) if count > 1 else 0
    return [math.floor(half + i * step) - half for i in range(count)]
