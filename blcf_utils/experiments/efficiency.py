"""Table t04: what a search costs in memory and time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from blcf_utils.datasets.base import Query
from blcf_utils.experiments.measuring import MODES, elsewhere
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.search.query import region_histogram
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

TOP = 100
TIMED_QUERIES = 100  # at most; a median needs no more


def efficiency_table(study: Study) -> pd.DataFrame:
    """Measure memory, distinct words and seconds per query of GS, LS and R (table t04).

    Dense sum pooling of the same maps stands beside them: one float32 vector per image.
    """
    table_id = "t04_efficiency"
    cells = []
    for name in progress(study.datasets, label="efficiency", unit="dataset"):
        bench = study.open(name)
        digest = bench.config_digest()
        values = {**_memory(bench), **_words(bench), **_seconds(bench)}
        cells += [
            Measurement(row, name, float(value), config_digest=digest)
            for row, value in values.items()
        ]
    why = {**elsewhere(study, table_id), "dataset not stated": "the slides name no dataset"}
    return study.results.table(table_id, cells, not_run=why)


def _memory(bench: Pipeline) -> dict[str, float]:
    """Return megabytes of what each search reads."""
    maps = bench.maps
    positions = maps.shapes[: maps.n_database].prod(axis=1).sum()
    dense = bench.features.channels * 4 * maps.n_database
    return {
        "memory (MB)": bench.index().nbytes / 1e6,
        "memory (MB), assignment maps for re-ranking": positions * 2 / 1e6,
        "memory (MB), sum pooling of the same maps": dense / 1e6,
    }


def _words(bench: Pipeline) -> dict[str, float]:
    """Return the mean number of distinct words of an image and of a query."""
    index, base = bench.index(), bench.searcher().base
    held = {
        mode: [
            len(region_histogram(base.regions(query, mode))[0]) for query in base.dataset.queries
        ]
        for mode in MODES
    }
    return {
        "words/image": index.entries / index.n_images,
        "words/query, GS": np.mean(held["gs"]),
        "words/query, LS": np.mean(held["ls"]),
    }


def _seconds(bench: Pipeline) -> dict[str, float]:
    """Return the median wall time of one query for its first 100 images."""
    searcher, index = bench.searcher(), bench.index()
    base = searcher.base
    queries = base.dataset.queries[:TIMED_QUERIES]
    histograms = {
        mode: {q.id: region_histogram(base.regions(q, mode)) for q in queries} for mode in MODES
    }
    database, pooled = bench.pooled("gs", whiten=False)
    vectors = {q.id: vector for q, vector in zip(queries, pooled, strict=False)}

    def dense(query: Query) -> None:
        scores = database @ vectors[query.id]
        best = np.argpartition(-scores, min(TOP, len(scores) - 1))[:TOP]
        best[np.argsort(-scores[best], kind="stable")]

    first = {query.id: {} for query in queries}
    for query in queries:
        searcher.run("GS", query, done=first[query.id])
    return {
        "query/time (s)": _median(queries, lambda q: index.search(*histograms["gs"][q.id], TOP)),
        "query/time (s), LS": _median(
            queries, lambda q: index.search(*histograms["ls"][q.id], TOP)
        ),
        "query/time (s), sum pooling": _median(queries, dense),
        "re-ranking (s)": _median(
            queries, lambda q: searcher.run("GS + R", q, done=dict(first[q.id]))
        ),
    }


def _median(queries: tuple[Query, ...], answer: Callable[[Query], object], rounds: int = 3):
    """Return the median seconds of ``answer`` over all queries, after one that is not timed."""
    answer(queries[0])  # compiles the kernels
    seconds = []
    for _ in range(rounds):
        for query in queries:
            started = time.perf_counter()
            answer(query)
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
