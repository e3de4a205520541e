"""A knob of fine-tuning: the thresholds of mining."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blcf_utils.apps.knobs.knob import Knob
from blcf_utils.config.finetuning import MiningConfig
from blcf_utils.finetuning.triplets import (
    Triplets,
    draw_triplets,
    mining_statistics,
    triplet_candidates,
)
from blcf_utils.plots.finetuning import draw_mining
from blcf_utils.study.finetuning import Finetuning


def mining(tuning: Finetuning) -> Knob:
    """Return what a positive must score more than, and a negative at least, without labels.

    The first fold is mined; the sliders offer values around the profile's.
    """
    config = tuning.config.mining
    lowest, highest = config.negative

    def draw(axes, positive: float, negative: float) -> str:
        asked = config.model_copy(update={"positive": positive, "negative": (negative, highest)})
        draw_mining(*axes, tuning.image_rankings, asked)
        told = mined(tuning, asked)
        return (
            f"{told['different pairs']:.0f} pairs, {told['right positives']:.0%} right; "
            f"{told['right negatives']:.0%} of the negatives right"
        )

    positives = sorted({config.positive, *(share * config.positive for share in (0.3, 0.5, 2, 3))})
    negatives = sorted({lowest, 0.0, *(share * highest for share in (0.05, 0.2, 0.3, 0.5))})
    frames = [(config.positive, lowest), (positives[0], lowest), (positives[-2], lowest)]
    frames = [{"positive": one, "negative": other} for one, other in frames]
    return Knob(draw, (2, 3.6, 2.2), frames, positive=positives, negative=negatives)


def mined(tuning: Finetuning, config: MiningConfig) -> Mapping[str, float]:
    """Return what the first fold gives to draw from and how right the draws are, in memory.

    Raises:
        StudyError: nothing can be drawn, with the threshold to move.
    """
    dataset, split = tuning.dataset, tuning.splits[0]
    candidates = triplet_candidates(dataset, tuning.image_rankings, split, "fused", config)
    images = draw_triplets(candidates, config.triplets, tuning.config.seed)
    drawn = Triplets(images, np.zeros((len(images), 2), np.float32))
    return mining_statistics(dataset, drawn, split, candidates)
