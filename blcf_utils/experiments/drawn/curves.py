"""What search costs and finds in databases of growing size: real photographs, then drawn bags."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from blcf_utils.datasets.base import Dataset
from blcf_utils.experiments.drawn.bags import first_rows, synthetic_database
from blcf_utils.experiments.drawn.law import BagLaw, bag_counts, by_frequency, measure_law
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.progress import progress
from blcf_utils.results.evaluation import average_precision_of_ranks
from blcf_utils.search.boxes import Mode
from blcf_utils.search.index.inverted_file import InvertedFile, invert
from blcf_utils.search.query import region_histogram
from blcf_utils.study.study import Study
from blcf_utils.words.histograms import Sparse, database_histograms

TOP = 100
TIMED_QUERIES, ROUNDS = 30, 3
_LONG = 1.0  # seconds of a build that is not repeated
MODES: tuple[Mode, ...] = ("gs", "ls")
# What stands around the images that queries look for.
Around = Literal["photographs, then synthetic", "synthetic", "photographs"]


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
        law: what the drawn images follow.
        order: (K,) word of each rank.
        wanted: numbers of the images that are positive, junk or a query's own; in every database.
        others: numbers of the other photographs, in the order in which they join.
        queries: mode to query id to histogram.
    """

    def __init__(self, study: Study, name: str, law: BagLaw | None = None):
        self.dataset = study.dataset(name)
        if self.dataset.units is not None:
            raise StudyError(
                f"scaling: {name} ranks shots, and a drawn image belongs to none; take a dataset "
                "whose images are its units"
            )
        maps = study.maps(name)
        counts = bag_counts(maps)
        self.law, self.order = law or measure_law(counts, name), by_frequency(counts)
        if self.law.words != maps.words:
            raise StudyError(
                f"scaling: the law has {self.law.words} words and {name} {maps.words}; measure "
                "the law with the same codebook"
            )
        self.idf, self.seed = study.profile.encoding.idf, study.profile.seed
        self.photographs = database_histograms(maps)
        self.wanted, self.others = _wanted(self.dataset, self.seed)
        base = study.searcher(name).base
        self.queries: dict[Mode, dict[str, Sparse]] = {
            mode: {q.id: region_histogram(base.regions(q, mode)) for q in self.dataset.queries}
            for mode in MODES
        }
        self._drawn: dict[bool, tuple[np.ndarray, sparse.csr_array]] = {}

    def histograms(self, number: int, around: Around) -> tuple[np.ndarray, sparse.csr_array]:
        """Return the images' numbers (drawn ones: -1) and histograms of a database of one size."""
        if around not in ("photographs, then synthetic", "synthetic", "photographs"):
            raise known("surroundings", around, Around.__args__)
        real = self.wanted
        if around != "synthetic":
            real = np.concatenate([self.wanted, self.others])
        if not len(self.wanted) <= number:
            raise StudyError(
                f"scaling: {number} images cannot hold the {len(self.wanted)} that queries look "
                f"for; take sizes from {len(self.wanted)} on"
            )
        if around == "photographs" and number > len(real):
            raise StudyError(f"scaling: there are {len(real)} photographs, {number} are asked for")
        numbers, whole = self._largest(number, real, around == "synthetic")
        return numbers[:number], first_rows(whole, number)

    def _largest(self, number: int, real: np.ndarray, only: bool):
        """Return at least ``number`` images; what was drawn for a larger size is kept."""
        if only not in self._drawn or len(self._drawn[only][0]) < number:
            self._drawn.pop(only, None)  # freed before the larger one is made
            photographs = self.photographs[real]
            photographs.sort_indices()
            whole = synthetic_database(
                self.law, number, seed=self.seed, order=self.order, before=photographs
            )
            numbers = np.full(max(number, len(real)), -1)
            numbers[: len(real)] = real
            self._drawn[only] = numbers[:number], whole
        return self._drawn[only]

    def sizes(self, largest: int, smallest: int = 1_000, each_decade: int = 2) -> list[int]:
        """Return sizes up to ``largest``, evenly spread on a logarithmic scale.

        The number of the dataset's own photographs is among them, and sizes that do not hold
        what queries look for are not.
        """
        first = max(smallest, len(self.wanted))
        steps = max(1, round(each_decade * np.log10(max(largest / first, 1))))
        spread = {round_size(size) for size in np.geomspace(first, largest, steps + 1)[1:-1]}
        own = {n for n in (self.photographs.shape[0],) if n <= largest}
        sizes = sorted(spread | own | {first, largest})
        return [size for size in sizes if len(self.wanted) <= size <= largest]

    def measure(
        self,
        sizes: Sequence[int],
        around: Around = "photographs, then synthetic",
        score: bool = True,
    ) -> list[Sized]:
        """Build, time and score a database of each size; the largest is made first and shared."""
        if not sizes:
            return []
        self.histograms(max(sizes), around)
        found = []
        for number in progress(sorted(sizes), label="databases", unit="size"):
            found.append(self._measured(*self.histograms(number, around), score))
        return found

    def release(self) -> None:
        """Forget the drawn images: a million of them take more than a gigabyte."""
        self._drawn.clear()

    def _measured(self, numbers: np.ndarray, histograms: sparse.csr_array, score: bool) -> Sized:
        index, built = self._built(histograms)
        milliseconds, touched, aps, seconds = {}, {}, {}, {}
        for mode in MODES:
            asked = list(self.queries[mode].values())[:TIMED_QUERIES]
            milliseconds[mode] = median_query_ms([lambda q=q: index.search(*q, TOP) for q in asked])
            touched[mode] = float(np.mean([index.touched(words) for words, _ in asked]))
            if score:
                started = time.perf_counter()
                aps[mode] = self._scored(index, numbers, mode)
                seconds[mode] = time.perf_counter() - started
        return Sized(
            len(numbers),
            int((numbers >= 0).sum()),
            index.entries,
            index.nbytes,
            built,
            milliseconds,
            touched,
            aps,
            seconds,
        )

    def _built(self, histograms: sparse.csr_array) -> tuple[InvertedFile, float]:
        """Return the inverted file and the least seconds of building it; long builds run once."""
        least, left = np.inf, ROUNDS
        while left:
            started = time.process_time()
            index = invert(histograms, self.idf)
            least = min(least, time.process_time() - started)
            left = left - 1 if least < _LONG else 0
        return index, least

    def _scored(self, index: InvertedFile, numbers: np.ndarray, mode: Mode) -> dict[str, float]:
        """Return the average precision of every query in the whole database."""
        aps, ap = {}, self.dataset.protocol.ap
        place = np.full(len(self.dataset.images), -1)
        place[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
        for query in progress(self.dataset.queries, label=f"queries, {mode}", unit="query"):
            asked = np.unique([*query.positives, *query.junk])
            # Not the whole ranking: sorting a million scores takes longer than finding them.
            ranks = ranks_of(index.scores(*self.queries[mode][query.id]), place[asked])
            junk = np.isin(asked, query.junk)
            passed = np.searchsorted(np.sort(ranks[junk]), ranks[~junk])
            kept = np.sort(ranks[~junk] - passed)
            aps[query.id] = average_precision_of_ranks(kept, len(query.positives), ap)
        return aps


def ranks_of(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the ranks (from 0) of some images in the ranking of all, without sorting them all.

    Equal scores are ranked by image number, as the inverted file ranks them.

    Args:
        scores: (n,) of every image.
        wanted: (m,) numbers of a few of them.
    """
    edges, edge_of = np.unique(-scores[wanted], return_inverse=True)
    passed = np.searchsorted(edges, -scores, side="right")
    before = np.cumsum(np.bincount(passed, minlength=len(edges) + 1))[: len(edges)]
    equal = [np.flatnonzero(scores == -edge) for edge in edges]
    among = [np.searchsorted(equal[k], image) for k, image in zip(edge_of, wanted, strict=True)]
    return before[edge_of] + np.array(among, np.int64)


def median_query_ms(answers: Sequence[Callable[[], object]]) -> float:
    """Return the median milliseconds of a query: of each the least of three, after one untimed.

    Processor time, which is what a clock says where one core answers and nothing else runs; what
    else does run only ever adds, therefore the least.
    """
    answers[0]()
    least = np.full(len(answers), np.inf)
    for _ in range(ROUNDS):
        for k, answer in enumerate(answers):
            started = time.process_time()
            answer()
            least[k] = min(least[k], time.process_time() - started)
    return 1e3 * float(np.median(least))


def round_size(size: float) -> int:
    """Return a size rounded to two digits, as it stands in a table."""
    return int(float(f"{size:.1e}"))


def _wanted(dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the images that queries look for or are, and of the others, mixed."""
    wanted: set[int] = set()
    for query in dataset.queries:
        wanted.update(query.positives, query.junk)
        image = dataset.image_index[query.image]
        wanted.update([image] if image < len(dataset.images) else ())
    others = np.setdiff1d(np.arange(len(dataset.images)), list(wanted))
    return np.array(sorted(wanted)), np.random.default_rng(seed).permutation(others)
