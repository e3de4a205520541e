"""Compiled loops that pack an inverted file: one segment for each word of a block of images.

A segment holds the levels of one word in the images of one block, in units of two bytes: a header,
then perhaps a *row* (a level of 1, 2, 4, 8 or 16 bits for every image of the block, 0 without the
word), then *pairs* (image, level) of the levels that the row has no room for or, without a row, of
all levels above 1, then, without a row, the images of level 1. An image is in one of these parts
only. Rows are taken where they are small: they are added up much faster than lists.

Header: bits 0 to 2 the width of the row (0 none, then 1, 2, 4, 8, 16 bits), bit 3 whether levels of
pairs have two bytes, bit 4 whether the images of pairs are gaps, the others the number of pairs;
``MANY`` says that the next two units hold it. After the row come all levels of pairs, then all
their images, then those of level 1. Images are numbers or, where levels have one byte and it is
shorter, gaps to the one before in bytes; ``LONG`` goes on by itself. (Elsewhere gaps would cost
more time than their bytes are worth.) A level above ``TOP`` takes several pairs, or a row of 16
bits and pairs, full ones first. Byte j of a row of b < 16 bits is of the images j, j + S, j + 2S,
... of the block, in its lowest bits first; S is b times an eighth of the block's images, rounded up
to a multiple of 64. So levels are read by masking whole registers, and the images of one eighth lie
beside one another whatever b is.

None of the loops checks bounds.
"""

from __future__ import annotations

import numba
import numpy as np

MANY = 2047
TOP = 65535
LONG = 255
# Most bytes of a row for one byte of the lists it replaces.
ROW_GAIN = 1.5
# Words of more images have rows, and without pairs, as these are added up fastest.
PLAIN_SHARE = 0.2
# In smaller blocks, other words gain nothing by rows.
FEW_IMAGES = 16_384


@numba.njit(cache=True)
def transpose(starts, words, levels, following, images, listed):
    """Write the postings of a block's images ordered by word, then by image.

    Args:
        starts, words, levels: of the images (CSR); levels of 0 are left out.
        following: (K,) int64 where the postings of each word begin; afterwards where they end.
        images: (postings,) uint16, written.
        listed: (postings,) uint32 levels, written.
    """
    for image in range(len(starts) - 1):
        for entry in range(starts[image], starts[image + 1]):
            if levels[entry] > 0:
                at = following[words[entry]]
                images[at], listed[at] = image, levels[entry]
                following[words[entry]] = at + 1


@numba.njit(cache=True, nogil=True, inline="always")
def eighth(size):
    """An eighth of a block's images, rounded up to whole registers."""
    return (size + 511) // 512 * 64


@numba.njit(cache=True, nogil=True, inline="always")
def row_stride(width, size):
    """Bytes of a row of less than 16 bits, and the step between the images of a byte."""
    return eighth(size) << (width - 1)


@numba.njit(cache=True, nogil=True, inline="always")
def row_units(width, size):
    """Units of a row of ``size`` images, by its width code."""
    if width == 0:
        return 0
    if width >= 4:
        return size if width == 5 else (size + 1) // 2
    return row_stride(width, size) // 2


@numba.njit(cache=True)
def _row(levels, size):
    """Return the width code of the row a word gets; 0 for none."""
    above = np.zeros(6, np.int64)  # how many levels are above 1 (no row), 1, 3, 15, 255, 65535
    highest, ones = 0, 0
    for level in levels:
        highest = max(highest, level)
        parts = (level + TOP - 1) // TOP
        above[1] += parts if level > 1 else 0
        above[2] += parts if level > 3 else 0
        above[3] += parts if level > 15 else 0
        above[4] += parts if level > 255 else 0
        above[5] += parts - 1
        ones += level == 1
    above[0] = above[1]
    plain = len(levels) >= PLAIN_SHARE * size and size >= 512  # one register an eighth
    taken, units = 0, 0
    for width in range(6):
        pairs = above[width]
        level_units = pairs if highest > 255 else (pairs + 1) // 2
        needed = row_units(width, size) + pairs + level_units
        if width == 0:
            units = needed + ones
            most = ROW_GAIN * units
        elif plain:
            better = (pairs == 0 or width == 5) and (taken == 0 or needed < units)
            taken, units = (width, needed) if better else (taken, units)
        elif size >= FEW_IMAGES and needed <= most and 4 * pairs <= len(levels):
            better = taken == 0 or needed < units
            taken, units = (width, needed) if better else (taken, units)
    return taken


