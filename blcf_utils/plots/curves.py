"""Curves and comparisons: what was learned, what was found, who wins on which query."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.plots.canvas import RELEVANT, SERIES, WRONG, done, grid, nothing
from blcf_utils.results.evaluation import (
    Evaluation,
    average_precision,
    precision_recall,
    unit_ranking,
)
from blcf_utils.search.index.inverted_file import InvertedFile
from blcf_utils.search.query import Ranking
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import Whitening


def plot_variances(whitening: Whitening) -> Figure:
    """Plot the share of variance per principal direction, and how much is kept."""
    shares = whitening.variances / whitening.variances.sum()
    figure, axes = grid(1, 2, 3.2, 2.4)
    axes[0, 0].semilogy(np.maximum(shares, 1e-9), color=SERIES[0])
    axes[0, 0].set(xlabel="principal direction", ylabel="share of variance")
    axes[0, 1].plot(np.cumsum(shares), color=SERIES[0])
    axes[0, 1].axvline(whitening.dimensions, color=SERIES[1], linestyle="--", label="kept")
    axes[0, 1].set(xlabel="directions kept", ylabel="variance explained", ylim=(0, 1.02))
    axes[0, 1].legend()
    return done(figure)


def plot_kmeans(codebook: Codebook) -> Figure:
    """Plot the mean squared distance of a descriptor to its word, iteration by iteration."""
    figure, axes = grid(1, 1, 4, 2.4)
    per_descriptor = codebook.objective / codebook.n_descriptors
    axes[0, 0].plot(range(len(per_descriptor)), per_descriptor, "o-", color=SERIES[0])
    axes[0, 0].set(xlabel="iteration", ylabel="squared distance to word")
    return done(figure)


def plot_word_frequencies(index: InvertedFile) -> Figure:
    """Plot in how many images each word occurs, sorted: the lengths of the inverted lists."""
    lengths = np.sort(index.holders)[::-1]
    figure, axes = grid(1, 1, 4, 2.4)
    axes[0, 0].loglog(np.arange(1, len(lengths) + 1), np.maximum(lengths, 0.5), color=SERIES[0])
    axes[0, 0].set(xlabel="word, most frequent first", ylabel="images that hold it")
    return done(figure)


def plot_precision_recall(
    dataset: Dataset, query: Query, rankings: Mapping[str, Ranking]
) -> Figure:
    """Plot one query's precision against its recall by several methods, one panel each.

    The shaded area is the average precision as the dataset's protocol sums it: trapezoids, from
    precision 1, or rectangles. Dots are the right images.
    """
    figure, axes = grid(1, len(rankings), 3.4, 2.6, sharey=True)
    rectangles = dataset.protocol.ap == "rectangular"
    for ax, (method, ranking), colour in zip(
        axes[0], rankings.items(), cycle(SERIES), strict=False
    ):
        units = unit_ranking(dataset, ranking.images)
        precision, recall = precision_recall(units, query.positives, query.junk)
        precision, recall = np.r_[1.0, precision], np.r_[0.0, recall]
        style, step = ("steps-pre", "pre") if rectangles else ("default", None)
        ax.plot(recall, precision, drawstyle=style, color=colour, linewidth=1)
        ax.fill_between(recall, precision, step=step, color=colour, alpha=0.25, linewidth=0)
        right = np.flatnonzero(np.diff(recall)) + 1
        ax.plot(recall[right], precision[right], "o", markersize=3, color=colour, clip_on=False)
        ap = average_precision(units, query.positives, query.junk, dataset.protocol.ap)
        ax.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.03), title=f"{method}: AP {ap:.2f}")
    axes[0, 0].set_ylabel("precision")
    return done(figure)


def plot_paired_queries(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> Figure:
    """Plot the AP of every query by two methods against one another, and the sorted gain."""
    a = np.array(list(first.per_query.values()))
    b = np.array([second.per_query[query] for query in first.per_query])
    figure, axes = grid(1, 2, 3.2, 2.9)
    left, right = axes[0]
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    left.scatter(a, b, s=14, color=SERIES[0], alpha=0.5)
    room = (-0.04, 1.04)  # a dot at 0 or 1 is seen whole
    left.set(xlabel=f"AP {names[0]}", ylabel=f"AP {names[1]}", xlim=room, ylim=room, aspect="equal")
    gain = np.sort(b - a)[::-1]
    right.bar(range(len(gain)), gain, color=np.where(gain >= 0, RELEVANT, WRONG), width=1)
    better = int((gain > 0).sum())
    right.set(
        xlabel="query, sorted",
        ylabel=f"AP gain of {names[1]}",
        title=f"better on {better}, worse on {int((gain < 0).sum())} of {len(gain)}",
    )
    return done(figure)


def plot_curves(table: pd.DataFrame, ylabel: str = "mAP", xscale: str = "linear") -> Figure:
    """Plot the columns of a table against its index, which names the x axis."""
    figure, axes = grid(1, 1, 4, 2.6)
    for (label, values), colour in zip(table.items(), cycle(SERIES), strict=False):
        axes[0, 0].plot(table.index, values, "o-", label=label, color=colour)
    axes[0, 0].set(xlabel=table.index.name, ylabel=ylabel, xscale=xscale)
    axes[0, 0].legend()
    return done(figure)


def plot_codebook_sizes(table: pd.DataFrame, dataset: str) -> Figure:
    """Plot mAP, and the distinct words of an image, against the number of words K.

    Args:
        table: x11 as rows x columns (``tables.wide``).
        dataset: which it was measured on.
    """
    if table.empty:
        return nothing()
    sizes = [int(row) for row in table.index]
    figure, axes = grid(1, 2, 3.6, 2.6)
    for mode, colour in zip(("gs", "ls"), SERIES, strict=False):
        values = table[f"{dataset}/{mode}"].to_numpy(float)
        axes[0, 0].plot(sizes, values, "o-", label=mode.upper(), color=colour)
    words = table[f"{dataset}/distinct words an image"].to_numpy(float)
    axes[0, 1].plot(sizes, words, "o-", color=SERIES[2])
    axes[0, 0].set(ylabel=f"mAP, {dataset}")
    axes[0, 0].legend()
    axes[0, 1].set(ylabel="distinct words an image", ylim=(0, 1.05 * words.max()))
    for ax in axes[0]:
        ax.set(xscale="log", xlabel="words K")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        ax.minorticks_off()
    return done(figure)
