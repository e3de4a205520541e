"""Compiled loops that score images for a query, from the segments of an inverted file.

None of them uses fast-math: every image's score is added up in the same order with the same
roundings, however its levels are stored, so equal images score equal on any machine.
"""

from __future__ import annotations

import numba
import numpy as np

from blcf_utils.search.index.segments import LONG, TOP, read_header, row_stride, row_units
from blcf_utils.search.index.selection import empty_heap, offer_all, sort_heap


@numba.njit(cache=True, nogil=True)
def _add_masked(row, mask, value, part):
    for i in range(len(part)):
        part[i] += value * np.float32(np.uint8(row[i] & mask))


@numba.njit(cache=True, nogil=True)
def _add_row(octets, at, width, value, part):
    """Add a row of less than 16 bits, its first byte ``at``, times ``value``."""
    stride = row_stride(width, len(part))
    row, bits = octets[at : at + stride], 1 << (width - 1)
    for start in range(0, len(part), stride):
        # A level is masked where it stands and the factor made less for it, which is exact.
        shift = start // stride * bits
        mask = np.uint8(((1 << bits) - 1) << shift)
        _add_masked(row, mask, value / np.float32(1 << shift), part[start : start + stride])


@numba.njit(cache=True, nogil=True)
def _add_pairs(data, octets, at, pairs, flags, value, part):
    """Add the pairs whose levels begin ``at``; return where the images of level 1 begin."""
    wide = flags >> 3 & 1
    images = at + ((pairs << wide) + 1) // 2
    if flags & 16:
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
def _add_excess(data, octets, at, value, part):
    """Add what the levels of a segment have above ``TOP``."""
    flags, pairs, at = read_header(data, at)
    if pairs == 0 or not flags & 8:
        return
    at += row_units(flags & 7, len(part))
    if flags & 7 == 5:
        _add_pairs(data, octets, at, pairs, flags, value, part)
        return
    images = data[at + pairs : at + 2 * pairs]
    for pair in range(1, pairs):
        if images[pair] == images[pair - 1]:
            part[images[pair]] += value * np.float32(data[at + pair])


@numba.njit(cache=True, nogil=True, inline="always")
def _none_above_top(data, at, end):
    if at == end:
        return True
    flags, pairs, _ = read_header(data, at)
    return pairs == 0 or not flags & 8


@numba.njit(cache=True, nogil=True)
def _unpack(data, octets, at, end, row):
    """Write the levels of a segment, at most ``TOP`` each, into ``row``, float32."""
    row[:] = 0
    if at < end:
        _add(data, octets, at, end, np.float32(1), row)
        for i in range(len(row)):
            row[i] = min(row[i], np.float32(TOP))


@numba.njit(cache=True, nogil=True)
def _add(data, octets, at, end, value, part):
    """Add a word's levels times ``value`` to the scores of a block, ``part``."""
    flags, pairs, at = read_header(data, at)
    width, size = flags & 7, len(part)
    if width == 5:
        row = data[at : at + size]
        for i in range(size):
            part[i] += value * np.float32(row[i])
    elif width > 0:
        _add_row(octets, 2 * at, width, value, part)
    at += row_units(width, size)
    if pairs > 0:
        at = _add_pairs(data, octets, at, pairs, flags, value, part)
    if width > 0:
        return
    for image in data[at:end]:
        part[image] += value


@numba.njit(cache=True, nogil=True)
def _sum_four_masked(a, b, c, d, ma, mb, mc, md, v, w, x, y, part):
    for i in range(len(part)):
        first = v * np.float32(np.uint8(a[i] & ma)) + w * np.float32(np.uint8(b[i] & mb))
        second = x * np.float32(np.uint8(c[i] & mc)) + y * np.float32(np.uint8(d[i] & md))
        part[i] += first + second


@numba.njit(cache=True, nogil=True)
def _add_unpacked(row, value, part):
    for i in range(len(part)):
        part[i] += value * row[i]


@numba.njit(cache=True, nogil=True)
def _sum_four(a, b, c, d, v, w, x, y, part):
    for i in range(len(part)):
        first = v * np.float32(a[i]) + w * np.float32(b[i])
        second = x * np.float32(c[i]) + y * np.float32(d[i])
        part[i] += first + second


@numba.njit(cache=True, nogil=True, inline="always")
def _plane(octets, at, width, start, step, size, value):
    """Return bytes, mask and factor of the ``step`` images of a row from image ``start`` on."""
    stride, bits = row_stride(width, size), 1 << (width - 1)
    shift = start // stride * bits
    mask = np.uint8(((1 << bits) - 1) << shift)
    first = at + start % stride
    return octets[first : first + step], mask, value / np.float32(1 << shift)


