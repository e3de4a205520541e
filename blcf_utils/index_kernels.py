"""Compiled loops of the inverted file: levels of histograms, filling, adding up, selecting.

None of them checks bounds, and none uses fast-math: every image's score is added up in the same
order with the same roundings, so equal images score equal on any machine.
"""

from __future__ import annotations

import numba
import numpy as np

LARGEST_COUNT = 65535
# The least count of an image's words is rarely above one; beyond 16 it is not looked for.
LARGEST_LEAST_COUNT = 16
# A few roundings of float32: levels found at this tolerance are as good as the weights.
TOLERANCE = 1e-6
# Rounding to 65535ths of a weight above a quarter of the length would move scores by 1e-5. At most
# 16 weights of an image can be above it.
STEPS_OF_LENGTH = 4 * 65535


@numba.njit(cache=True)
def _unit(values, low, high):
    """Return what the ``values`` (``low`` to ``high``, or 0) are whole multiples of, or 0."""
    for least in range(1, LARGEST_LEAST_COUNT + 1):
        unit = low / least
        if high > unit * LARGEST_COUNT:
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
def quantise(starts, words, weights, word_scales, levels, scales):
    """Write ``weights`` as whole levels times a scale per image (and per word).

    Where an image's weights are no multiples of anything, they are rounded to multiples of a
    65535th of their largest, or of a quarter of their length if that is less.

    Args:
        starts: (n + 1,) int64 where each image's weights begin.
        words: (weights,) int32.
        weights: (weights,) float32, none negative.
        word_scales: (K,) float32, or empty for 1 each.
        levels: (weights,) uint32, written.
        scales: (n,) float32, written; 0 for an image without words.

    Returns:
        Whether every image's weights were whole multiples of something.
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
        unit = _unit(values[: last - first], low, high)
        whole = unit > 0
        if not whole:
            all_whole = False
            unit = min(high / 65535, np.sqrt(squares) / STEPS_OF_LENGTH)
        level_total = 0
        for entry in range(first, last):
            levels[entry] = np.rint(values[entry - first] / unit)
            level_total += levels[entry]
        # The mean is closer than the unit, which has the rounding of one weight.
        scales[image] = total / level_total if whole else unit
    return all_whole


@numba.njit(cache=True)
def count_holders(words, levels, holders):
    """Add to ``holders`` (K,) how many images hold each word."""
    for entry in range(len(words)):
        holders[words[entry]] += levels[entry] > 0


@numba.njit(cache=True)
def count_postings(starts, words, levels, row_of_word, block_size, top, counts):
    """Add to ``counts`` (blocks, K) how many postings :func:`fill` makes."""
    for image in range(len(starts) - 1):
        block = image // block_size
        for entry in range(starts[image], starts[image + 1]):
            level, word = levels[entry], words[entry]
            if level > 0:
                counts[block, word] += (level - 1) // top + (row_of_word[word] < 0)


@numba.njit(cache=True)
def fill(starts, words, levels, row_of_word, block_size, top, offsets, images, listed, rows):
    """Write rows and lists.

    Args:
        starts, words, levels: as for :func:`quantise`.
        row_of_word: (K,) int32, -1 for a word without a row.
        block_size: images in a block.
        top: highest level that is written; what is above it becomes further postings.
        offsets: (blocks, K + 1) where each list begins.
        images: (postings,) uint16, written.
        listed: (postings,) levels, written.
        rows: (r, n) levels, written; zeros before.
    """
    following = np.empty(len(row_of_word), np.int64)
    for image in range(len(starts) - 1):
        block, within = image // block_size, image % block_size
        if within == 0:
            following[:] = offsets[block, :-1]
        for entry in range(starts[image], starts[image + 1]):
            level, word = levels[entry], words[entry]
            if row_of_word[word] >= 0:
                rows[row_of_word[word], image] = min(level, top)
                level -= min(level, top)
            while level > 0:
                images[following[word]] = within
                listed[following[word]] = min(level, top)
                following[word] += 1
                level -= min(level, top)


@numba.njit(cache=True, nogil=True)
def _add_rows(rows, numbers, values, start, part):
    end = start + len(part)
    # Four rows a pass: the sums are read and written a quarter as often.
    fours = len(numbers) - len(numbers) % 4
    for j in range(0, fours, 4):
        a, b = rows[numbers[j], start:end], rows[numbers[j + 1], start:end]
        c, d = rows[numbers[j + 2], start:end], rows[numbers[j + 3], start:end]
        v, w, x, y = values[j], values[j + 1], values[j + 2], values[j + 3]
        for i in range(len(part)):
            first = v * np.float32(a[i]) + w * np.float32(b[i])
            second = x * np.float32(c[i]) + y * np.float32(d[i])
            part[i] += first + second
    for j in range(fours, len(numbers)):
        row, value = rows[numbers[j], start:end], values[j]
        for i in range(len(part)):
            part[i] += value * np.float32(row[i])


@numba.njit(cache=True, nogil=True)
def add_up(
    offsets, images, levels, rows, scales, block_size, words, values, numbers, row_values, scores
):
    """Write the score of every image.

    Args:
        offsets, images, levels, rows, scales, block_size: of the index.
        words, values: of the query (int64, float32).
        numbers, row_values: rows of those words that have one, and their values.
        scores: (n,) float32, written.
    """
    for block in range(len(offsets)):
        start = block * block_size
        part = scores[start : start + block_size]
        part[:] = 0
        for j in range(len(words)):
            value = values[j]
            for entry in range(offsets[block, words[j]], offsets[block, words[j] + 1]):
                part[images[entry]] += value * np.float32(levels[entry])
        # Last, as they hold the large terms: small ones would drown in a sum begun with those.
        _add_rows(rows, numbers, row_values, start, part)
        part *= scales[start : start + block_size]


@numba.njit(cache=True, nogil=True)
def _before(scores, a, b):
    """Whether image a ranks before image b."""
    return scores[a] > scores[b] or (scores[a] == scores[b] and a < b)


@numba.njit(cache=True, nogil=True)
def _sift_down(scores, heap, position, size):
    """Restore the heap whose root is the kept image that ranks last."""
    while True:
        child = 2 * position + 1
        if child >= size:
            return
        if child + 1 < size and _before(scores, heap[child], heap[child + 1]):
            child += 1
        if not _before(scores, heap[position], heap[child]):
            return
        heap[position], heap[child] = heap[child], heap[position]
        position = child


@numba.njit(cache=True, nogil=True)
def best(scores, top):
    """Return the images of the ``top`` highest scores, best first, equal ones by number."""
    heap = np.arange(top)
    for position in range(top // 2 - 1, -1, -1):
        _sift_down(scores, heap, position, top)
    for image in range(top, len(scores)):
        if scores[image] > scores[heap[0]]:
            heap[0] = image
            _sift_down(scores, heap, 0, top)
    for end in range(top - 1, 0, -1):
        heap[0], heap[end] = heap[end], heap[0]
        _sift_down(scores, heap, 0, end)
    return heap
