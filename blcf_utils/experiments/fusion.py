"""Table t05: SIFT bags of words, convolutional bags of words, and both."""

from __future__ import annotations

from functools import partial

import pandas as pd

from blcf_utils.experiments.measuring import elsewhere, measure
from blcf_utils.fusion import fuse_all
from blcf_utils.progress import progress
from blcf_utils.study import Study
from blcf_utils.tables import Measurement, write_table

BLCF, SIFT, MERGED = "BLCF", "SIFT-BoW", "merged"


def fusion_table(study: Study) -> pd.DataFrame:
    """Measure both systems and their late fusion on every dataset (table t05).

    BLCF is the profile's ``fusion.recipe``, SIFT-BoW a local search, merged by the profile's
    ``fusion``. Beside them: SIFT with verified matches, and what each partner gives to the other
    way of fusing.
    """
    cells = [
        cell
        for name in progress(study.datasets, label="fusion", unit="dataset")
        for cell in _fusion_cells(study, name)
    ]
    why = elsewhere(study, "t05_sift_fusion")
    return write_table("t05_sift_fusion", cells, study.results, not_run=why)


def _fusion_cells(study: Study, name: str) -> list[Measurement]:
    config = study.profile.fusion
    other = config.model_copy(update={"kind": "rank" if config.kind == "score" else "score"})
    study.searcher(name)
    words, sift = study.search(name, config.recipe), study.sift_search(name, "ls")
    verified = study.sift_verified(name, "ls")
    rows = {
        BLCF: partial(study.search, name, config.recipe),
        SIFT: partial(study.sift_search, name, "ls"),
        MERGED: partial(fuse_all, words, sift, config),
        f"{MERGED} by {other.kind}": partial(fuse_all, words, sift, other),
        f"{SIFT}, verified": partial(study.sift_verified, name, "ls"),
        f"{MERGED}, SIFT verified": partial(fuse_all, words, verified, config),
    }
    return [measure(study, row, name, name, rank) for row, rank in rows.items()]


def fusion_curve(study: Study, name: str, steps: int = 11) -> pd.Series:
    """Return the mAP of the fusion against the weight of the convolutional words.

    A picture of how the partners complement each other, not a way to choose the weight: that
    would be tuning on the queries it is tested with.
    """
    config = study.profile.fusion
    words, sift = study.search(name, config.recipe), study.sift_search(name, "ls")
    weights = [step / (steps - 1) for step in range(steps)]
    values = [
        study.evaluate(
            name, fuse_all(words, sift, config.model_copy(update={"weight": weight}))
        ).mean
        for weight in weights
    ]
    return pd.Series(values, index=pd.Index(weights, name="weight of BLCF"), name="mAP")
