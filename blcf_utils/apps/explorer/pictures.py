"""Pictures of an answer: its ranking, its curve, and why an image was found."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

from blcf_utils.apps.explorer.explorer import Answer, Explorer, Hit
from blcf_utils.plots.canvas import QUERY, done, draw_box, frame, grid, picture
from blcf_utils.plots.maps import word_colours
from blcf_utils.plots.saliency import draw_heat

COLOURS = {"relevant": "#2a9d3a", "not relevant": "#c8372d", "junk": "#888888", "": "#444444"}
_LONGEST = 400  # pixels of a drawn image
_LINES = 8  # words drawn as matching patches


def show_answer(explorer: Explorer, columns: int = 6) -> Figure:
    """Show the question and its first results with the place where each was found."""
    answer = explorer.answer
    rows = -(-(1 + len(answer.hits)) // columns)
    figure, axes = grid(rows, columns, 1.9, 1.75)
    spots = list(axes.ravel())
    for ax in spots[1 + len(answer.hits) :]:
        ax.axis("off")
    pixels, scale = _pixels(explorer, answer.question.path)
    picture(spots[0], pixels, "query", QUERY)
    if answer.question.box:
        draw_box(spots[0], _scaled(answer.question.box, scale))
    for ax, hit in zip(spots[1:], answer.hits, strict=False):
        _draw_hit(ax, explorer, hit)
    return done(figure)


def _draw_hit(ax, explorer: Explorer, hit: Hit) -> None:
    pixels, scale = _pixels(explorer, explorer.subject.dataset.images[hit.image])
    colour = COLOURS[hit.verdict]
    picture(ax, pixels, f"{hit.rank}. {hit.verdict or hit.name}\n{hit.score:.3f}", colour)
    frame(ax, colour, 3)
    draw_box(ax, _scaled(hit.box, scale), "white")


def plot_answer(answer: Answer) -> Figure:
    """Plot the precision-recall curve of an answer, or say why there is none."""
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    ax = figure.subplots()
    if answer.curve is None:
        ax.axis("off")
        ax.text(0.5, 0.5, "no ground truth for this image", ha="center", va="center")
        return done(figure)
    precision, recall = answer.curve
    ax.plot(recall, precision, color=QUERY)
    ax.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    ax.set_title(f"{answer.truth.instance}: AP {answer.ap:.3f}", fontsize=9)
    return done(figure)


def show_why(explorer: Explorer, image: int) -> Figure:
    """Show why an image was found.

    Above, query and image, with the words that add most to the score of the first search drawn as
    matching patches of one colour. Below, the image's assignment map, the weights of its
    positions over it, and what each word adds.
    """
    answer, added = explorer.answer, explorer.contributions(image)
    best = added.head(_LINES)
    figure = Figure(figsize=(9.2, 5.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    left, right = upper.subplots(1, 2)
    _draw_patches(upper, left, right, explorer, image, best["word"].tolist())
    first, second, third = lower.subplots(1, 3)
    words = answer.base.maps.map(image)
    picture(first, word_colours(words), f"{len(np.unique(words))} words")
    pixels, _ = _pixels(explorer, explorer.subject.dataset.images[image])
    weights = answer.base.weights(image) if answer.base.weights else np.ones(words.shape)
    draw_heat(second, pixels, np.asarray(weights), f"weights: {answer.knobs.weighting}")
    _draw_contributions(third, added, best)
    for ax in (left, right, first, second, third):
        ax.title.set_fontsize(9)
    return done(figure)


def _draw_patches(figure, left, right, explorer: Explorer, image: int, words: list[int]) -> None:
    answer = explorer.answer
    maps, dataset = answer.base.maps, answer.base.dataset
    query_words, cells = answer.base.regions(answer.query, answer.knobs.mode.lower())[0]
    colours = [f"C{k % 10}" for k in range(len(words))]
    sides = (
        (left, answer.question.path, np.where(cells, query_words.astype(np.int64), -1)),
        (right, dataset.images[image], maps.map(image).astype(np.int64)),
    )
    middles: list[dict[int, tuple[float, float]]] = []
    for ax, path, assigned in sides:
        pixels, _ = _pixels(explorer, path)
        picture(ax, pixels)
        across, down = pixels.shape[1] / assigned.shape[1], pixels.shape[0] / assigned.shape[0]
        places = {}
        for word, colour in zip(words, colours, strict=True):
            spots = np.argwhere(assigned == word)
            for y, x in spots:
                ax.add_patch(
                    Rectangle((x * across, y * down), across, down, color=colour, alpha=0.55, lw=0)
                )
            if len(spots):
                y, x = spots[np.abs(spots - np.median(spots, axis=0)).sum(axis=1).argmin()]
                places[word] = ((x + 0.5) * across, (y + 0.5) * down)
        middles.append(places)
    box = answer.question.box
    left.set_title("query, the words that count most", fontsize=8)
    right.set_title(dataset.images[image].name, fontsize=8)
    if box:
        draw_box(left, _scaled(box, _pixels(explorer, answer.question.path)[1]))
    for word, colour in zip(words, colours, strict=True):
        if word in middles[0] and word in middles[1]:
            ends = middles[0][word], middles[1][word], "data", "data"
            line = ConnectionPatch(*ends, axesA=left, axesB=right, color=colour, linewidth=1.2)
            figure.add_artist(line)


def _draw_contributions(ax, added, best) -> None:
    total = float(added["contribution"].sum())
    names, values = [f"word {word}" for word in best["word"]], [*best["contribution"]]
    colours = [f"C{k % 10}" for k in range(len(best))]
    if len(added) > len(best):
        names.append(f"{len(added) - len(best)} others")
        values.append(total - float(best["contribution"].sum()))
        colours.append("#999999")
    ax.barh(names[::-1], values[::-1], color=colours[::-1])
    ax.tick_params(labelsize=7)
    ax.set_title(f"what each word adds to {total:.3f}", fontsize=8)


def _pixels(explorer: Explorer, path) -> tuple[np.ndarray, float]:
    pixels = explorer.subject.picture(path, _LONGEST)
    if path == explorer.question.path:
        return pixels, pixels.shape[1] / explorer.question.size[0]
    number = explorer.subject.dataset.image_index[path]
    return pixels, pixels.shape[1] / float(explorer.answer.base.maps.sizes[number][0])


def _scaled(box, scale: float):
    return tuple(value * scale for value in box)
