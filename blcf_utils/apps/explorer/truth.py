"""What is known to be relevant to an image and a box that someone has chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blcf_utils.datasets.base import Box, Dataset


@dataclass(frozen=True)
class Truth:
    """Which units count as found.

    Attributes:
        instance: its name, or the query's id.
        positives: relevant units.
        junk: units that do not count.
    """

    instance: str
    positives: tuple[int, ...]
    junk: tuple[int, ...] = ()

    def verdict(self, unit: int) -> str:
        """Return ``junk``, ``relevant`` or ``not relevant``."""
        if unit in self.junk:
            return "junk"
        return "relevant" if unit in self.positives else "not relevant"


def known_truth(dataset: Dataset, path: Path, box: Box | None) -> Truth | None:
    """Return what the ground truth says of an image and a box; None where it says nothing.

    A dataset's own query with that image decides, the one whose box overlaps most; of a box that
    has less than half in common with all of them nothing is known. An image that is only a
    positive of some query is judged by that query's positives, itself left out.
    """
    own = [query for query in dataset.queries if query.image == path]
    if own:
        query = max(own, key=lambda q: _shared(q.box, box))
        if _shared(query.box, box) < 0.5:
            return None
        return Truth(query.instance or query.id, query.positives, query.junk)
    number = dataset.image_index.get(path)
    if number is None or number >= len(dataset.images):
        return None
    unit = dataset.unit_of(number)
    for query in dataset.queries:
        if unit in query.positives:
            others = {*query.positives, *query.junk}
            if query.image in dataset.image_index:
                i = dataset.image_index[query.image]
                others |= {dataset.unit_of(i)} if i < len(dataset.images) else set()
            positives = tuple(sorted(others - {unit, *_hard_junk(query, dataset)}))
            if positives:
                return Truth(query.instance or query.id, positives, (unit,))
    return None


def _hard_junk(query, dataset: Dataset) -> set[int]:
    """Return a query's junk but for its own image, which shows the instance."""
    i = dataset.image_index[query.image]
    own = dataset.unit_of(i) if i < len(dataset.images) else None
    return {unit for unit in query.junk if unit != own}


def _shared(a: Box | None, b: Box | None) -> float:
    """Return the area two boxes share, as a share of the smaller one; 1 for the whole image."""
    if a is None or b is None:
        return 1.0
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    return max(0.0, across) * max(0.0, down) / smaller
