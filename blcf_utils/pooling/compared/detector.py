"""Search by a detector's features, as a stage of a study (row ``faster-rcnn``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.artefacts import ArtefactStore, atomic_path
from blcf_utils.ground.progress import progress
from blcf_utils.pooling.compared.refine import expand_average, ranked
from blcf_utils.pooling.faster_rcnn import (
    Detected,
    detect,
    image_vector,
    load_detector,
    region_vectors,
)
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.search.boxes import Mode, query_cells
from blcf_utils.search.query import Ranking

STAGE_VERSION = 1
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


class StudyDetector:
    """The part of a study that searches with a detector's features."""

    profile: Profile
    store: ArtefactStore
    dataset: Callable[[str], Dataset]

    def _detector_weights(self, row: str) -> Path:
        return Path(self.profile.comparison.weights[row]).expanduser()

    def _seen(self, model, dataset: Dataset, path: Path) -> Detected:
        exif = dataset.exif_orientation
        size = image_size(path, exif_orientation=exif)
        size = resized_size(size, self.profile.features.longest_side)
        return detect(model, read_image(path, size, exif_orientation=exif))

    def detected(self, name: str, row: str) -> DetectedImages:
        """Return a detector's vectors of every database image and of its proposals.

        Args:
            name: the dataset.
            row: whose weights ``comparison.weights`` names.
        """
        path, dataset = self._detector_weights(row), self.dataset(name)

        def make(folder: Path) -> None:
            model, whole, regions = load_detector(path), [], []
            label, same = f"detector on {name}", dataset.distinct
            for i, image in enumerate(progress(dataset.images, label=label, unit="image")):
                if same[i] < i:  # the same bytes
                    whole.append(whole[same[i]])
                    regions.append(regions[same[i]])
                    continue
                seen = self._seen(model, dataset, image)
                whole.append(image_vector(seen))
                regions.append(region_vectors(seen).astype(np.float16))
            ends = np.cumsum([len(one) for one in regions])
            with atomic_path(folder / "vectors.npz") as target:
                np.savez(target, whole=whole, regions=np.concatenate(regions), ends=ends)

        document = {
            "version": STAGE_VERSION,
            "images": dataset.manifest,
            "weights": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
            "longest_side": self.profile.features.longest_side,
        }
        made = self.store.get_or_make("detector", name, document, make)
        with np.load(made / "vectors.npz") as held:
            regions = held["regions"].astype(np.float32)
            return DetectedImages(held["whole"], regions, held["ends"], made.key)

    def detector_queries(self, name: str, row: str, mode: Mode) -> np.ndarray:
        """Return the unit vectors of every query, (q, C): its image's maxima, or its box's."""
        model, dataset = load_detector(self._detector_weights(row)), self.dataset(name)
        made = []
        for query in progress(dataset.queries, label="detector on queries", unit="query"):
            seen = self._seen(model, dataset, query.image)
            size = image_size(query.image, exif_orientation=dataset.exif_orientation)
            how = self.profile.encoding.box
            cells = query_cells(query, size, seen.map.shape[1:], mode, how)
            made.append(mac_pool(seen.map, cells))
        return normalise_rows(np.stack(made))

    def detector_search(
        self, name: str, row: str, mode: Mode = "ls", expansion: bool = False
    ) -> dict[str, Ranking]:
        """Rank by image vectors; with ``expansion`` re-rank by proposals, then expand the query.

        Source: Salvador et al., CVPR workshops 2016: the best proposal re-ranks the first 100
        images, the 5 best join the query.
        """
        held, found = self.detected(name, row), {}
        queries = self.detector_queries(name, row, mode)
        for query, vector in zip(self.dataset(name).queries, queries, strict=True):
            ranking = ranked(held.vectors @ vector)
            if expansion:
                first = ranking.images[:_RERANKED]
                again = np.array([held.best_region(int(i), vector) for i in first])
                order = first[np.argsort(-again, kind="stable")]
                ranking = Ranking(order, ranking.scores[: len(order)])
                expanded = expand_average(vector, held.vectors, ranking, _EXPANDED)
                ranking = ranked(held.vectors @ expanded)
            found[query.id] = ranking
        return found
