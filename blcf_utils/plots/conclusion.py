"""What the study tells: claims, the ladder of searches, and words against vectors by network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from blcf_utils.plots.canvas import IGNORED, SERIES, done, grid, nothing

_HOLLOW = "os^Dv"  # markers of the thesis' datasets, which have no colour
_LINEAR = 0.1  # differences up to this are drawn to scale, larger ones closer together
_TICKS = (-0.8, -0.4, -0.2, -0.1, 0, 0.1, 0.2, 0.4, 0.8)


def plot_claims(differences: pd.DataFrame) -> Figure:
    """Plot claims as differences of mAP: this run's with intervals, the thesis' as hollow marks.

    Beyond 0.1 the axis narrows (inverse hyperbolic sine), so that small and large differences are
    both seen. A mark is pale where its interval holds 0.

    Args:
        differences: columns difference, low, high; index (claim, origin, dataset), origin
            ``thesis`` or ``run`` (``experiments.claim_differences``).
    """
    if differences.empty:
        return nothing()
    claims = differences.index.get_level_values("claim").unique()
    ours, theirs = (_datasets(differences, origin) for origin in ("run", "thesis"))
    figure, axes = grid(1, 1, 8.4, 0.7 + 0.5 * len(claims))
    ax = axes[0, 0]
    ax.axvline(0, color="0.4", linewidth=1)
    offsets = np.linspace(-0.3, 0.3, len(ours) + 1)  # the thesis' marks share the last line
    for k, claim in enumerate(claims):
        ax.axhspan(k - 0.5, k + 0.5, color="0.5", alpha=0.08 * (k % 2), linewidth=0)
        for (origin, dataset), line in differences.loc[claim].iterrows():
            if origin == "run":
                place = ours.index(dataset)
                _interval(ax, line, k + offsets[place], SERIES[place % len(SERIES)])
            else:
                marker = _HOLLOW[theirs.index(dataset) % len(_HOLLOW)]
                _hollow(ax, line.iloc[0], k + offsets[-1], marker)
    ax.set_yticks(range(len(claims)), claims)
    ax.set_ylim(len(claims) - 0.5, -0.5)
    ax.set_xscale("asinh", linear_width=_LINEAR)
    reach = max(1.1 * np.nanmax(np.abs(differences.to_numpy())), 0.15)
    ax.set_xlim(-reach, reach)
    ticks = [tick for tick in _TICKS if abs(tick) <= reach]
    ax.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
    ax.minorticks_off()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("difference in mAP, with 95 % intervals; the axis narrows beyond ±0.1")
    _legend(figure, ours, theirs)
    return done(figure)


def plot_ladder(ladder: pd.DataFrame) -> Figure:
    """Plot the mAP of each step of the search by dataset, the thesis' own as dashed grey lines.

    Args:
        ladder: columns mAP, low, high; index (origin, dataset, step), origin ``thesis`` or ``run``
            (``experiments.search_ladder``).
    """
    if ladder.empty:
        return nothing()
    steps = list(ladder.index.get_level_values("step").unique())
    ours, theirs = (_datasets(ladder, origin) for origin in ("run", "thesis"))
    figure, axes = grid(1, 1, 6.2, 3.6)
    ax = axes[0, 0]
    for k, dataset in enumerate(theirs):
        part = ladder.loc["thesis"].loc[dataset]
        places = [steps.index(step) for step in part.index]
        ax.plot(places, part["mAP"], linestyle="--", linewidth=1, color=IGNORED, zorder=1)
        for place, value in zip(places, part["mAP"], strict=True):
            _hollow(ax, place, value, _HOLLOW[k % len(_HOLLOW)])
    for k, dataset in enumerate(ours):
        part, colour = ladder.loc["run"].loc[dataset], SERIES[k % len(SERIES)]
        # A little apart, so that intervals of two datasets never lie on one another.
        places = [steps.index(step) + 0.06 * (k - (len(ours) - 1) / 2) for step in part.index]
        ax.plot(places, part["mAP"], "o-", color=colour, markersize=5)
        ax.vlines(places, part["low"], part["high"], color=colour, linewidth=2, alpha=0.6)
    ax.set_xticks(range(len(steps)), steps)
    ax.set(ylabel="mAP, with 95 % intervals", ylim=(0, 1))
    _legend(figure, ours, theirs)
    return done(figure)


def plot_networks(gains: pd.DataFrame) -> Figure:
    """Plot what words gain over dense vectors: a row of panels a dataset, a panel a rival.

    Args:
        gains: columns gain, low, high; index (dataset, network, rival)
            (``experiments.network_gains``).
    """
    if gains.empty:
        return nothing()
    datasets, networks, rivals = (list(level) for level in map(_unique(gains), range(3)))
    height = 0.7 + 0.32 * len(networks)
    figure, axes = grid(len(datasets), len(rivals), 1.9, height, sharex=True, sharey=True)
    for line, dataset in zip(axes, datasets, strict=True):
        for ax in line:
            ax.axvline(0, color="0.4", linewidth=1)
            ax.grid(axis="y", visible=False)
        for (network, rival), values in gains.loc[dataset].iterrows():
            row = networks.index(network)
            _interval(line[rivals.index(rival)], values, row, SERIES[0])
        line[0].set_ylabel(dataset)
    for ax, rival in zip(axes[0], rivals, strict=True):
        ax.set_title(f"over {rival}")
    axes[0, 0].set_yticks(range(len(networks)), [n.replace(" (", "\n(") for n in networks])
    axes[0, 0].set_ylim(len(networks) - 0.5, -0.5)
    figure.supxlabel("mAP of words - mAP of vectors, with 95 % intervals", fontsize=9)
    return done(figure)


def _unique(frame: pd.DataFrame):
    return lambda level: frame.index.get_level_values(level).unique()


def _datasets(frame: pd.DataFrame, origin: str) -> list[str]:
    of = frame[frame.index.get_level_values("origin") == origin]
    return list(of.index.get_level_values("dataset").unique())


def _interval(ax, line: pd.Series, place: float, colour: str) -> None:
    """Draw a value (first of the line) and its interval; pale unless it leaves 0 out."""
    value, low, high = line
    alpha = 1 if low > 0 or high < 0 else 0.45
    ax.hlines(place, low, high, color=colour, linewidth=2, alpha=alpha)
    ax.scatter([value], [place], color=colour, s=20, zorder=3, alpha=alpha)


def _hollow(ax, x: float, y: float, marker: str) -> None:
    ax.scatter([x], [y], marker=marker, s=26, facecolor="white", edgecolor="0.3", zorder=2)


def _legend(figure: Figure, ours: Sequence[str], theirs: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=SERIES[k % len(SERIES)], marker="o", markersize=4, label=name)
        for k, name in enumerate(ours)
    ] + [
        Line2D([], [], marker=_HOLLOW[k % len(_HOLLOW)], linestyle="", label=f"thesis: {name}",
               markerfacecolor="white", markeredgecolor="0.3", markersize=5)
        for k, name in enumerate(theirs)
    ]  # fmt: skip
    columns = max(1, int(figure.get_figwidth() / 1.9))  # inches that a name takes
    options = {"ncols": min(len(handles), columns), "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, loc="outside upper center", **options)
