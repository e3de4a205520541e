"""The compared methods as drawings: what each pools, over what, and what it learns.

Blue is what is pooled, the darker the more it counts; orange is learned; grey is given or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle

from blcf_utils.plots.canvas import IGNORED, QUERY, SERIES, done, grid
from blcf_utils.pooling.crow import crow_spatial_weights
from blcf_utils.pooling.spoc import spoc_prior

LEARNED = SERIES[1]
_COLUMNS = 4
_CELL, _MIDDLE, _SMALL = 0.9, 4.0, 7.5  # side of a cell; height of the middle line; type in points
_LEFT, _VECTOR = 0.3, 8.4  # where a map and a vector begin
_DASHED = (0, (2, 1))
# A channel of a small map, with a thing a little off its middle.
_FIRES = np.array(
    [
        [0.1, 0.0, 0.1, 0.3, 0.1, 0.0],
        [0.0, 0.2, 0.6, 0.9, 0.4, 0.1],
        [0.1, 0.3, 0.8, 1.0, 0.5, 0.0],
        [0.2, 0.1, 0.2, 0.4, 0.1, 0.1],
    ]
)
_POINTS = np.array([[0.9, 5.9], [2.2, 6.9], [1.3, 4.3], [4.9, 5.9], [5.6, 4.4], [3.2, 2.0]])
_CENTRES = np.array([[1.6, 5.6], [4.6, 4.9], [3.6, 2.9]])


class Sketch(NamedTuple):
    """A method as a drawing: its name, what it learns, and what draws it on axes."""

    title: str
    learned: str
    draw: Callable[[Axes], None]


def draw_methods(family: str) -> Figure:
    """Draw methods of the comparison, one a panel.

    Args:
        family: of ``SKETCHES``: "pooling", one vector of a map, or "others".
    """
    sketches = SKETCHES[family].values()
    rows = -(-len(sketches) // _COLUMNS)
    figure, axes = grid(rows, _COLUMNS, 2.9, 1.78 + 0.3 / rows)  # and a legend
    for ax in axes.flat:
        ax.axis("off")
        ax.set(xlim=(0, 16), ylim=(-0.6, 9.1), aspect="equal")
    for ax, (title, learned, draw) in zip(axes.flat, sketches, strict=False):
        _say(ax, 0.1, 8.5, title, ha="left", weight="bold", fontsize=9)
        draw(ax)
        _say(ax, 0.1, 0, f"learned: {learned}", ha="left", color="#333333")
    handles = [
        Patch(facecolor=QUERY, label="pooled, dark: counts more"),
        Patch(facecolor=LEARNED, edgecolor="black", hatch="...", label="learned"),
        Patch(facecolor="0.8", label="the network as it is, or left out"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return done(figure)


def _map(ax: Axes, x: float, weights: np.ndarray, y: float = _MIDDLE, cell: float = _CELL) -> None:
    """Draw a map around a height; its positions are as dark as they count, 1 at most."""
    height, width = weights.shape
    for (row, column), weight in np.ndenumerate(weights):
        corner = x + column * cell, y + (height / 2 - 1 - row) * cell
        face = (QUERY, float(weight))
        ax.add_patch(Rectangle(corner, cell, cell, facecolor=face, edgecolor="0.75", linewidth=0.6))
    outline = {"fill": False, "edgecolor": "0.3", "linewidth": 1}
    ax.add_patch(Rectangle((x, y - height * cell / 2), width * cell, height * cell, **outline))


def _window(ax: Axes, window: Sequence[float], left: float = _LEFT, **options) -> None:
    """Outline (y0, y1, x0, x1) in cells of a map of four rows that begins on the left."""
    y0, y1, x0, x1 = window
    corner = left + x0 * _CELL, _MIDDLE + (2 - y1) * _CELL
    style = {"fill": False, "edgecolor": QUERY, "linewidth": 1.8, **options}
    ax.add_patch(Rectangle(corner, (x1 - x0) * _CELL, (y1 - y0) * _CELL, **style))


def _vector(
    ax: Axes, x: float, shades: Iterable[float], y: float = _MIDDLE, cell: float = 0.75
) -> None:
    """Draw a vector, a number below the other."""
    _map(ax, x, np.array(list(shades))[:, None], y, cell)


def _arrow(
    ax: Axes, start: float, end: float, label: str = "", y: float = _MIDDLE, end_y: float = np.nan
) -> None:
    end_y = y if np.isnan(end_y) else end_y
    ax.annotate("", (end, end_y), (start, y), arrowprops={"arrowstyle": "->", "linewidth": 1})
    _say(ax, (start + end) / 2, (y + end_y) / 2 + 0.2, label, va="bottom")


def _say(ax: Axes, x: float, y: float, text: str, **options) -> None:
    style = {"ha": "center", "va": "center", "fontsize": _SMALL, **options}
    ax.text(x, y, text, **style).set_in_layout(False)  # panels stay of one size


def _box(
    ax: Axes,
    x: float,
    width: float,
    text: str,
    y: float = _MIDDLE,
    height: float = 1.5,
    given: bool = False,
) -> None:
    """Draw what turns numbers into others, from x on: dotted orange if learned, grey if given."""
    style = {"facecolor": "0.85"} if given else {"facecolor": (LEARNED, 0.55), "hatch": "..."}
    options = {"boxstyle": "round,pad=0.05", "edgecolor": "black" if given else LEARNED, **style}
    ax.add_patch(FancyBboxPatch((x, y - height / 2), width, height, linewidth=0.8, **options))
    back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    _say(ax, x + width / 2, y, text, bbox=None if given else back)


def _whiten(ax: Axes, start: float = _VECTOR + 1) -> None:
    """Draw the way from a pooled vector to the one that is compared."""
    _arrow(ax, start, start + 0.9)
    _box(ax, start + 1, 2.1, "PCA")
    _arrow(ax, start + 3.2, start + 4.1)
    _vector(ax, start + 4.3, _SHORT)


_SHORT = (0.7, 0.3, 0.5, 0.2)
_SUMMED = (0.6, 0.3, 0.8, 0.2, 0.5, 0.4)


def _pool(ax: Axes, weights: np.ndarray, operator: str, shades: Sequence[float] = _SUMMED) -> None:
    """Draw a map of which positions count as they weigh, its vector, and what whitens it."""
    _map(ax, _LEFT, weights)
    _arrow(ax, 5.9, 8.2, operator)
    _vector(ax, _VECTOR, shades)
    _whiten(ax)


def _sum(ax: Axes) -> None:
    _pool(ax, np.full((4, 6), 0.45), "sum")


def _spoc(ax: Axes) -> None:
    _pool(ax, spoc_prior((4, 6)) * 0.9, "Σ α f")


def _crow(ax: Axes) -> None:
    alpha = crow_spatial_weights(_FIRES[None])
    _pool(ax, alpha / alpha.max() * 0.9, "Σ α f", (0.1, 0.3, 0.95, 0.1, 0.7, 0.2))
    _say(ax, _VECTOR + 0.4, 6.9, "times β")


def _mac(ax: Axes) -> None:
    seats = {1: (0, 4), 2: (1, 3), 3: (2, 2), 4: (3, 5)}
    weights = np.zeros((4, 6))
    for seat in seats.values():
        weights[seat] = 0.5
    _pool(ax, weights, "max", (0.5,) * 4)
    for channel, (row, column) in seats.items():
        _say(ax, _LEFT + (column + 0.5) * _CELL, _MIDDLE + (1.5 - row) * _CELL, str(channel))
        _say(ax, _VECTOR + 0.375, _MIDDLE + (2.5 - channel) * 0.75, str(channel))


def _gem(ax: Axes) -> None:
    _pool(ax, _FIRES**3 * 0.9, "mean\nof f³")
    _say(ax, _VECTOR + 0.4, 6.9, "cube root")


def _rmac(ax: Axes) -> None:
    _map(ax, _LEFT, np.full((4, 6), 0.12))
    for window, line, y in (
        ((0.1, 3.9, 0.1, 3.9), "-", 6.4),
        ((1.1, 3.7, 3.2, 5.8), _DASHED, 4.0),
        ((0.2, 1.8, 4.2, 5.8), ":", 1.8),
    ):
        _window(ax, window, linestyle=line)
        ax.plot([6.2, 7.4], [y, y], color=QUERY, linestyle=line, linewidth=1.8)
        _vector(ax, 7.7, (0.4, 0.7, 0.3), y, 0.6)
        _arrow(ax, 8.5, 9.3, y=y)
        _box(ax, 9.5, 2.2, "PCA", y)
        _arrow(ax, 11.9, 14.2, y=y, end_y=_MIDDLE + (y - _MIDDLE) / 4)
    _say(ax, 6.8, 7.1, "max")
    _say(ax, 15.0, 6.1, "+")
    _vector(ax, 14.6, _SHORT)


def _classes(ax: Axes, named: Sequence[str]) -> None:
    """Draw a map for each of two classes, what they weigh, and the sum of their vectors."""
    seen = np.zeros((2, 4, 6))
    seen[0, 1:3, 2:5], seen[1, 2:, :3] = 0.8, 0.8
    seen[0, 1:3, 3], seen[1, 3, 1] = 0.95, 0.95
    for weights, name, y in zip(seen, named, (5.9, 2.1), strict=True):
        _map(ax, _LEFT + 1.4, weights, y, 0.6)
        _say(ax, 0.85, y, name, rotation=90)
        _arrow(ax, 5.5, 7.5, "Σ α f", y)
        _vector(ax, 7.7, (0.4, 0.7, 0.3, 0.5), y, 0.6)
        _arrow(ax, 8.5, 9.3, y=y)
        _box(ax, 9.5, 2.2, "PCA", y)
        _arrow(ax, 11.9, 14.2, y=y, end_y=_MIDDLE + (y - _MIDDLE) / 4)
    _say(ax, 15.0, 6.1, "+")
    _vector(ax, 14.6, _SHORT)


def _cam(ax: Axes) -> None:
    _classes(ax, ("castle", "bus"))
    _say(ax, 3.5, 4.0, "the image's classes")


def _cam_online(ax: Axes) -> None:
    _classes(ax, ("church", "tower"))
    _say(ax, 3.5, 4.0, "the query's classes")


def _layers(ax: Axes, x: float, width: float, y: float, height: float = 1.5) -> None:
    _box(ax, x, width, "FC", y, height, given=True)


def _neural_codes(ax: Axes) -> None:
    _map(ax, _LEFT, np.full((4, 6), 0.45))
    _arrow(ax, 5.9, 6.9)
    _layers(ax, 7.1, 2, _MIDDLE, 3)
    _arrow(ax, 9.3, 9.9)
    _vector(ax, 10.0, _SUMMED)
    _box(ax, 11.5, 2.1, "PCA")
    _arrow(ax, 10.9, 11.4)
    _arrow(ax, 13.7, 14.4)
    _vector(ax, 14.6, _SHORT)


# By their lines.
_PATCHES = {
    "-": (0.1, 3.9, 0.1, 5.9),
    _DASHED: (0.3, 2.4, 0.3, 3.4),
    ":": (1.6, 3.7, 2.6, 5.7),
}


def _patches(ax: Axes, described: Callable[[float], None]) -> None:
    """Draw patches of an image, the set of their vectors, and how two sets are compared."""
    _map(ax, _LEFT, np.full((4, 6), 0.12))
    for y, (line, window) in zip((6.3, 4.0, 1.7), _PATCHES.items(), strict=True):
        _window(ax, window, linestyle=line)
        ax.plot([5.9, 6.7], [y, y], color=QUERY, linestyle=line, linewidth=1.8)
        described(y)
        _box(ax, 9.2, 2.0, "PCA", y)
        _vector(ax, 11.6, (0.4, 0.7, 0.3), y, 0.6)
    for y, other in ((5.4, 4.0), (3.0, 1.7)):  # of the query, each to its nearest
        _vector(ax, 14.6, (0.4, 0.6, 0.3), y, 0.6)
        _arrow(ax, 14.5, 12.4, y=y, end_y=other)
    _say(ax, 15.9, 7.7, "query: nearest", ha="right")


def _astounding(ax: Axes) -> None:
    def described(y: float) -> None:
        _layers(ax, 6.9, 1.4, y)
        _arrow(ax, 8.4, 9.1, y=y)

    _patches(ax, described)


def _razavian(ax: Axes) -> None:
    _patches(ax, lambda y: _arrow(ax, 6.9, 9.1, "max", y))


def _mop(ax: Axes) -> None:
    for count, y, after in ((1, 5.85, ""), (2, 4.1, "VLAD"), (4, 2.0, "VLAD")):
        side = 1.6 / count
        for row, column in np.ndindex(count, count):
            corner = _LEFT + column * side * 1.5, y - 0.8 + row * side
            face = {"facecolor": (QUERY, 0.35), "edgecolor": "0.3", "linewidth": 0.8}
            ax.add_patch(Rectangle(corner, side * 1.5, side, **face))
        _arrow(ax, 3.4, 4.3, y=y)
        _layers(ax, 4.5, 1.7, y, 1.2)
        if after:
            _arrow(ax, 6.4, 7.1, y=y)
            _box(ax, 7.3, 2.7, after, y, 1.2)
        _arrow(ax, 10.2 if after else 6.4, 10.9, y=y)
        _vector(ax, 11.1, (0.6, 0.3, 0.7) if after else (0.5, 0.2), y, 0.7)
    _arrow(ax, 11.9, 12.4)
    _box(ax, 12.5, 2.0, "PCA")
    _arrow(ax, 14.6, 15.1)
    _vector(ax, 15.2, _SHORT)


def _residuals(ax: Axes, soft: bool) -> None:
    """Draw descriptors, words, and the differences that are summed word by word."""
    for centre in _CENTRES:
        ax.plot(*centre, "*", color=LEARNED, markeredgecolor="black", markersize=9, zorder=3)
    for point in _POINTS:
        distance = np.linalg.norm(_CENTRES - point, axis=1)
        share = np.exp(-0.7 * distance) / np.exp(-0.7 * distance).sum()
        for k, centre in enumerate(_CENTRES):
            weight = share[k] if soft else float(k == distance.argmin())
            ax.plot(*np.stack([centre, point]).T, color=QUERY, linewidth=2.2 * weight)
        ax.plot(*point, "o", color=QUERY, markersize=4)
    _arrow(ax, 6.2, 8.2, "sum a\nword")
    for y, shades in zip((6.2, 4.0, 1.8), ((0.7, 0.2), (0.3, 0.8), (0.1, 0.6)), strict=True):
        ax.plot(8.9, y, "*", color=LEARNED, markeredgecolor="black", markersize=7)
        _vector(ax, 9.4, (*shades, 0.4), y, 0.65)


def _vlad(ax: Axes) -> None:
    _residuals(ax, soft=False)
    _whiten(ax, 10.4)


def _netvlad(ax: Axes) -> None:
    _residuals(ax, soft=True)
    _whiten(ax, 10.4)


def _asmk(ax: Axes) -> None:
    _residuals(ax, soft=False)
    for y, signs in ((6.2, "+ − +"), (4.0, "− + −"), (1.8, "− + +")):
        _arrow(ax, 10.3, 11.6, y=y)
        _say(ax, 13.4, y, signs, fontsize=9)
    _say(ax, 13.4, 7.4, "one bit each")


def _words(ax: Axes) -> None:
    numbers = np.array(
        [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 0], [0, 0, 1, 2, 2, 0], [0, 3, 3, 3, 3, 0]]
    )
    for (row, column), word in np.ndenumerate(numbers):
        corner = _LEFT + column * _CELL, _MIDDLE + (1 - row) * _CELL
        ax.add_patch(Rectangle(corner, _CELL, _CELL, facecolor=(QUERY, 0.15 + 0.2 * word)))
        middle = corner[0] + _CELL / 2, corner[1] + _CELL / 2
        _say(ax, *middle, str((17, 40, 90, 3)[word]), fontsize=6.5)
    _box(ax, _LEFT, 5.4, "nearest word", 7.2, 1.1)
    ax.annotate("", (3.0, 5.9), (3.0, 6.6), arrowprops={"arrowstyle": "->", "linewidth": 1})
    _arrow(ax, 5.9, 8.0, "count")
    for k, (word, count) in enumerate(((3, 4), (17, 14), (40, 3), (90, 3))):
        x = 8.6 + 1.8 * k
        ax.add_patch(Rectangle((x, 2.4), 0.9, count * 0.28, facecolor=QUERY, alpha=0.6))
        _say(ax, x + 0.45, 1.8, str(word))
    ax.plot([8.3, 15.6], [2.4, 2.4], color="0.3", linewidth=1)
    _say(ax, 12.0, 7.2, "K bins, few filled")


def _detector(ax: Axes) -> None:
    _box(ax, _LEFT, 3.4, "detector", height=3)
    _arrow(ax, 3.8, 4.5)
    left = 4.6
    _map(ax, left, np.full((4, 6), 0.12))
    _window(ax, (1.0, 2.9, 2.0, 4.6), left)
    _window(ax, (0.4, 3.6, 0.4, 3.1), left, linestyle=_DASHED)
    _say(ax, left + 2.7, 6.5, "proposals")
    for y, line in ((5.4, "-"), (2.6, _DASHED)):
        ax.plot([10.2, 10.9], [y, y], color=QUERY, linestyle=line, linewidth=1.8)
        _arrow(ax, 11.1, 12.7, "max", y)
        _vector(ax, 12.8, (0.4, 0.7, 0.3), y, 0.6)
    _say(ax, 14.8, 5.4, "best:\nobject")


def _aml(ax: Axes) -> None:
    _map(ax, _LEFT, np.full((4, 6), 0.12))
    for window in ((0.1, 2.0, 0.1, 2.4), (0.1, 2.0, 1.6, 3.9), (2.0, 3.9, 0.1, 2.4)):
        _window(ax, window, edgecolor=IGNORED, linestyle=_DASHED, linewidth=1)
    _window(ax, (0.8, 3.2, 1.9, 4.7))
    for x, dx, y, dy in ((4.7, 0.8, 2, 0), (3.3, 0, 0.8, -0.7)):
        start = _LEFT + x * _CELL, _MIDDLE + (2 - y) * _CELL
        end = start[0] + dx * _CELL, start[1] - dy * _CELL
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": QUERY})
    _arrow(ax, 5.9, 8.8, "≈ max")
    _vector(ax, 9.0, _SUMMED, cell=0.7)
    _arrow(ax, 11.3, 9.9)
    _arrow(ax, 12.2, 13.3)
    _vector(ax, 13.5, _SUMMED, cell=0.7)
    _say(ax, 11.7, 4.0, "cos")
    _say(ax, 13.9, 6.7, "query")


def _sift(ax: Axes) -> None:
    places = ((1.2, 2.6), (2.3, 4.9), (3.4, 3.4))
    for x in (_LEFT, 11.2):
        ax.add_patch(Rectangle((x, 1.4), 4.4, 5, facecolor="0.92", edgecolor="0.3"))
    for number, (x, y) in enumerate(places):
        for shift in (0, 10.9):
            middle = x + shift, y + (0.5 if shift else 0)
            ax.add_patch(Circle(middle, 0.35, fill=False, edgecolor=QUERY, linewidth=1.4))
        if number != 1:
            ends = [x + 0.35, x + 10.55], [y, y + 0.5]
            ax.plot(*ends, color=QUERY, linewidth=1)
    _box(ax, 6.5, 2.9, "words", 5.6, 1.4)
    _say(ax, 7.95, 1.7, "agree on a\nhomography")


def _neighbours(ax: Axes, reciprocal: bool) -> None:
    """Draw unit vectors as points around an image's: averaged, or asked back."""
    middle = np.array([3.6, 4.2])
    near = middle + np.array([[-1.6, 1.2], [1.5, 1.3], [0.4, -1.8]])
    for k, point in enumerate(near):
        kind = "<->" if reciprocal and k < 2 else "->"
        props = {"arrowstyle": kind, "color": QUERY, "shrinkA": 4, "shrinkB": 4}
        ax.annotate("", point, middle, arrowprops=props)
    ax.scatter(*near.T, s=28, color=QUERY, alpha=0.55)
    ax.scatter(*middle, s=40, color=QUERY)
    ax.scatter([0.6, 6.9, 6.3], [2.0, 6.8, 1.6], s=28, color="0.8")


