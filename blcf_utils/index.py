"""The inverted file: for each visual word, the images that hold it and with what weight.

A query touches only the lists of its own words, so its cost follows the number of entries in
those lists, not the size of the codebook. The three arrays are memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from scipy import sparse

from blcf_utils.artefacts import ArtefactStore
from blcf_utils.errors import StudyError


@dataclass(frozen=True)
class InvertedFile:
    """An inverted file over n images and K words.

    Attributes:
        offsets: (K + 1,) int64; word w's entries are ``offsets[w]`` to ``offsets[w + 1]``.
        images: (entries,) uint32 image numbers, rising within a word.
        weights: (entries,) float32 histogram values.
        n_images: n.
        factors: (K,) float32 applied to query histograms (idf), or None.
    """

    offsets: np.ndarray
    images: np.ndarray
    weights: np.ndarray
    n_images: int
    factors: np.ndarray | None = None

    @classmethod
    def from_histograms(cls, histograms: sparse.csr_array, factors=None) -> InvertedFile:
        """Build from histograms (n, K), one row an image."""
        columns = sparse.csc_array(histograms)
        columns.sort_indices()
        return cls(
            columns.indptr.astype(np.int64),
            columns.indices.astype(np.uint32),
            columns.data.astype(np.float32),
            histograms.shape[0],
            factors,
        )

    @classmethod
    def open(cls, folder: Path) -> InvertedFile:
        """Open a saved index; the lists stay on disk until a query reads them."""
        factors = folder / "factors.npy"
        return cls(
            np.load(folder / "offsets.npy", mmap_mode="r"),
            np.load(folder / "images.npy", mmap_mode="r"),
            np.load(folder / "weights.npy", mmap_mode="r"),
            int(np.load(folder / "n_images.npy")),
            np.load(factors) if factors.exists() else None,
        )

    def save(self, folder: Path) -> None:
        """Write the arrays into ``folder``."""
        np.save(folder / "offsets.npy", self.offsets)
        np.save(folder / "images.npy", self.images)
        np.save(folder / "weights.npy", self.weights)
        np.save(folder / "n_images.npy", np.array(self.n_images))
        if self.factors is not None:
            np.save(folder / "factors.npy", self.factors)

    @property
    def words(self) -> int:
        """K."""
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes."""
        return self.offsets.nbytes + self.images.nbytes + self.weights.nbytes

    def scores(self, words: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the dot product of a sparse query with every image, (n,) float32.

        Args:
            words: (m,) distinct visual words.
            values: (m,) their weights in the query histogram.

        Raises:
            StudyError: a word of another codebook.
        """
        words = np.ascontiguousarray(words, np.int64)
        values = np.ascontiguousarray(values, np.float32)
        # The compiled loop does not check bounds.
        if len(words) and not 0 <= words.min() <= words.max() < self.words:
            raise StudyError(
                f"index: expected query words 0 to {self.words - 1}, found {words.min()} to "
                f"{words.max()}; encode the query with the codebook of the index"
            )
        if self.factors is not None:
            values = values * self.factors[words]
            values /= max(float(np.sqrt((values * values).sum())), 1e-12)
        scores = np.zeros(self.n_images, np.float32)
        _accumulate(self.offsets, self.images, self.weights, words, values, scores)
        return scores

    def search(self, words, values, top: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rank the images for a sparse query.

        Equal scores are ordered by image number, so a ranking never depends on chance.

        Args:
            words, values: as for :meth:`scores`.
            top: length of the ranking; every image when None.

        Returns:
            Image numbers (int64) and scores (float32), best first.

        Raises:
            StudyError: a word of another codebook, or ``top`` below 1.
        """
        if top is not None and top < 1:
            raise StudyError(f"index: expected top of at least 1, found {top}")
        scores = self.scores(words, values)
        if top is None or top >= self.n_images:
            order = np.argsort(-scores, kind="stable")
        else:
            order = _top(scores, top)
        return order, scores[order]


def build_index(
    document: dict, label: str, store: ArtefactStore, build: Callable[[], InvertedFile]
) -> InvertedFile:
    """Store the inverted file that ``build`` returns and open it memory-mapped.

    Args:
        document: what determines the histograms: key of the assignment maps, weighting, idf.
        label: for people.
        store: where artefacts live.
        build: called only when no such index is stored.
    """
    document = {"version": 1, **document}

    def make(folder):
        build().save(folder)

    return InvertedFile.open(store.get_or_make("index", label, document, make).folder)


@numba.njit(cache=True)
def _accumulate(offsets, images, weights, words, values, scores):
    for j in range(len(words)):
        value = values[j]
        for entry in range(offsets[words[j]], offsets[words[j] + 1]):
            scores[images[entry]] += value * weights[entry]


@numba.njit(cache=True)
def _before(scores, a, b):
    """Whether image a ranks before image b."""
    return scores[a] > scores[b] or (scores[a] == scores[b] and a < b)


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def _top(scores, top):
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
