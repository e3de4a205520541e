"""The statistics of bags of visual words, as a law of a few numbers measured on photographs.

Three things decide what a database costs and how it is searched: how unequal words are (the
lengths of the inverted lists), how many distinct words an image holds, and how often it repeats
them (burstiness). Each is a small model here. What the law leaves out is that words come
together: grass with grass. Drawn words are independent of one another.

Sources: Mandelbrot, An informational theory of the statistical structure of language, 1953;
Martinez-Mekler et al., Universality of rank-ordering distributions, PLoS ONE 2009 (the tail: a
vocabulary ends); Jegou et al., On the burstiness of visual elements, CVPR 2009.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.optimize import brentq, least_squares

from blcf_utils.experiments.drawn.files import read_numbers
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.assignment_maps import AssignmentMaps

# Ranks at which the law is fitted: so many evenly spread on a logarithmic and as many on a linear
# scale, so that neither the few common words nor the thousands of rare ones outvote the others.
_RANKS = 60


@dataclass(frozen=True)
class BagLaw:
    """A law of bags of words.

    The word of rank r (1 is the one that most images hold) is drawn with probability proportional
    to ``(K + 1 - r) ** tail / (r + offset) ** exponent``, without replacement, until an image has
    its distinct words. Their number is beta distributed on 0 to ``most``. A word that is held
    is repeated ``exp(g)`` times, rounded, at least once; g is normal with standard deviation
    ``spread`` and mean ``repeated + repeated_slope * log(share of images that hold the word)``.

    Attributes:
        words: K.
        offset, exponent, tail: of the ranks.
        mean, deviation, most: distinct words of an image.
        repeated, repeated_slope, spread: of the logarithm of a word's count in an image.
        positions: cells of an image, the most that a word can be repeated.
        images: how many images it was measured on.
        source: what they were, for people.
    """

    words: int
    offset: float
    exponent: float
    tail: float
    mean: float
    deviation: float
    most: int
    repeated: float
    repeated_slope: float
    spread: float
    positions: int
    images: int = 0
    source: str = ""

    def __post_init__(self):
        good = (
            self.words >= 2
            and self.offset > -1
            and self.tail >= 0
            and 0 < self.mean < self.most <= self.words
            and 0 < self.deviation**2 < self.mean * (self.most - self.mean)
            and self.spread >= 0
            and self.positions >= 1
        )
        if not good:
            raise StudyError(
                f"law of {self.source or 'bags'}: its numbers describe no bags (expected offset "
                "over -1, tail of at least 0, 0 < mean < most <= words, and a deviation that fits "
                "between them); measure it anew"
            )

    def probabilities(self) -> np.ndarray:
        """Return with what probability a draw gives the word of each rank, (K,) float64."""
        return _probabilities(self.words, self.offset, self.exponent, self.tail)

    def held(self) -> np.ndarray:
        """Return in what share of the images the word of each rank is expected, (K,) float64."""
        return _held(self.probabilities(), self.mean)

    def beta(self) -> tuple[float, float]:
        """Return the two parameters of the beta distribution of distinct words over ``most``."""
        mean, variance = self.mean / self.most, (self.deviation / self.most) ** 2
        total = mean * (1 - mean) / variance - 1
        return mean * total, (1 - mean) * total

    def log_repeats(self) -> np.ndarray:
        """Return the mean logarithm of the count of the word of each rank, (K,) float64."""
        return self.repeated + self.repeated_slope * np.log(np.maximum(self.held(), 1e-12))

    def save(self, path: Path) -> None:
        """Write the numbers as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> BagLaw:
        """Read what :meth:`save` wrote.

        Raises:
            StudyError: the file is missing or is no such law.
        """
        return cls(**read_numbers(path, {field.name: field.type for field in fields(cls)}))


def bag_counts(maps: AssignmentMaps) -> sparse.csr_array:
    """Return how often every database image holds each word, (n, K) int32 CSR, words sorted."""
    indices, counts, starts = [], [], [0]
    for image in range(maps.n_database):
        words, number = np.unique(maps.map(image), return_counts=True)
        indices.append(words.astype(np.int32))
        counts.append(number.astype(np.int32))
        starts.append(starts[-1] + len(words))
    joined = np.concatenate(counts), np.concatenate(indices), np.array(starts, np.int64)
    return sparse.csr_array(joined, shape=(maps.n_database, maps.words))


