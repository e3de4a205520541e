"""Inverted file against products of scipy.sparse matrices: top-k, one query at a time.

Words follow a Zipf-Mandelbrot law, about 200 distinct words an image. A global query has as many
words as an image, a local one those of a box with a sixth of the positions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse
from side_by_side import fastest, interleave, machine, median, report, speed_ratio

from blcf_utils.artefacts import ArtefactStore
from blcf_utils.index import InvertedFile, build_index

POSITIONS = 315  # of a feature map of 340x255 pixels at stride 16
OFFSET, EXPONENT = 3, 1.1  # of the law: rank r has probability ~ 1 / (r + OFFSET) ** EXPONENT
SCIPY = ("q @ X.T", "X.T[words].T @ w", "X @ q")


def bags(number: int, words: int, positions: int, seed: int) -> sparse.csr_array:
    """Return ``number`` L2-normalised histograms of randomly drawn words, (n, K) float32."""
    rng = np.random.default_rng(seed)
    law = np.cumsum(1.0 / (np.arange(words) + OFFSET) ** EXPONENT)
    parts = []
    for start in range(0, number, 10_000):
        n = min(10_000, number - start)
        drawn = np.searchsorted(law, rng.random(n * positions) * law[-1]).clip(max=words - 1)
        images = np.repeat(np.arange(n), positions)
        ones = np.ones(len(drawn), np.float32)
        counts = sparse.coo_array((ones, (images, drawn)), shape=(n, words)).tocsr()
        norms = np.sqrt(np.add.reduceat(counts.data**2, counts.indptr[:-1]))
        counts.data /= np.repeat(norms, np.diff(counts.indptr))
        parts.append(counts)
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def best(scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``top`` highest scores, best first, by partition and sort."""
    kept = np.argpartition(-scores, top)[:top] if top < len(scores) else np.arange(len(scores))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    return order, scores[order]


def searches(index: InvertedFile, histograms: sparse.csr_array, top: int) -> dict:
    """Return the ways to answer a query (words, values): name to function."""
    transposed = sparse.csr_array(histograms.T.tocsr())
    words_total = histograms.shape[1]

    def query_times_matrix(words, values):
        query = sparse.csr_array((values, words, [0, len(words)]), shape=(1, words_total))
        return best((query @ transposed).toarray()[0], top)

    def rows_of_words(words, values):
        return best(transposed[words].T @ values, top)

    def matrix_times_query(words, values):
        query = np.zeros(words_total, np.float32)
        query[words] = values
        return best(histograms @ query, top)

    functions = (query_times_matrix, rows_of_words, matrix_times_query)
    return {
        "inverted file": lambda words, values: index.search(words, values, top),
        **dict(zip(SCIPY, functions, strict=True)),
    }


def answer_all(search, queries) -> None:
    """Answer one query after the other."""
    for words, values in queries:
        search(words, values)


def same_ranking(ours, other, scores: np.ndarray) -> bool:
    """Whether two rankings are equal but for the order within equal scores."""
    by_rank = np.allclose(ours[1], other[1], atol=1e-5)
    return by_rank and np.allclose(scores[ours[0]], ours[1], atol=1e-5)


def compare(number: int, options) -> tuple[list[dict], bool]:
    """Time all searches in a database of ``number`` images."""
    histograms = bags(number, options.words, POSITIONS, seed=0)
    with tempfile.TemporaryDirectory() as store:
        warm = build_index(
            {"first": 10},
            "first",
            ArtefactStore(Path(store)),
            lambda: InvertedFile.from_histograms(histograms[:10]),
        )
        warm.search(np.arange(2), np.ones(2, np.float32), 5)
        started = time.perf_counter()
        index = build_index(
            {"number": number},
            "pictures",
            ArtefactStore(Path(store)),
            lambda: InvertedFile.from_histograms(histograms),
        )
        build_seconds = time.perf_counter() - started
        stored = sum(f.stat().st_size for f in Path(store).glob("index/pictures-*/**/*"))
        rows, agree = [], True
        for mode, positions in (("GS", POSITIONS), ("LS", POSITIONS // 6)):
            drawn = bags(options.queries, options.words, positions, seed=1)
            queries = [
                (row.indices.astype(np.int64), row.data)
                for row in (drawn[[i]] for i in range(drawn.shape[0]))
            ]
            ways = searches(index, histograms, options.top)
            for words, values in queries:
                scores = np.zeros(options.words, np.float32)
                scores[words] = values
                scores = histograms @ scores
                answers = {name: way(words, values) for name, way in ways.items()}
                ours = answers["inverted file"]
                agree &= all(same_ranking(ours, a, scores) for a in answers.values())
            calls = {name: partial(answer_all, way, queries) for name, way in ways.items()}
            seconds = interleave(calls, options.repeats)
            yardstick = fastest(seconds, SCIPY)
            row = {
                "images": number,
                "words/image": histograms.nnz / number,
                "build (s)": build_seconds,
                "index (MB)": stored / 1e6,
                "bytes/posting": stored / index.entries,
                "query": mode,
                "words": drawn.nnz / len(queries),
            }
            row |= {
                f"{name} (ms)": 1e3 * median(times) / len(queries)
                for name, times in seconds.items()
            }
            row["speed / fastest scipy"] = speed_ratio(seconds, "inverted file", yardstick)
            rows.append(row)
    return rows, agree


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=int, nargs="+", default=[5_000, 100_000], metavar="N")
    parser.add_argument("--words", type=int, default=25_000, help="K")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    start = machine()
    rows, agree = [], True
    for number in options.database:
        more, same = compare(number, options)
        rows += more
        agree = agree and same
    report("search", rows, agree, start, **vars(options))


if __name__ == "__main__":
    main()
