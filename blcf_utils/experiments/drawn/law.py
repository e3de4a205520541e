"""The statistics of bags of visual words, as a law of a few numbers measured on photographs.

Three things decide what a database costs: how unequal words are (the lengths of the inverted
lists), how many distinct words an image holds, and how often it repeats them (burstiness). Words
of the law are independent of one another; real words come together, grass with grass.

Sources: Mandelbrot, An informational theory of the statistical structure of language, 1953;
Martinez-Mekler et al., Universality of rank-ordering distributions, PLoS ONE 2009 (the tail: a
vocabulary ends); Jegou et al., On the burstiness of visual elements, CVPR 2009.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import brentq, least_squares

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.words.assignment_maps import AssignmentMaps


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
        images, source: how many images it was measured on, and which.
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
        if not 0 < self.deviation**2 < self.mean * (self.most - self.mean):
            raise StudyError(
                f"law of {self.source or 'bags'}: expected a mean and a deviation of distinct "
                f"words that fit between 0 and {self.most}, found {self.mean:g} and "
                f"{self.deviation:g}; take more words"
            )

    def probabilities(self) -> np.ndarray:
        """Return with what probability a draw gives the word of each rank, (K,) float64."""
        ranks = np.arange(1, self.words + 1)
        tail, head = np.log(self.words + 1 - ranks), np.log(ranks + self.offset)
        logs = self.tail * tail - self.exponent * head
        shares = np.exp(logs - logs.max())
        return shares / shares.sum()

    def held(self) -> np.ndarray:
        """Return in what share of the images the word of each rank is expected, (K,) float64."""
        probabilities = self.probabilities()

        def surplus(log_draws: float) -> float:
            return float(-np.expm1(-np.exp(log_draws) * probabilities).sum() - self.mean)

        draws = np.exp(brentq(surplus, np.log(self.mean) - 1, np.log(self.mean) + 60))
        return -np.expm1(-draws * probabilities)


def photographs_law() -> BagLaw:
    """Return the law measured on 1,200 real photographs, which comes with the study."""
    path = project_root() / "data" / "laws" / "photographs.json"
    return BagLaw(**json.loads(path.read_text(encoding="utf-8")))


def bag_counts(maps: AssignmentMaps) -> sparse.csr_array:
    """Return how often every database image holds each word, (n, K) int32 CSR, words sorted."""
    bags = [np.unique(maps.map(image), return_counts=True) for image in range(maps.n_database)]
    indices = np.concatenate([words for words, _ in bags]).astype(np.int32)
    counts = np.concatenate([number for _, number in bags]).astype(np.int32)
    starts = np.cumsum([0, *(len(words) for words, _ in bags)])
    return sparse.csr_array((counts, indices, starts), shape=(maps.n_database, maps.words))


def holders(counts: sparse.csr_array) -> np.ndarray:
    """Return how many images hold each word, (K,), for bags (n, K)."""
    return np.bincount(counts.indices, minlength=counts.shape[1])


def measure_law(counts: sparse.csr_array, source: str = "") -> BagLaw:
    """Fit a law to the bags of real images.

    Args:
        counts: how often each image holds each word (:func:`bag_counts`).
        source: what they are, for people.

    Raises:
        StudyError: fewer than 20 images with words.
    """
    k, distinct = counts.shape[1], np.diff(counts.indptr)
    starts, distinct = counts.indptr[:-1][distinct > 0], distinct[distinct > 0]
    images = len(distinct)
    if images < 20:
        raise StudyError(
            f"law of {source or 'bags'}: expected at least 20 images with words to measure, found "
            f"{images}; take a larger dataset"
        )
    held = holders(counts)
    x, y = np.log(held[counts.indices] / images), np.log(counts.data)
    slope, repeated = np.polyfit(x, y, 1) if np.ptp(x) > 0 else (0.0, y.mean())
    start = BagLaw(
        words=k,
        offset=max(1.0, k / 50),
        exponent=1.0,
        tail=0.5,
        mean=float(distinct.mean()),
        deviation=max(float(distinct.std()), 0.5),
        most=min(k, int(distinct.max()) + 1),
        repeated=float(repeated),
        repeated_slope=float(slope),
        spread=float((y - slope * x - repeated).std()),
        positions=int(np.add.reduceat(counts.data, starts).max()),
        images=images,
        source=source,
    )
    return _fit_ranks(start, np.sort(held)[::-1])


def _fit_ranks(law: BagLaw, held: np.ndarray) -> BagLaw:
    """Return a law with offset, exponent and tail fitted to the sorted numbers of holders, (K,)."""
    # Ranks on a logarithmic and a linear scale: neither common nor rare words outvote the others.
    places = np.concatenate([np.geomspace(1, law.words, 60), np.linspace(1, law.words, 60)])
    ranks = np.unique(places.astype(int)) - 1
    observed = np.log(held[ranks] + 0.5)

    def with_ranks(logs: np.ndarray) -> BagLaw:
        offset, exponent, tail = (float(value) for value in np.exp(logs))
        return replace(law, offset=offset, exponent=exponent, tail=tail)

    def misfit(logs: np.ndarray) -> np.ndarray:
        return np.log(law.images * with_ranks(logs).held()[ranks] + 0.5) - observed

    bounds = np.log([[1e-2, 1e-2, 1e-3], [law.words, 10.0, 10.0]])
    start = np.log([law.offset, law.exponent, law.tail])
    return with_ranks(least_squares(misfit, start, bounds=bounds).x)


def laws_by_words(bench: Pipeline, sizes: Sequence[int]) -> dict[int, tuple[BagLaw, np.ndarray]]:
    """Return the law of a dataset's images for codebooks of several sizes.

    The profile's own size is among them; the other codebooks are learned on the way.

    Returns:
        K to (law, measured share of the images that hold each word, most first, (K,)).
    """
    laws = {}
    for words in sorted({*sizes, bench.profile.codebook.words}):
        same = words == bench.profile.codebook.words
        one = bench if same else bench.changed({"codebook.words": words})
        counts = bag_counts(one.maps)
        held = np.sort(holders(counts))[::-1] / counts.shape[0]
        laws[words] = measure_law(counts, bench.name), held
    return laws


def laws_table(measured: dict[int, tuple[BagLaw, np.ndarray]]) -> pd.DataFrame:
    """Return the numbers of laws, one column a codebook, and last those of real photographs."""
    laws = {f"{words:,}": law for words, (law, _) in measured.items()}
    real = photographs_law()
    laws[f"{real.words:,}, photographs"] = real
    names = ["offset", "exponent", "tail", "mean", "deviation", "repeated", "spread"]
    table = pd.DataFrame({k: vars(law) for k, law in laws.items()}).loc[names].astype(float)
    table.loc["images of the commonest word"] = [law.held()[0] for law in laws.values()]
    table.loc["images of the median word"] = [float(np.median(law.held())) for law in laws.values()]
    return table.rename_axis("law").rename_axis("K", axis=1)
