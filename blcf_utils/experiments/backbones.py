"""Table x01: words against sums, R-MAC and CroW under other networks."""

from __future__ import annotations

from functools import partial

import pandas as pd

from blcf_utils.experiments.measuring import gain, intervals_frame, scored, timed
from blcf_utils.experiments.pooling import pooling_cells
from blcf_utils.experiments.search import search_cells
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.pooling.compared.rows import row
from blcf_utils.pooling.compared.vectors import describe_together
from blcf_utils.results.tables import NOT_RUN, Measurement
from blcf_utils.study.comparison import Comparison
from blcf_utils.study.study import Study

TABLE = "x01_backbones"
# What follows the dataset in a column, and the row of the comparison that is measured there.
COMPARED = {"whitened-ls": row("sum"), "rmac-ls": row("rmac"), "crow-ls": row("crow")}
# What words are compared with, by the same endings.
RIVALS = {
    "plain sums": "sum-ls",
    "whitened sums": "whitened-ls",
    "CroW": "crow-ls",
    "R-MAC": "rmac-ls",
}


def backbones_table(study: Study) -> pd.DataFrame:
    """Measure words, sums, R-MAC and CroW with every backbone of the profile (table x01).

    Same images, sizes, K and protocol; the network, its layer and its weights change. Words and
    plain sums (no whitening) are measured globally and locally, the compared methods locally, as
    table t10 does: what they learn they learn on another dataset, words on their own.
    """
    cells = []
    main = study.profile.features.backbone
    others = [
        study.changed({"features.backbone": backbone})
        for backbone in study.profile.compare_backbones
        if backbone != main
    ]
    for one in progress([study, *others], label="backbones", unit="backbone"):
        label = one.profile.features.backbone.label
        for name in study.datasets:
            bench = one.open(name)
            cells += search_cells(bench, (label, label), (f"{name}/gs", f"{name}/ls"))
            columns = (f"{name}/sum-gs", f"{name}/sum-ls")
            cells += pooling_cells(bench, (label, label), columns, whiten=False)
            cells += _compared_cells(one.comparison(name), label)
    return study.results.table(TABLE, cells)


def _compared_cells(comparison: Comparison, label: str) -> list[Measurement]:
    bench, cells = comparison.bench, []
    why = {ending: rival.unavailable_because(comparison) for ending, rival in COMPARED.items()}
    able = {ending: rival for ending, rival in COMPARED.items() if not why[ending]}
    describe_together([rival.vectors(comparison) for rival in able.values()])
    for ending, reason in why.items():
        column = f"{bench.name}/{ending}"
        if reason:
            cells.append(Measurement(label, column, None, NOT_RUN + reason))
            continue
        rank = partial(able[ending].rank, comparison, "ls", False)
        rank()  # describes the queries before anything is timed
        besides = digest_of(able[ending].key(comparison))
        cells.append(scored(bench, label, column, *timed(rank), besides=besides))
    return cells


def network_gains(study: Study) -> pd.DataFrame:
    """Return what words gain over every rival under every network, with its paired interval.

    Args:
        study: a study whose table x01 is written.

    Returns:
        Columns gain, low, high (mAP, local search); index (dataset, network, rival), where a rival
        is a key of ``RIVALS``.
    """
    aps, lines = study.results.per_query(TABLE), {}
    for name in study.datasets:
        for network in dict.fromkeys(label for label, _ in aps):
            for rival, ending in RIVALS.items():
                pair = [aps.get((network, f"{name}/{end}")) for end in ("ls", ending)]
                if all(pair):
                    lines[name, network, rival] = gain(study, name, *pair)
    return intervals_frame(lines, ("dataset", "network", "rival"))
