"""Mined triplets, what they are mined from, and how networks learned from them."""

from __future__ import annotations

from itertools import cycle, pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blcf_utils.config.finetuning import FinetuningConfig, MiningConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.finetuning.image_rankings import ImageRankings
from blcf_utils.finetuning.splits import class_labels
from blcf_utils.finetuning.triplets import Triplets
from blcf_utils.plots.canvas import (
    IGNORED,
    QUERY,
    RELEVANT,
    SERIES,
    WRONG,
    done,
    frame,
    grid,
    judge,
    photograph,
    picture,
)
from blcf_utils.plots.pipeline import APART, WIDE, draw_arrow, draw_stage


def show_triplets(dataset: Dataset, triplets: Triplets, count: int = 5) -> Figure:
    """Show mined triplets, one a column: anchor, positive, negative with their fused scores.

    A tick says that the ground truth agrees: that a positive shows the anchor's instance, that a
    negative does not. A cross says that it does not agree; grey, nothing is known of the anchor.
    """
    chosen = np.linspace(0, len(triplets) - 1, count).astype(int)
    labels = [set(images.tolist()) for images in class_labels(dataset).values()]
    figure, axes = grid(3, len(chosen), 1.7, 1.5)
    for line, k in zip(axes.T, chosen, strict=True):
        names = ("anchor", *(f"{n} {s:.1f}" for n, s in zip("+-", triplets.scores[k], strict=True)))
        anchor = int(triplets.images[k, 0])
        known = [same for same in labels if anchor in same]
        wanted = (None, True, False)  # of the anchor, the positive, the negative: its instance?
        images = triplets.images[k].tolist()
        for ax, image, name, same in zip(line, images, names, wanted, strict=True):
            picture(ax, photograph(dataset, dataset.images[image]), name)
            if same is None:
                frame(ax, QUERY, 3)
            else:
                judge(ax, any(image in one for one in known) == same if known else None)
    return done(figure)


def draw_networks(config: FinetuningConfig, channels: int) -> Figure:
    """Draw networks A (above) and B (below): what keeps its weights (grey), what learns (orange).

    Args:
        config: which layers are frozen, and the projection of network B.
        channels: C of the feature maps.
    """
    frozen, projection = config.training.frozen, config.projection
    trunk = [("photograph", "a, a⁺, a⁻ in turn", QUERY)]
    if frozen:
        trunk.append(("layers", f"up to {frozen}", IGNORED))
    trunk.append(("layers", "behind them" if frozen else "all", SERIES[1]))
    summed = [("sum", "over positions", IGNORED), ("F", f"{channels} numbers,\nof length 1", QUERY)]
    rectified = ",\nrectified" if projection.relu else ""
    omega = [("Ω", f"drawn at random{rectified}", SERIES[1])]
    longer = ("G", f"{projection.dimensions} numbers,\nof length 1", QUERY)
    local = projection.place == "local"
    rows = {
        "network A": [*trunk, *summed],
        "network B": [*trunk, *(omega + summed[:1] if local else summed + omega), longer],
    }
    last = max(map(len, rows.values()))
    figure, axes = grid(1, 1, 1.85 * (last + 1), 2.9)
    ax = axes[0, 0]
    ax.axis("off")
    ax.set(xlim=(-1.1, last * APART + WIDE / 2 + 0.2), ylim=(-0.6, 2.2))
    for y, (name, stages) in zip((1.6, 0), rows.items(), strict=True):
        ax.text(-0.85, y, name, ha="right", va="center", rotation=90)
        places = [*range(len(stages)), last]
        for place, (title, detail, colour) in zip(
            places, [*stages, ("triplet loss", "of the three", RELEVANT)], strict=True
        ):
            draw_stage(ax, place, y, (title, detail), colour)
        for before, after in pairwise(places):
            draw_arrow(ax, (before, y), (after, y))
    return done(figure)


def plot_mining(rankings: ImageRankings, config: MiningConfig) -> Figure:
    """Plot how the fused scores of all ranked pairs are distributed, with the two thresholds."""
    figure, axes = grid(1, 2, 3.6, 2.4)
    draw_mining(*axes[0], rankings, config)
    return done(figure)


def draw_mining(left: Axes, right: Axes, rankings: ImageRankings, config: MiningConfig) -> None:
    """Draw the scores of pairs without a match on one of the axes, of those with on the other."""
    listed = rankings.images >= 0
    matched = rankings.matches[listed]
    left.hist(rankings.scores[listed][matched == 0], np.linspace(0, 1, 41), color=SERIES[0])
    left.axvspan(*config.negative, color=WRONG, alpha=0.15, label="negatives")
    left.set(yscale="log", xlabel="fused score, no match", ylabel="pairs of images")
    bins = np.linspace(0, max(2 * config.positive, 1), 41)
    right.hist(np.minimum(rankings.scores[listed][matched > 0], bins[-1]), bins, color=SERIES[0])
    right.axvspan(config.positive, bins[-1], color=RELEVANT, alpha=0.15, label="positives")
    right.set(xlabel="fused score, verified matches\n(last bar: all above)")
    for ax in (left, right):
        ax.legend()


def plot_training(curves: pd.DataFrame) -> Figure:
    """Plot loss and mAP of the held-out queries against the step.

    Args:
        curves: columns loss and validation; index (row, fold, seed, step), see
            ``experiments.training_curves``.
    """
    figure, axes = grid(1, 2, 3.6, 2.6)
    left, right = axes[0]
    rows = curves.index.get_level_values("row").unique()
    for row, colour in zip(rows, cycle(SERIES), strict=False):
        for k, (_, curve) in enumerate(curves.loc[row].groupby(["fold", "seed"])):
            curve = curve.droplevel(["fold", "seed"])
            label = None if k else row
            loss = curve["loss"].dropna()
            smooth = loss.rolling(max(1, len(loss) // 20), min_periods=1).mean()
            left.plot(smooth, color=colour, label=label)
            right.plot(curve["validation"].dropna(), "o-", markersize=3, color=colour)
    left.set(xlabel="step", ylabel="triplet loss", ylim=(0, None))
    right.set(xlabel="step", ylabel="mAP of held-out queries")
    left.legend()
    return done(figure)
