"""The sparse vectors an index scores with, one image at a time, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blcf_utils.ground.settings import digest_of
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.query import SearchBase
from blcf_utils.words.histograms import Sparse

if TYPE_CHECKING:
    from blcf_utils.apps.photographs.collection import Collection
    from blcf_utils.study.pipeline import Pipeline

VERSION = 2  # goes up when the rows made of the same maps, weights and idf change


@dataclass(frozen=True)
class IndexVectors:
    """The vectors of an index, made when they are asked for.

    Attributes:
        label: for people, and part of a collection's name.
        key: digest of everything that determines the vectors.
        names: of the images, in their order.
        words: K.
        histogram: image number to its unit-length histogram, without idf.
        factors: (K,) idf that words are multiplied by, on both sides; None without.
    """

    label: str
    key: str
    names: tuple[str, ...]
    words: int
    histogram: Callable[[int], Sparse]
    factors: np.ndarray | None = None


def scaled(words: np.ndarray, values: np.ndarray, factors: np.ndarray | None) -> Sparse:
    """Return a histogram with its words weighed by their factors, at unit length, without zeros."""
    words, values = np.asarray(words, np.int64), np.asarray(values, np.float32)
    if factors is not None:
        values = values * factors[words]
        values = values / max(float(np.sqrt((values * values).sum())), 1e-12)
    held = values > 0
    return words[held], values[held]


def vectors_of_dataset(bench: Pipeline, weighting: str | None = None) -> IndexVectors:
    """Return the vectors of a dataset's database images (arguments as for ``Pipeline.index``)."""
    name = bench.weightings.checked(weighting)
    base = bench.searcher(name).base
    made_of = {
        "maps": base.maps.key,
        "idf": bench.profile.encoding.idf,
        "weights": None if base.weights is None else base.weights.key,
    }
    return vectors_of_base(base, f"{bench.profile.name}_{bench.name}_{name}", made_of)


def vectors_of_collection(collection: Collection, weighting: str = NONE) -> IndexVectors:
    """Return the vectors of an indexed folder's photographs."""
    made_of = {"collection": collection.key, "weighting": weighting}
    label = f"{collection.folder.name}_{weighting}"
    return vectors_of_base(collection.base(weighting), label, made_of)


def vectors_of_base(base: SearchBase, label: str, made_of: dict) -> IndexVectors:
    """Return the vectors of the database images; ``made_of`` says what determines them."""
    root, images = base.dataset.root, base.dataset.images
    return IndexVectors(
        label=label,
        key=digest_of({"version": VERSION, **made_of}),
        names=tuple(
            path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            for path in images
        ),
        words=base.maps.words,
        histogram=base.histogram,
        factors=base.index.factors,
    )
