"""Table t03: words against sum pooling."""

from __future__ import annotations

from functools import partial

import pandas as pd

from blcf_utils.experiments.measuring import MODES, elsewhere, measure
from blcf_utils.experiments.search import search_cells
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study


def pooling_cells(
    bench: Pipeline, rows: tuple[str, str], columns: tuple[str, str], whiten: bool
) -> list[Measurement]:
    """Measure sum pooling, global and local, into (row, column) of each mode."""
    cells = []
    for mode, row, column in zip(MODES, rows, columns, strict=True):
        bench.pooled(mode, whiten)
        cells.append(measure(bench, row, column, partial(bench.sum_pooling, mode, whiten)))
    return cells


def pooling_table(study: Study) -> pd.DataFrame:
    """Measure BLCF against sum pooling (table t03).

    "As ours" pools the maps that words are made of: sum, L2, PCA whitening learned on the
    database, L2. "As in [20]" does the same with the last layer at full resolution (Kalantidis et
    al.). "Plain" leaves the whitening out, which does better where the database is too small to
    learn one.
    """
    cells = []
    for name in progress(study.datasets, label="pooling", unit="dataset"):
        bench = study.open(name)
        full = bench.at_full_resolution()
        cells += search_cells(bench, ("Ours GS", "Ours LS"), (name, name))
        for kind, one, whiten in (
            ("as ours", bench, True),
            ("plain", bench, False),
            ("as in [20]", full, True),
            ("as in [20], plain", full, False),
        ):
            rows = (f"Sum pool ({kind}) GS", f"Sum pool ({kind}) LS")
            cells += pooling_cells(one, rows, (name, name), whiten)
    why = elsewhere(study, "t03_trecvid")
    return study.results.table("t03_trecvid", cells, not_run=why)
