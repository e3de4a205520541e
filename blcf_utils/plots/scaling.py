"""Growing databases: what drawn bags look like, what they cost, what is still found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from blcf_utils.experiments.drawn.checks import Likeness, Measured
from blcf_utils.experiments.drawn.curves import MODES, Sized
from blcf_utils.experiments.drawn.model import CostModel
from blcf_utils.plots.canvas import SERIES, done, grid

_REAL, _DRAWN = SERIES[0], SERIES[1]
_OF_MODE = dict(zip(MODES, (SERIES[0], SERIES[2]), strict=True))
_BEYOND = 1_000_000_000


def plot_likeness(found: Likeness) -> Figure:
    """Plot real against drawn bags: ranks, words an image, repeats, postings of every query."""
    figure, axes = grid(1, 4, 3, 2.5)
    ranks, distinct, repeats, touched = axes[0]
    for line, colour, label in zip(found.holders, (_REAL, _DRAWN), ("real", "drawn"), strict=True):
        ranks.loglog(np.arange(1, len(line) + 1), np.maximum(line, 0.5), color=colour, label=label)
    ranks.set(xlabel="word, most frequent first", ylabel="images that hold it")
    ranks.legend()
    bins = np.linspace(0, max(part.max() for part in found.distinct) + 1, 40)
    for part, colour in zip(found.distinct, (_REAL, _DRAWN), strict=True):
        distinct.hist(part, bins, density=True, histtype="step", color=colour, linewidth=1.5)
    distinct.set(xlabel="distinct words of an image", ylabel="density")
    for part, colour in zip(found.repeats, (_REAL, _DRAWN), strict=True):
        repeats.loglog(np.arange(1, len(part)), np.maximum(part[:-1], 1e-5), "o-", color=colour,
                       markersize=3)  # fmt: skip
    repeats.set(xlabel="times a word is repeated", ylabel="share of entries")
    for mode, (real, drawn) in found.touched.items():
        touched.scatter(real, drawn, s=10, color=_OF_MODE[mode], alpha=0.7, label=mode.upper())
    most = max(part.max() for pair in found.touched.values() for part in pair)
    touched.plot([0, most], [0, most], color="0.7", linewidth=1)
    touched.set(xlabel="postings of a query, real", ylabel="drawn")
    touched.legend()
    return done(figure)


def plot_laws(laws: Mapping[int, Measured]) -> Figure:
    """Plot the law of each codebook size (line) over the measured shares (points)."""
    figure, axes = grid(1, 1, 4.4, 2.8)
    ax = axes[0, 0]
    for colour, (words, one) in zip(SERIES, laws.items(), strict=False):
        places = np.unique(np.geomspace(1, words, 40).astype(int)) - 1
        shares = np.maximum(one.held[places], 1e-5)
        ax.loglog(places + 1, shares, "o", color=colour, markersize=3)
        ax.loglog(np.arange(1, words + 1), one.law.held(), color=colour, label=f"K = {words:,}")
    ax.set(xlabel="word, most frequent first", ylabel="share of images that hold it")
    ax.legend()
    return done(figure)


def plot_costs_by_size(found: Sequence[Sized], model: CostModel | None = None) -> Figure:
    """Plot index size, build time and query time against the database's size.

    Args:
        found: measured sizes, drawn as points.
        model: drawn as lines, dashed beyond the largest measured size.
    """
    figure, axes = grid(1, 3, 3.4, 2.8)
    images = np.array([one.images for one in found])
    size, build, query = axes[0]
    size.loglog(images, [one.bytes / 1e6 for one in found], "o", color=SERIES[0])
    size.set(ylabel="index (MB)")
    build.loglog(images, [one.build_seconds for one in found], "o", color=SERIES[0])
    build.set(ylabel="build (s)")
    for mode in MODES:
        times = [one.milliseconds[mode] for one in found]
        query.loglog(images, times, "o", color=_OF_MODE[mode], label=f"{mode.upper()}, measured")
    query.set(ylabel="query, first 100 (ms)")
    if model:
        _line(size, model, images, lambda n: model.size.at(n) / 1e6, SERIES[0])
        _line(build, model, images, model.build.at, SERIES[0])
        for mode in MODES:
            _line(query, model, images, _times(model, mode, model.linear), _OF_MODE[mode])
            if model.sublinear[mode].exponent < 1:
                skipping = _times(model, mode, model.sublinear)
                _line(query, model, images, skipping, _OF_MODE[mode], beyond=":")
    for ax in axes[0]:
        ax.set(xlabel="images")
        _dashed_region(ax, model)
    query.legend(fontsize=7)
    return done(figure)


def plot_map_by_size(found: Mapping[str, Sequence[Sized]], baseline: int | None = None) -> Figure:
    """Plot mAP against the database's size, one line for what stands around the wanted images.

    Args:
        found: what stands around to measured sizes.
        baseline: number of the dataset's own photographs, marked.
    """
    figure, axes = grid(1, 2, 4, 2.8, sharey=True)
    styles = ("o-", "s--", "^:")
    for ax, mode in zip(axes[0], MODES, strict=True):
        for style, colour, (label, sizes) in zip(styles, SERIES, found.items(), strict=False):
            scored = [one for one in sizes if mode in one.aps]
            ax.plot(
                [one.images for one in scored],
                [one.map(mode) for one in scored],
                style,
                color=colour,
                label=label,
                markersize=4,
            )
        if baseline:
            ax.axvline(baseline, color="0.6", linewidth=1, linestyle=":")
        ax.set(xscale="log", xlabel="images", title=mode.upper(), ylim=(0, 1))
    axes[0, 0].set(ylabel="mAP")
    axes[0, 1].legend(fontsize=7)
    return done(figure)


def _times(model: CostModel, mode, curves):
    return lambda n: curves[mode].at(model.postings[mode] * np.asarray(n, float))


def _line(ax, model: CostModel, images: np.ndarray, curve, colour: str, beyond: str = "--") -> None:
    """Draw a fitted curve: solid over what was measured, dashed or dotted beyond it."""
    inside = np.geomspace(images.min(), model.measured, 50)
    outside = np.geomspace(model.measured, _BEYOND, 50)
    if beyond == "--":
        ax.plot(inside, curve(inside), color=colour, linewidth=1)
    ax.plot(outside, curve(outside), beyond, color=colour, linewidth=1)


def _dashed_region(ax, model: CostModel | None) -> None:
    ax.xaxis.set_major_formatter(FuncFormatter(_short))
    if model:
        ax.axvspan(model.measured, _BEYOND, color="0.93", zorder=0)
        ax.text(
            0.97, 0.03, "extrapolated", transform=ax.transAxes, ha="right", fontsize=7, color="0.4"
        )


def _short(value: float, _position=None) -> str:
    """Return 1000, 10k, 1M, 1G."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
