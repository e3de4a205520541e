"""Nearest words: every word looked at, or only some of them (HNSW, inverted lists).

All searchers take (N, D) float32 rows and return their words, (N,) int64, and the squared
distances to them, (N,) float32. The approximate ones give the same words whatever the number of
threads and however the rows are cut into calls, up to rounding.
"""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from blcf_utils.ground.errors import known

# What 0 stands for. Of real descriptors and 25,000 words they find 0.995 and 0.98 of the nearest.
DEFAULT_EFFORT = {"hnsw": 64, "ivf": 16}
METHODS = ("exact", *DEFAULT_EFFORT)
_LINKS, _BUILD_EFFORT = 32, 40
_CELL_ITERATIONS = 10
_SCORES_AT_ONCE = 32_000_000  # float32 values: 128 MB


class Searcher(Protocol):
    """Finds the nearest word of each row."""

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words (N,) int64, squared distances (N,) float32) of rows (N, D) float32."""
        ...


class ExactSearcher:
    """Looks at every word, through faiss' matrix product that never writes all distances."""

    def __init__(self, centroids: np.ndarray):
        self.centroids = np.ascontiguousarray(centroids, np.float32)

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        distances, words = faiss.knn(rows, self.centroids, 1)
        return words[:, 0], distances[:, 0]


class TorchSearcher:
    """Looks at every word, through torch's matrix product, on a GPU or not.

    The nearest centroid c minimises |x - c|^2, that is maximises x.c - |c|^2 / 2. It rounds
    otherwise than faiss, which can move a row that lies between two words.
    """

    def __init__(self, centroids: np.ndarray, device: str):
        self.device = torch.device(device)
        self.centroids = torch.from_numpy(np.ascontiguousarray(centroids)).to(self.device)
        self.bias = -0.5 * (self.centroids * self.centroids).sum(1)

    @torch.inference_mode()
    def search(self, rows: np.ndarray | torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        words = torch.empty(len(rows), dtype=torch.int64, device=self.device)
        distances = torch.empty(len(rows), device=self.device)
        step = max(1, _SCORES_AT_ONCE // len(self.centroids))
        for start in range(0, len(rows), step):
            part = torch.as_tensor(rows[start : start + step], device=self.device)
            best, word = torch.addmm(self.bias, part, self.centroids.T).max(dim=1)
            words[start : start + step] = word
            distances[start : start + step] = ((part * part).sum(1) - 2 * best).clamp_(min=0)
        return words.cpu().numpy(), distances.cpu().numpy()


class HnswSearcher:
    """A navigable small-world graph over the words (Malkov and Yashunin, 2016), by faiss.

    Args:
        centroids: (K, D) float32.
        effort: efSearch, how many candidates a search keeps.
    """

    def __init__(self, centroids: np.ndarray, effort: int):
        self.index = faiss.IndexHNSWFlat(centroids.shape[1], _LINKS)
        self.index.hnsw.efConstruction = _BUILD_EFFORT
        with threadpool_limits(1):  # several threads link in whatever order they come
            self.index.add(np.ascontiguousarray(centroids, np.float32))
        self.index.hnsw.efSearch = effort

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        distances, words = self.index.search(rows, 1)
        return words[:, 0], distances[:, 0]


class IvfSearcher:
    """Words in cells, about the square root of K; a row looks at the words of the nearest cells.

    faiss' inverted lists compare a row at a time with a list. Here all rows that look into a cell
    are compared with its words in one matrix product, which is several times as fast.

    Args:
        centroids: (K, D) float32.
        effort: cells that a row looks into.
        seed: of the cells, which are k-means over the words.
    """

    def __init__(self, centroids: np.ndarray, effort: int, seed: int = 0):
        centroids = np.ascontiguousarray(centroids, np.float32)
        number = max(1, round(len(centroids) ** 0.5))
        kmeans = faiss.Kmeans(
            centroids.shape[1],
            number,
            niter=_CELL_ITERATIONS,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(centroids),
        )
        kmeans.train(centroids)
        of_word, _ = ExactSearcher(kmeans.centroids).search(centroids)
        filled, of_word = np.unique(of_word, return_inverse=True)
        self.order = np.argsort(of_word, kind="stable")
        self.starts = np.searchsorted(of_word[self.order], np.arange(len(filled) + 1))
        self.cells = kmeans.centroids[filled]
        self.centroids = centroids[self.order]
        self.effort = min(effort, len(filled))

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (words, squared distances)."""
        words = np.zeros(len(rows), np.int64)
        nearest = np.full(len(rows), np.inf, np.float32)
        looks = faiss.knn(rows, self.cells, self.effort)[1].ravel()
        by_cell = np.argsort(looks, kind="stable")
        ends = np.searchsorted(looks[by_cell], np.arange(len(self.starts)))
        by_cell //= self.effort
        for cell in np.flatnonzero(np.diff(ends)):
            members = by_cell[ends[cell] : ends[cell + 1]]
            inside = slice(self.starts[cell], self.starts[cell + 1])
            distances, found = faiss.knn(rows[members], self.centroids[inside], 1)
            better = distances[:, 0] < nearest[members]
            members = members[better]
            nearest[members] = distances[better, 0]
            words[members] = self.order[inside][found[better, 0]]
        return words, nearest


def make_searcher(
    centroids: np.ndarray, method: str = "exact", effort: int = 0, device: str = "cpu"
) -> Searcher:
    """Return what finds the nearest of ``centroids`` (K, D).

    Args:
        centroids: (K, D) float32.
        method: ``exact``, ``hnsw`` or ``ivf``; approximate ones run on the CPU.
        effort: efSearch of hnsw, cells looked at of ivf; 0 is the default of ``DEFAULT_EFFORT``.
        device: ``cpu`` (faiss) or ``cuda`` (torch).

    Raises:
        StudyError: an unknown method.
    """
    if method not in METHODS:
        raise known("assignment", method, METHODS)
    if method == "exact":
        return ExactSearcher(centroids) if device == "cpu" else TorchSearcher(centroids, device)
    approximate = HnswSearcher if method == "hnsw" else IvfSearcher
    return approximate(centroids, effort or DEFAULT_EFFORT[method])


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
