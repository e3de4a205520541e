"""Compiled loops of R-MAC, along the channels as they lie in memory: maxima of windows, AML.

Overlapping windows share work. The edges of all windows cut the map into blocks; the maxima of
blocks give those of strips, one block row high and one window wide, and these the windows'. So each
position is read once, and each strip serves every window that stands in its columns.

The kernels check no bounds: what calls them does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np


class _Plan(NamedTuple):
    """Rows to take the maximum of, for all blocks, strips and windows in turn.

    Each pair is (picks, ends): target t takes ``picks[ends[t - 1]:ends[t]]`` of the step before.
    """

    positions: np.ndarray
    block_ends: np.ndarray
    blocks: np.ndarray
    strip_ends: np.ndarray
    strips: np.ndarray
    window_ends: np.ndarray


def window_maxima(values: np.ndarray, windows: np.ndarray, out: np.ndarray) -> None:
    """Write the maximum of each channel in each window.

    Args:
        values: (B, h, w, C) float32, C-contiguous.
        windows: (R, 4) int64 of y0, y1, x0, x1, inside the map and not empty.
        out: (B, R, C) float32.
    """
    batch, height, width, channels = values.shape
    plan = _plan(width, windows.shape[0], windows.tobytes())
    _gather_steps(values.reshape(batch, height * width, channels), *plan, out)


@lru_cache(maxsize=256)
def _plan(width: int, count: int, windows: bytes) -> _Plan:
    """Return what :func:`window_maxima` takes the maxima of, for maps of one width."""
    edges = np.frombuffer(windows, np.int64).reshape(count, 4)
    ys, xs = np.unique(edges[:, :2]), np.unique(edges[:, 2:])
    rows, columns = len(ys) - 1, len(xs) - 1
    cells = np.arange(ys[-1] * width).reshape(-1, width)
    blocks = [
        cells[ys[j] : ys[j + 1], xs[i] : xs[i + 1]].ravel()
        for j in range(rows)
        for i in range(columns)
    ]
    y0, y1 = np.searchsorted(ys, edges[:, :2]).T.tolist()
    spans = [tuple(span) for span in np.searchsorted(xs, edges[:, 2:]).tolist()]
    each = list(dict.fromkeys(spans))
    strips = [np.arange(a, b) + j * columns for a, b in each for j in range(rows)]
    parts = [
        np.arange(top, bottom) + each.index(span) * rows
        for top, bottom, span in zip(y0, y1, spans, strict=True)
    ]
    return _Plan(*_joined(blocks), *_joined(strips), *_joined(parts))


def _joined(lists: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lists = list(lists)
    return np.concatenate(lists), np.cumsum([len(part) for part in lists])


@numba.njit(cache=True, nogil=True)
def _gather_steps(values, positions, block_ends, blocks, strip_ends, strips, window_ends, out):
    block_rows = np.empty((len(block_ends), values.shape[2]), values.dtype)
    strip_rows = np.empty((len(strip_ends), values.shape[2]), values.dtype)
    for b in range(values.shape[0]):
        _gather(values[b], positions, block_ends, block_rows)
        _gather(block_rows, blocks, strip_ends, strip_rows)
        _gather(strip_rows, strips, window_ends, out[b])


@numba.njit(cache=True, nogil=True)
def _gather(rows, picks, ends, out):
    """Write the maximum of the picked rows (n, C) for each target of ``out`` (t, C)."""
    start = 0
    for target in range(len(ends)):
        last, best = ends[target] - 1, out[target]
        # Four rows for each writing of the result, the last one again where there are fewer. Not
        # max(): a comparison and a choice compile to one vector instruction.
        for k in range(start, last + 1, 4):
            p, q = rows[picks[k]], rows[picks[min(k + 1, last)]]
            r, s = rows[picks[min(k + 2, last)]], rows[picks[min(k + 3, last)]]
            if k == start:
                for c in range(len(best)):
                    u = p[c] if p[c] > q[c] else q[c]
                    v = r[c] if r[c] > s[c] else s[c]
                    best[c] = u if u > v else v
            else:
                for c in range(len(best)):
                    u = p[c] if p[c] > q[c] else q[c]
                    v = r[c] if r[c] > s[c] else s[c]
                    u = u if u > v else v
                    best[c] = u if u > best[c] else best[c]
        start = last + 1


@numba.njit(cache=True, nogil=True)
def integral_powers(values, power):
    """Return the integral image of (x / max x)^power, (h + 1, w + 1, C) float64.

    Args:
        values: (h, w, C) float32, not negative.
        power: a whole number of at least 1.
    """
    height, width, channels = values.shape
    most = np.float64(values.max())
    scale = 1.0 / most if most > 0 else 0.0
    total = np.zeros((height + 1, width + 1, channels))
    run, base, raised = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    for y in range(height):
        run[:] = 0
        for x in range(width):
            row = values[y, x]
            for c in range(channels):
                base[c] = row[c] * scale
            raised[:] = 1
            left = power
            while left:
                if left & 1:
                    raised *= base
                base *= base
                left >>= 1
            above, here = total[y, x + 1], total[y + 1, x + 1]
            for c in range(channels):
                run[c] += raised[c]
                here[c] = above[c] + run[c]
    return total


@numba.njit(cache=True, nogil=True)
def approximate_cosine(total, query, y0, y1, x0, x1, root):
    """Return the cosine of the query with the generalised means of a window.

    Args:
        total: integral image from :func:`integral_powers`.
        query: (C,) float32 of unit length.
        y0, y1, x0, x1: the window.
        root: 1 / power.
    """
    product, squares = 0.0, 0.0
    for c in range(query.shape[0]):
        inside = total[y1, x1, c] - total[y0, x1, c] - total[y1, x0, c] + total[y0, x0, c]
        if inside > 0:
            value = inside**root
            product += query[c] * value
            squares += value * value
    return product / np.sqrt(squares) if squares > 0 else 0.0


@numba.njit(cache=True, nogil=True)
def best_window(total, query, windows, power, step, iterations, window):
    """Write the best of the candidate windows, refined edge by edge; return its cosine.

    Args:
        total, query: as for :func:`approximate_cosine`.
        windows: (n, 4) int64 candidates.
        power: of the integral image.
        step: cells an edge moves first; then one cell less, down to one.
        iterations: most rounds over the four edges with each step.
        window: (4,) int64, written to.
    """
    height, width = total.shape[0] - 1, total.shape[1] - 1
    root, best = 1.0 / power, -1.0
    for k in range(windows.shape[0]):
        y0, y1, x0, x1 = windows[k]
        score = approximate_cosine(total, query, y0, y1, x0, x1, root)
        if score > best:
            best = score
            window[:] = windows[k]
    for by in range(step, 0, -1):
        for _ in range(iterations):
            moved = False
            for edge in range(4):
                for way in (-by, by):
                    kept = window[edge]
                    window[edge] = kept + way
                    y0, y1, x0, x1 = window
                    inside = y0 >= 0 and y1 <= height and x0 >= 0 and x1 <= width
                    score = -1.0
                    if inside and y1 - y0 >= min(2, height) and x1 - x0 >= min(2, width):
                        score = approximate_cosine(total, query, y0, y1, x0, x1, root)
                    if score > best:
                        best, moved = score, True
                    else:
                        window[edge] = kept
            if not moved:
                break
    return best