def _dba(ax: Axes) -> None:
    _neighbours(ax, reciprocal=False)
    _arrow(ax, 7.4, 9.9, "+")
    _vector(ax, 10.2, _SUMMED)
    _say(ax, 13.5, 4.0, "in place of\nthe image's\nown vector")


def _reciprocal(ax: Axes) -> None:
    _neighbours(ax, reciprocal=True)
    for x in (10.4, 12.2):
        ax.add_patch(Circle((x, 4.0), 1.7, facecolor=(QUERY, 0.25), edgecolor=QUERY))
    _say(ax, 9.6, 6.4, "image's")
    _say(ax, 13.2, 6.4, "query's")
    _say(ax, 11.3, 1.5, "neighbours in common", fontsize=_SMALL)


def _quantised(ax: Axes) -> None:
    for k, shades in enumerate(((0.6, 0.3), (0.8, 0.2), (0.5, 0.4))):
        y = 6.3 - 2.3 * k
        _vector(ax, 1.2, shades, y)
        _arrow(ax, 2.3, 4.1, y=y)
        _box(ax, 4.2, 4.6, "nearest of 256", y, 1.3)
        _arrow(ax, 9.0, 10.4, y=y)
        ax.add_patch(Rectangle((10.6, y - 0.6), 2.2, 1.2, fill=False, edgecolor="black"))
        _say(ax, 11.7, y, ("201", "17", "96")[k])
    _say(ax, 14.5, 4.0, "a byte\na part")


