"""The vectors of one dataset's images and queries by one compared method, and their rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from blcf_utils.config.comparison import ComparisonConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.maps import FeatureMaps
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path
from blcf_utils.ground.errors import known
from blcf_utils.ground.progress import progress
from blcf_utils.ground.remembered import remembered
from blcf_utils.pooling.compared.methods import METHODS, FittedMethod, Method
from blcf_utils.pooling.compared.neighbours import Reciprocal, augment_database
from blcf_utils.pooling.compared.refinement import expand_average, ranked, rerank_aml
from blcf_utils.pooling.compared.teacher import TeacherData
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.search.boxes import Mode, Projection, query_cells
from blcf_utils.search.query import Ranking
from blcf_utils.search.windows import Window

STAGE = Stage("descriptors", version=1)


def method_named(name: str) -> Method:
    """Return a compared method; an unknown name is an error that lists the known ones."""
    if name not in METHODS:
        raise known("compared method", name, METHODS)
    return METHODS[name]


def cells_window(cells: np.ndarray) -> Window:
    """Return the smallest window (y0, y1, x0, x1) that holds all True cells."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


class MethodVectors:
    """A dataset as a compared method describes it.

    Args:
        method: a name of ``METHODS``.
        dataset: images and queries.
        features: their feature maps, of the layer that the method pools.
        teacher: what the method learns from.
        projection: of boxes to cells.
        crops: the maps of the queries whose box is cut out of the image, by query, when asked.
    """

    def __init__(
        self,
        method: str,
        dataset: Dataset,
        features: FeatureMaps,
        teacher: TeacherData,
        projection: Projection,
        crops: Callable[[], Mapping[str, np.ndarray]] = dict,
    ):
        self.name, self.method = method, method_named(method)
        self.dataset, self.features, self.teacher = dataset, features, teacher
        self.projection, self._crops = projection, crops
        self.config: ComparisonConfig = teacher.config
        self.store: ArtefactStore = teacher.store

    @cached_property
    def fitted(self) -> FittedMethod:
        """The method after it has learned what it needs."""
        fitted = self.method.learn(self.teacher)
        document = {**self.teacher.document(), "method": self.name, **fitted.document}
        return replace(fitted, document=document)

    def database(self) -> np.ndarray:
        """Return the unit vectors of every database image: (n, D), or (n, P, D) for sets.

        An image that was left out has zeros. Stored, so that a second call only reads them.
        """
        made = self.make(lambda folder: _describe([(self, folder)]))
        return np.load(made / "vectors.npy", mmap_mode="r")

    def make(self, make) -> Artefact:
        """Return the artefact of the database's vectors; ``make(folder)`` writes it if needed."""
        return self.store.get_or_make(STAGE, *self._described, make, quiet=True)

    @property
    def stored(self) -> bool:
        """Whether the vectors of the database have been made."""
        return self.store.find(STAGE, *self._described) is not None

    @property
    def _described(self) -> tuple[str, dict]:
        """The label and the document of the database's vectors."""
        document = {"features": self.features.key, "method": self.fitted.document}
        return f"{self.features.artefact.label}-{self.name}", document

    @remembered
    def augmented(self, images: int) -> np.ndarray:
        """Return the database's vectors with so many neighbours added to each, (n, D)."""
        return augment_database(self.database(), images)

    @cached_property
    def reciprocal(self) -> Reciprocal:
        """The database's vectors, ready to be re-ranked by shared neighbours."""
        return Reciprocal(self.database())

    def of_teacher(self) -> np.ndarray:
        """Return the unit vectors of the teacher's images, described in the same way."""
        features = self.teacher.features
        everyone = np.arange(features.n_database)
        return np.concatenate(
            [self.fitted.describe(maps) for _, maps in features.batches(everyone)]
        )

    @remembered
    def queries(self, mode: Mode) -> np.ndarray:
        """Return the unit vectors of every query, (q, D) or (q, P, D), in query order.

        Global search describes the whole query image, local search its box, cropped on the feature
        map or out of the image (``comparison.query``).
        """
        groups: dict[tuple, list] = {}
        for k, query in enumerate(self.dataset.queries):
            maps, weights, box = self.region(query, mode)
            # Equal windows of equal maps are described together; a drawn mask is one of its kind.
            kind = (maps.shape, box) if weights is None else (k,)
            groups.setdefault(kind, []).append((k, maps, weights, box))
        made: list[np.ndarray] = [None] * len(self.dataset.queries)
        for group in groups.values():
            numbers, maps, weights, boxes = zip(*group, strict=True)
            found = self.fitted.describe(np.stack(maps), weights[0], boxes[0], query=True)
            for k, vector in zip(numbers, found, strict=True):
                made[k] = vector
        return np.stack(made)

    def region(self, query: Query, mode: Mode) -> tuple[np.ndarray, np.ndarray | None, Window]:
        """Return a query's feature map (C, h, w), its weights (or None) and its window of cells."""
        crop = self._crops().get(query.id) if mode == "ls" else None
        if crop is not None:
            return crop, None, (0, crop.shape[1], 0, crop.shape[2])
        i = self.dataset.image_index[query.image]
        maps = self.features.map(i)
        size = tuple(self.features.sizes[i])
        cells = query_cells(query, size, maps.shape[1:], mode, self.projection)
        box = cells_window(cells)
        y0, y1, x0, x1 = box
        # A drawn mask is not a rectangle: what it leaves out weighs nothing.
        weights = None if cells[y0:y1, x0:x1].all() else cells.astype(np.float32)
        return maps, weights, box

    def rank(self, mode: Mode = "ls", expanded: bool = False) -> dict[str, Ranking]:
        """Return the rankings of the whole database by cosine, for a method of one vector an image.

        Args:
            mode: ``gs`` or ``ls``.
            expanded: refine the ranking as the method's paper does: average query expansion,
                R-MAC after localised re-ranking.
        """
        database, queries = self.database(), self.queries(mode)
        found = {
            query.id: ranked(row)
            for query, row in zip(self.dataset.queries, queries @ database.T, strict=True)
        }
        if not expanded or self.method.expansion == "none":
            return found
        pairs = progress(
            zip(self.dataset.queries, queries, strict=True),
            label=f"expansion {self.name}",
            total=len(queries),
            unit="query",
        )
        if self.method.expansion == "aml":
            return {q.id: self._localised(q, mode, vector, found[q.id]) for q, vector in pairs}
        images = self.config.expansion
        return {
            query.id: ranked(database @ expand_average(vector, database, found[query.id], images))
            for query, vector in pairs
        }

    def _localised(self, query: Query, mode: Mode, vector: np.ndarray, ranking: Ranking) -> Ranking:
        maps, weights, box = self.region(query, mode)
        maximum = mac_pool(maps, weights, box)
        aspect = (box[3] - box[2]) / (box[1] - box[0])
        features, fitted = self.features, self.fitted
        return rerank_aml(vector, maximum, aspect, ranking, features, fitted, self.config)[0]


