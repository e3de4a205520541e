"""Inverted file against products of scipy.sparse matrices: top-k, one query at a time.

Words follow a Zipf-Mandelbrot law, about 200 distinct words an image. A global query has as many
words as an image, a local one those of a box with a sixth of the positions. Of a million images
(``--database 1000000``) histograms are drawn and indexed chunk by chunk, and scipy holds them as
ten matrices (3.5 GB with all else). Of its products, ``X @ q``, the slowest, is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse
from side_by_side import fastest, interleave, machine, median, report, speed_ratio

from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.search.index.inverted_file import InvertedFile, build_index

POSITIONS = 315  # of a feature map of 340x255 pixels at stride 16
OFFSET, EXPONENT = 3, 1.1  # of the law: rank r has probability ~ 1 / (r + OFFSET) ** EXPONENT
PART = 100_000  # images of a scipy matrix: of more, one alone takes gigabytes
# How far scores may be from scipy's, by what the index holds.
WITHIN = {"counts": 1e-5, "exact": 1e-5, "uint8": 2e-3}
OURS, SCIPY = "inverted file", ("q @ X.T", "X.T[words].T @ w")


def chunks(number: int, words: int, positions: int, seed: int) -> Iterator[sparse.csr_array]:
    """Give ``number`` L2-normalised histograms of randomly drawn words, 10,000 at a time."""
    rng = np.random.default_rng(seed)
    law = np.cumsum(1.0 / (np.arange(words) + OFFSET) ** EXPONENT)
    for start in range(0, number, 10_000):
        n = min(10_000, number - start)
        drawn = np.searchsorted(law, rng.random(n * positions) * law[-1]).clip(max=words - 1)
        images = np.repeat(np.arange(n), positions)
        ones = np.ones(len(drawn), np.float32)
        counts = sparse.coo_array((ones, (images, drawn)), shape=(n, words)).tocsr()
        yield normalised(counts)


def bags(number: int, words: int, positions: int, seed: int) -> sparse.csr_array:
    """Return all the histograms of :func:`chunks` in one matrix, (n, K) float32."""
    parts = list(chunks(number, words, positions, seed))
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def normalised(histograms: sparse.csr_array) -> sparse.csr_array:
    """Bring histograms that all hold something to unit length, in place."""
    norms = np.sqrt(np.add.reduceat(histograms.data**2, histograms.indptr[:-1]))
    histograms.data /= np.repeat(norms, np.diff(histograms.indptr))
    return histograms


def database(number: int, words: int, weighted: bool) -> Iterator[sparse.csr_array]:
    """Give the database's histograms; ``weighted`` as by saliency, no longer counts."""
    rng = np.random.default_rng(2)
    for chunk in chunks(number, words, POSITIONS, seed=0):
        if weighted:
            chunk.data *= rng.uniform(0.1, 1, chunk.nnz).astype(np.float32)
            normalised(chunk)
        yield chunk


def reset_peak_mb() -> int:
    """Let Linux forget this process' peak memory; return what is its peak then, in MiB."""
    with contextlib.suppress(OSError):  # a system that cannot: the peak since the start counts
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory_mb()


class Stopwatch:
    """Passes on what an iterator gives and adds up how long it took to make that."""

    def __init__(self, inner: Iterator):
        self.inner, self.seconds = inner, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        started = time.perf_counter()
        try:
            return next(self.inner)
        finally:
            self.seconds += time.perf_counter() - started


