"""Compiled rounding of histograms to whole levels times a scale per image."""

from __future__ import annotations

import numba
import numpy as np

# The least count of an image's words is rarely above one; beyond 16 it is not looked for.
LARGEST_LEAST_COUNT = 16
# A few roundings of float32: levels found at this tolerance are as good as the weights.
TOLERANCE = 1e-6
# Parts of an image's largest weight. Rounding to 65535ths of a weight above a quarter of the length
# would move scores by 1e-5; at most 16 weights of an image can be above a quarter.
STEPS = {"exact": 65535, "uint8": 255}


@numba.njit(cache=True)
def _unit(values, low, high, most):
    """Return of what the ``values`` (``low`` to ``high``, or 0) are up to ``most`` times, or 0."""
    for least in range(1, LARGEST_LEAST_COUNT + 1):
        unit = low / least
        if high > unit * most:
            return 0.0
        whole = True
        for value in values:
            ratio = value / unit
            if abs(ratio - np.rint(ratio)) > TOLERANCE * ratio:
                whole = False
                break
        if whole:
            return unit
    return 0.0


@numba.njit(cache=True)
def quantise(starts, words, weights, word_scales, steps, levels, scales):
    """Write ``weights`` as whole levels times a scale per image (and per word).

    Where an image's weights are no multiples of anything, they are rounded to multiples of one of
    ``steps`` parts of their largest. Of 65535 parts, they are parts of a quarter of the weights'
    length if that is less than the largest.

    Args:
        starts: (n + 1,) int64 where each image's weights begin.
        words: (weights,) int32.
        weights: (weights,) float32, none negative.
        word_scales: (K,) float32, or empty for 1 each.
        steps: 65535 or 255.
        levels: (weights,) uint32, written.
        scales: (n,) float32, written; 0 for an image without words.

    Returns:
        Whether every image's weights were whole multiples of something, up to ``steps`` times.
    """
    all_whole = True
    values = np.empty(0, np.float64)
    for image in range(len(scales)):
        first, last = starts[image], starts[image + 1]
        if len(values) < last - first:
            values = np.empty(2 * (last - first), np.float64)
        low, high, total, squares = np.inf, 0.0, 0.0, 0.0
        for entry in range(first, last):
            value = np.float64(weights[entry])
            if len(word_scales) and value > 0:
                value /= word_scales[words[entry]]
            values[entry - first] = value
            total += value
            squares += value * value
            high = max(high, value)
            if 0 < value < low:
                low = value
        if high == 0 or not np.isfinite(high):
            # Infinite: no level gives a weight to a word of scale 0.
            all_whole &= high == 0
            levels[first:last] = 0
            scales[image] = 0
            continue
        unit = _unit(values[: last - first], low, high, steps)
        whole = unit > 0
        if not whole:
            all_whole = False
            unit = high / steps
            if steps > 255:
                unit = min(unit, np.sqrt(squares) / (4 * steps))
        level_total = 0
        for entry in range(first, last):
            levels[entry] = np.rint(values[entry - first] / unit)
            level_total += levels[entry]
        # The mean is closer than the unit, which has the rounding of one weight.
        scales[image] = total / level_total if whole else unit
    return all_whole
