"""What the thesis published and what a run measured, as gains that rise or fall between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from blcf_utils.plots.canvas import IGNORED, RELEVANT, WRONG, done, grid, nothing
from blcf_utils.results.published import dataset_of

PLACES = {"published": 0.0, "measured": 1.0}
_TEXT = 8  # points


def slope_gains(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each row gains over the table's first row, published and measured.

    A gain is the mean over the datasets that have both rows; columns of one variant (``/gs``) are
    averaged by themselves.

    Args:
        table: a table of mAPs in long form (``read_table``).

    Returns:
        Columns published, measured (NaN where there is none); index (variant, row).
    """
    first, lines = table["row"].iloc[0], {}
    for what in PLACES:
        cells = table.set_index(["row", "column"])[what].dropna()
        found: dict[tuple[str, str], list[float]] = {}
        for (row, column), value in cells.items():
            if row != first and (first, column) in cells:
                variant = column.removeprefix(dataset_of(column))
                found.setdefault((variant, row), []).append(value - cells[first, column])
        lines[what] = {key: float(np.mean(gains)) for key, gains in found.items()}
    keys = dict.fromkeys(key for of in lines.values() for key in of)
    rows = {row: place for place, row in enumerate(table["row"].unique())}
    index = pd.MultiIndex.from_tuples(
        sorted(keys, key=lambda key: (key[0], rows[key[1]])), names=("variant", "row")
    )
    gains = {what: [of.get(key, np.nan) for key in index] for what, of in lines.items()}
    return pd.DataFrame(gains, index, dtype=float)


def plot_slopes(table: pd.DataFrame, variants: Sequence[str] = ()) -> Figure:
    """Plot the gains of a table's rows over its first: published left, measured right.

    A line joins the two gains of a row, green where both have one sign, orange where they have not;
    a row of one side only is a grey mark. One panel a variant.

    Args:
        table: as of :func:`slope_gains`.
        variants: such as ``/gs``; those that both sides have when empty.
    """
    gains = slope_gains(table) if len(table) else pd.DataFrame()
    if gains.empty:
        return nothing()
    both = gains.dropna().index.get_level_values("variant").unique()
    variants = [*(variants or both)]
    if not variants:
        return nothing("no row was both published and measured")
    height = 0.8 + 0.26 * max(len(gains.loc[variant]) for variant in variants)
    figure, axes = grid(1, len(variants), 4.6, max(height, 2.2), sharey=True)
    shown = gains.loc[variants].to_numpy()
    low, high = min(0, np.nanmin(shown)), max(0, np.nanmax(shown))
    margin = max(0.05 * (high - low), 0.01)
    for ax, variant in zip(axes[0], variants, strict=True):
        part = gains.loc[variant]
        ax.axhline(0, color="0.4", linewidth=1)
        ax.set(xlim=(-0.85, 1.85), ylim=(low - margin, high + margin), title=_title(variant))
        over = {what: _over(table, what, variant) for what in PLACES}
        sides = [f"thesis, {over['published']}", f"this run, {over['measured']}"]
        ax.set_xticks(list(PLACES.values()), sides)
        ax.grid(axis="x", visible=False)
        for values in part.itertuples(index=False):
            ends = (values.published, values.measured)
            agree = np.sign(ends[0]) == np.sign(ends[1])
            colour = IGNORED if np.isnan(ends).any() else RELEVANT if agree else WRONG
            ax.plot(list(PLACES.values()), ends, "o-", color=colour, markersize=4, linewidth=1.4)
        for what, side in (("published", "right"), ("measured", "left")):
            _names(ax, part[what].dropna(), PLACES[what], side, high - low + 2 * margin, height)
    axes[0, 0].set_ylabel(f"gain in mAP over {table['row'].iloc[0]}")
    return done(figure)


def _over(table: pd.DataFrame, what: str, variant: str) -> str:
    """Say over how many datasets a side's gains are averaged."""
    columns = table.loc[table[what].notna(), "column"].unique()
    count = sum(column == dataset_of(column) + variant for column in columns)
    return f"{count} dataset{'s' * (count != 1)}"


def _title(variant: str) -> str:
    return variant.lstrip("/+") or ""


def _names(ax, gains: Mapping[str, float], x: float, side: str, span: float, height: float) -> None:
    """Write the rows' names beside their marks, pushed apart so that none covers another."""
    step = span * (_TEXT + 2) / 72 / (0.75 * height)
    wanted = sorted(gains.items(), key=lambda item: item[1])
    away = -0.05 if side == "right" else 0.05
    for place, (row, gain) in zip(spread([gain for _, gain in wanted], step), wanted, strict=True):
        ax.annotate(
            f"{row}  {gain:+.3f}", (x, gain), (x + 3 * away, place), fontsize=_TEXT, ha=side,
            va="center", arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6},
        )  # fmt: skip


def spread(places: Sequence[float], step: float) -> list[float]:
    """Return ascending places at least ``step`` apart, moved as little as their order allows.

    The least-squares solution (isotonic regression of the places less their rank's share, by
    pooling neighbours: Barlow and others, Statistical Inference under Order Restrictions, 1972).
    """
    blocks: list[list[float]] = []  # sum and count of what is pooled
    for rank, place in enumerate(places):
        blocks.append([place - rank * step, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    means = [total / count for total, count in blocks for _ in range(int(count))]
    return [mean + rank * step for rank, mean in enumerate(means)]