def best(scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``top`` highest scores, best first, by partition and sort."""
    kept = np.argpartition(-scores, top)[:top] if top < len(scores) else np.arange(len(scores))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    return order, scores[order]


def transposed_parts(histograms: Iterator[sparse.csr_array]) -> list[sparse.csr_array]:
    """Return the transposed histograms, (K, n) in all, as matrices of up to ``PART`` images."""
    parts, waiting = [], []
    for chunk in histograms:
        waiting.append(chunk)
        if sum(one.shape[0] for one in waiting) >= PART:
            parts.append(sparse.csr_array(sparse.vstack(waiting, format="csr").T.tocsr()))
            waiting = []
    if waiting:
        parts.append(sparse.csr_array(sparse.vstack(waiting, format="csr").T.tocsr()))
    return parts


def answer_all(search, queries, seconds: list[tuple[float, float]]) -> None:
    """Answer one query after the other, noting how long each took: wall and processor time."""
    for words, values in queries:
        started, busy = time.perf_counter(), time.process_time()
        search(words, values)
        busy = time.process_time() - busy
        seconds.append((time.perf_counter() - started, busy))


def same_ranking(ours, other, scores: np.ndarray, within: float = 1e-5) -> bool:
    """Whether two rankings are equal but for the order within equal scores."""
    by_rank = np.allclose(ours[1], other[1], atol=within)
    return by_rank and np.allclose(scores[ours[0]], ours[1], atol=within)


def compare(number: int, weights: str, options) -> tuple[list[dict], bool]:
    """Time all searches in a database of ``number`` images, ``weights`` as of the options."""
    weighted, kept = weights != "counts", "uint8" if weights == "uint8" else "exact"
    with tempfile.TemporaryDirectory() as folder:
        store = ArtefactStore(Path(folder))

        def indexed(label: str, histograms: Iterator[sparse.csr_array]) -> InvertedFile:
            def build() -> InvertedFile:
                return InvertedFile.from_chunks(histograms, options.words, weights=kept)

            return build_index({"label": label}, label, store, build)

        warm = indexed("first", database(10, options.words, weighted))
        warm.search(np.arange(2), np.ones(2, np.float32), 5)
        before = reset_peak_mb()
        histograms, started = Stopwatch(database(number, options.words, weighted)), time.time()
        index = indexed("pictures", histograms)
        peak = peak_memory_mb()
        build_seconds = time.time() - started - histograms.seconds
        stored = sum(f.stat().st_size for f in Path(folder).glob("index/pictures-*/**/*"))
        parts = transposed_parts(database(number, options.words, weighted))

        def query_times_matrix(words: np.ndarray, values: np.ndarray):
            query = sparse.csr_array((values, words, [0, len(words)]), (1, options.words))
            return best(np.hstack([(query @ part).toarray()[0] for part in parts]), options.top)

        def rows_of_words(words: np.ndarray, values: np.ndarray):
            return best(np.hstack([part[words].T @ values for part in parts]), options.top)

        products = dict(zip(SCIPY, (query_times_matrix, rows_of_words), strict=True))
        ways = {OURS: partial(index.search, top=options.top), **products}
        rows, agree = [], True
        for mode, positions in (("GS", POSITIONS), ("LS", POSITIONS // 6)):
            drawn = bags(options.queries, options.words, positions, seed=1)
            queries = [
                (row.indices.astype(np.int64), row.data)
                for row in (drawn[[i]] for i in range(drawn.shape[0]))
            ]
            for words, values in queries:
                ours, scores = ways[OURS](words, values), index.scores(words, values)
                for product in products.values():
                    agree &= same_ranking(ours, product(words, values), scores, WITHIN[weights])
                whole = index.search(words, values)
                agree &= all((a == b[: len(a)]).all() for a, b in zip(ours, whole, strict=True))
            each = {name: [] for name in ways}
            calls = {n: partial(answer_all, way, queries, each[n]) for n, way in ways.items()}
            seconds = interleave(calls, options.repeats)
            timed = np.array(each[OURS][len(queries) :]) * 1e3  # without the first turn
            row = {
                "images": number,
                "weights": weights,
                "words/image": index.entries / number,
                "build (s)": build_seconds,
                "peak (MB)": (peak - before) * 2**20 / 1e6,
                "index (MB)": stored / 1e6,
                "bytes/posting": stored / index.entries,
                "query": mode,
                "words": drawn.nnz / len(queries),
                "p50 (ms)": float(np.percentile(timed[:, 0], 50)),
                "p95 (ms)": float(np.percentile(timed[:, 0], 95)),
                "p50 of the processor (ms)": float(np.percentile(timed[:, 1], 50)),
            }
            row |= {f"{name} (ms)": 1e3 * median(seconds[name]) / len(queries) for name in ways}
            row["speed / fastest scipy"] = speed_ratio(seconds, OURS, fastest(seconds, SCIPY))
            rows.append(row)
    return rows, agree


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=int, nargs="+", default=[5_000, 100_000], metavar="N")
    parser.add_argument(
        "--weights",
        nargs="+",
        choices=list(WITHIN),
        default=["counts"],
        help="histograms of counts, or weighted ones kept exactly or in one byte a level",
    )
    parser.add_argument("--words", type=int, default=25_000, help="K")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    start = machine()
    rows, agree = [], True
    for number in options.database:
        for weights in options.weights:
            more, same = compare(number, weights, options)
            rows += more
            agree = agree and same
    report("search", rows, agree, start, **vars(options))


if __name__ == "__main__":
    main()
