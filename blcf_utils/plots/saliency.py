"""Where models look, what that weighs, and whether it helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from blcf_utils.config.saliency import IttiKochConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.plots.canvas import (
    IGNORED,
    RELEVANT,
    SERIES,
    WRONG,
    done,
    draw_box,
    draw_heat,
    grid,
    judge,
    nothing,
    photograph,
    picture,
    spread,
)
from blcf_utils.saliency.itti_koch import itti_koch, itti_koch_parts
from blcf_utils.search.query import Ranking
from blcf_utils.words.assignment_maps import AssignmentMaps

MapOf = Callable[[int], np.ndarray]


def _dimmed(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) whose brightness follows its weights; a third is always left."""
    size = pixels.shape[1::-1]
    light = cv2.resize(weights.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return (pixels * (1 + 2 * light[..., None] / max(light.max(), 1e-12)) / 3).astype(np.uint8)


def show_saliency(
    dataset: Dataset, images: Sequence[int], maps: Mapping[str, MapOf], columns: int = 5
) -> Figure:
    """Show images and, beside each, what every model or weighting makes of it.

    Args:
        dataset: the images.
        images: their numbers; each starts a new row.
        maps: name to what gives an image's map, of any size.
        columns: panels in a row.
    """
    lines = -(-(len(maps) + 1) // columns)
    figure, axes = grid(len(images) * lines, columns, 1.75, 1.5)
    for ax in axes.flat:
        ax.axis("off")
    for k, image in enumerate(images):
        panels = axes[k * lines : (k + 1) * lines].ravel()
        pixels = photograph(dataset, dataset.images[image])
        picture(panels[0], pixels, dataset.images[image].stem)
        for ax, (name, look) in zip(panels[1:], maps.items(), strict=False):
            draw_heat(ax, pixels, look(image), name)
    return done(figure)


def show_conspicuity(dataset: Dataset, image: int, config: IttiKochConfig | None = None) -> Figure:
    """Show what Itti-Koch's three channels find conspicuous, and their sum."""
    pixels = photograph(dataset, dataset.images[image])
    config = config or IttiKochConfig()
    parts = {**itti_koch_parts(pixels, config), "their sum": itti_koch(pixels, config)}
    figure, axes = grid(1, len(parts) + 1, 1.9, 1.7)
    picture(axes[0, 0], pixels, dataset.images[image].stem)
    for ax, (name, values) in zip(axes[0, 1:], parts.items(), strict=True):
        draw_heat(ax, pixels, values, name)
    return done(figure)


def show_weighted_words(
    dataset: Dataset, maps: AssignmentMaps, image: int, saliency: MapOf, weights: MapOf
) -> Figure:
    """Show the way from a saliency map to a weighted histogram, step by step."""
    pixels, cells, words = (
        photograph(dataset, dataset.images[image]),
        weights(image),
        maps.map(image),
    )
    figure, axes = grid(1, 4, 2.1, 1.9)
    picture(axes[0, 0], pixels, "the image")
    draw_heat(axes[0, 1], pixels, saliency(image), "its saliency map")
    height, width = cells.shape
    draw_heat(axes[0, 2], pixels, cells, f"{width} x {height} weights")
    counts = np.bincount(words.ravel(), minlength=maps.words).astype(float)
    weighted = np.bincount(words.ravel(), cells.ravel().astype(float), minlength=maps.words)
    order = np.argsort(-counts, kind="stable")[:25]
    axes[0, 3].bar(range(len(order)), counts[order], color="0.8", label="counted")
    axes[0, 3].bar(range(len(order)), weighted[order], color=SERIES[0], label="weighted")
    axes[0, 3].set(xlabel="word, most frequent first", title="the histogram")
    axes[0, 3].legend()
    return done(figure)


def show_weighted_results(
    dataset: Dataset,
    query: Query,
    rankings: Mapping[str, Ranking],
    weights: Mapping[str, MapOf],
    top: int = 6,
) -> Figure:
    """Show the first images by several weightings; what weighs little is dark; junk left out."""
    figure, axes = grid(len(rankings), top + 1, 1.5, 1.35)
    for line, (name, ranking) in zip(axes, rankings.items(), strict=True):
        picture(line[0], photograph(dataset, query.image), name)
        draw_box(line[0], query.box)
        units = dataset.unit_numbers[ranking.images]
        shown = [i for i, u in zip(ranking.images, units, strict=True) if u not in query.junk][:top]
        for ax, image in zip(line[1:], shown, strict=False):
            pixels = photograph(dataset, dataset.images[image])
            picture(ax, _dimmed(pixels, weights[name](image)) if name in weights else pixels)
            judge(ax, dataset.unit_of(image) in query.positives)
    return done(figure)


def plot_gains(gains: pd.DataFrame, title: str = "", over: str = "None") -> Figure:
    """Plot the gain of every row over one of them, with its interval, one panel per dataset.

    Args:
        gains: columns ``gain``, ``low`` and ``high``, index (dataset, row).
        title: above the first panel, with the dataset's name.
        over: the row that the others are compared with.
    """
    if gains.empty:
        return nothing()
    datasets = gains.index.get_level_values(0).unique()
    rows = max(len(gains.loc[name]) for name in datasets)
    figure, axes = grid(1, len(datasets), 3.4, max(2.8, 0.6 + 0.18 * rows), sharex=True)
    for ax, name in zip(axes[0], datasets, strict=True):
        part = gains.loc[name].iloc[::-1]
        places = np.arange(len(part))
        # Grey where the interval holds 0: the sign is a coin toss.
        colours = np.where(part["low"] > 0, RELEVANT, np.where(part["high"] < 0, WRONG, IGNORED))
        ax.axvline(0, color="0.6", linewidth=1)
        ax.hlines(places, part["low"], part["high"], color=colours, linewidth=2)
        ax.scatter(part["gain"], places, color=colours, s=22, zorder=3)
        ax.set_yticks(places, part.index)
        ax.set(title=f"{title}: {name}" if title else name)
    figure.supxlabel(f"mAP gain over {over}", fontsize="medium")
    return done(figure)


def plot_query_gains(gains: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """Plot the AP gain of every query, largest first, one panel per dataset.

    Args:
        gains: dataset name to query id to gain in AP.
        ylabel: what gained.
    """
    if not gains:
        return nothing()
    figure, axes = grid(1, len(gains), 3.4, 2.4, sharey=True)
    for ax, (name, of_query) in zip(axes[0], gains.items(), strict=True):
        values = np.sort(np.array(list(of_query.values())))[::-1]
        ax.bar(range(len(values)), values, color=np.where(values >= 0, RELEVANT, WRONG), width=1)
        better, worse = int((values > 0).sum()), int((values < 0).sum())
        ax.set(title=f"{name}: {better} better, {worse} worse", xlabel="query, sorted")
    axes[0, 0].set_ylabel(ylabel)
    return done(figure)


def plot_quality(quality: pd.DataFrame) -> Figure:
    """Plot what a weighting gains against how good it is as a saliency model.

    Panels of one row share their axis, so that a small difference looks small.

    Args:
        quality: the measure of quality, then columns gain, low and high; index (method, dataset,
            weighting) (``experiments.quality_against_map``).
    """
    if quality.empty:
        return nothing("no mask or box of a database image is known: nothing to judge by")
    measure = quality.columns[0]
    methods, datasets = (quality.index.get_level_values(k).unique() for k in range(2))
    figure, axes = grid(len(methods), len(datasets), 4.6, 3.1, sharex="col", sharey="row")
    for line, method in zip(axes, methods, strict=True):
        of = quality.loc[method]
        step = 0.055 * max(float(of["high"].max() - of["low"].min()), 1e-9)
        for ax, name in zip(line, datasets, strict=True):
            part = of[of.index.get_level_values(0) == name].droplevel(0).sort_values("gain")
            ax.axhline(0, color="0.4", linewidth=1)
            ax.vlines(part[measure], part["low"], part["high"], color=SERIES[0], alpha=0.35)
            ax.scatter(part[measure], part["gain"], s=22, color=SERIES[0], zorder=3)
            for (row, values), place in zip(
                part.iterrows(), spread(part["gain"], step), strict=True
            ):
                ax.annotate(
                    row, (values[measure], values["gain"]), (1.02, place), fontsize=7,
                    textcoords=ax.get_yaxis_transform(), va="center",
                    arrowprops={"arrowstyle": "-", "color": "0.85", "linewidth": 0.6},
                )  # fmt: skip
            order = spearmanr(part[measure], part["gain"]).statistic if len(part) > 2 else np.nan
            ax.set_title(f"{name}: rank correlation {order:+.2f}")
        line[0].set_ylabel(f"mAP gain over None, {method}")
    for ax in axes[-1]:
        ax.set_xlabel(f"saliency quality ({measure})")
    return done(figure)
