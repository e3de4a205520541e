"""Rounding of histograms to whole levels times a scale for each image."""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse

from blcf_utils.ground.errors import StudyError

# The smallest count of an image's words is rarely above one; beyond 16 it is not looked for.
LARGEST_LEAST_COUNT = 16
# A few roundings of float32: levels found at this tolerance are as good as the weights.
TOLERANCE = 1e-6
# Parts of an image's largest weight. Rounding to 65535ths of a weight above a quarter of the length
# would move scores by 1e-5; at most 16 weights of an image can be above a quarter.
STEPS = {"exact": 65535, "uint8": 255}


def quantised(
    histograms: sparse.csr_array, word_scales: np.ndarray | None, steps: int
) -> tuple[sparse.csr_array, np.ndarray, bool]:
    """Return histograms (m, K) as whole levels times a scale for each image (and each word).

    If an image's weights are not multiples of one number, they are rounded to multiples of one of
    ``steps`` parts of the largest. With 65535 steps, they are parts of a quarter of the weights'
    length if that is less than the largest.

    Args:
        histograms: weights of at least 0.
        word_scales: (K,) float32, or None for 1 each.
        steps: 65535 or 255.

    Returns:
        Levels (m, K) uint32; scales (m,) float32, 0 for an image without words; whether all
        images' weights were multiples of one number, up to ``steps`` times it.

    Raises:
        StudyError: a negative or infinite weight.
    """
    if not histograms.has_canonical_format:
        histograms = histograms.copy()
        histograms.sum_duplicates()
    weights = histograms.data.astype(np.float32, copy=False)
    if len(weights) and not 0 <= weights.min() <= weights.max() < np.inf:
        raise StudyError(
            f"index: expected finite histogram weights of at least 0, found {weights.min()} to "
            f"{weights.max()}; check the weight maps and factors of the histograms"
        )
    weights = weights.astype(np.float64)
    if word_scales is not None:
        with np.errstate(divide="ignore"):
            np.divide(weights, word_scales[histograms.indices], out=weights, where=weights > 0)
    starts = histograms.indptr.astype(np.int64)
    levels, scales = np.zeros(len(weights), np.uint32), np.zeros(len(starts) - 1, np.float32)
    whole = _quantise(starts, weights, steps, levels, scales)
    words = histograms.indices.astype(np.int32, copy=False)
    return sparse.csr_array((levels, words, starts), histograms.shape), scales, whole


@numba.njit(cache=True)
def _quantise(starts, weights, steps, levels, scales):
    """Write levels and scales, zeros before, as :func:`quantised` returns them."""
    all_whole = True
    for image in range(len(scales)):
        part = slice(starts[image], starts[image + 1])
        values = weights[part]
        low, high = np.inf, 0.0
        for value in values:
            high = max(high, value)
            if 0 < value < low:
                low = value
        if high == 0 or high == np.inf:
            # Infinite: a word of scale 0 has a weight, which no level gives.
            all_whole &= high == 0
            continue
        unit = _unit(values, low, high, steps)
        whole = unit > 0
        if not whole:
            all_whole, unit = False, high / steps
            if steps > 255:
                unit = min(unit, np.sqrt((values * values).sum()) / (4 * steps))
        for entry in range(part.start, part.stop):
            levels[entry] = np.rint(weights[entry] / unit)
        # The mean is closer than the unit, which has the rounding of one weight.
        scales[image] = values.sum() / levels[part].sum() if whole else unit
    return all_whole


@numba.njit(cache=True)
def _unit(values, low, high, most):
    """Return what the ``values`` (``low`` to ``high``, or 0) are multiples of, or 0.

    At most ``most`` times it.
    """
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
