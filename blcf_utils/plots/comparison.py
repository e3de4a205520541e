"""R-MAC's regions, what methods weigh, and what accuracy costs in bytes and time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from blcf_utils.datasets.base import Dataset
from blcf_utils.plots.canvas import (
    QUERY,
    SERIES,
    done,
    draw_heat,
    grid,
    nothing,
    photograph,
    picture,
    spread,
)
from blcf_utils.pooling.crow import crow_spatial_weights
from blcf_utils.pooling.rmac import rmac_regions
from blcf_utils.pooling.rmac_weighting import decompose, region_share, rmac_alpha
from blcf_utils.pooling.spoc import spoc_prior

_WORDS = "BLCF"


def show_regions(
    dataset: Dataset, image: int, shape: tuple[int, int], levels: Sequence[int] = (1, 2, 3)
) -> Figure:
    """Show the R-MAC regions that each scale adds, over an image.

    Args:
        dataset, image: which image.
        shape: (h, w) of its feature map.
        levels: the scales, one panel each.
    """
    pixels = photograph(dataset, dataset.images[image])
    figure, axes = grid(1, len(levels), 3, 2.6)
    cell = pixels.shape[0] / shape[0], pixels.shape[1] / shape[1]
    for ax, level in zip(axes[0], levels, strict=True):
        every, before = rmac_regions(shape, level), rmac_regions(shape, level - 1)
        added = every[len(before) :]
        picture(ax, pixels, f"scale {level}: {len(added)} regions, {len(every)} in all")
        for k, (y0, y1, x0, x1) in enumerate(added):
            # A little inside, each a little more, so that equal edges stay apart.
            inset = 2 + 2 * (k % 4)
            corner = x0 * cell[1] + inset, y0 * cell[0] + inset
            size = (x1 - x0) * cell[1] - 2 * inset, (y1 - y0) * cell[0] - 2 * inset
            colour = SERIES[k % len(SERIES)]
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6))
    return done(figure)


def show_rmac_weights(
    dataset: Dataset, image: int, feature_map: np.ndarray, levels: Sequence[int] = (1, 2, 3, 7)
) -> Figure:
    """Show R-MAC as weights of positions: upper row window location, lower row post-processing.

    Args:
        dataset, image: which image.
        feature_map: its feature map, (C, h, w).
        levels: numbers of scales L, one column each.
    """
    pixels = photograph(dataset, dataset.images[image])
    figure, axes = grid(2, len(levels), 2.6, 2.3)
    for k, level in enumerate(levels):
        parts = decompose(feature_map, level)
        draw_heat(axes[0, k], pixels, parts.coverage, f"L = {level}: location")
        draw_heat(axes[1, k], pixels, parts.alpha, "with region post-processing")
    return done(figure)


def plot_region_shares(feature_map: np.ndarray, levels: int = 3) -> Figure:
    """Plot how much each R-MAC region adds to the sum, before and after its L2 normalisation."""
    before, after = region_share(feature_map, levels)
    figure, axes = grid(1, 1, 5, 2.4)
    places = np.arange(len(before))
    axes[0, 0].bar(places - 0.2, before, 0.4, label="sums of regions", color=SERIES[0])
    axes[0, 0].bar(places + 0.2, after, 0.4, label="L2-normalised", color=SERIES[1])
    axes[0, 0].set(xlabel="region, largest scale first", ylabel="share")
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].legend()
    return done(figure)


def show_position_weights(
    dataset: Dataset, image: int, feature_map: np.ndarray, levels: int = 3
) -> Figure:
    """Show an image and, beside it, how SPoC, CroW and R-MAC weigh its positions.

    Args:
        dataset, image: which image.
        feature_map: its feature map, (C, h, w).
        levels: R-MAC's scales.
    """
    weights = {
        "SPoC": spoc_prior(feature_map.shape[1:]),
        "CroW": crow_spatial_weights(feature_map),
        "R-MAC of sums": rmac_alpha(feature_map, levels),
    }
    pixels = photograph(dataset, dataset.images[image])
    figure, axes = grid(1, len(weights) + 1, 2.4, 2.2)
    picture(axes[0, 0], pixels, dataset.images[image].name[:24])
    for ax, (name, values) in zip(axes[0, 1:], weights.items(), strict=True):
        draw_heat(ax, pixels, values, name)
    return done(figure)


def show_pooling(dataset: Dataset, image: int, feature_map: np.ndarray, p: float = 3.0) -> Figure:
    """Show what each position adds to the number that a channel becomes: sum, GeM, maximum.

    Drawn is the channel that varies most. A position adds f to the sum and f^p to GeM's mean of
    powers; the maximum is one position's. Titles say how many positions make half of the whole.

    Args:
        dataset, image: which image.
        feature_map: its feature map, (C, h, w).
        p: GeM's exponent.
    """
    channel = int(feature_map.std(axis=(1, 2)).argmax())
    values = np.maximum(feature_map[channel], 0)
    powers = {"sum": values, f"GeM, p = {p:g}": values**p, "maximum": values == values.max()}
    pixels = photograph(dataset, dataset.all_images[image])
    figure, axes = grid(1, len(powers) + 1, 2.6, 2.3)
    picture(axes[0, 0], pixels, f"the image, of which\nchannel {channel} is pooled")
    for ax, (name, parts) in zip(axes[0, 1:], powers.items(), strict=True):
        half = half_of(parts)
        draw_heat(
            ax, pixels, parts.astype(float), f"{name}\nhalf from {half} of {parts.size} positions"
        )
    return done(figure)


def half_of(parts: np.ndarray) -> int:
    """Return how many of the largest parts make half of their sum."""
    largest = np.sort(parts.ravel().astype(float))[::-1].cumsum()
    return int((largest < largest[-1] / 2).sum()) + 1


def plot_costs(table: pd.DataFrame, dataset: str, mode: str = "ls") -> Figure:
    """Plot the mAP of every method against bytes per image and against time per query.

    Named and joined by steps are the methods that no other beats in both (the Pareto front).

    Args:
        table: x04, in long form.
        dataset: which of its datasets.
        mode: ``gs`` or ``ls``.
    """
    measured = table[table["status"] == "measured"]
    if measured.empty:
        return nothing()
    values = measured.pivot(index="row", columns="column", values="measured")
    figure, axes = grid(1, 2, 5.2, 3.6)
    for ax, what in zip(axes[0], ("bytes per image", "ms per query"), strict=True):
        points = values[[f"{dataset}/{what}", f"{dataset}/{mode}"]].dropna().astype(float)
        cost, score = points.to_numpy().T
        words = np.array([name.startswith(_WORDS) for name in points.index])
        front = pareto_front(cost, score)
        beaten = np.setdiff1d(np.arange(len(points)), front)
        ax.plot(cost[front], score[front], color="0.6", drawstyle="steps-post", linewidth=1)
        colours = np.where(words, SERIES[5], QUERY)
        ax.scatter(cost[beaten], score[beaten], s=18, c=colours[beaten], alpha=0.35)
        ax.scatter(cost[front], score[front], s=36, c=colours[front], zorder=3)
        places = spread(score[front], 0.06 * max(np.ptp(score), 1e-3))
        for k, place in zip(front, places, strict=True):
            ax.annotate(
                points.index[k],
                (cost[k], score[k]),
                xytext=(1.03, place),
                textcoords=ax.get_yaxis_transform(),
                fontsize=8,
                va="center",
                color=SERIES[5] if words[k] else "black",
                arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6},
            )
        ax.set(xscale="log", xlabel=what, ylabel=f"mAP, {mode.upper()}", title=dataset)
    shown = [("words", SERIES[5]), ("vectors and others", QUERY)]
    handles = [Line2D([], [], marker="o", linestyle="", color=c, label=n) for n, c in shown]
    axes[0, 0].legend(handles=handles, loc="lower right", fontsize=8, frameon=False)
    return done(figure)


def pareto_front(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return which of n points no other beats, the cheapest first.

    A point is beaten by one that costs no more and scores no less, and is not its equal in both.
    """
    front: list[int] = []
    for k in np.lexsort((-score, cost)):
        if (
            not front
            or score[k] > score[front[-1]]
            or (score[k] == score[front[-1]] and cost[k] == cost[front[-1]])
        ):
            front.append(int(k))
    return np.array(front, int)


def plot_dimensions(table: pd.DataFrame, dataset: str) -> Figure:
    """Plot mAP against the number of dimensions, one line a method.

    Args:
        table: x05 as rows x columns (``tables.wide``).
        dataset: which of its datasets.
    """
    if table.empty:
        return nothing()
    figure, axes = grid(1, 1, 4.4, 2.8)
    ends = f"{dataset}/"
    kept = [column for column in table.columns if column.startswith(ends)]
    sizes = [int(column.removeprefix(ends)) for column in kept]
    for (name, line), colour in zip(table[kept].iterrows(), cycle(SERIES), strict=False):
        axes[0, 0].plot(sizes, line.to_numpy(float), "o-", label=name, color=colour)
    axes[0, 0].set(xscale="log", xlabel="dimensions", ylabel="mAP, LS", title=dataset)
    axes[0, 0].set_xticks(sizes, sizes)
    axes[0, 0].minorticks_off()
    axes[0, 0].legend()
    return done(figure)
