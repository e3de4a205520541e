"""Compiled loops that score images for a query, from the segments of an inverted file.

None of them uses fast-math: every image's score is added up in the same order with the same
roundings, however its levels are stored, so equal images score equal on any machine.
"""

from __future__ import annotations

import numba
import numpy as np

from blcf_utils.search.index.segments import LONG, next_segment, read_header, row_units

# How many scores are compared at once with the lowest score kept.
SPAN = 256


@numba.njit(cache=True, nogil=True, inline="always")
def _plane(data, at, width, start, step, size, value):
    """Return units, mask and factor of the ``step`` images of a row from image ``start`` on.

    Levels are not shifted down after masking; the factor is made smaller instead, which is exact.
    """
    stride, bits = row_units(width, size), 1 << (width - 1)
    shift = start // stride * bits
    mask = np.uint16(((1 << bits) - 1) << shift)
    first = at + start % stride
    return data[first : first + step], mask, value / np.float32(1 << shift)


@numba.njit(cache=True, nogil=True)
def _add_masked(row, mask, value, part):
    for i in range(len(part)):
        part[i] += value * np.float32(np.uint16(row[i] & mask))


@numba.njit(cache=True, nogil=True)
def _add_row(data, at, width, value, part):
    step = row_units(width, len(part))
    for start in range(0, len(part), step):
        row, mask, less = _plane(data, at, width, start, step, len(part), value)
        _add_masked(row, mask, less, part[start : start + step])


@numba.njit(cache=True, nogil=True)
def _add_four_masked(a, b, c, d, ma, mb, mc, md, v, w, x, y, part):
    for i in range(len(part)):
        first = v * np.float32(np.uint16(a[i] & ma)) + w * np.float32(np.uint16(b[i] & mb))
        second = x * np.float32(np.uint16(c[i] & mc)) + y * np.float32(np.uint16(d[i] & md))
        part[i] += first + second