_PCA = "PCA whitening"

SKETCHES = {
    "pooling": {
        "sum": Sketch("sum pooling", _PCA, _sum),
        "spoc": Sketch("SPoC", _PCA, _spoc),
        "crow": Sketch("CroW", _PCA, _crow),
        "mac": Sketch("MAC", f"{_PCA}; trained: the network", _mac),
        "gem": Sketch("GeM", _PCA, _gem),
        "rmac": Sketch("R-MAC", "PCA of regions; trained: the network", _rmac),
        "cam": Sketch("CAM, offline", f"{_PCA} of class vectors", _cam),
        "cam-online": Sketch("CAM, online", f"{_PCA} of class vectors", _cam_online),
    },
    "others": {
        "neural-codes": Sketch("Neural Codes", f"{_PCA}; trained: the layers", _neural_codes),
        "astounding": Sketch("CNN-astounding", f"{_PCA} of patches", _astounding),
        "razavian": Sketch("Razavian's patches", f"{_PCA} of patches", _razavian),
        "mop": Sketch("MOP", f"words of patches, {_PCA}", _mop),
        "vlad": Sketch("VLAD", f"words (stars), {_PCA}", _vlad),
        "netvlad": Sketch("NetVLAD", f"words, {_PCA}; trained: all", _netvlad),
        "asmk": Sketch("ASMK", "words (stars), whitening before", _asmk),
        "words": Sketch("BLCF", "words, whitening before", _words),
        "faster-rcnn": Sketch("Faster R-CNN", "the detector, on object classes", _detector),
        "aml": Sketch("AML, of R-MAC", "nothing", _aml),
        "sift": Sketch("SIFT, verified", "words", _sift),
        "dba": Sketch("DBA", "nothing", _dba),
        "k-reciprocal": Sketch("k-reciprocal", "nothing", _reciprocal),
        "pq": Sketch("PQ", "256 centres a part", _quantised),
    },
}
