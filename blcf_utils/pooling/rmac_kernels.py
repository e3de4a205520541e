"""Compiled loops of R-MAC: maxima of windows, read channel by channel as they lie in memory.

They check no bounds: what calls them does.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, parallel=True)
def window_maxima(values, windows, out):
    """Write the maximum of each channel in each window.

    Args:
        values: (B, h, w, C) float32.
        windows: (R, 4) int64 of y0, y1, x0, x1.
        out: (B, R, C) float32.
    """
    for item in numba.prange(values.shape[0] * windows.shape[0]):
        b, r = item // windows.shape[0], item % windows.shape[0]
        y0, y1, x0, x1 = windows[r]
        best = out[b, r]
        best[:] = values[b, y0, x0]
        for y in range(y0, y1):
            x = x0
            # Four positions for each reading and writing of the result. Not max(): a comparison
            # and a choice compile to one vector instruction.
            while x + 4 <= x1:
                p, q, r, s = (
                    values[b, y, x],
                    values[b, y, x + 1],
                    values[b, y, x + 2],
                    values[b, y, x + 3],
                )
                for c in range(best.shape[0]):
                    u = p[c] if p[c] > q[c] else q[c]
                    v = r[c] if r[c] > s[c] else s[c]
                    u = u if u > v else v
                    best[c] = u if u > best[c] else best[c]
                x += 4
            while x < x1:
                row = values[b, y, x]
                for c in range(best.shape[0]):
                    best[c] = row[c] if row[c] > best[c] else best[c]
                x += 1


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
    run, raised = np.zeros(channels), np.zeros(channels)
    for y in range(height):
        run[:] = 0
        for x in range(width):
            row = values[y, x]
            for c in range(channels):
                raised[c] = row[c] * scale
            for _ in range(power - 1):
                for c in range(channels):
                    raised[c] *= row[c] * scale
            for c in range(channels):
                run[c] += raised[c]
                total[y + 1, x + 1, c] = total[y, x + 1, c] + run[c]
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
        step: cells an edge moves at most in one try.
        iterations: most rounds over the four edges.
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
    tried = window.copy()
    for _ in range(iterations):
        moved = False
        for edge in range(4):
            kept = window[edge]
            for by in range(-step, step + 1):
                tried[:] = window
                tried[edge] = kept + by
                if by == 0 or tried[0] < 0 or tried[2] < 0:
                    continue
                if tried[1] > height or tried[3] > width:
                    continue
                if tried[0] >= tried[1] or tried[2] >= tried[3]:
                    continue
                score = approximate_cosine(
                    total, query, tried[0], tried[1], tried[2], tried[3], root
                )
                if score > best:
                    best, moved = score, True
                    window[edge] = tried[edge]
        if not moved:
            break
    return best
