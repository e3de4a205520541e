"""Growing databases: what drawn bags look like, what they cost, what is still found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from blcf_utils.experiments.drawn.checks import DISTINCT, HOLDERS, POSTINGS, REPEATS, Look
from blcf_utils.experiments.drawn.curves import MODES, Sized
from blcf_utils.experiments.drawn.law import BagLaw
from blcf_utils.experiments.drawn.model import BUILD, BYTES, QUERY
from blcf_utils.plots.canvas import SERIES, done, grid

_OF_MODE = dict(zip(MODES, (SERIES[0], SERIES[2]), strict=True))
_BEYOND = 1_000_000_000


def plot_likeness(alike: Mapping[str, Look]) -> Figure:
    """Plot real against drawn bags: ranks, words an image, repeats, postings of every query."""
    figure, axes = grid(1, 4, 3, 2.5)
    ranks, distinct, repeats, touched = axes[0]
    bins = np.linspace(0, max(look[DISTINCT].max() for look in alike.values()) + 1, 40)
    for (side, look), colour in zip(alike.items(), SERIES, strict=False):
        held = np.maximum(look[HOLDERS], 0.5)
        times, shares = np.unique(look[REPEATS], return_counts=True)
        ranks.loglog(np.arange(1, len(held) + 1), held, color=colour, label=side)
        distinct.hist(look[DISTINCT], bins, density=True, histtype="step", color=colour)
        repeats.loglog(times, shares / shares.sum(), "o-", color=colour, markersize=3)
    for mode, colour in _OF_MODE.items():
        pair = [alike[side][f"{POSTINGS}, {mode}"] for side in ("real", "drawn")]
        touched.scatter(*pair, s=10, color=colour, alpha=0.7, label=mode.upper())
    touched.axline((0, 0), slope=1, color="0.7", linewidth=1)
    ranks.set(xlabel="word, most frequent first", ylabel="images that hold it")
    distinct.set(xlabel="distinct words of an image", ylabel="density")
    repeats.set(xlabel="times a word is repeated", ylabel="share of entries", xlim=(0.9, 30))
    touched.set(xlabel="postings of a query, real", ylabel="drawn")
    ranks.legend()
    touched.legend()
    return done(figure)


def plot_laws(laws: Mapping[int, tuple[BagLaw, np.ndarray]]) -> Figure:
    """Plot the law of each codebook size (line) over the measured shares (points)."""
    figure, axes = grid(1, 1, 4.4, 2.8)
    ax = axes[0, 0]
    for colour, (words, (law, held)) in zip(SERIES, laws.items(), strict=False):
        places = np.unique(np.geomspace(1, words, 40).astype(int))
        ax.loglog(places, np.maximum(held[places - 1], 1e-5), "o", color=colour, markersize=3)
        ax.loglog(np.arange(1, words + 1), law.held(), color=colour, label=f"K = {words:,}")
    ax.set(xlabel="word, most frequent first", ylabel="share of images that hold it")
    ax.legend()
    return done(figure)


def plot_costs_by_size(found: Sequence[Sized], costs: pd.DataFrame | None = None) -> Figure:
    """Plot index size, build time and query time against the database's size.

    Args:
        found: measured sizes, drawn as points.
        costs: fitted lines (``model.fit_costs``), dashed beyond the largest measured size.
    """
    figure, axes = grid(1, 3, 3.4, 2.8)
    images = np.array([one.images for one in found])
    size, build, query = axes[0]
    inside = np.geomspace(images.min(), images.max(), 50)
    outside = np.geomspace(images.max(), _BEYOND, 50)

    def show(ax, cost: str, values: list[float], colour: str, label: str = "") -> None:
        ax.loglog(images, values, "o", color=colour, label=label)
        if costs is not None:
            line = costs.loc[cost]
            for n, style in ((inside, "-"), (outside, "--")):
                ax.plot(n, line["fixed"] + line["slope"] * n, style, color=colour, linewidth=1)

    show(size, BYTES, [one.bytes for one in found], SERIES[0])
    show(build, BUILD, [one.build_seconds for one in found], SERIES[0])
    for mode, colour in _OF_MODE.items():
        times = [one.milliseconds[mode] for one in found]
        show(query, QUERY[mode], times, colour, f"{mode.upper()}, measured")
    labels = (BYTES, BUILD, "query, first 100 (ms)")
    for ax, label in zip(axes[0], labels, strict=True):
        ax.set(xlabel="images", ylabel=label)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        if costs is not None:
            ax.axvspan(images.max(), _BEYOND, color="0.93", zorder=0)
            ax.text(0.97, 0.03, "extrapolated", transform=ax.transAxes, ha="right", fontsize=7)
    query.legend(fontsize=7)
    return done(figure)


def plot_map_by_size(found: Mapping[str, Sequence[Sized]], baseline: int) -> Figure:
    """Plot mAP against the database's size, one line for what stands around the wanted images.

    Args:
        found: what stands around to measured sizes.
        baseline: number of the dataset's own photographs, marked.
    """
    figure, axes = grid(1, 2, 4, 2.8, sharey=True)
    for ax, mode in zip(axes[0], MODES, strict=True):
        styles = zip(("o-", "s--", "^:"), SERIES, found.items(), strict=False)
        for style, colour, (label, sizes) in styles:
            images, scores = [one.images for one in sizes], [one.map(mode) for one in sizes]
            ax.plot(images, scores, style, color=colour, label=label, markersize=4)
        ax.axvline(baseline, color="0.6", linewidth=1, linestyle=":")
        ax.set(xscale="log", xlabel="images", title=mode.upper(), ylim=(0, 1))
    axes[0, 0].set(ylabel="mAP")
    axes[0, 1].legend(fontsize=7)
    return done(figure)
