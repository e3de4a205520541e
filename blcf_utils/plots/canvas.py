"""What every picture shares: size, type, colours."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import read_image

# Colour-blind safe (Okabe and Ito): green for relevant, vermilion for not, blue for the query.
RELEVANT, WRONG, QUERY, IGNORED = "#009e73", "#d55e00", "#0072b2", "#888888"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
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


def photograph(dataset: Dataset, path: Path) -> np.ndarray:
    """Return an image of a dataset as it is to be seen, RGB."""
    return read_image(path, exif_orientation=dataset.exif_orientation)


def draw_box(ax, box, colour: str = QUERY) -> None:
    """Draw (x1, y1, x2, y2) on a picture; nothing when the box is None."""
    if box is None:
        return
    x1, y1, x2, y2 = box
    for edge, width in (("white", 4), (colour, 2)):  # the white rim keeps it visible on any colour
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width)
        ax.add_patch(outline)