def by_frequency(counts: sparse.csr_array) -> np.ndarray:
    """Return the words in order of how many images hold them, most first, (K,) int32."""
    holders = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.argsort(-holders, kind="stable").astype(np.int32)


def measure_law(counts: sparse.csr_array, source: str = "") -> BagLaw:
    """Fit a law to the bags of real images.

    Args:
        counts: how often each image holds each word (:func:`bag_counts`).
        source: what they are, for people.

    Raises:
        StudyError: fewer than 20 images with words.
    """
    k = counts.shape[1]
    distinct = np.diff(counts.indptr)
    distinct = distinct[distinct > 0]
    if len(distinct) < 20:
        raise StudyError(
            f"law of {source or 'bags'}: expected at least 20 images with words to measure, found "
            f"{len(distinct)}; take a larger dataset"
        )
    mean = float(distinct.mean())
    holders = np.sort(np.bincount(counts.indices, minlength=k))[::-1]
    offset, exponent, tail = _fit_ranks(holders, len(distinct), mean)
    of_entry = np.bincount(counts.indices, minlength=k)[counts.indices] / len(distinct)
    slope, repeated, spread = _fit_repeats(counts.data, of_entry)
    totals = np.add.reduceat(counts.data, counts.indptr[:-1][np.diff(counts.indptr) > 0])
    return BagLaw(
        words=k,
        offset=offset,
        exponent=exponent,
        tail=tail,
        mean=mean,
        deviation=max(float(distinct.std()), 0.5),
        most=min(k, int(distinct.max()) + 1),
        repeated=repeated,
        repeated_slope=slope,
        spread=spread,
        positions=int(totals.max()),
        images=len(distinct),
        source=source,
    )


def _probabilities(words: int, offset: float, exponent: float, tail: float) -> np.ndarray:
    ranks = np.arange(1, words + 1)
    logs = tail * np.log(words + 1 - ranks) - exponent * np.log(ranks + offset)
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def _held(probabilities: np.ndarray, mean: float) -> np.ndarray:
    """Return the share of images with each word where ``mean`` distinct words are drawn."""
    if mean >= len(probabilities):
        return np.ones_like(probabilities)

    def surplus(log_draws: float) -> float:
        return float(-np.expm1(-np.exp(log_draws) * probabilities).sum() - mean)

    draws = np.exp(brentq(surplus, np.log(mean) - 1, np.log(mean) + 60))
    return -np.expm1(-draws * probabilities)


def _fit_ranks(holders: np.ndarray, images: int, mean: float) -> tuple[float, float, float]:
    """Return offset, exponent and tail for the sorted numbers of images that hold each word."""
    k = len(holders)
    places = np.concatenate([np.geomspace(1, k, _RANKS), np.linspace(1, k, _RANKS)])
    ranks = np.unique(places.astype(int)) - 1
    observed = np.log(holders[ranks] + 0.5)

    def misfit(parameters: np.ndarray) -> np.ndarray:
        expected = images * _held(_probabilities(k, *np.exp(parameters)), mean)[ranks]
        return np.log(expected + 0.5) - observed

    start = np.log([max(1.0, k / 50), 1.0, 0.5])
    bounds = np.log([[1e-2, 1e-2, 1e-3], [k, 10.0, 10.0]])
    found = least_squares(misfit, start, bounds=bounds)
    return tuple(float(value) for value in np.exp(found.x))


def _fit_repeats(counts: np.ndarray, held: np.ndarray) -> tuple[float, float, float]:
    """Return slope, level and spread of the logarithms of counts against those of shares."""
    x, y = np.log(held), np.log(counts)
    slope, level = np.polyfit(x, y, 1) if np.ptp(x) > 0 else (0.0, float(y.mean()))
    return float(slope), float(level), float((y - slope * x - level).std())
