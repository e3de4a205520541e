"""An inverted file as a drawing: its lists, those that a query reads, and the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blcf_utils.plots.canvas import IGNORED, QUERY, SERIES, done, grid

_POSTINGS, _READ, _SKIPPED = 7, 5, 3  # drawn of each list; lists drawn that are read, that are not
_FIRST = 2.6  # where lists start, in boxes


def draw_inverted_file(
    lists: Mapping[int, Sequence[tuple[int, float]]], query: Mapping[int, float]
) -> Figure:
    """Draw some lists of an inverted file, those that a query reads in black, others grey.

    The three best images have a colour wherever they are drawn; below stand their scores. Drawn
    are the words that add most to the best image's score, and some words beside them.

    Args:
        lists: word to its images, each with the word's weight in it.
        query: word to its weight in the query.
    """
    added: dict[int, dict[int, float]] = {}  # image to what each word adds to its score
    for word, weight in query.items():
        for image, other in lists.get(word, ()):
            added.setdefault(image, {})[word] = weight * other
    best = sorted(added, key=lambda image: (-sum(added[image].values()), image))[:3]
    colours = dict(zip(best, SERIES, strict=False))
    parts = added[best[0]] if best else {}
    read = sorted(parts, key=lambda word: (-parts[word], word))[:_READ]
    others = [word for word in sorted(lists) if word not in query]
    skipped = others[:: max(1, len(others) // _SKIPPED)][:_SKIPPED]
    rows = sorted([*read, *skipped])
    figure, axes = grid(1, 1, 9.2, 0.75 + 0.36 * (len(rows) + len(best)))
    ax = axes[0, 0]
    ax.axis("off")
    ax.set(xlim=(0, _FIRST + _POSTINGS + 1.8), ylim=(len(rows) + len(best) + 0.9, -0.9))
    ax.text(0, -0.4, "word, its weight in the query", fontsize=8, va="center")
    ax.text(_FIRST, -0.4, "its list: image, weight of the word in it", fontsize=8, va="center")
    for y, word in enumerate(rows):
        asked = word in query
        label = f"word {word}   {query[word]:.2f}" if asked else f"word {word}   not read"
        ax.text(0, y + 0.4, label, va="center", color=QUERY if asked else IGNORED)
        _draw_list(ax, y, lists[word], colours if asked else {}, "black" if asked else IGNORED)
    for y, image in enumerate(best, len(rows)):
        drawn = [added[image][word] for word in rows if word in added[image]]
        rest = len(added[image]) - len(drawn)
        others = [f"{rest} other words"] if rest else []
        terms = " + ".join([*(f"{term:.3f}" for term in drawn), *others])
        score = f"image {image}:   {terms}  =  {sum(added[image].values()):.3f}"
        ax.text(0, y + 0.8, score, va="center", color=colours[image], weight="bold", fontsize=9)
    return done(figure)


def _draw_list(
    ax, y: int, postings: Sequence[tuple[int, float]], colours: Mapping[int, str], ink: str
) -> None:
    """Draw a list as boxes: the coloured images, and others until the line is full."""
    first = sorted(postings, key=lambda posting: (posting[0] not in colours, posting[0]))
    for x, (image, weight) in enumerate(sorted(first[:_POSTINGS]), 0):
        colour = colours.get(image)
        box = {"facecolor": colour or "white", "alpha": 0.35 if colour else 1, "linewidth": 0}
        ax.add_patch(Rectangle((_FIRST + x, y), 0.92, 0.8, **box))
        edge = {"fill": False, "edgecolor": colour or ink, "linewidth": 1}
        ax.add_patch(Rectangle((_FIRST + x, y), 0.92, 0.8, **edge))
        text = f"{image}: {weight:.2f}"
        ax.text(_FIRST + x + 0.46, y + 0.42, text, ha="center", va="center", fontsize=8, color=ink)
    if len(postings) > _POSTINGS:
        more = f"and {len(postings) - _POSTINGS} more"
        ax.text(_FIRST + _POSTINGS + 0.1, y + 0.4, more, va="center", fontsize=8, color=ink)
