"""Compiled loops that pack an inverted file: one segment for each word of a block of images.

A segment holds the levels of one word in the images of one block, in units of two bytes: a header,
then perhaps a *row* (a level of 1, 2, 4, 8 or 16 bits for every image of the block, 0 without the
word), then *pairs* (image, level) of the levels that the row has no room for or, without a row, of
all levels above 1, then, without a row, the images of level 1. An image is in one of these parts
only. Rows are taken where they are small: they are added up much faster than lists.

Header: bits 0 to 2 the width of the row (0 none, then 1, 2, 4, 8, 16 bits), bits 3 and 4 the bytes
of a pair's level (1, 2, 4), the others the number of pairs; ``MANY`` says that the next two units
hold it. Pairs are all their images, then all their levels. Byte j of a row of b < 16 bits is of the
images j, j + S, j + 2S, ... of the block, in its lowest bits first; S is b times an eighth of the
block's images, rounded up to a multiple of 64. So levels are read by masking whole registers, and
the images of one eighth lie beside one another whatever b is.

None of the loops checks bounds.
"""

from __future__ import annotations

import numba
import numpy as np

MANY = 2047
# Most bytes of a row for one byte of the lists it replaces.
ROW_GAIN = 1.5
# Words of more images have rows without pairs, as these are added up fastest.
PLAIN_SHARE = 0.15
# In smaller blocks, rare words gain nothing by rows.
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
    if width == 5:
        return size
    return (row_stride(width, size) + 1) // 2


@numba.njit(cache=True)
def _layout(levels, size):
    """Return (width code, code of the pairs' level bytes, pairs, units) of a word's segment."""
    above = np.zeros(6, np.int64)  # how many levels are above 1 (no row), 1, 3, 15, 255, 65535
    highest = 0
    for level in levels:
        highest = max(highest, level)
        above[1] += level > 1
        above[2] += level > 3
        above[3] += level > 15
        above[4] += level > 255
        above[5] += level > 65535
    above[0] = above[1]
    wide = 0 if highest <= 255 else 1 if highest <= 65535 else 2
    taken, units = 0, 0
    for width in range(6):
        pairs = above[width]
        needed = row_units(width, size) + pairs + ((pairs << wide) + 1) // 2
        needed += 2 if pairs >= MANY else 0
        if width == 0:
            units = needed + len(levels) - pairs
            most = ROW_GAIN * units
        elif needed <= most and (taken == 0 or needed < units):
            rare = len(levels) < PLAIN_SHARE * size
            if size >= FEW_IMAGES if rare else pairs == 0 or width >= 4:
                taken, units = width, needed
    return taken, wide, above[taken], units + 1


@numba.njit(cache=True)
def measure(begins, listed, size, units):
    """Write how many units (K,) the segment of each word takes; postings as :func:`pack`."""
    for word in range(len(units)):
        first, last = begins[word], begins[word + 1]
        if last > first:
            units[word] = _layout(listed[first:last], size)[3]


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
        if last == first:
            continue
        width, wide, pairs, _ = _layout(listed[first:last], size)
        at = offsets[word]
        data[at] = width | (wide << 3) | (min(pairs, MANY) << 5)
        at += 1
        if pairs >= MANY:
            data[at], data[at + 1] = pairs & 0xFFFF, pairs >> 16
            at += 2
        row = at
        at += row_units(width, size)
        level_at, one_at = at + pairs, at + pairs + ((pairs << wide) + 1) // 2
        bits = 1 << max(width - 1, 0)
        limit = (1 << bits) - 1 if width else 1
        stride = row_stride(width, size) if width else 1
        done = 0
        for posting in range(first, last):
            image, level = np.int64(images[posting]), np.int64(listed[posting])
            if level > limit:
                data[at + done] = image
                if wide == 0:
                    data[level_at + done // 2] |= level << (8 * (done % 2))
                elif wide == 1:
                    data[level_at + done] = level
                else:
                    data[level_at + 2 * done] = level & 0xFFFF
                    data[level_at + 2 * done + 1] = level >> 16
                done += 1
            elif width == 0:
                data[one_at] = image
                one_at += 1
            elif width == 5:
                data[row + image] = level
            else:
                byte, shift = image % stride, (image // stride) * bits
                data[row + byte // 2] |= level << (8 * (byte % 2) + shift)


@numba.njit(cache=True, nogil=True, inline="always")
def read_header(data, at):
    """Return (width code, level code, pairs, where the row begins) of the segment at ``at``."""
    head = np.int64(data[at])
    pairs = head >> 5
    at += 1
    if pairs == MANY:
        pairs = np.int64(data[at]) | (np.int64(data[at + 1]) << 16)
        at += 2
    return head & 7, (head >> 3) & 3, pairs, at


@numba.njit(cache=True, nogil=True, inline="always")
def pair_level(data, octets, at, wide, pair):
    """Return the level of a pair, ``at`` where the levels begin."""
    if wide == 0:
        return np.int64(octets[2 * at + pair])
    if wide == 1:
        return np.int64(data[at + pair])
    return np.int64(data[at + 2 * pair]) | (np.int64(data[at + 2 * pair + 1]) << 16)


@numba.njit(cache=True, nogil=True)
def level_of(data, octets, at, end, size, image):
    """Return the level of one image of the block in the segment from ``at`` to ``end``."""
    width, wide, pairs, at = read_header(data, at)
    if width == 5:
        level = np.int64(data[at + image])
    elif width > 0:
        bits = 1 << (width - 1)
        stride = row_stride(width, size)
        byte = np.int64(octets[2 * at + image % stride])
        level = (byte >> (image // stride * bits)) & ((1 << bits) - 1)
    else:
        level = np.int64(0)
    if level > 0:
        return level
    at += row_units(width, size)
    low, high = at, at + pairs
    while low < high:
        middle = (low + high) >> 1
        if data[middle] < image:
            low = middle + 1
        else:
            high = middle
    if low < at + pairs and data[low] == image:
        return pair_level(data, octets, at + pairs, wide, low - at)
    if width > 0:
        return np.int64(0)
    low, high = at + pairs + ((pairs << wide) + 1) // 2, end
    while low < high:
        middle = (low + high) >> 1
        if data[middle] < image:
            low = middle + 1
        else:
            high = middle
    return np.int64(low < end and data[low] == image)
