"""Databases of drawn bags that follow the law of real photographs, up to a million images.

Queries are drawn from the same law: a global one is the bag of an image, a local one a third of its
words. Answers are compared with those of a scipy.sparse product, which is timed beside them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
from side_by_side import interleave, machine, median, report, speed_ratio

from blcf_utils.experiments.drawn.bags import first_rows, synthetic_database
from blcf_utils.experiments.drawn.law import BagLaw, photographs_law
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.search.index.inverted_file import InvertedFile

TOP = 100


def queries(law: BagLaw, mode: str, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return queries as (words, weights), drawn with another seed than the database."""
    rows = synthetic_database(law, number, seed=1)
    rng, found = np.random.default_rng(2), []
    for start, end in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        words, weights = rows.indices[start:end].astype(np.int64), rows.data[start:end]
        if mode == "LS":
            kept = np.sort(rng.permutation(len(words))[: max(1, len(words) // 3)])
            words, weights = words[kept], weights[kept] / np.linalg.norm(weights[kept])
        found.append((words, weights))
    return found


def product(histograms, words, weights) -> np.ndarray:
    """Return the scores of all images by a product with the whole matrix."""
    query = np.zeros(histograms.shape[1], np.float32)
    query[words] = weights
    return histograms @ query


def best(histograms, words, weights) -> np.ndarray:
    """Return the highest scores, best first, by a product and a partition."""
    scores = product(histograms, words, weights)
    top = min(TOP, len(scores))
    return -np.sort(np.partition(-scores, top - 1)[:top])


def answer_all(search, asked) -> None:
    """Answer one query after the other."""
    for words, weights in asked:
        search(words, weights)


def measure(histograms, law: BagLaw, options) -> tuple[list[dict], bool]:
    """Build and time one database."""
    seconds = interleave(
        {"build": partial(InvertedFile.from_histograms, histograms)}, options.builds
    )
    index = InvertedFile.from_histograms(histograms)
    rows, agree = [], True
    for mode in ("GS", "LS"):
        asked = queries(law, mode, options.queries)
        for words, weights in asked:
            images, scores = index.search(words, weights, TOP)
            expected = product(histograms, words, weights)
            agree &= np.allclose(expected[images], scores, atol=1e-5)
            agree &= np.allclose(best(histograms, words, weights), scores, atol=1e-5)
        ways = {
            "inverted file": lambda w, v: index.search(w, v, TOP),
            "X @ q": partial(best, histograms),
        }
        times = interleave(
            {name: partial(answer_all, way, asked) for name, way in ways.items()}, options.repeats
        )
        rows.append(
            {
                "images": index.n_images,
                "query": mode,
                "words": float(np.mean([len(words) for words, _ in asked])),
                "postings": float(np.mean([index.touched(words) for words, _ in asked])),
                "index (MB)": index.nbytes / 1e6,
                "bytes/posting": index.nbytes / index.entries,
                "build (s)": median(seconds["build"]),
                **{f"{name} (ms)": 1e3 * median(t) / len(asked) for name, t in times.items()},
                "speed / X @ q": speed_ratio(times, "inverted file", "X @ q"),
                "peak (MB)": peak_memory_mb(),
            }
        )
    return rows, bool(agree)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--database", type=int, nargs="+", default=[1_000, 10_000, 100_000], metavar="N"
    )
    parser.add_argument(
        "--mean", type=float, help="distinct words of an image, instead of the law's"
    )
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--builds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    start = machine()
    law = photographs_law()
    if options.mean:
        law = replace(law, mean=options.mean)
    whole = synthetic_database(law, max(options.database))
    rows, agree = [], True
    for number in sorted(options.database):
        more, same = measure(first_rows(whole, number), law, options)
        rows += more
        agree = agree and same
    report("scaling", rows, agree, start, **{**vars(options), "law": law.source})


if __name__ == "__main__":
    main()
