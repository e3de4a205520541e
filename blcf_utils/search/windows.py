"""Windows of an assignment map: the grid that re-ranking slides over it, and their quarters.

A window is (y0, y1, x0, x1) in cells of the map, ends excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from blcf_utils.datasets.base import Box
from blcf_utils.ground.errors import StudyError

# y0, y1, x0, x1 in cells of a map, ends excluded.
Window = tuple[int, int, int, int]


def window_grid(shape: tuple[int, int], sizes: tuple[float, ...]) -> np.ndarray:
    """Return the windows of a map: every height with every width, half overlapping.

    A window of share s starts at every multiple of s / 2 of the map's side, edges rounded to
    cells, so that windows of one size cover the map without a margin; where the last multiple
    leaves one, a window at the border is added. Sizes 1, 1/2 and 1/4 give (1 + 3 + 7)^2 = 121
    windows (Mohedano et al., ICMR 2016, section 4).

    Args:
        shape: (h, w) of the map, in cells.
        sizes: sides of the windows as shares of the map's, each above 0 and at most 1.

    Returns:
        (n, 4) int64 of y0, y1, x0, x1: in the order of ``sizes``, heights before widths, then
        row by row. At least one cell each and without duplicates, so small maps have fewer.

    Raises:
        StudyError: a size out of range.
    """
    if not sizes or not all(0 < size <= 1 for size in sizes):
        raise StudyError(
            f"reranking.sizes: expected shares of the map's sides above 0 and up to 1, found "
            f"{tuple(sizes)}"
        )
    rows = [_intervals(shape[0], size) for size in sizes]
    columns = [_intervals(shape[1], size) for size in sizes]
    windows = {(*y, *x): None for ys in rows for xs in columns for y in ys for x in xs}
    return np.array(list(windows), np.int64)


def _intervals(cells: int, size: float) -> list[tuple[int, int]]:
    steps = int(np.ceil((1 - size) / (size / 2) - 1e-9))
    starts = np.minimum(np.arange(steps + 1) * size / 2, 1 - size)
    first = np.minimum(np.rint(starts * cells), cells - 1).astype(int)
    end = np.maximum(np.rint((starts + size) * cells).astype(int), first + 1)
    return list(zip(first.tolist(), end.tolist(), strict=True))


def quarters(windows: np.ndarray) -> np.ndarray:
    """Return the quarters of windows, (n, 4) to (n, 4, 4): upper left and right, lower the same.

    They are split at the middle cell; of an odd side, the lower or right part has one cell more.
    A window of one row or column has quarters without cells.
    """
    y0, y1, x0, x1 = np.moveaxis(windows, -1, 0)
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    parts = ((y0, y, x0, x), (y0, y, x, x1), (y, y1, x0, x), (y, y1, x, x1))
    return np.stack([np.stack(part, axis=-1) for part in parts], axis=-2)


def window_box(cells: Window, shape: tuple[int, int], size) -> Box:
    """Return a window as a box (x1, y1, x2, y2) in pixels.

    Args:
        cells: y0, y1, x0, x1 of the window.
        shape: (h, w) of the map.
        size: (width, height) of the image in pixels.
    """
    y0, y1, x0, x1 = (int(edge) for edge in cells)
    across, down = float(size[0]) / int(shape[1]), float(size[1]) / int(shape[0])
    return x0 * across, y0 * down, x1 * across, y1 * down


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The windows of all maps of one shape, and the distinct regions they are made of.

    Windows and quarters of windows coincide often; each distinct region is counted once. A role
    says what a region is compared with: 0 the whole query, 1 to 4 its quarters.

    Attributes:
        windows: (n, 4) windows in cells; the first ``n_grid`` are the grid, and when the grid
            lacks the whole map, that follows.
        n_grid: number of windows of the grid.
        whole: which window is the whole map.
        rows: (h,) block row of each row of cells; blocks lie between the edges of regions.
        columns: (w,) block column of each column of cells.
        blocks: number of block rows and block columns.
        corners: (r, 4) first and end block row, first and end block column of each region.
        starts: (r + 1,) the roles of region i are entries ``starts[i]`` to ``starts[i + 1]``.
        roles: (p,) role of each entry.
        parts: (n, 1 or 5) entry of each window and of its quarters.
    """

    windows: np.ndarray
    n_grid: int
    whole: int
    rows: np.ndarray
    columns: np.ndarray
    blocks: tuple[int, int]
    corners: np.ndarray
    starts: np.ndarray
    roles: np.ndarray
    parts: np.ndarray


@lru_cache(maxsize=256)
def window_plan(shape: tuple[int, int], sizes: tuple[float, ...], pyramid: bool) -> WindowPlan:
    """Return the plan for maps of ``shape``; with ``pyramid``, windows have their quarters."""
    grid = window_grid(shape, sizes)
    full = np.array([[0, shape[0], 0, shape[1]]])
    at = np.flatnonzero((grid == full).all(axis=1))
    windows = grid if len(at) else np.concatenate([grid, full])
    regions = windows[:, None]
    if pyramid:
        regions = np.concatenate([regions, quarters(windows)], axis=1)
    roles = regions.shape[1]
    distinct, region_of = np.unique(regions.reshape(-1, 4), axis=0, return_inverse=True)
    pairs = region_of.reshape(-1, roles) * roles + np.arange(roles)
    entries, parts = np.unique(pairs, return_inverse=True)
    y_edges, x_edges = (
        np.unique(np.append(distinct[:, pair], [0, cells]))
        for pair, cells in (((0, 1), shape[0]), ((2, 3), shape[1]))
    )
    corners = np.concatenate(
        [np.searchsorted(y_edges, distinct[:, :2]), np.searchsorted(x_edges, distinct[:, 2:])],
        axis=1,
    )
    return WindowPlan(
        windows=windows,
        n_grid=len(grid),
        whole=int(at[0]) if len(at) else len(grid),
        rows=np.searchsorted(y_edges, np.arange(shape[0]), "right") - 1,
        columns=np.searchsorted(x_edges, np.arange(shape[1]), "right") - 1,
        blocks=(len(y_edges) - 1, len(x_edges) - 1),
        corners=corners,
        starts=np.searchsorted(entries // roles, np.arange(len(distinct) + 1)),
        roles=entries % roles,
        parts=parts.reshape(pairs.shape),
    )
