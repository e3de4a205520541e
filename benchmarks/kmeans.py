"""One Lloyd iteration and exact assignment against scikit-learn's and faiss'.

scikit-learn's ``KMeans(max_iter=1)`` also assigns every descriptor to the moved centroids (its
``labels_``), so the iteration is timed alone and with an assignment after it: the second is the
comparison of like with like.

``--streamed N ...`` measures one iteration over N descriptors in a file instead, for each way of
assignment, each in a process of its own: seconds, and the peak memory, which must not grow with N.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from side_by_side import interleave, machine, median, report, speed_ratio
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.words.assignment import METHODS, make_searcher
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.kmeans import CHUNK, DescriptorFile, fit_kmeans, write_descriptors

FULL = 3_000_000  # descriptors that the thesis' codebooks are learned on
# The draw of the first words and, of approximate assignment, each descriptor's word.
BYTES_PER_DESCRIPTOR = 16
ALLOWANCE_MB = 24.0  # how far two runs of the same size lie apart


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
        found["ours"] = fit_kmeans(data, words, 1, start=start)[0]

    def ours_and_labels() -> None:
        centroids, objective = fit_kmeans(data, words, 1, start=start)
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


def write_rows(path: Path, number: int, dimensions: int, clusters: int) -> None:
    """Write ``number`` descriptors around ``clusters`` centres, chunk by chunk."""
    centres = descriptors(clusters, dimensions, clusters)

    def chunks(first: int):
        for start in range(first, number, CHUNK):
            rng = np.random.default_rng([1, start])
            count = min(CHUNK, number - start)
            rows = centres[rng.integers(0, clusters, count)]
            rows += rng.standard_normal(rows.shape, dtype=np.float32) / np.float32(dimensions**0.5)
            yield rows / np.linalg.norm(rows, axis=1, keepdims=True)

    write_descriptors(path, (number, dimensions), chunks)


def one_iteration(path: Path, number: int, options: argparse.Namespace) -> dict:
    """Run one iteration in this process; return seconds and this process' peak memory."""
    few = descriptors(200, options.dimensions, 4)
    fit_kmeans(few, 4, 1)  # compiles what is compiled at the first call
    before = peak_memory_mb()
    data = DescriptorFile(path, (number, options.dimensions))
    drawn = np.sort(np.random.default_rng(1).choice(number, options.words, replace=False))
    start, how = data[drawn], {"assignment": options.method, "effort": options.effort}
    busy = time.process_time()
    make_searcher(start, options.method, options.effort)
    index = time.process_time() - busy
    with tempfile.TemporaryDirectory() as folder:
        # As from the second iteration on, in which the word that a descriptor had is looked at.
        saved = Path(folder) / "state.npz"
        state = {"centroids": start, "objective": [np.inf], "words": np.zeros(number, np.int32)}
        if options.method == "exact":
            del state["words"]
        np.savez(saved, **state)
        started, busy = time.perf_counter(), time.process_time()
        fit_kmeans(data, options.words, 2, saved=saved, **how)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    each = max(busy - index, 1e-9) / number
    cores = usable_cores()
    return {
        "assignment": options.method,
        "descriptors": number,
        "seconds": seconds,
        # Of all threads. What a busy machine gives to others is not in these.
        "core seconds": busy,
        "of which index": index,
        "core us/descriptor": 1e6 * each,
        # Of approximate assignment: what an exact product would need to keep up.
        "GFLOP/s per core": 2e-9 * options.words * options.dimensions / each,
        "before (MB)": before,
        "peak (MB)": peak_memory_mb(),
        f"{FULL:,} on {cores} idle cores (s, extrapolated)": index + each * FULL / cores,
    }


def streamed(options: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Measure every size and method in children; return rows and what is wrong with them."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "rows.f32"
        largest = max(options.streamed)
        write_rows(path, largest, options.dimensions, max(2, options.words // 2))
        for method in options.assignments:
            for number in sorted(options.streamed):
                command = [sys.executable, __file__, "--file", str(path), "--child", str(number)]
                command += ["--method", method, "--effort", str(options.effort)]
                command += ["--words", str(options.words), "--dimensions", str(options.dimensions)]
                output = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ
                ).stdout
                rows.append(json.loads(output.splitlines()[-1]))
    wrong = []
    for method in options.assignments:
        few, *_, many = [r for r in rows if r["assignment"] == method] * 2
        growth = many["peak (MB)"] - few["peak (MB)"]
        more = many["descriptors"] - few["descriptors"]
        if growth > ALLOWANCE_MB + more * BYTES_PER_DESCRIPTOR / 1e6:
            wrong.append(f"the peak of {method} grows by {growth:.0f} MB")
    return rows, wrong


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=2_000, help="K; the thesis used 25,000")
    parser.add_argument("--descriptors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--streamed", type=int, nargs="+", metavar="N", help="descriptors in a file"
    )
    parser.add_argument("--assignments", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--effort", type=int, default=0, help="of approximate assignment")
    parser.add_argument("--file", type=Path, help="where the descriptors are kept between runs")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--method", default="exact", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(one_iteration(options.file, options.child, options)))
        return
    start = machine()
    if options.streamed:
        if min(options.streamed) < options.words:
            parser.error(f"--streamed: {options.words} words need as many descriptors")
        rows, wrong = streamed(options)
        settings = {k: getattr(options, k) for k in ("words", "dimensions", "effort")}
        report("kmeans", rows, not wrong, start, otherwise="; ".join(wrong), **settings)
        return
    data = descriptors(options.descriptors, options.dimensions, max(2, options.words // 2))
    drawn = np.random.default_rng(1).choice(len(data), options.words, replace=False)
    first = data[drawn].copy()
    rows, agree = lloyd_iteration(data, first, options.repeats)
    more, agree_too = assignment(data, first, options.repeats)
    sizes = ("words", "descriptors", "dimensions", "repeats")
    settings = {k: getattr(options, k) for k in sizes}
    settings["torch_threads"] = torch.get_num_threads()
    report("kmeans", rows + more, agree and agree_too, start, **settings)


if __name__ == "__main__":
    main()
