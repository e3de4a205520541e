"""Global and local search: from a boxed query to a ranking of the database.

Global search (GS) uses every word of the query image. Local search (LS) uses the words inside the
box; the box is cropped on the assignment map, after the whole image went through the network, so
the words near its border have seen their surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blcf_utils.bow import AssignmentMaps, sparse_histogram
from blcf_utils.boxes import Mode, Projection, query_cells
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.index import InvertedFile
from blcf_utils.progress import progress


@dataclass(frozen=True)
class Ranking:
    """Images best first, with their scores."""

    images: np.ndarray
    scores: np.ndarray


def query_histogram(
    dataset: Dataset, query: Query, maps: AssignmentMaps, mode: Mode, how: Projection = "edges"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query's words and their unit-length weights, (m,) each."""
    i = dataset.image_index[query.image]
    words = maps.map(i)
    cells = query_cells(query, maps.sizes[i], words.shape, mode, how)
    return sparse_histogram(words[cells])


def search_all(
    dataset: Dataset,
    maps: AssignmentMaps,
    index: InvertedFile,
    mode: Mode,
    how: Projection = "edges",
    top: int | None = None,
) -> dict[str, Ranking]:
    """Rank the database for every query of ``dataset``.

    Args:
        dataset: queries.
        maps: assignment maps of its images.
        index: inverted file of its database.
        mode: ``gs`` or ``ls``.
        how: projection of the box to cells.
        top: length of the rankings; the whole database when None.

    Returns:
        Query id to ranking.
    """
    rankings = {}
    for query in progress(dataset.queries, label=f"search {mode}", unit="query"):
        words, values = query_histogram(dataset, query, maps, mode, how)
        rankings[query.id] = Ranking(*index.search(words, values, top))
    return rankings


def dense_rankings(dataset: Dataset, database: np.ndarray, queries: np.ndarray):
    """Rank by cosine of dense unit vectors: database (n, D), queries (q, D) in query order."""
    scores = queries @ database.T
    orders = np.argsort(-scores, axis=1, kind="stable")
    return {
        query.id: Ranking(order, row[order])
        for query, order, row in zip(dataset.queries, orders, scores, strict=True)
    }
