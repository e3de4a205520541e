"""Table x10: how images are resized for the network."""

from __future__ import annotations

from typing import get_args

import pandas as pd

from blcf_utils.config.profile import Resize
from blcf_utils.experiments.search import search_cells
from blcf_utils.ground.progress import progress
from blcf_utils.study.study import Study


def resizing_table(study: Study) -> pd.DataFrame:
    """Measure words of images resized with and without antialiasing (table x10).

    Features, whitening and words are made anew for each; all else is the profile's.
    """
    cells = []
    for resize in progress(get_args(Resize), label="resizing", unit="way"):
        one = study.changed({"features.resize": resize})
        for name in study.datasets:
            cells += search_cells(one.open(name), (resize, resize), (f"{name}/gs", f"{name}/ls"))
    return study.results.table("x10_resize", cells)
