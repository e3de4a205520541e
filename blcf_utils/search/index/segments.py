"""The layout of an inverted file: how the levels of one word in a block of images are stored.

They are a *segment*, in units of 16 bits::

    header | row | levels of pairs | images of pairs | images of level 1

A *row* has a level of 1, 2, 4, 8 or 16 bits for every image of the block, 0 for an image without
the word. Rows are added up much faster than lists. A *pair* is an image and its level. With a row,
the levels that are too high for it are in pairs; without one, all levels above 1 are in pairs and
the images of level 1 are listed. So each image is in one of these parts only.

Bits 0 to 2 of the header are the width of the row (0 for none, then 1, 2, 4, 8, 16 bits). Bit 3
says whether the levels of pairs have 16 bits or 8, bit 4 whether the images of pairs are gaps or
numbers. The other bits are the number of pairs; if they are ``MANY``, the next two units hold it.

Unit j of a row of b bits holds the images j, j + S, j + 2S, ... of the block, the first in the
lowest bits. S is b times a sixteenth of the block's images, rounded up to a multiple of 16 b. So
levels are read by masking whole registers, and the images of each sixteenth lie side by side
whatever b is.

A gap is the distance to the image before, in one byte; ``LONG`` says that the next byte is to be
added. Gaps are used only for levels of 8 bits, and where they take fewer bytes: elsewhere they cost
more time than their bytes are worth.

A level above ``TOP`` does not fit a segment. Its word has several segments, one after the other,
whose levels add up. Each but the last follows three more units: ``FURTHER`` and its length.

None of the functions checks bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from scipy import sparse

MANY = 2047
TOP = 65535
LONG = 255
FURTHER = 7
# The highest level of a row, by its width; without a row, all levels above 1 are in pairs.
HIGHEST = np.array([1, 1, 3, 15, 255, TOP])
# A word held by a larger share of a block's images gets a row that all its levels fit in.
PLAIN_SHARE = 0.2


@numba.njit(cache=True, nogil=True, inline="always")
def row_units(width, size):
    """Return the units of a row of ``size`` images, which is also the step S within a unit."""
    return (size + 255) // 256 * 16 << (width - 1) if width > 0 else 0


@numba.njit(cache=True)
def _row_width(levels, size):
    """Return the width of the row that a word gets and how many of its levels do not fit in."""
    above = np.zeros(6, np.int64)
    for level in levels:
        for width in range(5):
            above[width] += level > HIGHEST[width]
    if size >= 512 and len(levels) >= PLAIN_SHARE * size:
        width = 1
        while above[width] > 0:
            width += 1
        return width, 0
    level_bytes = 2 if levels.max() > 255 else 1
    smallest = len(levels) + (above[0] * level_bytes + 1) // 2  # units of the lists
    best = 0
    for width in range(1, 6):
        pairs = above[width]
        units = row_units(width, size) + pairs + (pairs * level_bytes + 1) // 2
        if units < smallest and 4 * pairs <= len(levels):
            best, smallest = width, units
    return best, above[best]


@numba.njit(cache=True)
def _pack_segment(images, levels, size, at, data):
    """Write a segment from ``data[at]`` on, unless ``data`` is empty; return where it ends."""
    width, pairs = _row_width(levels, size)
    gap_bytes, last = 0, 0
    for posting in range(len(levels)):
        if levels[posting] > HIGHEST[width]:
            image = np.int64(images[posting])
            gap_bytes, last = gap_bytes + 1 + (image - last) // LONG, image
    wide = pairs > 0 and levels.max() > 255
    gaps = not wide and gap_bytes < 2 * pairs
    row_at = at + (3 if pairs >= MANY else 1)
    level_at = row_at + row_units(width, size)
    image_at = level_at + (pairs if wide else (pairs + 1) // 2)
    one_at = image_at + ((gap_bytes + 1) // 2 if gaps else pairs)
    end = one_at + (len(levels) - pairs if width == 0 else 0)
    if len(data) == 0:
        return end
    octets = data.view(np.uint8)
    data[at] = width | wide << 3 | gaps << 4 | min(pairs, MANY) << 5
    if pairs >= MANY:
        data[at + 1], data[at + 2] = pairs & 0xFFFF, pairs >> 16
    stride = max(row_units(width, size), 1)
    pair, byte, last = 0, 2 * image_at, 0
    for posting in range(len(levels)):
        image, level = np.int64(images[posting]), np.int64(levels[posting])
        if level > HIGHEST[width]:
            if wide:
                data[level_at + pair] = level
            else:
                octets[2 * level_at + pair] = level
            if gaps:
                gap, last = image - last, image
                while gap >= LONG:
                    octets[byte] = LONG
                    byte, gap = byte + 1, gap - LONG
                octets[byte] = gap
                byte += 1
            else:
                data[image_at + pair] = image
            pair += 1
        elif width > 0:
            data[row_at + image % stride] |= level << (image // stride << (width - 1))
        else:
            data[one_at] = image
            one_at += 1
    return end


@numba.njit(cache=True)
def _pack_word(images, levels, size, at, data):
    """Write the segments of a word as :func:`_pack_segment` does."""
    while levels.max() > TOP:
        end = _pack_segment(images, np.minimum(levels, np.uint32(TOP)), size, at + 3, data)
        if len(data) > 0:
            units = end - at - 3
            data[at], data[at + 1], data[at + 2] = FURTHER, units & 0xFFFF, units >> 16
        at, above = end, levels > TOP
        images, levels = images[above], levels[above] - np.uint32(TOP)
    return _pack_segment(images, levels, size, at, data)


@numba.njit(cache=True)
def _pack(begins, images, levels, size):
    offsets, data = np.zeros(len(begins), np.int64), np.empty(0, np.uint16)
    for _ in range(2):  # first to measure, then to write
        for word in range(len(begins) - 1):
            first, last, end = begins[word], begins[word + 1], offsets[word]
            if first < last:
                end = _pack_word(images[first:last], levels[first:last], size, end, data)
            offsets[word + 1] = end
        if len(data) == 0:
            data = np.zeros(offsets[-1], np.uint16)
    return offsets, data


@numba.njit(cache=True)
def _sort_by_word(starts, words, levels, first, following, images, listed):
    for image in range(len(starts) - 1):
        for entry in range(starts[image], starts[image + 1]):
            if levels[entry] > 0:
                at = following[words[entry]]
                images[at], listed[at] = first + image, levels[entry]
                following[words[entry]] = at + 1


def pack_block(
    parts: Sequence[sparse.csr_array],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the segments of a block of images.

    Args:
        parts: levels of its images, (m, K) uint32 each; those of 0 are left out.

    Returns:
        Where the segments of each word begin, (K + 1,) int64; all segments, (units,) uint16; how
        many images hold each word, (K,) int64.
    """
    counts = sum(np.bincount(p.indices[p.data > 0], minlength=p.shape[1]) for p in parts)
    begins = np.concatenate([[0], np.cumsum(counts)])
    images, levels = np.empty(begins[-1], np.uint16), np.empty(begins[-1], np.uint32)
    following, size = begins[:-1].copy(), 0
    for part in parts:
        _sort_by_word(part.indptr, part.indices, part.data, size, following, images, levels)
        size += part.shape[0]
    return *_pack(begins, images, levels, size), counts


@numba.njit(cache=True, nogil=True, inline="always")
def next_segment(data, at, end):
    """Return begin and end of the first of the segments, perhaps none, in ``data[at:end]``."""
    if at < end and data[at] == FURTHER:
        return at + 3, at + 3 + (np.int64(data[at + 1]) | np.int64(data[at + 2]) << 16)
    return at, end


@numba.njit(cache=True, nogil=True, inline="always")
def read_header(data, at):
    """Return width of the row, number of pairs, whether wide, whether gaps, where the row is."""
    head = np.int64(data[at])
    pairs = head >> 5
    at += 1
    if pairs == MANY:
        pairs = np.int64(data[at]) | np.int64(data[at + 1]) << 16
        at += 2
    return head & 7, pairs, head & 8 > 0, head & 16 > 0, at
