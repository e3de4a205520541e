"""What search costs and finds in databases of growing size: real photographs, then drawn bags."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.experiments.drawn.bags import first_rows, synthetic_database
from blcf_utils.experiments.drawn.law import bag_counts, holders, measure_law
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.results.evaluation import average_precision_of_ranks
from blcf_utils.search.boxes import Mode
from blcf_utils.search.index.inverted_file import InvertedFile, invert
from blcf_utils.search.query import region_histogram
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.words.histograms import Sparse, database_histograms

TOP = 100
TIMED_QUERIES, ROUNDS = 30, 3
MODES: tuple[Mode, ...] = ("gs", "ls")
# What stands around the images that queries look for.
MIXED, DRAWN, PHOTOGRAPHS = "photographs, then synthetic", "synthetic", "photographs"


@dataclass(frozen=True)
class Sized:
    """What was measured in a database of one size.

    Attributes:
        images: how many it holds.
        real: how many of them are photographs.
        entries: pairs of an image and a word it holds.
        bytes: of the inverted file.
        build_seconds: processor time from histograms to inverted file.
        milliseconds: mode to the median processor time of a query's first 100 images.
        touched: mode to the mean number of entries that belong to a query's words.
        aps: mode to query id to average precision.
        seconds: mode to the time of ranking the whole database for every query.
    """

    images: int
    real: int
    entries: int
    bytes: int
    build_seconds: float
    milliseconds: dict[Mode, float]
    touched: dict[Mode, float]
    aps: dict[Mode, dict[str, float]]
    seconds: dict[Mode, float]

    def map(self, mode: Mode) -> float:
        """Return the mean average precision."""
        return float(np.mean(list(self.aps[mode].values())))


class SizedDatabase:
    """A dataset whose database grows: the images that queries look for, and others around them.

    Attributes:
        dataset: its queries and protocol.
        law: what the drawn images follow, measured on the dataset's own.
        order: (K,) word of each rank, the word that most images hold first.
        wanted: numbers of the images that are positive, junk or a query's own; in every database.
        others: numbers of the other photographs, in the order in which they join.
        queries: mode to query id to histogram.
    """

    def __init__(self, bench: Pipeline):
        self.dataset = bench.dataset
        if self.dataset.units is not None:
            raise StudyError(
                f"scaling: {bench.name} ranks shots, and a drawn image belongs to none; take a "
                "dataset whose images are its units"
            )
        maps = bench.maps
        counts = bag_counts(maps)
        self.law = measure_law(counts, bench.name)
        self.order = np.argsort(-holders(counts), kind="stable").astype(np.int32)
        self.idf, self.seed = bench.profile.encoding.idf, bench.profile.seed
        self.photographs = database_histograms(maps)
        self.wanted, self.others = _wanted(self.dataset, self.seed)
        base = bench.searcher().base
        self.queries: dict[Mode, dict[str, Sparse]] = {
            mode: {q.id: region_histogram(base.regions(q, mode)) for q in self.dataset.queries}
            for mode in MODES
        }

    def sizes(self, largest: int, smallest: int = 1_000, each_decade: int = 2) -> list[int]:
        """Return sizes up to ``largest``, evenly spread on a logarithmic scale.

        The number of the dataset's own photographs is among them.

        Raises:
            StudyError: ``largest`` images cannot hold those that queries look for.
        """
        if largest < len(self.wanted):
            raise StudyError(
                f"scaling: {largest} images cannot hold the {len(self.wanted)} that queries look "
                f"for; take sizes from {len(self.wanted)} on"
            )
        first = min(largest, max(smallest, len(self.wanted)))
        steps = max(1, round(each_decade * np.log10(largest / first)))
        # Two digits, as sizes stand in a table.
        spread = [int(float(f"{n:.1e}")) for n in np.geomspace(first, largest, steps + 1)[1:-1]]
        own = min(largest, self.photographs.shape[0])
        return sorted({first, *spread, own, largest})

    def measure(self, sizes: Sequence[int], around: str = MIXED) -> list[Sized]:
        """Build, time and score a database of each size; they share what the largest holds.

        Args:
            sizes: numbers of images, each at least that of the wanted ones.
            around: ``MIXED``, ``DRAWN`` or, up to the dataset's own number, ``PHOTOGRAPHS``.
        """
        others = [] if around == DRAWN else [self.others]
        real = np.concatenate([self.wanted, *others])
        whole = synthetic_database(
            self.law, max(sizes), seed=self.seed, order=self.order, before=self.photographs[real]
        )
        return [
            self._measured(first_rows(whole, number), min(number, len(real)))
            for number in progress(sorted(sizes), label="databases", unit="size")
        ]

    def _measured(self, histograms: sparse.csr_array, real: int) -> Sized:
        build = partial(invert, histograms, self.idf)
        index, build_seconds = build(), _least_seconds([build])[0]
        milliseconds, touched, aps, seconds = {}, {}, {}, {}
        for mode in MODES:
            asked = list(self.queries[mode].values())[:TIMED_QUERIES]
            answers = [partial(index.search, *query, TOP) for query in asked]
            answers[0]()  # untimed
            milliseconds[mode] = 1e3 * float(np.median(_least_seconds(answers)))
            touched[mode] = float(np.mean([index.touched(words) for words, _ in asked]))
            started = time.perf_counter()
            aps[mode] = {
                query.id: self._average_precision(index, query, mode)
                for query in progress(self.dataset.queries, label=f"queries, {mode}", unit="query")
            }
            seconds[mode] = time.perf_counter() - started
        return Sized(
            histograms.shape[0],
            real,
            index.entries,
            index.nbytes,
            float(build_seconds),
            milliseconds,
            touched,
            aps,
            seconds,
        )

    def _average_precision(self, index: InvertedFile, query: Query, mode: Mode) -> float:
        scores = index.scores(*self.queries[mode][query.id])
        # The wanted images come first in every database, in the order of their numbers.
        junk, positives = (
            np.sort(ranks_of(scores, np.searchsorted(self.wanted, sorted(images))))
            for images in (set(query.junk), set(query.positives) - set(query.junk))
        )
        kept = positives - np.searchsorted(junk, positives)
        return average_precision_of_ranks(kept, len(query.positives), self.dataset.protocol.ap)


def ranks_of(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the ranks (from 0) of some images in the ranking of all.

    Equal scores are ranked by image number, as the inverted file ranks them. Sorting a million
    scores would take longer than counting those above a few.

    Args:
        scores: (n,) of every image.
        wanted: (m,) numbers of a few of them.
    """
    ranks = [
        np.count_nonzero(scores > scores[image]) + np.count_nonzero(scores[:image] == scores[image])
        for image in wanted
    ]
    return np.array(ranks, np.int64)


def _least_seconds(calls: Sequence[Callable[[], object]]) -> np.ndarray:
    """Return the least processor seconds of each call in three rounds.

    Processor time does not count the time that other programs take; but they still slow a call
    down, never speed it up, therefore the least.
    """
    least = np.full(len(calls), np.inf)
    for _ in range(ROUNDS):
        for k, call in enumerate(calls):
            started = time.process_time()
            call()
            least[k] = min(least[k], time.process_time() - started)
    return least


def _wanted(dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the images that queries look for or are, and of the others, mixed."""
    wanted: set[int] = set()
    for query in dataset.queries:
        wanted.update(query.positives, query.junk)
        image = dataset.image_index[query.image]
        wanted.update([image] if image < len(dataset.images) else ())
    others = np.setdiff1d(np.arange(len(dataset.images)), list(wanted))
    return np.array(sorted(wanted)), np.random.default_rng(seed).permutation(others)
