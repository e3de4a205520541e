"""Building an inverted file block by block, in the memory of its result and one block."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from blcf_utils.ground.errors import StudyError, known
from blcf_utils.search.index.quantisation import STEPS, quantise
from blcf_utils.search.index.segments import measure, pack, transpose

NONE = np.empty(0, np.float32)


class Builder:
    """Packs the histograms of images that come in order.

    Args:
        words: K.
        block_size: images in a block, 1 to 65536.
        word_scales: (K,) float32 by which weights are divided first, or None.
        weights: ``exact`` or ``uint8``, how finely weights that are no counts are rounded.
    """

    def __init__(
        self,
        words: int,
        block_size: int,
        word_scales: np.ndarray | None = None,
        weights: str = "exact",
    ):
        if not 1 <= block_size <= 65536:
            raise StudyError(f"index: expected a block size of 1 to 65536, found {block_size}")
        if weights not in STEPS:
            raise known("weights of an index", weights, STEPS)
        self.words, self.block_size, self.word_scales = words, block_size, word_scales
        self._steps = STEPS[weights]
        self._waiting: list[sparse.csr_array] = []
        self._images = 0  # that wait
        self._scales, self._offsets, self._data = [], [], []
        self._holders = np.zeros(words, np.uint32)

    def add(self, histograms: sparse.csr_array) -> None:
        """Take the histograms (m, K) of the next images."""
        if histograms.shape[1] != self.words:
            raise StudyError(
                f"index: expected histograms of {self.words} words, found {histograms.shape[1]}; "
                "encode all images with one codebook"
            )
        if not histograms.has_canonical_format:
            histograms = histograms.copy()
            histograms.sum_duplicates()
        for start in range(0, histograms.shape[0], self.block_size):
            part = rows_of(histograms, start, start + self.block_size)
            starts, words = part.indptr.astype(np.int64), part.indices.astype(np.int32)
            levels = np.empty(part.nnz, np.uint32)
            scales = np.empty(part.shape[0], np.float32)
            values = checked(part.data)
            factors = NONE if self.word_scales is None else self.word_scales
            quantise(starts, words, values, factors, self._steps, levels, scales)
            self.add_levels(sparse.csr_array((levels, words, starts), part.shape), scales)

    def add_levels(self, levels: sparse.csr_array, scales: np.ndarray) -> None:
        """Take levels (m, K) of any integer type and scales (m,) of the next images."""
        self._scales.append(scales)
        start, total = 0, levels.shape[0]
        while start < total:
            end = min(total, start + self.block_size - self._images)
            self._waiting.append(rows_of(levels, start, end))
            self._images += end - start
            if self._images == self.block_size:
                self._pack()
            start = end

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return offsets, data, holders and scales, as an inverted file has them."""
        if self._images:
            self._pack()
        sizes = np.array([len(data) for data in self._data], np.int64)
        firsts = np.cumsum(sizes) - sizes
        kind = np.uint32 if sizes.sum() < 2**32 else np.uint64
        offsets = np.zeros((len(sizes), self.words + 1), kind)
        data = np.empty(int(sizes.sum()), np.uint16)
        for block, first in enumerate(firsts):
            offsets[block] = first + self._offsets[block]
            data[first : first + sizes[block]] = self._data[block]
            self._data[block] = NONE  # the parts go as the whole grows
        scales = np.concatenate([NONE, *self._scales]).astype(np.float32, copy=False)
        return offsets, data, self._holders, scales

    def _pack(self) -> None:
        """Pack the images that wait as one block."""
        counts = np.zeros(self.words, np.int64)
        for part in self._waiting:
            counts += np.bincount(part.indices[part.data > 0], minlength=self.words)
        begins = np.concatenate([[0], np.cumsum(counts)])
        images, listed = np.empty(begins[-1], np.uint16), np.empty(begins[-1], np.uint32)
        starts = np.concatenate([[0], *(np.diff(part.indptr) for part in self._waiting)])
        words = np.concatenate([part.indices for part in self._waiting]).astype(np.int32)
        levels = np.concatenate([part.data for part in self._waiting]).astype(np.uint32)
        transpose(np.cumsum(starts), words, levels, begins[:-1].copy(), images, listed)
        units = np.zeros(self.words, np.int64)
        measure(begins, images, listed, self._images, units)
        offsets = np.concatenate([[0], np.cumsum(units)])
        data = np.zeros(offsets[-1], np.uint16)
        pack(begins, images, listed, self._images, offsets, data)
        self._offsets.append(offsets.astype(np.uint32))
        self._data.append(data)
        self._holders += counts.astype(np.uint32)
        self._waiting, self._images = [], 0


def scales_of_words(histograms: sparse.csr_array, factors: np.ndarray | None) -> np.ndarray | None:
    """Return the factors if dividing by them makes counts of weights that are none; else None."""
    if factors is None:
        return None
    return factors if not _whole(histograms, NONE) and _whole(histograms, factors) else None


def checked(weights: np.ndarray) -> np.ndarray:
    """Return weights as float32 if they can be weights of a histogram."""
    weights = np.asarray(weights, np.float32)
    if len(weights) and not 0 <= weights.min() <= weights.max() < np.inf:
        raise StudyError(
            f"index: expected finite histogram weights of at least 0, found {weights.min()} to "
            f"{weights.max()}; check the weight maps and factors of the histograms"
        )
    return weights


def levels_of_saved(saved: dict[str, np.ndarray]) -> sparse.csr_array:
    """Return the levels (n, K) of an index that an earlier version saved as lists and rows."""
    n, k = len(saved["scales"]), saved["offsets"].shape[1] - 1
    rows, images = np.nonzero(saved["rows"])
    found_images, found_words = [images], [saved["row_words"][rows]]
    found_levels = [saved["rows"][rows, images]]
    for block, bounds in enumerate(saved["offsets"].astype(np.int64)):
        part = slice(bounds[0], bounds[-1])
        found_images.append(block * int(saved["block_size"]) + saved["images"][part].astype(int))
        found_words.append(np.repeat(np.arange(k), np.diff(bounds)))
        found_levels.append(saved["levels"][part])
    levels = np.concatenate([found.astype(np.int64) for found in found_levels])
    places = np.concatenate(found_images), np.concatenate(found_words)
    return sparse.csr_array(sparse.coo_array((levels, places), shape=(n, k)))


def rows_of(matrix: sparse.csr_array, start: int, end: int) -> sparse.csr_array:
    """Return some rows of a matrix as views of it."""
    end = min(end, matrix.shape[0])
    first, last = matrix.indptr[start], matrix.indptr[end]
    parts = matrix.data[first:last], matrix.indices[first:last]
    starts = matrix.indptr[start : end + 1] - first
    return sparse.csr_array((*parts, starts), shape=(end - start, matrix.shape[1]))


def _whole(histograms: sparse.csr_array, factors: np.ndarray) -> bool:
    """Whether all images' weights, divided by factors, are whole multiples of something."""
    step = 65_536
    for start in range(0, histograms.shape[0], step):
        part = rows_of(histograms, start, start + step)
        starts, words = part.indptr.astype(np.int64), part.indices.astype(np.int32)
        levels, scales = np.empty(part.nnz, np.uint32), np.empty(part.shape[0], np.float32)
        whole = quantise(starts, words, checked(part.data), factors, STEPS["exact"], levels, scales)
        if not whole:
            return False
    return True