@numba.njit(cache=True)
def _layout(images, levels, size):
    """Return how a word's segment is laid out.

    Returns:
        Width code, whether pairs are wide, pairs, bytes of their gaps (0: numbers), units.
    """
    width = _row(levels, size)
    limit = (1 << (1 << (width - 1))) - 1 if width else 1
    highest, pairs, ones = 0, 0, 0
    gap_bytes, last = 0, 0
    for posting in range(len(levels)):
        image, level = np.int64(images[posting]), np.int64(levels[posting])
        highest = max(highest, level)
        if level > limit:
            parts = (level - 1) // TOP + (width < 5)
            pairs += parts
            gap_bytes += parts + (image - last) // LONG
            last = image
        elif width == 0:
            ones += 1
    wide = 1 if highest > 255 else 0
    gap_bytes = gap_bytes if gap_bytes < 2 * pairs and not wide else 0
    units = 1 + (2 if pairs >= MANY else 0) + row_units(width, size)
    units += ((pairs << wide) + 1) // 2
    units += (gap_bytes + 1) // 2 if gap_bytes else pairs
    return width, wide, pairs, gap_bytes, units + ones


@numba.njit(cache=True)
def measure(begins, images, listed, size, units):
    """Write how many units (K,) the segment of each word takes; postings as :func:`pack`."""
    for word in range(len(units)):
        first, last = begins[word], begins[word + 1]
        if last > first:
            units[word] = _layout(images[first:last], listed[first:last], size)[4]


@numba.njit(cache=True, inline="always")
def _put(data, at, byte, value):
    """Write a byte, counted from unit ``at``; zero before."""
    data[at + byte // 2] |= value << (8 * (byte % 2))


@numba.njit(cache=True)
def _put_gap(data, at, byte, gap):
    """Write a gap and return where the next one goes."""
    while gap >= LONG:
        _put(data, at, byte, LONG)
        gap -= LONG
        byte += 1
    _put(data, at, byte, gap)
    return byte + 1


@numba.njit(cache=True)
def pack(begins, images, listed, size, offsets, data):
    """Write the segments of a block.

    Args:
        begins: (K + 1,) int64 where the postings of each word begin.
        images, listed: as :func:`transpose` writes them.
        size: images of the block.
        offsets: (K + 1,) int64 where each segment begins in ``data``.
        data: uint16, written; zeros before.
    """
    for word in range(len(begins) - 1):
        first, last = begins[word], begins[word + 1]
        if last > first:
            _pack_word(images[first:last], listed[first:last], size, offsets[word], data)


@numba.njit(cache=True)
def _pack_word(images, levels, size, at, data):
    width, wide, pairs, gap_bytes, _ = _layout(images, levels, size)
    data[at] = width | (wide << 3) | ((gap_bytes > 0) << 4) | (min(pairs, MANY) << 5)
    at += 1
    if pairs >= MANY:
        data[at], data[at + 1] = pairs & 0xFFFF, pairs >> 16
        at += 2
    row, level_at = at, at + row_units(width, size)
    pair_at = level_at + ((pairs << wide) + 1) // 2
    one_at = pair_at + ((gap_bytes + 1) // 2 if gap_bytes else pairs)
    bits = 1 << max(width - 1, 0)
    limit = (1 << bits) - 1 if width else 1
    stride = row_stride(width, size) if width else 1
    pair, one, byte, last = 0, 0, 0, 0
    for posting in range(len(levels)):
        image, level = np.int64(images[posting]), np.int64(levels[posting])
        if width == 5:
            data[row + image] = min(level, TOP)
            level -= min(level, TOP)
        if width == 5 or level > limit:
            while level > 0:
                if wide:
                    data[level_at + pair] = min(level, TOP)
                else:
                    _put(data, level_at, pair, level)
                if gap_bytes:
                    byte = _put_gap(data, pair_at, byte, image - last)
                    last = image
                else:
                    data[pair_at + pair] = image
                level -= min(level, TOP)
                pair += 1
        elif width > 0:
            _put(data, row, image % stride, level << (image // stride * bits))
        else:
            data[one_at + one] = image
            one += 1


@numba.njit(cache=True, nogil=True, inline="always")
def read_header(data, at):
    """Return the flags of the segment at ``at``, its pairs, and where its row begins."""
    head = np.int64(data[at])
    pairs = head >> 5
    at += 1
    if pairs == MANY:
        pairs = np.int64(data[at]) | (np.int64(data[at + 1]) << 16)
        at += 2
    return head & 31, pairs, at