@numba.njit(cache=True, nogil=True)
def _add_four_rows(octets, places, widths, values, part):
    size = len(part)
    # Within a row's stride, images lie beside one another.
    step = row_stride(min(widths[0], widths[1], widths[2], widths[3]), size)
    for start in range(0, size, step):
        a, ma, v = _plane(octets, places[0], widths[0], start, step, size, values[0])
        b, mb, w = _plane(octets, places[1], widths[1], start, step, size, values[1])
        c, mc, x = _plane(octets, places[2], widths[2], start, step, size, values[2])
        d, md, y = _plane(octets, places[3], widths[3], start, step, size, values[3])
        some = part[start : start + step]
        _sum_four_masked(a, b, c, d, ma, mb, mc, md, v, w, x, y, some)


@numba.njit(cache=True, nogil=True)
def _add_four_wide_rows(data, places, values, part):
    size = len(part)
    a, b = data[places[0] // 2 :][:size], data[places[1] // 2 :][:size]
    c, d = data[places[2] // 2 :][:size], data[places[3] // 2 :][:size]
    _sum_four(a, b, c, d, values[0], values[1], values[2], values[3], part)


@numba.njit(cache=True, nogil=True)
def score_block(data, octets, bounds, words, values, numbers, part):
    """Write the scores of a block's images, before their scales.

    Args:
        data: units of the index; octets: the same as bytes.
        bounds: (K + 1,) where the segments of the block begin.
        words, values: of the query (int64, float32), in the order of adding up.
        numbers: which of them are frequent. Levels up to ``TOP`` of these are added last, as they
            are the large terms: small ones would drown in a sum begun with those.
        part: (images of the block,) float32, written.
    """
    part[:] = 0
    following = 0
    for j in range(len(words)):
        at, end = np.int64(bounds[words[j]]), np.int64(bounds[words[j] + 1])
        if following < len(numbers) and numbers[following] == j:
            following += 1
            if at < end:
                _add_excess(data, octets, at, values[j], part)
        elif at < end:
            _add(data, octets, at, end, values[j], part)
    # Four words a pass: the sums are read and written a quarter as often.
    frequent, weights = words[numbers], values[numbers]
    fours = len(frequent) - len(frequent) % 4
    places, widths = np.empty(4, np.int64), np.empty(4, np.int64)
    unpacked = np.empty((0, 0), np.float32)
    for j in range(0, fours, 4):
        rows, wide_rows = 0, 0
        for k in range(4):
            at, end = np.int64(bounds[frequent[j + k]]), np.int64(bounds[frequent[j + k] + 1])
            if at < end:
                flags, pairs, row = read_header(data, at)
                widths[k], places[k] = flags & 7, 2 * row
                rows += 0 < widths[k] < 5 and pairs == 0
                wide_rows += widths[k] == 5
        four = weights[j : j + 4]
        if rows == 4:
            _add_four_rows(octets, places, widths, four, part)
            continue
        if wide_rows == 4:
            _add_four_wide_rows(data, places, four, part)
            continue
        if len(unpacked) == 0:
            unpacked = np.empty((4, len(part)), np.float32)
        for k in range(4):
            at, end = np.int64(bounds[frequent[j + k]]), np.int64(bounds[frequent[j + k] + 1])
            _unpack(data, octets, at, end, unpacked[k])
        a, b, c, d = unpacked[0], unpacked[1], unpacked[2], unpacked[3]
        _sum_four(a, b, c, d, four[0], four[1], four[2], four[3], part)
    if fours < len(frequent) and len(unpacked) == 0:
        unpacked = np.empty((1, len(part)), np.float32)
    for j in range(fours, len(frequent)):
        at, end = np.int64(bounds[frequent[j]]), np.int64(bounds[frequent[j] + 1])
        if _none_above_top(data, at, end):
            if at < end:
                _add(data, octets, at, end, weights[j], part)
        else:
            _unpack(data, octets, at, end, unpacked[0])
            _add_unpacked(unpacked[0], weights[j], part)


@numba.njit(cache=True, nogil=True)
def score_all(data, octets, offsets, scales, block_size, words, values, numbers, scores):
    """Write the score of every image, (n,) float32; arguments as for :func:`score_block`."""
    for block in range(len(offsets)):
        start = block * block_size
        part = scores[start : start + block_size]
        score_block(data, octets, offsets[block], words, values, numbers, part)
        part *= scales[start : start + block_size]


@numba.njit(cache=True, nogil=True)
def best_images(data, octets, offsets, scales, block_size, words, values, numbers, top, room):
    """Return the ``top`` best images and their scores.

    Arguments as for :func:`score_block`; ``room`` (a block's images,) float32 is scratch. (Made in
    here, it would keep the loops from being compiled as well as they are.)
    """
    n = len(scales)
    images, scores = empty_heap(top, n)
    for block in range(len(offsets)):
        start = block * block_size
        part = room[: n - start]
        score_block(data, octets, offsets[block], words, values, numbers, part)
        part *= scales[start : start + len(part)]
        offer_all(images, scores, start, part)
    sort_heap(images, scores)
    return images, scores
