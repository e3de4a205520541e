"""One Lloyd iteration and exact assignment against scikit-learn's and faiss'.

scikit-learn's ``KMeans(max_iter=1)`` also assigns every descriptor to the moved centroids (its
``labels_``), so the iteration is timed alone and with an assignment after it: the second is the
comparison of like with like.
"""

from __future__ import annotations

import argparse

import faiss
import numpy as np
import torch
from side_by_side import interleave, machine, median, report, speed_ratio
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from blcf_utils.codebook import Codebook
from blcf_utils.kmeans import KMeansState, fit_kmeans


def descriptors(number: int, dimensions: int, clusters: int, seed: int = 0) -> np.ndarray:
    """Return ``number`` unit vectors around ``clusters`` centres: (N, D) float32."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dimensions), dtype=np.float32)
    rows = centres[rng.integers(0, clusters, number)]
    rows += rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def lloyd_iteration(data: np.ndarray, start: np.ndarray, repeats: int) -> tuple[list, bool]:
    """Compare one iteration from the same centroids; return table rows and agreement."""
    words = len(start)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = fit_kmeans(data, words, 1, state=KMeansState(start))[0]

    def ours_and_labels() -> None:
        centroids, objective = fit_kmeans(data, words, 1, state=KMeansState(start))
        Codebook(centroids, objective, len(data)).assign(data)

    def sklearn() -> None:
        kmeans = KMeans(words, init=start, n_init=1, max_iter=1, algorithm="lloyd")
        found["sklearn"] = kmeans.fit(data).cluster_centers_

    candidates = {"fit_kmeans": ours, "fit_kmeans + labels": ours_and_labels, "sklearn": sklearn}
    seconds = interleave(candidates, repeats)
    rows = [
        {
            "what": "Lloyd iteration",
            "candidate": name,
            "seconds": median(times),
            "speed / sklearn": speed_ratio(seconds, name, "sklearn"),
        }
        for name, times in seconds.items()
    ]
    # A near tie may fall either way in float32; it moves two centroids by one member's share.
    error = np.abs(found["ours"] - found["sklearn"]).max(axis=1)
    return rows, bool(np.quantile(error, 0.99) < 1e-4)


def assignment(data: np.ndarray, centroids: np.ndarray, repeats: int) -> tuple[list, bool]:
    """Compare exact nearest-centroid search; return table rows and agreement."""
    codebook = Codebook(centroids, np.zeros(0), 0)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = codebook.assign(data)

    def sklearn() -> None:
        found["sklearn"] = pairwise_distances_argmin(data, centroids)

    def flat() -> None:
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(centroids)
        found["faiss"] = index.search(data, 1)[1][:, 0]

    candidates = {"Codebook.assign": ours, "sklearn": sklearn, "faiss IndexFlatL2": flat}
    seconds = interleave(candidates, repeats)
    rows = [
        {
            "what": "assignment",
            "candidate": name,
            "seconds": median(times),
            "speed / sklearn": speed_ratio(seconds, name, "sklearn"),
        }
        for name, times in seconds.items()
    ]
    return rows, same_distances(data, centroids, found)


def same_distances(data, centroids, found: dict[str, np.ndarray]) -> bool:
    """Whether all found words are equally near, up to float32 rounding; ties may differ."""
    chosen = {
        name: ((data - centroids[words]) ** 2).sum(axis=1, dtype=np.float64)
        for name, words in found.items()
    }
    nearest = np.minimum.reduce(list(chosen.values()))
    return all(np.allclose(distances, nearest, atol=1e-5) for distances in chosen.values())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=2_000, help="K; the thesis used 25,000")
    parser.add_argument("--descriptors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    start = machine()
    data = descriptors(options.descriptors, options.dimensions, max(2, options.words // 2))
    drawn = np.random.default_rng(1).choice(len(data), options.words, replace=False)
    first = data[drawn].copy()
    rows, agree = lloyd_iteration(data, first, options.repeats)
    more, agree_too = assignment(data, first, options.repeats)
    settings = {**vars(options), "torch_threads": torch.get_num_threads()}
    report("kmeans", rows + more, agree and agree_too, start, **settings)


if __name__ == "__main__":
    main()
