"""Table x10: how images are resized for the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pandas as pd

from blcf_utils.config.profile import Resize
from blcf_utils.experiments.search import search_cells
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import NOT_RUN, Measurement
from blcf_utils.study.study import Study


def resizing_table(study: Study, datasets: Sequence[str]) -> pd.DataFrame:
    """Measure words of images resized with and without antialiasing (table x10).

    Features, whitening and words are made anew for each; all else is the profile's.

    Args:
        study: the study.
        datasets: which are measured; the cells of the others say that they were not run.
    """
    cells = []
    for resize in progress(get_args(Resize), label="resizing", unit="way"):
        one = study.changed({"features.resize": resize})
        for name in study.datasets:
            columns = (f"{name}/gs", f"{name}/ls")
            if name in datasets:
                cells += search_cells(one.open(name), (resize, resize), columns)
            else:
                why = f"{NOT_RUN}not among RESIZED of notebook 02_features"
                cells += [Measurement(resize, column, None, why) for column in columns]
    return study.results.table("x10_resize", cells)
