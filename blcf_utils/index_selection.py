"""Compiled selection of the best images."""

from __future__ import annotations

import numba
import numpy as np


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
