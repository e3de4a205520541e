"""Drawn bags beside the real ones that their law was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from blcf_utils.experiments.drawn.bags import first_rows, synthetic_database
from blcf_utils.experiments.drawn.curves import MODES, SizedDatabase
from blcf_utils.experiments.drawn.law import BagLaw, bag_counts, measure_law
from blcf_utils.ground.paths import project_root
from blcf_utils.search.index.inverted_file import invert
from blcf_utils.study.study import Study


@dataclass(frozen=True)
class Likeness:
    """What real and drawn bags of the same number of images look like.

    Attributes:
        holders: (real, drawn) images that hold each word, sorted, most first, (K,).
        distinct: (real, drawn) distinct words of each image, (n,).
        repeats: (real, drawn) share of entries with each count, from 1.
        touched: mode to (real, drawn) entries of each query's words, (q,).
        nearest: mode to (real, drawn) score of each query's best image that it does not look
            for, (q,); where there are none such photographs, empty.
    """

    holders: tuple[np.ndarray, np.ndarray]
    distinct: tuple[np.ndarray, np.ndarray]
    repeats: tuple[np.ndarray, np.ndarray]
    touched: dict[str, tuple[np.ndarray, np.ndarray]]
    nearest: dict[str, tuple[np.ndarray, np.ndarray]]

    def table(self) -> pd.DataFrame:
        """Return means of everything, real beside drawn."""
        lines = {
            "words an image": [part.mean() for part in self.distinct],
            "their standard deviation": [part.std() for part in self.distinct],
            "images of the commonest word": [float(part[0]) for part in self.holders],
            "images of the median word": [float(np.median(part)) for part in self.holders],
            "words once in an image": [float(part[0]) for part in self.repeats],
        }
        for mode in MODES:
            lines[f"postings of a query, {mode}"] = [p.mean() for p in self.touched[mode]]
            if len(self.nearest[mode][0]):
                lines[f"best wrong score, {mode}"] = [p.mean() for p in self.nearest[mode]]
        table = pd.DataFrame(lines, index=["real", "drawn"]).T.rename_axis("mean")
        return table.assign(ratio=table["drawn"] / table["real"])


def likeness(study: Study, name: str, database: SizedDatabase) -> Likeness:
    """Draw as many bags as a dataset has images and compare them with its own.

    Args:
        study, name: the real images.
        database: their law, and the queries that are asked of both.
    """
    counts = bag_counts(study.maps(name))
    n, k = counts.shape
    bags = synthetic_database(database.law, n, seed=study.profile.seed + 1, order=database.order)
    holders = tuple(np.sort(np.bincount(x.indices, minlength=k))[::-1] for x in (counts, bags))
    # An image's smallest weight is that of the words it holds once, nearly always.
    smallest = np.minimum.reduceat(bags.data, bags.indptr[:-1])
    drawn = np.rint(bags.data / np.repeat(smallest, np.diff(bags.indptr))).astype(int)
    most = 30
    repeats = tuple(
        np.bincount(np.minimum(x, most), minlength=most + 1)[1:] / len(x)
        for x in (counts.data, drawn)
    )
    real, other = invert(database.photographs, database.idf), invert(bags, database.idf)
    touched, nearest = {}, {}
    around = database.others
    wrong = None
    if len(around):
        photographs = database.photographs[around]
        wrong = (
            invert(photographs, database.idf),
            invert(first_rows(bags, min(n, len(around))), database.idf),
        )
    for mode in MODES:
        asked = list(database.queries[mode].values())
        touched[mode] = tuple(
            np.array([index.touched(words) for words, _ in asked]) for index in (real, other)
        )
        nearest[mode] = (np.zeros(0), np.zeros(0))
        if wrong:
            nearest[mode] = tuple(
                np.array([index.search(*query, 1)[1][0] for query in asked]) for index in wrong
            )
    distinct = np.diff(counts.indptr), np.diff(bags.indptr)
    return Likeness(holders, distinct, repeats, touched, nearest)


@dataclass(frozen=True)
class Measured:
    """A law and what it was measured on.

    Attributes:
        law: the law.
        held: share of the images that hold each word, most first, (K,).
    """

    law: BagLaw
    held: np.ndarray


def laws_by_words(study: Study, name: str, sizes: Sequence[int]) -> dict[int, Measured]:
    """Return the law of a dataset's images for codebooks of several sizes.

    The profile's own size is among them; the other codebooks are learned on the way.
    """
    laws = {}
    for words in sorted({*sizes, study.profile.codebook.words}):
        one = study if words == study.profile.codebook.words else study.with_words(words)
        counts = bag_counts(one.maps(name))
        held = np.sort(np.bincount(counts.indices, minlength=words))[::-1] / counts.shape[0]
        laws[words] = Measured(measure_law(counts, name), held)
    return laws


def photographs_law() -> BagLaw:
    """Return the law measured on 1,200 real photographs, which comes with the study."""
    return BagLaw.load(project_root() / "data" / "laws" / "photographs.json")


def laws_table(measured: dict[int, Measured]) -> pd.DataFrame:
    """Return the numbers of laws, one column a codebook, and last those of real photographs."""
    names = ("offset", "exponent", "tail", "mean", "deviation", "repeated", "spread")
    laws = {f"{words:,}": one.law for words, one in measured.items()}
    real = photographs_law()
    laws[f"{real.words:,}, photographs"] = real
    table = pd.DataFrame(
        {k: {name: getattr(law, name) for name in names} for k, law in laws.items()}
    )
    table.loc["images of the commonest word"] = [law.held()[0] for law in laws.values()]
    table.loc["images of the median word"] = [float(np.median(law.held())) for law in laws.values()]
    return table.rename_axis("law").rename_axis("K", axis=1)
