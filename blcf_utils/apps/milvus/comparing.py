"""Whether Milvus ranks as our own index does, on the queries of a dataset or a folder."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from blcf_utils.apps.milvus.index import MilvusIndex
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.search.query import SearchBase, region_histogram

# Our index rounds weights that are not counts by less than 2e-6 of a histogram's length.
TOLERANCE = 5e-6


@dataclass(frozen=True)
class Comparison:
    """How the rankings of two indexes compare.

    Attributes:
        rankings: how many were compared.
        different: those that differ by more than images of equal score in another order.
        largest: the largest difference of two scores of one rank.
        seconds: median time of a query there and here.
    """

    rankings: int
    different: tuple[str, ...]
    largest: float
    seconds: tuple[float, float]

    def __str__(self) -> str:
        said = "all agree"
        if self.different:
            said = f"{len(self.different)} rankings differ, first that of {self.different[0]}"
        times = " and ".join(f"{1000 * one:.2g} ms" for one in self.seconds)
        return (
            f"{self.rankings} rankings (GS and LS): {said}; scores differ by at most "
            f"{self.largest:.1e}; a query took {times}, there and here"
        )


def compare(base: SearchBase, remote: MilvusIndex, queries: int, top: int = 100) -> Comparison:
    """Rank the database for some queries by both indexes, globally and locally.

    At each rank must lie the same image, or one of the same score in our index.

    Args:
        base: the dataset, its maps and our index.
        remote: the exported one.
        queries: how many, spread over all of them.
        top: length of the rankings.

    Raises:
        StudyError: there are no queries.
    """
    every = base.dataset.queries
    if not every:
        raise StudyError(
            f"milvus: {base.dataset.name} has no queries to compare with; give the folder a "
            "queries.csv, or leave --check out"
        )
    chosen = np.unique(np.linspace(0, len(every) - 1, min(queries, len(every))).round().astype(int))
    different, gaps, seconds = [], [], []
    for i in progress(chosen, label="comparing", unit="query"):
        for mode in ("gs", "ls"):
            histogram = region_histogram(base.regions(every[i], mode))
            started = time.perf_counter()
            found, values = remote.search(*histogram, min(top, base.index.n_images))
            between = time.perf_counter()
            own, own_values = base.index.search(*histogram, min(top, base.index.n_images))
            seconds.append((between - started, time.perf_counter() - between))
            gaps.append(float(np.abs(values - own_values).max(initial=0)))
            scores = base.index.scores(*histogram)
            same = np.abs(scores[found] - scores[own]).max(initial=0) <= TOLERANCE
            if gaps[-1] > TOLERANCE or not same or len(set(found.tolist())) < len(found):
                different.append(f"{every[i].id} ({mode.upper()})")
    there, here = np.median(seconds, axis=0).tolist()
    return Comparison(len(seconds), tuple(different), max(gaps), (there, here))
