"""The rows of tables t06 and t07: which network, and what its triplets are mined from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blcf_utils.finetuning.triplets import Source


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        row: its label in the slides.
        network: ``A`` or ``B``.
        source: where its triplets come from; None for a network that is not trained.
    """

    row: str
    network: Literal["A", "B"]
    source: Source | None = None


BASELINES = (Variant("Baseline A", "A"), Variant("Baseline B", "B"))
TRAINED_A = Variant("(F)Network A", "A", "fused")
TRAINED = (TRAINED_A, Variant("(F)Network B", "B", "fused"))
WITH_LABELS = Variant("(F+cl)Network B", "B", "labels")
OXFORD_ROWS = (*BASELINES, *TRAINED)
INSTRE_ROWS = (*BASELINES, *TRAINED, WITH_LABELS)
VARIANTS = {variant.row: variant for variant in INSTRE_ROWS}
