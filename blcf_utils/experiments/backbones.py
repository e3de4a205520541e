"""Table x01: the same study on other networks."""

from __future__ import annotations

import pandas as pd

from blcf_utils.experiments.pooling import pooling_cells
from blcf_utils.experiments.search import search_cells
from blcf_utils.ground.progress import progress
from blcf_utils.study.study import Study


def backbones_table(study: Study) -> pd.DataFrame:
    """Measure BLCF and sum pooling with every backbone of the profile (table x01).

    Same images, sizes, K and protocol; the network, its layer and its weights change. Sum pooling
    is the plain one, without whitening.
    """
    cells = []
    main = study.profile.features.backbone
    others = [
        study.changed({"features.backbone": backbone})
        for backbone in study.profile.compare_backbones
        if backbone != main
    ]
    for one in progress([study, *others], label="backbones", unit="backbone"):
        row = one.profile.features.backbone.label
        for name in study.datasets:
            bench = one.open(name)
            cells += search_cells(bench, (row, row), (f"{name}/gs", f"{name}/ls"))
            columns = (f"{name}/sum-gs", f"{name}/sum-ls")
            cells += pooling_cells(bench, (row, row), columns, whiten=False)
    return study.results.table("x01_backbones", cells)