@numba.njit(cache=True, nogil=True)
def _add_pairs(data, octets, at, pairs, wide, gaps, value, part):
    """Add the pairs whose levels begin ``at``; return where the images of level 1 begin."""
    images = at + (pairs if wide else (pairs + 1) // 2)
    if gaps:
        byte, image, pair = 2 * images, 0, 2 * at
        last = pair + pairs
        while pair < last:
            gap = np.int64(octets[byte])
            byte += 1
            image += gap
            if gap != LONG:
                part[image] += value * np.float32(octets[pair])
                pair += 1
        return (byte + 1) // 2
    listed = data[images : images + pairs]
    if wide:
        levels = data[at : at + pairs]
        for pair in range(pairs):
            part[listed[pair]] += value * np.float32(levels[pair])
    else:
        narrow = octets[2 * at : 2 * at + pairs]
        for pair in range(pairs):
            part[listed[pair]] += value * np.float32(narrow[pair])
    return images + pairs


@numba.njit(cache=True, nogil=True)
def _add(data, octets, at, end, value, part):
    """Add the levels of a segment, or of none, times ``value`` to the scores of a block."""
    if at == end:
        return
    width, pairs, wide, gaps, at = read_header(data, at)
    if width > 0:
        _add_row(data, at, width, value, part)
        at += row_units(width, len(part))
    if pairs > 0:
        at = _add_pairs(data, octets, at, pairs, wide, gaps, value, part)
    if width == 0:
        for image in data[at:end]:
            part[image] += value


@numba.njit(cache=True, nogil=True, inline="always")
def _first_segment(data, bounds, word):
    return next_segment(data, np.int64(bounds[word]), np.int64(bounds[word + 1]))


@numba.njit(cache=True, nogil=True)
def _add_four_rows(data, bounds, words, values, part):
    """Add the first segments of four words if they are rows alone; return whether they are."""
    at, widths, size = np.empty(4, np.int64), np.empty(4, np.int64), len(part)
    for k in range(4):
        begin, end = _first_segment(data, bounds, words[k])
        if begin == end:
            return False
        widths[k], pairs, _, _, at[k] = read_header(data, begin)
        if widths[k] == 0 or pairs > 0:
            return False
    # That many images lie side by side in all four rows.
    step = row_units(widths.min(), size)
    for start in range(0, size, step):
        a, ma, v = _plane(data, at[0], widths[0], start, step, size, values[0])
        b, mb, w = _plane(data, at[1], widths[1], start, step, size, values[1])
        c, mc, x = _plane(data, at[2], widths[2], start, step, size, values[2])
        d, md, y = _plane(data, at[3], widths[3], start, step, size, values[3])
        _add_four_masked(a, b, c, d, ma, mb, mc, md, v, w, x, y, part[start : start + step])
    return True


@numba.njit(cache=True, nogil=True)
def _add_four(data, octets, bounds, words, values, part):
    """Add the first segments of four words, however stored; rounds as :func:`_add_four_rows`."""
    rows = np.zeros((4, len(part)), np.float32)
    for k in range(4):
        at, end = _first_segment(data, bounds, words[k])
        _add(data, octets, at, end, np.float32(1), rows[k])
    for i in range(len(part)):
        first = values[0] * rows[0, i] + values[1] * rows[1, i]
        part[i] += first + (values[2] * rows[2, i] + values[3] * rows[3, i])


@numba.njit(cache=True, nogil=True)
def score_block(data, bounds, words, values, frequent, part):
    """Write the scores of a block's images, before their scales.

    Args:
        data: units of the index.
        bounds: (K + 1,) where the segments of the block begin.
        words, values: of the query (int64, float32), in the order of adding up.
        frequent: (m,) bool which words are frequent. Their first segments are added last, because
            a sum that starts with large terms rounds the small ones more.
        part: (images of the block,) float32, written.
    """
    part[:] = 0
    octets = data.view(np.uint8)
    for j in range(len(words)):
        at, end = np.int64(bounds[words[j]]), np.int64(bounds[words[j] + 1])
        later = frequent[j]
        while at < end:
            at, following = next_segment(data, at, end)
            if not later:
                _add(data, octets, at, following, values[j], part)
            at, later = following, False
    words, values = words[frequent], values[frequent]
    fours = len(words) - len(words) % 4
    # With four words a pass, the scores are read and written a quarter as often.
    for j in range(0, fours, 4):
        four, weights = words[j : j + 4], values[j : j + 4]
        if not _add_four_rows(data, bounds, four, weights, part):
            _add_four(data, octets, bounds, four, weights, part)
    for j in range(fours, len(words)):
        at, end = _first_segment(data, bounds, words[j])
        _add(data, octets, at, end, values[j], part)


@numba.njit(cache=True, nogil=True)
def score_all(data, offsets, scales, block_size, words, values, frequent, scores):
    """Write the score of every image, (n,) float32; arguments as for :func:`score_block`."""
    for block in range(len(offsets)):
        start = block * block_size
        part = scores[start : start + block_size]
        score_block(data, offsets[block], words, values, frequent, part)
        part *= scales[start : start + block_size]


@numba.njit(cache=True, nogil=True)
def _any_above(scores, least):
    above = np.uint32(0)
    for i in range(len(scores)):
        above |= np.uint32(scores[i] > least)
    return above > 0


@numba.njit(cache=True, nogil=True)
def _offer(images, scores, start, part):
    """Put the images from number ``start`` on, scored ``part``, into a heap of the best.

    Its root is the image that ranks last: of equal scores, that of the higher number.
    """
    for first in range(0, len(part), SPAN):
        if not _any_above(part[first : first + SPAN], scores[0]):
            continue
        for i in range(first, min(first + SPAN, len(part))):
            # An equal score stays out: images in the heap have lower numbers.
            score = part[i]
            if score > scores[0]:
                place, child = 0, 1
                while child < len(scores):
                    if child + 1 < len(scores):
                        one, other = scores[child], scores[child + 1]
                        child += other < one or (other == one and images[child + 1] > images[child])
                    if scores[child] >= score:
                        break
                    images[place], scores[place] = images[child], scores[child]
                    place, child = child, 2 * child + 1
                images[place], scores[place] = start + i, score


@numba.njit(cache=True, nogil=True)
def best_images(data, offsets, scales, block_size, words, values, frequent, room, best):
    """Return the best images in any order, as many as there are places in ``best``.

    Arguments as for :func:`score_block`. The images' scores are written to ``best``, (top,)
    float32. ``room``, (a block's images,) float32, is working memory; if it were allocated here,
    the loops would be compiled to slower code.
    """
    images = np.zeros(len(best), np.int32)
    best[:] = -np.inf
    for block in range(len(offsets)):
        start = block * block_size
        part = room[: len(scales) - start]
        score_block(data, offsets[block], words, values, frequent, part)
        part *= scales[start : start + len(part)]
        _offer(images, best, start, part)
    return images
