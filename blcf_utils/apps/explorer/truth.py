"""What the ground truth says of an image and a box that someone has chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blcf_utils.datasets.base import Box, Dataset, Query


def judged(dataset: Dataset, image: Path, box: Box | None) -> Query:
    """Return an image and a box as a query, with what is known to be relevant to it.

    The dataset's own query of that image decides, the one whose box overlaps most; of a box that
    has less than half in common with all of them nothing is known. An image that is only a
    positive of some query is judged by that query's positives and its image; it is then junk.

    Returns:
        A query without positives where nothing is known.
    """
    unknown = Query("explored", image, box, ())
    own = [query for query in dataset.queries if query.image == image]
    if own:
        nearest = max(own, key=lambda query: _shared(query.box, box))
        if _shared(nearest.box, box) < 0.5:
            return unknown
        return _like(nearest, unknown, nearest.positives, nearest.junk)
    unit = _unit(dataset, image)
    for query in dataset.queries:
        if unit in query.positives:
            positives = {*query.positives, _unit(dataset, query.image)} - {unit, None}
            if positives:
                return _like(query, unknown, tuple(sorted(positives)), (unit,))
    return unknown


def verdict(query: Query, unit: int) -> str:
    """Return ``relevant``, ``not relevant`` or ``junk``; empty where nothing is known."""
    if not query.positives:
        return ""
    if unit in query.junk:
        return "junk"
    return "relevant" if unit in query.positives else "not relevant"


def _like(known: Query, asked: Query, positives: tuple[int, ...], junk: tuple[int, ...]) -> Query:
    instance = known.instance or known.id
    return replace(asked, positives=positives, junk=junk, instance=instance)


def _unit(dataset: Dataset, image: Path) -> int | None:
    """Return the unit of an image; None for one that is not in the database."""
    number = dataset.image_index.get(image, len(dataset.images))
    return dataset.unit_of(number) if number < len(dataset.images) else None


def _shared(a: Box | None, b: Box | None) -> float:
    """Return the area two boxes share, as a share of the smaller one; 1 for the whole image."""
    if a is None or b is None:
        return 1.0
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    return max(0.0, across) * max(0.0, down) / smaller
