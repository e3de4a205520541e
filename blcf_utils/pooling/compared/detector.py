"""Search by a detector's features (row ``faster-rcnn``)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import FeatureConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path
from blcf_utils.ground.progress import progress
from blcf_utils.ground.remembered import remembered
from blcf_utils.pooling.compared.refinement import expand_average, ranked
from blcf_utils.pooling.faster_rcnn import (
    Detected,
    detect,
    image_vector,
    load_detector,
    region_vectors,
)
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.search.boxes import Mode, Projection, query_cells
from blcf_utils.search.query import Ranking

STAGE = Stage("detector", version=1)
_RERANKED, _EXPANDED = 100, 5  # images, as in the paper


@dataclass(frozen=True)
class DetectedImages:
    """A detector's vectors of a database.

    Attributes:
        vectors: (n, C), one an image.
        regions: (all proposals, C), image by image.
        ends: (n,) where each image's proposals end.
        key: of the artefact.
    """

    vectors: np.ndarray
    regions: np.ndarray
    ends: np.ndarray
    key: str

    def best_region(self, image: int, query: np.ndarray) -> float:
        """Return the largest cosine of a query with an image's proposals; -1 if it has none."""
        start = self.ends[image - 1] if image else 0
        scores = self.regions[start : self.ends[image]] @ query
        return float(scores.max(initial=-1))


class DetectorSearch:
    """A dataset as a detector describes it.

    Args:
        dataset: images and queries.
        weights: file of the detector's weights.
        features: longest side and resizing of the images it sees.
        projection: of boxes to cells.
        store: where artefacts live.
    """

    def __init__(
        self,
        dataset: Dataset,
        weights: Path,
        features: FeatureConfig,
        projection: Projection,
        store: ArtefactStore,
    ):
        self.dataset, self.weights, self.features = dataset, weights, features
        self.projection, self.store = projection, store

    def _detect(self, model, path: Path) -> Detected:
        exif, seen = self.dataset.exif_orientation, self.features
        size = resized_size(image_size(path, exif_orientation=exif), seen.longest_side)
        how = {"resize": seen.resize, "alpha": seen.alpha}
        return detect(model, read_image(path, size, exif_orientation=exif, **how))

    @cached_property
    def database(self) -> DetectedImages:
        """The detector's vectors of every database image and of its proposals."""
        dataset = self.dataset

        def make(folder: Path) -> None:
            model, whole, regions = load_detector(self.weights), [], []
            label, same = f"detector on {dataset.name}", dataset.distinct
            for i, image in enumerate(progress(dataset.images, label=label, unit="image")):
                if same[i] < i:  # the same bytes
                    whole.append(whole[same[i]])
                    regions.append(regions[same[i]])
                    continue
                seen = self._detect(model, image)
                whole.append(image_vector(seen))
                regions.append(region_vectors(seen).astype(np.float16))
            ends = np.cumsum([len(one) for one in regions])
            with atomic_path(folder / "vectors.npz") as target:
                np.savez(target, whole=whole, regions=np.concatenate(regions), ends=ends)

        document = {
            "images": dataset.manifest,
            "weights": hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16],
            "longest_side": self.features.longest_side,
            "resize": self.features.resize,
            "alpha": self.features.alpha,
        }
        made = self.store.get_or_make(STAGE, dataset.name, document, make)
        with np.load(made / "vectors.npz") as held:
            regions = held["regions"].astype(np.float32)
            return DetectedImages(held["whole"], regions, held["ends"], made.key)

    @remembered
    def queries(self, mode: Mode) -> np.ndarray:
        """Return the unit vectors of every query, (q, C): its image's maxima, or its box's."""
        model, dataset = load_detector(self.weights), self.dataset
        made = []
        for query in progress(dataset.queries, label="detector on queries", unit="query"):
            seen = self._detect(model, query.image)
            size = image_size(query.image, exif_orientation=dataset.exif_orientation)
            cells = query_cells(query, size, seen.map.shape[1:], mode, self.projection)
            made.append(mac_pool(seen.map, cells))
        return normalise_rows(np.stack(made))

    def rank(self, mode: Mode = "ls", expanded: bool = False) -> dict[str, Ranking]:
        """Rank by image vectors; if ``expanded``, re-rank by proposals, then expand the query.

        Source: Salvador et al., CVPR workshops 2016: the best proposal re-ranks the first 100
        images, the 5 best join the query.
        """
        held, found = self.database, {}
        for query, vector in zip(self.dataset.queries, self.queries(mode), strict=True):
            ranking = ranked(held.vectors @ vector)
            if expanded:
                first = ranking.images[:_RERANKED]
                again = np.array([held.best_region(int(i), vector) for i in first])
                order = first[np.argsort(-again, kind="stable")]
                ranking = Ranking(order, ranking.scores[: len(order)])
                again = expand_average(vector, held.vectors, ranking, _EXPANDED)
                ranking = ranked(held.vectors @ again)
            found[query.id] = ranking
        return found
