"""From a boxed query to its words: what global and local search compare with the database.

Global search (GS) uses every word of the query image. Local search (LS) uses the words inside the
box; the box is cropped on the assignment map, after the whole image went through the network, so
the words near its border have seen their surroundings. Query augmentation adds the words of other
views of the query image (mirrored, zoomed) to the same histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.views import AS_IT_IS, View
from blcf_utils.search.boxes import Mode, Projection, query_cells
from blcf_utils.search.index.inverted_file import InvertedFile
from blcf_utils.search.windows import Window
from blcf_utils.words.assignment_maps import AssignmentMaps
from blcf_utils.words.histograms import Sparse, sparse_histogram

# The words of a map, (h, w), and which of its cells take part, boolean (h, w).
Region = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Ranking:
    """Images best first, with their scores."""

    images: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class QueryMaps:
    """The assignment maps of the query images in one view.

    Attributes:
        view: how the images were looked at.
        maps: their assignment maps.
        numbers: path of a query image to its number among ``maps``.
    """

    view: View
    maps: AssignmentMaps
    numbers: dict[Path, int]

    def region(self, query: Query, mode: Mode, projection: Projection) -> Region:
        """Return a query's assignment map (h, w) and which of its cells take part, boolean."""
        i = self.numbers[query.image]
        words = self.maps.map(i)
        size = tuple(self.maps.sizes[i])
        return words, query_cells(query, size, words.shape, mode, projection, self.view)


@dataclass(frozen=True)
class SearchBase:
    """What searches of one dataset need.

    Attributes:
        dataset: images and queries.
        maps: assignment maps of its images.
        index: inverted file of its database.
        projection: projection of boxes to cells.
        augmented: gives the query images' maps in the views of query augmentation.
        weights: image number to the weights of its cells (h, w), as in the index; None for 1.
    """

    dataset: Dataset
    maps: AssignmentMaps
    index: InvertedFile
    projection: Projection = "edges"
    augmented: Callable[[], Sequence[QueryMaps]] = tuple
    weights: Callable[[int], np.ndarray] | None = None

    def regions(self, query: Query, mode: Mode, augment: bool = False) -> list[Region]:
        """Return the query's map and cells, and those of its other views with ``augment``."""
        views = [QueryMaps(AS_IT_IS, self.maps, self.dataset.image_index)]
        views += self.augmented() if augment else ()
        return [view.region(query, mode, self.projection) for view in views]

    def query_size(self, query: Query) -> tuple[int, int]:
        """Return width and height of the query image in pixels."""
        width, height = self.maps.sizes[self.dataset.image_index[query.image]]
        return int(width), int(height)

    def histogram(self, image: int, window: Window | None = None) -> Sparse:
        """Return the histogram of an image, or of a window (y0, y1, x0, x1) of its map."""
        y0, y1, x0, x1 = window or (0, None, 0, None)
        words = self.maps.map(image)[y0:y1, x0:x1]
        weights = self.weights and self.weights(image)[y0:y1, x0:x1]
        return sparse_histogram(words, weights)


def region_histogram(regions: Sequence[Region]) -> Sparse:
    """Return the one histogram of the words of several views: (words, unit-length weights)."""
    return sparse_histogram(np.concatenate([words[cells] for words, cells in regions]))


def dense_rankings(dataset: Dataset, database: np.ndarray, queries: np.ndarray):
    """Rank by cosine of dense unit vectors: database (n, D), queries (q, D) in query order."""
    scores = queries @ database.T
    orders = np.argsort(-scores, axis=1, kind="stable")
    return {
        query.id: Ranking(order, row[order])
        for query, order, row in zip(dataset.queries, orders, scores, strict=True)
    }
