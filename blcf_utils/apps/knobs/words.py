"""A knob of the codebook: which word a position has, by the number of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from blcf_utils.apps.knobs.knob import Knob, canvas
from blcf_utils.datasets.base import Query
from blcf_utils.plots.canvas import QUERY, photograph, picture
from blcf_utils.plots.maps import draw_word_patches
from blcf_utils.study.pipeline import EXACT, Pipeline
from blcf_utils.words.assignment_maps import AssignmentMaps


def words(bench: Pipeline, query: Query, sizes: Sequence[int], exact: int = EXACT) -> Knob:
    """Return patches of the word at a clicked position of a query's image.

    Args:
        bench: the dataset's pipeline.
        query: whose image is clicked on, at first in the middle of its box.
        sizes: numbers of words to choose from; the profile's own joins them.
        exact: more words than that are learned and assigned by approximate search.
    """
    dataset, own = bench.dataset, bench.profile.codebook.words
    image = dataset.image_index[query.image]
    maps = {size: bench.with_words(size, exact).maps for size in sorted({own, *sizes})}
    pixels = photograph(dataset, query.image)

    def draw(axes, words: int, point: Sequence[float]) -> str:
        word, cells = word_at(maps[words], image, point)
        picture(axes[0], pixels)
        across, down = pixels.shape[1] / cells.shape[1], pixels.shape[0] / cells.shape[0]
        for y, x in np.argwhere(cells == word):
            corner = x * across, y * down
            axes[0].add_patch(Rectangle(corner, across, down, color=QUERY, alpha=0.5, linewidth=0))
        axes[0].plot(*point, "o", color=QUERY, markeredgecolor="white")
        found = draw_word_patches(axes[1:], dataset, maps[words], word)
        return f"word {word}, in {found} of {len(dataset.images)} images"

    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = query.box or (0, 0, width, height)
    middle, corner = [round((x1 + x2) / 2), round((y1 + y2) / 2)], [width // 20, height // 20]
    clicked = canvas(dataset, query.image, point=middle, hint="Click a position.")
    frames = [{"words": size, "point": middle} for size in [own, *sizes]]
    frames.append({"words": own, "point": corner})
    return Knob(draw, (9, 1.2, 1.2), frames, words=list(maps), point=clicked)


def word_at(maps: AssignmentMaps, image: int, point: Sequence[float]) -> tuple[int, np.ndarray]:
    """Return the word at a point (x, y) in pixels of an image, and the image's map of words."""
    cells, (width, height) = maps.map(image), maps.sizes[image]
    y = min(int(point[1] / height * cells.shape[0]), cells.shape[0] - 1)
    x = min(int(point[0] / width * cells.shape[1]), cells.shape[1] - 1)
    return int(cells[y, x]), cells
