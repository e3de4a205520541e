"""Pictures of an answer: its ranking, its curve, and why an image was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

from blcf_utils.apps.explorer.explorer import Answer, Explorer
from blcf_utils.plots.canvas import (
    EIGHT,
    IGNORED,
    QUERY,
    RELEVANT,
    WRONG,
    done,
    draw_box,
    draw_heat,
    frame,
    grid,
    picture,
)
from blcf_utils.plots.maps import word_colours

# As in static/explore.css and static/results.js.
COLOURS = {"relevant": RELEVANT, "not relevant": WRONG, "junk": IGNORED, "": "#444444"}
MARKS = {"relevant": "✓ ", "not relevant": "✗ ", "junk": "○ ", "": ""}
_LONGEST = 400  # pixels of a drawn image
_LINES = len(EIGHT)  # words drawn as matching patches


def show_answer(explorer: Explorer, columns: int = 6) -> Figure:
    """Show the query and its first results with the place where each was found."""
    answer, images = explorer.answer, explorer.subject.dataset.images
    rows = -(-(1 + len(answer.hits)) // columns)
    figure, axes = grid(rows, columns, 1.9, 1.75)
    first, *spots = axes.ravel()
    _draw(first, explorer, answer.query.image, answer.base.query_size(answer.query), "query", QUERY)
    draw_box(first, answer.query.box)
    for ax, hit in zip(spots, answer.hits, strict=False):
        title = f"{hit.rank}. {MARKS[hit.verdict]}{hit.verdict or hit.name}\n{hit.score:.3f}"
        _draw(ax, explorer, images[hit.image], hit.size, title, COLOURS[hit.verdict])
        frame(ax, COLOURS[hit.verdict], 3)
        draw_box(ax, hit.box, "white")
    for ax in spots[len(answer.hits) :]:
        ax.axis("off")
    return done(figure)


def plot_answer(answer: Answer) -> Figure:
    """Plot the precision-recall curve of an answer, or say why there is none."""
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    ax = figure.subplots()
    if answer.curve is None:
        ax.axis("off")
        ax.text(0.5, 0.5, "no ground truth for this image", ha="center", va="center")
        return done(figure)
    precision, recall = answer.curve
    # The area under it is the AP, whose curve starts with a precision of 1 at no recall.
    ax.plot([0, *recall], [1, *precision], color=QUERY)
    ax.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    ax.set_title(f"{answer.query.instance}: AP {answer.ap:.3f}", fontsize=9)
    return done(figure)


def show_why(explorer: Explorer, image: int) -> Figure:
    """Show why an image was found.

    Above, query and image, with the words that add most to the score of the search drawn as
    matching patches of one colour. Below, the image's assignment map, the weights of its
    positions over it, and what each word adds.
    """
    answer, added = explorer.answer, explorer.contributions(image)
    query, base, best = answer.query, answer.base, added.head(_LINES)
    path, words = base.dataset.images[image], base.maps.map(image)
    figure = Figure(figsize=(9.2, 5.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    left, right = upper.subplots(1, 2)
    size = base.query_size(query)
    _draw(left, explorer, query.image, size, "query, the words that count most")
    draw_box(left, query.box)
    _draw(right, explorer, path, base.maps.sizes[image], path.name)
    query_words, cells = base.regions(query, answer.found.mode)[0]
    wanted = best["word"].tolist()
    starts = _draw_patches(left, np.where(cells, query_words.astype(int), -1), size, wanted)
    ends = _draw_patches(right, words, base.maps.sizes[image], wanted)
    for k, word in enumerate(wanted):
        if word in starts and word in ends:
            pair = starts[word], ends[word], "data", "data"
            line = ConnectionPatch(*pair, axesA=left, axesB=right, color=EIGHT[k], linewidth=1.2)
            upper.add_artist(line)
    first, second, third = lower.subplots(1, 3)
    picture(first, word_colours(words, wanted), f"{len(np.unique(words))} words")
    pixels = explorer.subject.picture(path, _LONGEST)
    weights = np.asarray(base.weights(image)) if base.weights else np.ones(words.shape)
    draw_heat(second, pixels, weights, f"weights: {answer.knobs.weighting}")
    _draw_contributions(third, added, best)
    return done(figure)


def _draw(
    ax, explorer: Explorer, path: Path, size: Sequence[int], title: str, colour: str = "black"
) -> None:
    """Draw a small version of an image on axes in pixels of the stored image."""
    picture(ax, explorer.subject.picture(path, _LONGEST), title, colour)
    ax.images[0].set_extent((0, size[0], size[1], 0))


def _draw_patches(
    ax, assigned: np.ndarray, size: Sequence[int], words: list[int]
) -> dict[int, tuple[float, float]]:
    """Mark the cells of each word; return the middle (x, y) of its most central cell."""
    across, down = size[0] / assigned.shape[1], size[1] / assigned.shape[0]
    middles = {}
    for k, word in enumerate(words):
        spots = np.argwhere(assigned == word)
        for y, x in spots:
            corner = (x * across, y * down)
            ax.add_patch(Rectangle(corner, across, down, color=EIGHT[k], alpha=0.55, linewidth=0))
        if len(spots):
            y, x = spots[np.abs(spots - np.median(spots, axis=0)).sum(axis=1).argmin()]
            middles[word] = ((x + 0.5) * across, (y + 0.5) * down)
    return middles


def _draw_contributions(ax, added: pd.DataFrame, best: pd.DataFrame) -> None:
    total = float(added["contribution"].sum())
    names, values = [f"word {word}" for word in best["word"]], [*best["contribution"]]
    colours = [*EIGHT[: len(best)]]
    if len(added) > len(best):
        names.append(f"{len(added) - len(best)} others")
        values.append(total - sum(values))
        colours.append("#999999")
    ax.barh(names[::-1], values[::-1], color=colours[::-1])
    ax.tick_params(labelsize=7)
    ax.set_title(f"what each word adds to {total:.3f}")
