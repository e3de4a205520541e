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

    BLCF is the profile's ``fusion.recipe``, SIFT-BoW a local search (with verified matches, unless
    the profile says otherwise), merged by the profile's ``fusion``. Beside them stand local search
    alone as the first partner, SIFT words alone as the second, and fusion by rank.
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
    local = study.search(name, "LS")
    full, partner = study.search(name, config.recipe), study.sift_partner(name)
    words = study.sift_search(name, "ls")
    rows = {
        BLCF: partial(study.search, name, config.recipe),
        SIFT: partial(study.sift_partner, name),
        MERGED: partial(fuse_all, full, partner, config),
        f"{MERGED} by {other.kind}": partial(fuse_all, full, partner, other),
        f"{BLCF}, LS only": partial(study.search, name, "LS"),
        f"{MERGED}, LS only": partial(fuse_all, local, partner, config),
        f"{SIFT}, words only": partial(study.sift_search, name, "ls"),
        f"{MERGED}, LS and SIFT words only": partial(fuse_all, local, words, config),
    }
    return [measure(study, row, name, name, rank) for row, rank in rows.items()]


def fusion_curve(study: Study, name: str, steps: int = 11) -> pd.DataFrame:
    """Return the mAP of the fusion against the weight of the convolutional words.

    One column for SIFT with verified matches, one for its words only. A picture of how the partners
    complement each other, not a way to choose the weight: that would be tuning on the queries it
    is tested with.
    """
    config, words = study.profile.fusion, study.search(name, study.profile.fusion.recipe)
    partners = {
        "verified matches": study.sift_verified(name, "ls"),
        "words only": study.sift_search(name, "ls"),
    }
    weights = [step / (steps - 1) for step in range(steps)]
    curves = {
        label: [
            study.evaluate(
                name, fuse_all(words, sift, config.model_copy(update={"weight": weight}))
            ).mean
            for weight in weights
        ]
        for label, sift in partners.items()
    }
    return pd.DataFrame(curves, index=pd.Index(weights, name="weight of BLCF"))
