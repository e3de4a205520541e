"""Drawn bags beside the real ones that their law was measured on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from blcf_utils.experiments.drawn.bags import first_rows, synthetic_database
from blcf_utils.experiments.drawn.curves import MODES, SizedDatabase
from blcf_utils.experiments.drawn.law import bag_counts, holders
from blcf_utils.search.index.inverted_file import invert
from blcf_utils.study.pipeline import Pipeline

HOLDERS, DISTINCT, REPEATS = "images that hold a word", "words an image", "times in an image"
POSTINGS, NEAREST = "postings of a query", "best wrong score"
Look = dict[str, np.ndarray]


def likeness(bench: Pipeline, database: SizedDatabase) -> dict[str, Look]:
    """Draw as many bags as a dataset has images and look at both.

    Args:
        bench: the pipeline of the real images.
        database: their law, and the queries that are asked of both.

    Returns:
        ``real`` and ``drawn``, each with the images that hold each word, most first, (K,); the
        distinct words of each image, (n,); how often each of them is repeated; and for each mode,
        as ``<what>, <mode>``, the entries of each query's words and the score of its best image
        that it does not look for, (q,); the last is missing where there are no such photographs.
    """
    counts, others = bag_counts(bench.maps), database.others
    law, seed, n = database.law, bench.profile.seed + 1, counts.shape[0]
    drawn = synthetic_database(law, n, seed=seed, order=database.order)
    # An image's smallest weight is that of the words it holds once, nearly always.
    smallest = np.minimum.reduceat(drawn.data, drawn.indptr[:-1])
    repeats = np.rint(drawn.data / np.repeat(smallest, np.diff(drawn.indptr))).astype(int)
    real = database.photographs
    return {
        "real": _look(counts.data, real, real[others], database),
        "drawn": _look(repeats, drawn, first_rows(drawn, len(others)), database),
    }


def _look(
    repeats: np.ndarray,
    histograms: sparse.csr_array,
    wrong: sparse.csr_array,
    database: SizedDatabase,
) -> Look:
    held = np.sort(holders(histograms))[::-1]
    look = {HOLDERS: held, DISTINCT: np.diff(histograms.indptr), REPEATS: repeats}
    index = invert(histograms, database.idf)
    around = invert(wrong, database.idf) if wrong.shape[0] else None
    for mode in MODES:
        asked = database.queries[mode].values()
        look[f"{POSTINGS}, {mode}"] = np.array([index.touched(words) for words, _ in asked])
        if around:
            scores = [around.search(*query, 1)[1][0] for query in asked]
            look[f"{NEAREST}, {mode}"] = np.array(scores)
    return look


def likeness_table(alike: dict[str, Look]) -> pd.DataFrame:
    """Return means of everything in :func:`likeness`, real beside drawn, and their ratio."""
    table = pd.DataFrame(
        {
            side: {
                DISTINCT: look[DISTINCT].mean(),
                "their standard deviation": look[DISTINCT].std(),
                "images of the commonest word": look[HOLDERS][0],
                "images of the median word": np.median(look[HOLDERS]),
                "words once in an image": (look[REPEATS] == 1).mean(),
                **{what: look[what].mean() for what in list(look)[3:]},
            }
            for side, look in alike.items()
        }
    ).rename_axis("mean")
    return table.assign(ratio=table["drawn"] / table["real"])