def describe_together(wanted: Sequence[MethodVectors]) -> None:
    """Describe databases by several methods; each feature map is read once for all of them."""
    missing = [vectors for vectors in dict.fromkeys(wanted) if not vectors.stored]
    for key in dict.fromkeys(vectors.features.key for vectors in missing):
        _make_all([vectors for vectors in missing if vectors.features.key == key], [])


def _make_all(missing: list[MethodVectors], folders: list[tuple[MethodVectors, Path]]) -> None:
    """Open the artefact of each method inside that of the one before it, then fill them all."""
    if not missing:
        _describe(folders)
        return
    first, rest = missing[0], missing[1:]
    first.make(lambda folder: _make_all(rest, [*folders, (first, folder)]))


def _describe(wanted: Sequence[tuple[MethodVectors, Path]]) -> None:
    """Write the database's vectors by several methods, in one pass over its feature maps."""
    first = wanted[0][0]
    features, count = first.features, first.features.n_database
    # Images with the same bytes are described once.
    firsts, place = np.unique(features.distinct[:count], return_inverse=True)
    copies = np.flatnonzero(firsts[place] != np.arange(count))
    label = f"{', '.join(vectors.name for vectors, _ in wanted)} of {first.dataset.name}"
    with ExitStack() as stack:
        bar = stack.enter_context(progress(label=label, total=len(firsts), unit="image"))
        paths = [stack.enter_context(atomic_path(folder / "vectors.npy")) for _, folder in wanted]
        files: list[np.ndarray] = []
        for images, maps in features.batches(firsts):
            for k, (vectors, _) in enumerate(wanted):
                found = vectors.fitted.describe(maps)
                if k == len(files):
                    shape = (count, *found.shape[1:])
                    files.append(np.lib.format.open_memmap(paths[k], "w+", np.float32, shape))
                files[k][images] = found
            bar.update(len(images))
        for file in files:
            for i in copies:
                file[i] = file[firsts[place[i]]]
            file.flush()
