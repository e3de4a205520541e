"""Whether Milvus ranks as our own index does, on the queries of a dataset or a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
        top: their length.
        different: those that differ by more than images of equal score in another order.
        reordered: those in which images of equal score (within the tolerance) lie in another order.
        largest: the largest difference of two scores of one rank.
        seconds: median time of a query there and here.
    """

    rankings: int
    top: int
    different: tuple[str, ...]
    reordered: int
    largest: float
    seconds: tuple[float, float]

    @property
    def agree(self) -> bool:
        """Whether no ranking differs."""
        return not self.different

    def __str__(self) -> str:
        times = " and ".join(f"{1000 * one:.2g} ms" for one in self.seconds)
        scores = f"scores differ by at most {self.largest:.1e}"
        if self.different:
            said = f"{len(self.different)} rankings differ, first that of {self.different[0]}"
        else:
            said = f"all agree ({self.reordered} with images of equal score in another order)"
        return (
            f"{self.rankings} rankings (GS and LS, the best {self.top}): {said}; {scores}; a query "
            f"took {times}, there and here"
        )


def compare(
    base: SearchBase,
    remote: MilvusIndex,
    queries: int,
    top: int = 100,
    modes: Sequence[str] = ("gs", "ls"),
) -> Comparison:
    """Rank the database for some queries by both indexes.

    Args:
        base: the dataset, its maps and our index.
        remote: the exported one.
        queries: how many, spread over all of them.
        top: length of the rankings.
        modes: global and local search.

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
    different, reordered, largest, there, here = [], 0, 0.0, [], []
    top = min(top, base.index.n_images)
    for i in progress(chosen, label="comparing", unit="query"):
        for mode in modes:
            histogram = region_histogram(base.regions(every[i], mode))
            started = time.perf_counter()
            found = remote.search(*histogram, top)
            between = time.perf_counter()
            own = base.index.search(*histogram, top)
            there.append(between - started)
            here.append(time.perf_counter() - between)
            gap = float(np.abs(found[1] - own[1]).max(initial=0))
            largest = max(largest, gap)
            if gap > TOLERANCE or not _same(found[0], own[0], histogram, base):
                different.append(f"{every[i].id} ({mode.upper()})")
            else:
                reordered += not np.array_equal(found[0], own[0])
    seconds = float(np.median(there)), float(np.median(here))
    return Comparison(len(there), top, tuple(different), reordered, largest, seconds)


def _same(found: np.ndarray, own: np.ndarray, histogram, base: SearchBase) -> bool:
    """Return whether at each rank lies the same image, or one of equal score in our index."""
    if np.array_equal(found, own):
        return True
    if len(set(found.tolist())) != len(found):
        return False
    scores = base.index.scores(*histogram)
    return bool(np.abs(scores[found] - scores[own]).max(initial=0) <= TOLERANCE)
