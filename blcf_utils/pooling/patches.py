"""Multi-scale patch grids: an image as a set of vectors, and the similarity of two sets.

The papers cut patches out of the pixels and forward each one. Here a patch is a window of the
stored feature map, as local search does it: its descriptors have seen their surroundings, an image
is forwarded once, and a patch is not enlarged, so that small ones keep few positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from blcf_utils.errors import StudyError
from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.rmac_kernels import window_maxima

_SCORES_AT_ONCE = 16_000_000


def patch_windows(shape: tuple[int, int], levels: int) -> np.ndarray:
    """Return the windows of a patch grid, (P, 4) int64 of y0, y1, x0, x1.

    Level l has l x l windows, each of the sides 2 / (l + 1) of the map's, so that neighbours
    overlap by half: 1 + 4 + 9 + 16 = 30 windows for four levels.

    Source: Razavian et al., "CNN features off-the-shelf", CVPR workshops 2014, section 3.4, with
    their numbers of patches; the overlap is not stated there.
    """
    if levels < 1 or min(shape) < 1:
        raise StudyError(
            f"patches: expected at least one level and a map with positions, found {levels} and "
            f"{tuple(shape)}; check the settings"
        )
    windows = []
    for level in range(1, levels + 1):
        rows, columns = (_spans(side, level) for side in shape)
        windows += [(*y, *x) for y in rows for x in columns]
    return np.array(windows, np.int64)


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    """Return ``count`` spans of 2 / (count + 1) of a side, evenly placed."""
    side = max(1, round(2 * length / (count + 1)))
    starts = np.linspace(0, length - side, count).round().astype(int)
    return [(int(s), int(s) + side) for s in starts]


def patch_maxima(
    maps: np.ndarray,
    windows: np.ndarray,
    grid: tuple[int, int] = (1, 1),
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return the max-pooled descriptor of every window: (P, gh * gw * C), or (B, P, ...).

    Args:
        maps, weights: as for ``maps.positions``.
        windows: (P, 4) in cells.
        grid: each window is cut into gh x gw parts, maximised one by one; 2 x 2 in Razavian et
            al., "Visual instance retrieval with deep convolutional networks", 2016.
    """
    parts = window_grid(maps, windows, grid, weights)
    flat = np.moveaxis(parts, -3, -1)  # (..., P, gh, gw, C)
    return np.ascontiguousarray(flat).reshape(*flat.shape[:-3], -1)


def window_grid(
    maps: np.ndarray,
    windows: np.ndarray,
    grid: tuple[int, int],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return windows max-pooled to a grid of cells: (P, C, gh, gw), or (B, P, C, gh, gw).

    The parts are those of adaptive max pooling: part k of a side of n cells goes from floor(k n /
    g) to ceil((k + 1) n / g); where n < g they overlap.

    Args:
        maps, weights: as for ``maps.positions``.
        windows: (P, 4) of y0, y1, x0, x1 in cells.
        grid: (gh, gw).
    """
    read = positions(maps, weights)
    height, width = read.shape
    windows = np.asarray(windows, np.int64).reshape(-1, 4)
    y0, y1, x0, x1 = windows.T
    if not ((y0 >= 0) & (y0 < y1) & (y1 <= height) & (x0 >= 0) & (x0 < x1) & (x1 <= width)).all():
        raise StudyError(
            f"patches: expected windows inside a map of {height} x {width} cells, found "
            f"{windows.tolist()[:3]}; check the box"
        )
    rows, columns = _parts(y0, y1, grid[0]), _parts(x0, x1, grid[1])
    cells = np.concatenate(
        [
            np.repeat(rows[:, :, None], grid[1], axis=2),
            np.repeat(columns[:, None], grid[0], axis=1),
        ],
        axis=3,
    )
    values = np.ascontiguousarray(read.weighted())
    values = values.reshape(len(values), height, width, values.shape[-1])
    out = np.empty((len(values), len(windows) * grid[0] * grid[1], values.shape[-1]), np.float32)
    window_maxima(values, np.ascontiguousarray(cells.reshape(-1, 4)), out)
    pooled = out.reshape(len(values), len(windows), *grid, -1)
    return read.vectors(np.moveaxis(pooled, -1, 2))


def _parts(start: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """Return first and end of each of ``count`` parts of the spans, (P, count, 2)."""
    k, length = np.arange(count), (end - start)[:, None]
    first = start[:, None] + k * length // count
    last = start[:, None] - (-(k + 1) * length // count)
    return np.stack([first, last], axis=2)


def patch_set_scores(
    queries: np.ndarray | Sequence[np.ndarray], database: np.ndarray
) -> np.ndarray:
    """Return how similar sets of patches are, (q, n) float32.

    The similarity of an image is the mean, over the query's patches, of the largest cosine with
    any patch of the image.

    Args:
        queries: (q, Pq, D) or q arrays (Pq, D), unit vectors.
        database: (n, P, D) unit vectors.

    Source: Razavian et al., CVPR workshops 2014, section 3.4 (there as distances).
    """
    count, patches, dimensions = database.shape
    flat = database.reshape(-1, dimensions)
    scores = np.empty((len(queries), count), np.float32)
    for k, query in enumerate(queries):
        step = max(1, _SCORES_AT_ONCE // (patches * len(query)))
        for start in range(0, count, step):
            part = flat[start * patches : (start + step) * patches]
            products = (part @ query.T).reshape(-1, patches, len(query))
            scores[k, start : start + step] = _mean_of_maxima(products)
    return scores


@numba.njit(cache=True, nogil=True)
def _mean_of_maxima(products):
    """Return the mean over the last axis of the maximum over the middle one, (n,) float32."""
    count, patches, queries = products.shape
    found = np.empty(count, np.float32)
    for i in range(count):
        total = 0.0
        for q in range(queries):
            best = products[i, 0, q]
            for p in range(1, patches):
                if products[i, p, q] > best:
                    best = products[i, p, q]
            total += best
        found[i] = total / queries
    return found
