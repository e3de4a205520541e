"""AML: approximate max-pooling localisation, the search for a query's window in an image.

A window's maxima are approximated by generalised means, (sum of x^10)^(1/10), which four look-ups
in an integral image give for any window. Candidates lie on a coarse grid and have about the query's
aspect ratio; the best one is refined by moving its edges. Source: Tolias, Sicre and Jégou, ICLR
2016, section 4.

Where the paper is short, the search is that of the authors' code: candidates start at every third
cell and have sides of 2, 5, 8, ... cells; edges then move by 3 cells, by 2 and by 1, up to five
rounds each, freely in aspect ratio, while the window keeps two cells a side. Two things differ:
activations are not rounded to whole numbers first, and where no candidate has the query's aspect
ratio, those that come nearest are tried instead of the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from blcf_utils.features.stored import Features
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.mapping import core_pool
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.rmac_kernels import best_window, integral_powers
from blcf_utils.search.windows import Window

POWER, STEP, TOLERANCE, ITERATIONS = 10, 3, 1.1, 5


@lru_cache(maxsize=4096)
def candidate_windows(
    shape: tuple[int, int], aspect: float, step: int = STEP, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Return the windows of the coarse grid, (n, 4) int64, whose aspect ratio is near ``aspect``.

    Args:
        shape: (h, w) of the map.
        aspect: width / height of the query in cells.
        step: cells from one start to the next, and from one side to the next.
        tolerance: most ratio of the two aspect ratios. Where no window is that near, the nearest.
    """
    (y0, y1), (x0, x1) = (_spans(side, step) for side in shape)
    rows, columns = np.indices((len(y0), len(x0))).reshape(2, -1)
    windows = np.stack([y0[rows], y1[rows], x0[columns], x1[columns]], axis=1)
    heights, widths = windows[:, 1] - windows[:, 0], windows[:, 3] - windows[:, 2]
    off = np.abs(np.log(widths / heights / aspect))
    return windows[off <= max(np.log(tolerance), off.min()) + 1e-9]


def _spans(length: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends of a side's spans, int64 each."""
    least = min(2, length)
    start, size = np.meshgrid(
        np.arange(0, length - least + 1, step), np.arange(least, length + 1, step), indexing="ij"
    )
    inside = start + size <= length
    return start[inside], (start + size)[inside]


def localise(
    feature_map: np.ndarray,
    query: np.ndarray,
    aspect: float,
    *,
    power: int = POWER,
    step: int = STEP,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> tuple[Window, float]:
    """Return the window of a map that looks most like the query, and its cosine by exact maxima.

    Args:
        feature_map: (C, h, w), not negative.
        query: (C,) maxima of the query's box.
        aspect: width / height of that box in cells.
        power: of the generalised mean.
        step: of the coarse grid, and the most that an edge moves at once.
        tolerance: of the candidates' aspect ratio.
        iterations: most rounds of refinement with each step.

    Raises:
        StudyError: an aspect ratio that is not above 0, a map without positions, a query of another
            length than the map has channels, or a power that is not whole.
    """
    if aspect <= 0 or not feature_map.size:
        raise StudyError(
            f"localisation: expected a map with positions and an aspect ratio above 0, found "
            f"shape {feature_map.shape} and {aspect}; check the box"
        )
    if query.shape != feature_map.shape[:1]:
        raise StudyError(
            f"localisation: query of shape {query.shape}: expected one value for each of the map's "
            f"{len(feature_map)} channels; pool the query on the same layer"
        )
    if power < 1 or power != int(power):
        raise StudyError(f"localisation: power: expected a whole number above 0, found {power}")
    rows = np.ascontiguousarray(feature_map.transpose(1, 2, 0), np.float32)
    unit = (query / max(np.linalg.norm(query), 1e-12)).astype(np.float32)
    windows = candidate_windows(rows.shape[:2], float(aspect), step, tolerance)
    found = np.zeros(4, np.int64)
    best_window(integral_powers(rows, int(power)), unit, windows, power, step, iterations, found)
    y0, y1, x0, x1 = (int(edge) for edge in found)
    maxima = mac_pool(feature_map, box=(y0, y1, x0, x1))
    score = float(unit @ maxima / max(np.linalg.norm(maxima), 1e-12))
    return (y0, y1, x0, x1), score


def localise_all(
    features: Features, images: Sequence[int], query: np.ndarray, aspect: float, **options
) -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`localise` of many images: windows (n, 4) int64 and scores (n,) float32.

    Images with the same bytes are looked at once.

    An image that was left out has the window (0, 0, 0, 0) and the score 0.
    """

    def one(i: int) -> tuple[Window, float]:
        if not features.shapes[i].all():
            return (0, 0, 0, 0), 0.0
        return localise(features.map(i), query, aspect, **options)

    firsts = features.distinct[np.asarray(images, np.int64)].tolist()
    different = list(dict.fromkeys(firsts))
    with core_pool(pool_threads()) as pool:
        of = dict(zip(different, pool.map(one, different), strict=True))
    found = [of[first] for first in firsts]
    windows = np.array([window for window, _ in found], np.int64).reshape(-1, 4)
    return windows, np.array([score for _, score in found], np.float32)
