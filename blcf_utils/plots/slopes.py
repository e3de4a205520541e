"""What the thesis published and what a run measured, as gains that rise or fall between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from blcf_utils.plots.canvas import IGNORED, RELEVANT, WRONG, done, grid, nothing, spread
from blcf_utils.results.published import dataset_of

PLACES = {"published": 0.0, "measured": 1.0}
_TEXT = 8  # points
_LETTER, _LINE, _BETWEEN = 0.066, 0.14, 1.7  # inches: of a letter, of a line, between the two sides


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
    parts = {variant: gains.loc[variant] for variant in variants}
    height = 1 + 1.5 * _LINE * max(map(len, parts.values()))
    places = gains.loc[variants].stack()
    low, high = min(0.0, places.min()), max(0.0, places.max(), 1e-3)
    for _ in range(3):  # the more the names are spread, the less of the axis a line of text takes
        step = (high - low) * _LINE / (height - 0.6)
        named = {
            variant: {what: _named(part[what].dropna(), step) for what in PLACES}
            for variant, part in parts.items()
        }
        written = [place for of in named.values() for side in of.values() for _, place, _ in side]
        low, high = min(low, *written) - step / 3, max(high, *written) + step / 3
    letters = max(len(name) for of in named.values() for side in of.values() for name, *_ in side)
    room = (0.35 + _LETTER * letters) / _BETWEEN
    width = _BETWEEN * (1 + 2 * room) + 0.3
    figure, axes = grid(1, len(variants), width, height, sharey=True)
    for ax, variant in zip(axes[0], variants, strict=True):
        ax.axhline(0, color="0.4", linewidth=1)
        ax.set(xlim=(-room, 1 + room), ylim=(low - step / 2, high + step / 2))
        over = {what: _over(table, what, variant) for what in PLACES}
        sides = [f"thesis, {over['published']}", f"this run, {over['measured']}"]
        ax.set_xticks(list(PLACES.values()), sides)
        ax.grid(axis="x", visible=False)
        if len(variants) > 1:
            ax.set_title(variant.lstrip("/+") or "plain")
        for values in parts[variant].itertuples(index=False):
            agree = np.sign(values.published) == np.sign(values.measured)
            one_sided = np.isnan([values.published, values.measured]).any()
            colour = IGNORED if one_sided else RELEVANT if agree else WRONG
            line = (values.published, values.measured)
            ax.plot(list(PLACES.values()), line, "o-", color=colour, markersize=4, linewidth=1.4)
        for what, side, away in (("published", "right", -0.12), ("measured", "left", 0.12)):
            for name, place, gain in named[variant][what]:
                ax.annotate(
                    name, (PLACES[what], gain), (PLACES[what] + away, place), fontsize=_TEXT,
                    ha=side, va="center",
                    arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6},
                )  # fmt: skip
    axes[0, 0].set_ylabel(f"gain in mAP over {table['row'].iloc[0]}")
    return done(figure)


def _named(gains: Mapping[str, float], step: float) -> list[tuple[str, float, float]]:
    """Return what is written beside each mark, where, and the mark's own place."""
    wanted = sorted(gains.items(), key=lambda item: item[1])
    places = spread([gain for _, gain in wanted], step)
    return [(f"{row}  {gain:+.3f}", y, gain) for y, (row, gain) in zip(places, wanted, strict=True)]


def _over(table: pd.DataFrame, what: str, variant: str) -> str:
    """Say over how many datasets a side's gains are averaged."""
    columns = table.loc[table[what].notna(), "column"].unique()
    count = sum(column == dataset_of(column) + variant for column in columns)
    return f"{count} dataset{'s' * (count != 1)}"
