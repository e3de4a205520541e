"""Table t05: SIFT bags of words, convolutional bags of words, and both."""

from __future__ import annotations

from functools import partial

import pandas as pd

from blcf_utils.config.profile import FusionConfig
from blcf_utils.experiments.measuring import elsewhere, scored, timed
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.search.fusion import fuse_all
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

BLCF, SIFT, MERGED = "BLCF", "SIFT-BoW", "merged"


def fusion_table(study: Study) -> pd.DataFrame:
    """Measure both systems and their late fusion on every dataset (table t05).

    BLCF is the profile's ``fusion.recipe``, SIFT-BoW a local search (with verified matches, unless
    the profile says otherwise), merged by the profile's ``fusion``. Beside them stand local search
    alone as the first partner, SIFT words alone as the second, and fusion by rank. ``seconds`` of a
    merged row are those of both partners and of merging.
    """
    cells = [
        cell
        for name in progress(study.datasets, label="fusion", unit="dataset")
        for cell in _fusion_cells(study.open(name))
    ]
    why = elsewhere(study, "t05_sift_fusion")
    return study.results.table("t05_sift_fusion", cells, not_run=why)


def _fusion_cells(bench: Pipeline) -> list[Measurement]:
    config, sift = bench.profile.fusion, bench.sift
    other = config.model_copy(update={"kind": "rank" if config.kind == "score" else "score"})
    bench.searcher(), sift.index
    local, full = (timed(partial(bench.search, one)) for one in ("LS", config.recipe))
    words = timed(partial(sift.search, "ls"))
    partner = words
    if config.verified:
        partner = sift.verified("ls"), words[1] + sift.verification_seconds("ls")

    def merged(first, second, how: FusionConfig):
        rankings, seconds = timed(partial(fuse_all, first[0], second[0], how))
        return rankings, seconds + first[1] + second[1]

    rows = {
        BLCF: full,
        SIFT: partner,
        MERGED: merged(full, partner, config),
        f"{MERGED} by {other.kind}": merged(full, partner, other),
        f"{BLCF}, LS only": local,
        f"{MERGED}, LS only": merged(local, partner, config),
        f"{SIFT}, words only": words,
        f"{MERGED}, LS and SIFT words only": merged(local, words, config),
    }
    return [scored(bench, row, bench.name, *found) for row, found in rows.items()]


def fusion_curve(bench: Pipeline, steps: int = 11) -> pd.DataFrame:
    """Return the mAP of the fusion against the weight of the convolutional words.

    One column for SIFT with verified matches, one for its words only. A picture of how the partners
    complement each other, not a way to choose the weight: that would be tuning on the queries it
    is tested with.
    """
    config = bench.profile.fusion
    words = bench.search(config.recipe)
    partners = {
        "verified matches": bench.sift.verified("ls"),
        "words only": bench.sift.search("ls"),
    }
    weights = [step / (steps - 1) for step in range(steps)]
    curves = {
        label: [
            bench.evaluate(fuse_all(words, sift, config.model_copy(update={"weight": weight}))).mean
            for weight in weights
        ]
        for label, sift in partners.items()
    }
    return pd.DataFrame(curves, index=pd.Index(weights, name="weight of BLCF"))
