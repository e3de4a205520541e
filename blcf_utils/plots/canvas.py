"""What every picture shares: size, type, colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import read_image

# Colour-blind safe (Okabe and Ito): green for relevant, vermilion for not, blue for the query.
RELEVANT, WRONG, QUERY, IGNORED = "#009e73", "#d55e00", "#0072b2", "#888888"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
EIGHT = (*SERIES, "#f0e442", "#000000")
_STYLE = {
    "figure.dpi": 90,
    "savefig.dpi": 90,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def grid(rows: int, columns: int, width: float, height: float, **options):
    """Return (figure, axes as a 2-D array); ``width`` and ``height`` in inches per panel."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(width * columns, height * rows),
            squeeze=False,
            layout="constrained",
            **options,
        )
    return figure, axes


def done(figure: Figure) -> Figure:
    """Close the figure for pyplot, so that Jupyter shows it once, as the cell's value."""
    plt.close(figure)
    for ax in figure.axes:  # a title takes its size when it is set, not when the axes are made
        ax.title.set_fontsize(_STYLE["axes.titlesize"])
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def nothing(why: str = "nothing was measured: the table says why") -> Figure:
    """Return a figure that says why there is nothing to plot."""
    figure, axes = grid(1, 1, 5, 0.6)
    axes[0, 0].axis("off")
    axes[0, 0].text(0, 0.5, why)
    return done(figure)


def picture(ax, image, title: str = "", colour: str = "black") -> None:
    """Draw an image without axes; ``title`` in ``colour``."""
    ax.imshow(image)
    ax.set_title(title, color=colour)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def frame(ax, colour: str, width: float = 4) -> None:
    """Draw a coloured frame around a picture."""
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(colour)
        spine.set_linewidth(width)


def judge(ax, right: bool | None, width: float = 3) -> None:
    """Frame a picture: green with a tick when right, orange with a cross when not, grey if unknown.

    The mark says without colour what the frame says with it.
    """
    colour, mark = {True: (RELEVANT, "✓"), False: (WRONG, "✗"), None: (IGNORED, "")}[right]
    frame(ax, colour, width)
    rim = [withStroke(linewidth=2.5, foreground="white")]
    place = {"transform": ax.transAxes, "ha": "right", "va": "bottom"}
    ax.text(0.96, 0.03, mark, color=colour, fontsize=12, weight="bold", path_effects=rim, **place)


def photograph(dataset: Dataset, path: Path) -> np.ndarray:
    """Return an image of a dataset as it is to be seen, RGB."""
    return read_image(path, exif_orientation=dataset.exif_orientation)


def draw_heat(ax, pixels: np.ndarray, weights: np.ndarray, title: str) -> None:
    """Draw a weight map of any size over a greyed image: bright counts, dark does not."""
    picture(ax, pixels.mean(axis=2), title)
    ax.images[0].set_cmap("gray")
    most = max(float(weights.max(initial=0)), 1e-12)
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    ax.imshow(weights / most, extent=extent, cmap="magma", alpha=0.7, vmin=0, vmax=1)


def draw_box(ax, box, colour: str = QUERY) -> None:
    """Draw (x1, y1, x2, y2) on a picture; nothing when the box is None."""
    if box is None:
        return
    x1, y1, x2, y2 = box
    for edge, width in (("white", 4), (colour, 2)):  # the white rim keeps it visible on any colour
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width)
        ax.add_patch(outline)


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
