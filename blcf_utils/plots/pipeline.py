"""The method as a drawing: from photographs to a ranking."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from blcf_utils.plots.canvas import QUERY, RELEVANT, SERIES, done, grid

_SHARED = (
    ("photograph", ""),
    ("feature map", "C × H × W"),
    ("whitened\ndescriptors", "D numbers each"),
    ("assignment map", "one word a cell"),
)
_DATABASE = (*_SHARED, ("histogram", "of all cells"), ("inverted file", "word: its images"))
_QUERY = (*_SHARED, ("histogram", "of the box's cells"), ("ranking", "by cosine"))
_AFTER = (("re-ranking", "windows"), ("expansion", "search again"))
_STEPS = ("network", "PCA", "nearest of\nK words", "count", "")
WIDE, HIGH, APART = 1.5, 0.8, 2.15


def draw_pipeline() -> Figure:
    """Draw what happens to a database image (above) and to a query (below)."""
    figure, axes = grid(1, 1, 13.5, 3.2)
    ax = axes[0, 0]
    ax.axis("off")
    ax.set(xlim=(-1.1, 7 * APART + WIDE / 2 + 0.2), ylim=(-0.7, 2.7))
    for y, stages, label, colour in (
        (2, _DATABASE, "database", SERIES[1]),
        (0, _QUERY, "query", QUERY),
    ):
        ax.text(-0.85, y, label, ha="right", va="center", color=colour, rotation=90)
        for column, stage in enumerate(stages):
            draw_stage(ax, column, y, stage, colour)
            if column:
                draw_arrow(ax, (column - 1, y), (column, y), _STEPS[column - 1] if y else "")
    for column, stage in enumerate(_AFTER, len(_QUERY)):
        draw_stage(ax, column, 0, stage, RELEVANT)
        draw_arrow(ax, (column - 1, 0), (column, 0))
    down = {"arrowstyle": "->", "color": "black"}
    x = (len(_QUERY) - 1) * APART
    ax.annotate("", (x, HIGH / 2), (x, 2 - HIGH / 2), arrowprops=down)
    ax.text(x + 0.12, 1, "lists of the\nquery's words", va="center", fontsize=8)
    return done(figure)


def draw_stage(ax, column: int, y: float, stage: tuple[str, str], colour: str) -> None:
    """Draw a box of a diagram with its name and, below it, a detail."""
    name, detail = stage
    box = {"boxstyle": "round,pad=0.08", "edgecolor": colour, "facecolor": "white", "linewidth": 2}
    x = column * APART
    corner = x - WIDE / 2, y - HIGH / 2
    ax.add_patch(FancyBboxPatch(corner, WIDE, HIGH, **box))
    ax.text(
        x, y + 0.14 if detail else y, name, ha="center", va="center", weight="bold", fontsize=8.5
    )
    ax.text(x, y - 0.24, detail, ha="center", va="center", color="#555555", fontsize=8)


def draw_arrow(ax, first: tuple[int, float], last: tuple[int, float], label: str = "") -> None:
    """Draw an arrow from one box, (column, y), to another one of the same row."""
    (start, y), (end, _) = first, last
    left, right = start * APART + WIDE / 2 + 0.1, end * APART - WIDE / 2 - 0.1
    ax.annotate("", (right, y), (left, y), arrowprops={"arrowstyle": "->", "color": "black"})
    ax.text((left + right) / 2, y + 0.5, label, ha="center", va="bottom", fontsize=8)
