"""Multi-scale patch grids: an image as a set of vectors, and the similarity of two sets.

The papers cut patches out of the pixels and forward each one, enlarged to the network's input.
Here a patch is a window of the stored feature map, as in local search: an image is forwarded once
instead of 30 times, a patch's descriptors have seen what surrounds it (and zero padding only at the
borders of the image), and a small patch has few positions and shows no finer detail than a large
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.rmac_kernels import window_maxima
from blcf_utils.search.windows import Window

_SCORES_AT_ONCE = 16_000_000  # float32 products: 64 MB


def patch_windows(shape: tuple[int, int], levels: int) -> np.ndarray:
    """Return the windows of a patch grid, (P, 4) int64 of y0, y1, x0, x1.

    Level l has l x l overlapping windows of one size that cover the map: 1 + 4 + 9 + 16 = 30 for
    the four levels of a database image, 14 for the three of a query.

    Args:
        shape: (h, w) of the map, in cells.
        levels: number of scales.

    Raises:
        StudyError: no levels, or a map without positions.

    Source: Razavian et al., "CNN features off-the-shelf: an astounding baseline for recognition",
    CVPR workshops 2014, spatial search. The size is left open there; here each side is 2 / (l + 1)
    of the map's, so that neighbours overlap by half.
    """
    if levels < 1 or min(shape) < 1:
        raise StudyError(
            f"patches: expected at least one level and a map with positions, found {levels} and "
            f"{tuple(shape)}; check the settings"
        )
    grids = [
        grid_windows(shape, tuple(round(2 * n / (level + 1)) for n in shape), level)
        for level in range(1, levels + 1)
    ]
    return np.concatenate(grids)


def grid_windows(shape: tuple[int, int], sides: tuple[int, int], count: int) -> np.ndarray:
    """Return count x count evenly placed windows of one size, row by row, (count^2, 4) int64.

    Args:
        shape: (h, w) of the map, in cells.
        sides: height and width of the windows; at least 1 and at most the map's are taken.
        count: windows along each side.
    """
    spans = []
    for length, side in zip(shape, sides, strict=True):
        side = min(max(side, 1), length)
        starts = np.linspace(0, length - side, count).round().astype(np.int64)
        spans.append(np.stack([starts, starts + side], axis=1))
    rows, columns = spans
    return np.concatenate([np.repeat(rows, count, axis=0), np.tile(columns, (count, 1))], axis=1)


def patch_maxima(
    maps: np.ndarray,
    windows: np.ndarray,
    grid: tuple[int, int] = (1, 1),
    weights: np.ndarray | None = None,
    box: Window | None = None,
) -> np.ndarray:
    """Return the max-pooled descriptor of every window: (P, gh * gw * C), or (B, P, ...).

    Args:
        maps, weights, box: as for ``maps.positions``; weights multiply the map.
        windows: (P, 4) of y0, y1, x0, x1 in cells of the map, or of the box when one is given.
        grid: each window is cut into gh x gw parts, maximised one by one and put side by side;
            2 x 2 in Razavian et al., "Visual instance retrieval with deep convolutional networks",
            ITE Transactions on Media Technology and Applications 2016.

    Raises:
        StudyError: windows that are empty or outside the map, or an empty grid.
    """
    read, pooled = _pooled(maps, windows, grid, weights, box)
    return read.vectors(pooled.reshape(*pooled.shape[:2], -1))


def window_grid(
    maps: np.ndarray,
    windows: np.ndarray,
    grid: tuple[int, int],
    weights: np.ndarray | None = None,
    box: Window | None = None,
) -> np.ndarray:
    """Return windows max-pooled to a grid of cells: (P, C, gh, gw), or (B, P, C, gh, gw).

    The parts are those of adaptive max pooling: part k of a side of n cells goes from floor(k n /
    g) to ceil((k + 1) n / g); where n < g they overlap.

    Args:
        maps, weights, box, windows: as for :func:`patch_maxima`.
        grid: (gh, gw).

    Raises:
        StudyError: as for :func:`patch_maxima`.
    """
    read, pooled = _pooled(maps, windows, grid, weights, box)
    return read.vectors(np.moveaxis(pooled, -1, 2))


def _pooled(maps, windows, grid, weights, box):
    """Return the positions and every window's parts, (B, P, gh, gw, C)."""
    read = positions(maps, weights, box)
    height, width = read.shape
    windows = np.asarray(windows, np.int64).reshape(-1, 4)
    y0, y1, x0, x1 = windows.T
    if not ((y0 >= 0) & (y0 < y1) & (y1 <= height) & (x0 >= 0) & (x0 < x1) & (x1 <= width)).all():
        raise StudyError(
            f"patches: expected windows inside a map of {height} x {width} cells, found "
            f"{windows.tolist()[:3]}; check the box"
        )
    if min(grid) < 1:
        raise StudyError(f"patches: expected a grid of at least (1, 1), found {tuple(grid)}")
    rows, columns = _parts(y0, y1, grid[0]), _parts(x0, x1, grid[1])
    shape = (len(windows), *grid, 2)
    rows = np.broadcast_to(rows[:, :, None], shape)
    columns = np.broadcast_to(columns[:, None], shape)
    cells = np.concatenate([rows, columns], axis=3).reshape(-1, 4)
    values = np.ascontiguousarray(read.weighted())
    count, channels = len(values), values.shape[2]
    out = np.empty((count, len(cells), channels), np.float32)
    window_maxima(values.reshape(count, height, width, channels), cells, out)
    return read, out.reshape(count, len(windows), *grid, channels)


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
    any patch of the image. Memory is bounded, however many sets there are.

    Args:
        queries: (q, Pq, D) or q arrays (Pq, D), unit vectors.
        database: (n, P, D) unit vectors.

    Raises:
        StudyError: a set without patches, or vectors of different lengths.

    Source: Razavian et al., CVPR workshops 2014, spatial search, which takes the mean of the least
    Euclidean distances. With unit vectors the nearest patch is the same; the mean weighs poor
    matches a little differently.
    """
    sets = [np.ascontiguousarray(query, np.float32) for query in queries]
    if database.ndim != 3 or any(s.ndim != 2 or s.shape[1] != database.shape[2] for s in sets):
        raise StudyError(
            "patches: expected a database (n, P, D) and queries (Pq, D) of the same D, found "
            f"{database.shape} and {[s.shape for s in sets[:3]]}; describe both by one method"
        )
    if not database.shape[1] or not all(map(len, sets)):
        raise StudyError(
            "patches: found a set without patches, which is like nothing; leave it out"
        )
    count, patches, dimensions = database.shape
    scores = np.empty((len(sets), count), np.float32)
    flat = np.ascontiguousarray(database, np.float32).reshape(-1, dimensions)
    first = 0
    while first < len(sets):
        # As many sets at once as leave room for products with a few dozen images.
        last, rows = first + 1, len(sets[first])
        while last < len(sets) and (rows + len(sets[last])) * patches * 64 <= _SCORES_AT_ONCE:
            rows += len(sets[last])
            last += 1
        stacked = np.concatenate(sets[first:last])
        ends = np.cumsum([len(s) for s in sets[first:last]])
        step = max(1, _SCORES_AT_ONCE // (patches * rows))
        for start in range(0, count, step):
            products = flat[start * patches : (start + step) * patches] @ stacked.T
            part = scores[first:last, start : start + step]
            _mean_of_maxima(products.reshape(-1, patches, rows), ends, part)
        first = last
    return scores


@numba.njit(cache=True, nogil=True)
def _mean_of_maxima(products, ends, scores):
    """Write, for each image and query set, the mean of its patches' maxima.

    Args:
        products: (n, P, R) of the patches of images and the stacked patches of queries.
        ends: (q,) where each query's patches end among the R.
        scores: (q, n), written.
    """
    best = np.empty(products.shape[2], np.float32)
    for i in range(products.shape[0]):
        best[:] = products[i, 0]
        for p in range(1, products.shape[1]):
            row = products[i, p]
            for r in range(best.shape[0]):
                best[r] = row[r] if row[r] > best[r] else best[r]
        start = 0
        for q in range(ends.shape[0]):
            total = 0.0
            for r in range(start, ends[q]):
                total += best[r]
            scores[q, i] = total / (ends[q] - start)
            start = ends[q]
