"""How well re-ranking localises: its windows against boxes that are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blcf_utils.datasets.base import Box, Dataset, Query
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.query import Ranking
from blcf_utils.search.recipes import Found, Searcher
from blcf_utils.search.windows import window_box, window_grid


@dataclass(frozen=True)
class Localisation:
    """Where the query was found in one relevant image.

    Attributes:
        query: the query.
        image: number of the image.
        box: the window of re-ranking, (x1, y1, x2, y2) in pixels.
        truth: where the instance is.
        overlap: intersection over union of the two.
        possible: that of the best of all windows.
        whole: that of the whole image.
    """

    query: Query
    image: int
    box: Box
    truth: Box
    overlap: float
    possible: float
    whole: float


def intersection_over_union(a: Box, b: Box) -> float:
    """Return the area that two boxes share over the area that they cover."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)) - shared
    return shared / covered


def known_boxes(dataset: Dataset, query: Query) -> dict[int, Box]:
    """Return where a query's instance is in its relevant database images, as far as known.

    Boxes come from the dataset, and from other queries of the same instance whose image is in the
    database. Images that are parts of shots (TRECVID) have none.
    """
    if dataset.units is not None:
        return {}
    drawn = {
        dataset.image_index[other.image]: other.box
        for other in dataset.queries
        if other.box is not None and other.instance and other.instance == query.instance
    }
    boxes = {**dataset.boxes, **drawn}
    own = dataset.image_index[query.image]  # where it is, is given, not found
    return {i: boxes[i] for i in query.positives if i in boxes and i != own}


def localise(searcher: Searcher, query: Query) -> list[Localisation]:
    """Localise a query in each relevant image whose box is known, whatever its rank.

    Raises:
        StudyError: the query has no box, so there is nothing to localise.
    """
    base = searcher.base
    if query.box is None:
        raise StudyError(f"query {query.id}: expected a box to localise, found none")
    truths = known_boxes(base.dataset, query)
    if not truths:
        return []
    images = np.array(sorted(truths))
    first = Found(Ranking(images, np.ones(len(images), np.float32)), None, "ls", {}, 0.0)
    found = searcher.rerank(query, first, images=len(images))
    # An image that was left out as unreadable has no window.
    placed = [(i, found.windows[i]) for i in images.tolist() if i in found.windows]
    return [_localised(searcher, query, i, window, truths[i]) for i, window in placed]


def _localised(searcher: Searcher, query: Query, image: int, window, truth: Box) -> Localisation:
    base = searcher.base
    shape, size = tuple(base.maps.shapes[image]), tuple(base.maps.sizes[image])
    windows = window_grid(shape, tuple(searcher.reranking.sizes))
    overlaps = [intersection_over_union(window_box(w, shape, size), truth) for w in windows]
    box = window_box(window, shape, size)
    whole = intersection_over_union((0, 0, *size), truth)
    overlap = intersection_over_union(box, truth)
    return Localisation(query, image, box, truth, overlap, max(overlaps), whole)
