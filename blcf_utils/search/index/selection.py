"""Compiled selection of the best images, block by block while their scores lie in the cache."""

from __future__ import annotations

import numba
import numpy as np

# Scores that are compared with the worst kept one at once.
SPAN = 256


@numba.njit(cache=True, nogil=True)
def _place(images, scores, position, size, image, score):
    """Put an image in the heap whose root is the kept image that ranks last, from a free place."""
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size:
            one, other = scores[child], scores[child + 1]
            # Of equal scores, the higher number ranks last.
            child += other < one or (other == one and images[child + 1] > images[child])
        last = scores[child]
        if last > score or (last == score and images[child] < image):
            break
        images[position], scores[position] = images[child], last
        position = child
    images[position], scores[position] = image, score


@numba.njit(cache=True, nogil=True)
def empty_heap(top, n):
    """Return images and scores of a heap of ``top`` places that anything is better than."""
    return np.arange(n, n + top), np.full(top, -np.inf, np.float32)


@numba.njit(cache=True, nogil=True, inline="always")
def offer(images, scores, image, score):
    """Put an image into a heap if it ranks before the last one there."""
    if score > scores[0] or (score == scores[0] and image < images[0]):
        _place(images, scores, 0, len(images), image, score)


@numba.njit(cache=True, nogil=True)
def _any_above(scores, worst):
    above = np.uint32(0)
    for i in range(len(scores)):
        above |= np.uint32(scores[i] > worst)
    return above > 0


@numba.njit(cache=True, nogil=True)
def offer_all(images, scores, start, part):
    """Offer the images from number ``start`` on, higher than all in the heap, scored ``part``."""
    for first in range(0, len(part), SPAN):
        some = part[first : first + SPAN]
        if _any_above(some, scores[0]):
            for i in range(len(some)):
                # Equal scores stay out: the numbers of those inside are lower.
                if some[i] > scores[0]:
                    _place(images, scores, 0, len(images), start + first + i, some[i])


@numba.njit(cache=True, nogil=True)
def sort_heap(images, scores):
    """Sort a heap, best first."""
    for end in range(len(images) - 1, 0, -1):
        image, score = images[end], scores[end]
        images[end], scores[end] = images[0], scores[0]
        _place(images, scores, 0, end, image, score)
