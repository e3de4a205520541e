"""What the study tells in pictures: ten claims as differences, and the ladder of searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from blcf_utils.experiments.measuring import gain, instances_of, intervals_frame
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.intervals import deciding
from blcf_utils.results.published import dataset_of, load_published, number, table_info
from blcf_utils.study.study import Study

THESIS, RUN = "thesis", "run"
_T02, _T05, _T09 = "t02_blcf_search", "t05_sift_fusion", "t09_saliency_blcf"
_SUMS = tuple(
    f"Sum pool ({how}) LS" for how in ("as ours", "plain", "as in [20]", "as in [20], plain")
)
_SALIENCY = ("SalGAN", "salgan-mini")


@dataclass(frozen=True)
class Difference:
    """A claim of the thesis, read as one difference of mAP on every dataset that has both sides.

    Attributes:
        said: the claim, ``left over right``.
        table: where both stand.
        left: rows, of which the first that a dataset has counts: the study's own small saliency
            network stands for SalGAN where that was not run.
        right: rows, of which the best counts.
        ending: of the column, after the dataset's name.
    """

    said: str
    table: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    ending: str = ""


CLAIMS = (
    Difference("local over global search", _T02, ("LS",), ("GS",)),
    Difference("re-ranking after local search", _T02, ("LS + R",), ("LS",)),
    Difference("expansion with re-ranked regions", _T02, ("LS + R + LQE",), ("LS + R",)),
    Difference("words over the best sums", "t03_trecvid", ("Ours LS",), _SUMS),
    Difference(
        "words with saliency over R-MAC",
        "t10_comparison",
        tuple(f"BLCF-{model}" for model in _SALIENCY),
        ("R-MAC [43]",),
    ),
    Difference("saliency over none", _T09, _SALIENCY, ("None",), "/ls"),
    Difference("saliency over a centre prior", _T09, _SALIENCY, ("Gaussian",), "/ls"),
    Difference("SIFT over convolutional words", _T05, ("SIFT-BoW",), ("BLCF",)),
    Difference("SIFT merged in over words alone", _T05, ("merged",), ("BLCF",)),
    Difference(
        "fine-tuned on buildings over not",
        "t06_finetune_oxford",
        ("(F)Network A",),
        ("Baseline A",),
    ),
)
# A step of the ladder, and the table and row where it stands.
LADDER = {
    "GS": (_T02, "GS"),
    "LS": (_T02, "LS"),
    "+ R": (_T02, "LS + R"),
    "+ LQE": (_T02, "LS + R + LQE"),
    "+ SIFT": (_T05, "merged"),
}


def claim_differences(study: Study) -> pd.DataFrame:
    """Return ten claims as differences of mAP, the thesis' own and this run's.

    Args:
        study: a study whose tables t02 to t10 are written; what one lacks is left out.

    Returns:
        Columns difference, low, high (95 %; NaN for the thesis, which
        has no APs of queries); index (claim, origin, dataset), where an origin is ``THESIS`` or
        ``RUN``.
    """
    lines = {}
    for claim in CLAIMS:
        values, aps = _published(claim.table), study.results.per_query(claim.table)
        for dataset, left, right in _pairs(claim, values):
            difference = round(values[left] - values[right], 12)
            lines[claim.said, THESIS, dataset] = (difference, np.nan, np.nan)
        means = {cell: Evaluation(of_query).mean for cell, of_query in aps.items()}
        for dataset, left, right in _pairs(claim, means):
            lines[claim.said, RUN, dataset] = gain(study, dataset, aps[left], aps[right])
    return intervals_frame(lines, ("claim", "origin", "dataset"), "difference")


def _pairs(claim: Difference, values: Mapping) -> Iterator[tuple[str, tuple, tuple]]:
    """Yield (dataset, left cell, right cell) for every dataset that has both."""
    for column in dict.fromkeys(column for _, column in values):
        if column != dataset_of(column) + claim.ending:
            continue
        lefts, rights = (
            [(row, column) for row in rows if (row, column) in values]
            for rows in (claim.left, claim.right)
        )
        if lefts and rights:
            yield dataset_of(column), lefts[0], max(rights, key=values.__getitem__)


def search_ladder(study: Study) -> pd.DataFrame:
    """Return the mAP of each step of the search, the thesis' own and this run's.

    Args:
        study: a study whose tables t02 and t05 are written.

    Returns:
        Columns mAP, low, high (95 %; NaN for the thesis); index (origin,
        dataset, step). A dataset of which one step is known only is left out.
    """
    lines = {}
    for step, (table, row) in LADDER.items():
        for (of, column), value in _published(table).items():
            if of == row and column == dataset_of(column):
                lines[THESIS, column, step] = (value, np.nan, np.nan)
        for (of, column), aps in study.results.per_query(table).items():
            if of == row and column == dataset_of(column):
                found = deciding([aps], [instances_of(study, column)])
                lines[RUN, column, step] = (found.mean, found.low, found.high)
    steps = pd.Series([key[:2] for key in lines]).value_counts()
    kept = {key: line for key, line in lines.items() if steps[key[:2]] > 1}
    return intervals_frame(kept, ("origin", "dataset", "step"), "mAP")


def _published(table_id: str) -> dict[tuple[str, str], float]:
    """Return the slides' mAPs of a table by row and column."""
    table, attributes = load_published(table_id), table_info(table_id).attributes
    values = {
        (cell.row, cell.column): number(cell.value)
        for cell in table.itertuples()
        if cell.column not in attributes
    }
    return {cell: value for cell, value in values.items() if value is not None}
