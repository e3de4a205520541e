"""What a run tells, in three sentences that are made of its tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from blcf_utils.results.published import dataset_of
from blcf_utils.results.tables import read_table

_VERDICTS = {"holds": "holds", "does not hold": "does not hold", "undecided": "is undecided"}


@dataclass(frozen=True)
class Finding:
    """One sentence: what a step of the method does to mAP, and what became of the claim about it.

    Attributes:
        claim: id of the claim in ``tables/claims.csv``.
        step: the step, as the subject of the sentence.
        said: the claim.
        table: where both rows stand.
        before, after: rows without and with the step.
    """

    claim: str
    step: str
    said: str
    table: str
    before: str
    after: str


FINDINGS = (
    Finding(
        "ls_beats_gs_boxed",
        "Searching with the words of the box (LS) instead of the whole query image (GS)",
        "local search is better",
        "t02_blcf_search",
        "GS",
        "LS",
    ),
    Finding(
        "merged_beats_both",
        "Merging the ranking of words (LS + R + LQE) with that of verified SIFT matches",
        "both together beat the better of the two",
        "t05_sift_fusion",
        "BLCF",
        "merged",
    ),
    Finding(
        "finetuning_gains_target",
        "Fine-tuning on buildings, on the study's own rankings and without labels (network A, GS)",
        "it gains on buildings",
        "t06_finetune_oxford",
        "Baseline A",
        "(F)Network A",
    ),
)


def story(folder: Path) -> list[str]:
    """Return a run's three sentences; one whose table or rows the run lacks is left out.

    Args:
        folder: the profile's results folder.
    """
    path = Path(folder) / "tables" / "claims.csv"
    claims = pd.read_csv(path, dtype=str).set_index("id")["measured"] if path.exists() else {}
    told = []
    for finding in FINDINGS:
        if not (Path(folder) / "tables" / f"{finding.table}.csv").exists():
            continue
        table = read_table(finding.table, folder)
        ours, theirs = (_changes(table, finding, what) for what in ("measured", "published"))
        if ours:
            verdict = _VERDICTS.get(claims.get(finding.claim, ""), "was not tested")
            thesis = f" (thesis: {theirs})" if theirs else ""
            told.append(
                f"{finding.step} takes mAP {ours}{thesis}. The claim that {finding.said} {verdict}."
            )
    return told


def _changes(table: pd.DataFrame, finding: Finding, what: str) -> str:
    """Return ``from 0.491 to 0.769 on mini-buildings, ...`` of the columns of whole datasets.

    Where nothing is boxed, local search is global search: what changes nothing is left out.
    """
    cells = table.set_index(["row", "column"])[what].dropna()
    datasets = [name for name in table["column"].unique() if name == dataset_of(name)]
    pairs = [
        f"from {cells[finding.before, name]:.3f} to {cells[finding.after, name]:.3f} on {name}"
        for name in datasets
        if (finding.before, name) in cells
        and (finding.after, name) in cells
        and cells[finding.before, name] != cells[finding.after, name]
    ]
    return ", ".join(pairs)
