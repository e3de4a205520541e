"""Table x12: what words that repeat, and words that many images hold, do to a search."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from scipy import sparse

from blcf_utils.experiments.measuring import MODES, scored, timed
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.search.query import Ranking, region_histogram
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study
from blcf_utils.words.histograms import (
    database_histograms,
    inverse_document_frequency,
    scale_words,
)

# Row to whether counts enter by their square root and words by their rarity.
ROWS = {
    "counts": (False, False),
    "square root": (True, False),
    "idf": (False, True),
    "square root and idf": (True, True),
}


def burstiness_table(study: Study) -> pd.DataFrame:
    """Measure global and local search under four weights of a word (table x12).

    A word that an image holds n times weighs n or its square root, which tempers words that repeat
    (Jegou et al., CVPR 2009), times 1 or log(N / N_w), which tempers words that many images hold.
    Query and database alike; histograms are L2-normalised at the end.
    """
    cells = [
        cell
        for name in progress(study.datasets, label="burstiness", unit="dataset")
        for cell in _cells(study.open(name))
    ]
    return study.results.table("x12_burstiness", cells)


def _cells(bench: Pipeline) -> list[Measurement]:
    database = database_histograms(bench.maps)
    idf = inverse_document_frequency(database)
    cells = []
    for mode in MODES:
        queries = _queries(bench, mode)
        for row, (root, rare) in ROWS.items():
            sides = [_weighted(side, root, idf if rare else None) for side in (database, queries)]
            rankings, seconds = timed(partial(_ranked, bench, *sides))
            cells.append(scored(bench, row, f"{bench.name}/{mode}", rankings, seconds, row))
    return cells


def _queries(bench: Pipeline, mode: str) -> sparse.csr_array:
    """Return the histograms of the queries' words, (q, K), of unit length."""
    base = bench.searcher().base
    pairs = [region_histogram(base.regions(query, mode)) for query in bench.dataset.queries]
    words, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
    starts = np.cumsum([0, *(len(distinct) for distinct, _ in pairs)])
    return sparse.csr_array((values, words, starts), shape=(len(pairs), bench.maps.words))


def _weighted(histograms: sparse.csr_array, root: bool, idf: np.ndarray | None) -> sparse.csr_array:
    # The root of normalised counts is that of the counts, but for the length.
    weights = histograms.sqrt() if root else histograms
    ones = np.ones(histograms.shape[1], np.float32)
    return scale_words(weights, ones if idf is None else idf)


def _ranked(
    bench: Pipeline, database: sparse.csr_array, queries: sparse.csr_array
) -> dict[str, Ranking]:
    scores = (queries @ database.T).toarray()
    orders = np.argsort(-scores, axis=1, kind="stable")
    return {
        query.id: Ranking(order, row[order])
        for query, order, row in zip(bench.dataset.queries, orders, scores, strict=True)
    }
