"""Nearest words: every word looked at, or only some of them (HNSW, inverted lists).

All searchers take (N, D) float32 rows and return their words, (N,) int64, and the squared
distances to them, (N,) float32. The approximate ones give the same words whatever the number of
threads and however the rows are cut into calls, up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np

from blcf_utils.ground.errors import known

# What 0 stands for. Of real descriptors and 25,000 words they find 0.995 and 0.98 of the nearest.
DEFAULT_EFFORT = {"hnsw": 64, "ivf": 16}
METHODS = ("exact", *DEFAULT_EFFORT)
_LINKS, _BUILD_EFFORT = 32, 40
_CELL_ITERATIONS = 10


class Searcher(Protocol):
    """Finds the nearest word of each row."""

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words (N,) int64, squared distances (N,) float32) of rows (N, D) float32."""
        ...


class ExactSearcher:
    """Looks at every word, through faiss' matrix product that never writes all distances."""

    def __init__(self, centroids: np.ndarray):
        self.index = faiss.IndexFlatL2(centroids.shape[1])
        self.index.add(np.ascontiguousarray(centroids, np.float32))

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        distances, words = self.index.search(rows, 1)
        return words[:, 0], distances[:, 0]


class HnswSearcher:
    """A navigable small-world graph over the words (Malkov and Yashunin, 2016), by faiss.

    Args:
        centroids: (K, D) float32.
        effort: efSearch, how many candidates a search keeps.
        file: where the graph is kept; read if it is there, otherwise built and written.
    """

    def __init__(self, centroids: np.ndarray, effort: int, file: Path | None = None):
        if file is not None and file.exists():
            self.index = faiss.read_index(str(file))
        else:
            self.index = faiss.IndexHNSWFlat(centroids.shape[1], _LINKS)
            self.index.hnsw.efConstruction = _BUILD_EFFORT
            with single_threaded():  # several threads link in whatever order they come
                self.index.add(np.ascontiguousarray(centroids, np.float32))
            if file is not None:
                faiss.write_index(self.index, str(file))
        self.index.hnsw.efSearch = effort

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        distances, words = self.index.search(rows, 1)
        return words[:, 0], distances[:, 0]


class IvfSearcher:
    """Words in cells; a row looks at the words of the cells nearest to it.

    faiss' inverted lists compare a row at a time with a list. Here all rows that look into a cell
    are compared with its words in one matrix product, which is several times as fast.

    Args:
        centroids: (K, D) float32.
        effort: cells that a row looks into.
        seed: of the cells, which are k-means over the words.
    """

    def __init__(self, centroids: np.ndarray, effort: int, seed: int = 0):
        centroids = np.ascontiguousarray(centroids, np.float32)
        number = cells_of(len(centroids))
        kmeans = faiss.Kmeans(
            centroids.shape[1],
            number,
            niter=_CELL_ITERATIONS,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(centroids),
        )
        kmeans.train(centroids)
        cells = kmeans.centroids
        of_word, _ = ExactSearcher(cells).search(centroids)
        self.order = np.argsort(of_word, kind="stable")
        starts = np.searchsorted(of_word[self.order], np.arange(number + 1))
        filled = np.diff(starts) > 0
        self.starts = [*starts[:-1][filled].tolist(), len(centroids)]
        self.cells = faiss.IndexFlatL2(centroids.shape[1])
        self.cells.add(cells[filled])
        self.centroids = centroids[self.order]
        self.effort = min(effort, int(filled.sum()))

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        words = np.zeros(len(rows), np.int64)
        nearest = np.full(len(rows), np.inf, np.float32)
        if not len(rows):
            return words, nearest
        looks = self.cells.search(rows, self.effort)[1].ravel()
        by_cell = np.argsort(looks, kind="stable")
        ends = np.searchsorted(looks[by_cell], np.arange(len(self.starts)))
        by_cell //= self.effort
        for cell, start in enumerate(self.starts[:-1]):
            members = by_cell[ends[cell] : ends[cell + 1]]
            if not len(members):
                continue
            found = faiss.knn(rows[members], self.centroids[start : self.starts[cell + 1]], 1)
            distances = found[0][:, 0]
            better = distances < nearest[members]
            members = members[better]
            nearest[members] = distances[better]
            words[members] = self.order[start + found[1][better, 0]]
        return words, nearest


def cells_of(words: int) -> int:
    """Return how many cells K words are put in: about the square root of K."""
    return max(1, round(words**0.5))


def make_searcher(
    centroids: np.ndarray, method: str = "exact", effort: int = 0, file: Path | None = None
) -> Searcher:
    """Return what finds the nearest of ``centroids`` (K, D).

    Args:
        centroids: (K, D) float32.
        method: ``exact``, ``hnsw`` or ``ivf``.
        effort: efSearch of hnsw, cells looked at of ivf; 0 is the default of ``DEFAULT_EFFORT``.
        file: where a graph of hnsw is kept between uses.

    Raises:
        StudyError: an unknown method.
    """
    if method == "exact":
        return ExactSearcher(centroids)
    if method not in METHODS:
        raise known("assignment", method, METHODS)
    effort = effort or DEFAULT_EFFORT[method]
    if method == "hnsw":
        return HnswSearcher(centroids, effort, file)
    return IvfSearcher(centroids, effort)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let faiss use one thread within the block."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def assignment_quality(
    centroids: np.ndarray, searcher: Searcher, rows: np.ndarray
) -> dict[str, float]:
    """Return how near a searcher comes to the nearest words of ``rows`` (N, D).

    Returns:
        ``descriptors`` N; ``recall`` the share of rows whose nearest word it finds (recall@1);
        ``distortion`` the sum of squared distances to its words over that to the nearest ones.
    """
    exact, nearest = ExactSearcher(centroids).search(rows)
    words, distances = searcher.search(rows)
    # The two round differently; a word as near as the nearest is the nearest.
    same = (words == exact) | (distances <= nearest * (1 + 1e-6))
    total = float(nearest.sum(dtype=np.float64))
    found = float(distances.sum(dtype=np.float64))
    return {
        "descriptors": len(rows),
        "recall": round(float(same.mean()), 5),
        "distortion": round(max(1.0, found / total), 5) if total > 0 else 1.0,
    }
