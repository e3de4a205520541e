"""The compared methods as stages of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.networks.backbones import layer_names
from blcf_utils.features.networks.heads import ClassifierHead, load_head, missing_head
from blcf_utils.features.networks.weight_files import candidate_files
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features, batches
from blcf_utils.ground.artefacts import ArtefactStore, atomic_path
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.progress import progress
from blcf_utils.pooling.cam import cam_pool, predicted_classes
from blcf_utils.pooling.compared.methods import METHODS, Method, Ready, class_whitening
from blcf_utils.pooling.compared.refine import expand_average, ranked, rerank_aml
from blcf_utils.pooling.compared.rows import Row
from blcf_utils.pooling.compared.teaching import Teaching
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.maps import Window
from blcf_utils.pooling.patches import patch_set_scores
from blcf_utils.pooling.rmac import rmac_regions
from blcf_utils.pooling.rmac_weighting import decompose
from blcf_utils.search.boxes import Mode, query_cells
from blcf_utils.search.query import Ranking
from blcf_utils.words.whitening import Whitening

if TYPE_CHECKING:
    from blcf_utils.study.study import Study

STAGE_VERSION = 1


def cells_window(cells: np.ndarray) -> Window:
    """Return the smallest window (y0, y1, x0, x1) that holds all True cells."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


class StudyComparison:
    """The part of a study that describes images by the compared methods."""

    profile: Profile
    store: ArtefactStore
    dataset: Callable[[str], Dataset]
    features: Callable[[str], Features]
    at_full_resolution: Callable[[], Study]
    with_backbone: Callable[[BackboneConfig], Study]

    def comparison_teacher(self, name: str) -> str:
        """Return the dataset that teaches the compared methods what they learn for ``name``.

        Raises:
            StudyError: there is no other dataset and ``comparison.same_dataset`` is not set.
        """
        config = self.profile.comparison
        others = [other for other in self.profile.datasets if other != name]
        teacher = config.learn_on.get(name) or (others[0] if others else "")
        if not teacher and config.same_dataset:
            return name
        if not teacher:
            raise StudyError(
                f"comparison: {name} has no other dataset to learn whitening on; name one in "
                f"comparison.learn_on, or allow its own images with comparison.same_dataset: true"
            )
        return teacher

    def comparison_teachers(self) -> pd.Series:
        """Return, for each dataset, the one that teaches the compared methods."""
        teachers = {name: self.comparison_teacher(name) for name in self.profile.all_datasets}
        return pd.Series(teachers, name="learns on").rename_axis("dataset")

    def comparison_maps(self, method: str) -> Study:
        """Return the study whose feature maps a method pools."""
        study = self.at_full_resolution() if self.profile.comparison.maps == "full" else self
        if not _method(method).needs:
            return study
        # A classifier stands behind the last layer, whatever layer words are made of.
        backbone = study.profile.features.backbone
        last = layer_names(backbone.name)[-1]
        if backbone.layer == last:
            return study
        return study.with_backbone(backbone.model_copy(update={"layer": last}))

    def head(self) -> ClassifierHead:
        """Return the classifier behind the profile's backbone."""
        return load_head(self.profile.features.backbone)

    def why_not_compared(self, name: str, row: Row) -> str:
        """Return why a row cannot be measured on a dataset, or "" when it can."""
        if row.never:
            return row.never
        if row.bulky and name not in self.profile.datasets:
            return f"keeps {row.bulky}; name {name} in datasets to measure it all the same"
        if row.method == "words":
            return self.why_not(name, row.weighting)
        if row.method == "sift":
            return ""
        try:
            self.comparison_teacher(name)
        except StudyError as error:
            return str(error)
        backbone = self.profile.features.backbone
        if row.weights and backbone.name == row.network:
            return f"{row.network} is the profile's own network; see the other rows"
        if row.network and not row.weights:
            why = self._missing_trained(row)
            if why:
                return why
        if row.weights == "local" and not candidate_files(self._network(row)):
            return f"needs the weights of {row.network} in the folder BLCF_WEIGHTS"
        if row.method == "detector":
            return ""  # its weights were looked for above
        needs = _method(row.method).needs
        return missing_head(self._network(row), needs) if needs else ""

    def _network(self, row: Row) -> BackboneConfig:
        if not row.network:
            return self.profile.features.backbone
        weights = row.weights or self.profile.comparison.weights[row.id]
        return BackboneConfig(name=row.network, layer=row.layer, weights=weights)

    def _missing_trained(self, row: Row) -> str:
        path = self.profile.comparison.weights.get(row.id)
        if path and Path(path).expanduser().is_file():
            return ""
        given = f"found none at {path}" if path else "none is given"
        return (
            f"needs the weights of {row.network} trained for retrieval, {given}; run it with "
            f"`blcf run 08 --set comparison.weights.{row.id}=FILE`"
        )

    @staticmethod
    def expands(row: Row) -> bool:
        """Return whether a row has a refined ranking of its own."""
        if row.method in METHODS:
            return METHODS[row.method].expansion != "none"
        return row.method != "sift"

    def of_row(self, row: Row) -> Study:
        """Return the study on whose network a row runs."""
        own = not row.network or row.method == "detector"
        return self if own else self.with_backbone(self._network(row))

    def compared_method(self, name: str, method: str, dimensions: int | None = None) -> Ready:
        """Return a method that has learned, on another dataset, what it needs for ``name``."""
        teaching = self._teaching(name, method, dimensions)
        ready = _method(method).learn(teaching)
        document = {**teaching.document(), "method": method, **ready.document}
        return replace(ready, document=document)

    def _teaching(self, name: str, method: str, dimensions: int | None) -> Teaching:
        config, entry = self.profile.comparison, _method(method)
        study = self.comparison_maps(method)
        return Teaching(
            study.features(self.comparison_teacher(name)),
            config,
            min(dimensions or config.dimensions, config.dimensions),
            self.store,
            self.profile.seed,
            self.head() if entry.needs else None,
            Path(config.weights[method]).expanduser() if entry.given else None,
        )

    def described(self, name: str, method: str, dimensions: int | None = None) -> np.ndarray:
        """Return the unit vectors of every database image: (n, D), or (n, P, D) for sets.

        An image that was left out has zeros. Stored, so that a second call only reads them.
        """
        ready = self.compared_method(name, method, dimensions)
        features = self.comparison_maps(method).features(name)
        document = {"version": STAGE_VERSION, "features": features.key, "method": ready.document}

        def make(folder: Path) -> None:
            # Images with the same bytes are described once.
            firsts, place = np.unique(features.distinct[: features.n_database], return_inverse=True)
            vectors = None
            bar = progress(label=f"{method} of {name}", total=len(firsts), unit="image")
            with bar:
                for images, maps in batches(features, firsts):
                    found = ready.describe(maps)
                    if vectors is None:
                        vectors = np.zeros((len(firsts), *found.shape[1:]), np.float32)
                    vectors[np.searchsorted(firsts, images)] = found
                    bar.update(len(images))
            if len(firsts) < len(place):
                vectors = vectors[place]
            with atomic_path(folder / "vectors.npy") as path:
                np.save(path, vectors)

        label = f"{features.artefact.label}-{method}"
        artefact = self.store.get_or_make("descriptors", label, document, make, quiet=True)
        return np.load(artefact / "vectors.npy", mmap_mode="r")

    def teacher_vectors(self, name: str, method: str, dimensions: int | None = None) -> np.ndarray:
        """Return the unit vectors of the teacher's images, described as those of ``name`` are."""
        ready = self.compared_method(name, method, dimensions)
        features = self.comparison_maps(method).features(self.comparison_teacher(name))
        everyone = np.arange(features.n_database)
        return np.concatenate([ready.describe(maps) for _, maps in batches(features, everyone)])

    def described_queries(
        self, name: str, method: str, mode: Mode, dimensions: int | None = None
    ) -> np.ndarray:
        """Return the unit vectors of every query, (q, D) or (q, P, D), in query order.

        Global search describes the whole query image, local search its box, cropped on the feature
        map.
        """
        ready = self.compared_method(name, method, dimensions)
        features = self.comparison_maps(method).features(name)
        queries, groups = self.dataset(name).queries, {}
        for k, query in enumerate(queries):
            maps, weights, box = self._query_region(features, query, name, mode)
            # Equal windows of equal maps are described together; a drawn mask is one of its kind.
            kind = (maps.shape, box) if weights is None else (k,)
            groups.setdefault(kind, []).append((k, maps, weights, box))
        made: list[np.ndarray] = [None] * len(queries)
        for group in groups.values():
            numbers, maps, weights, boxes = zip(*group, strict=True)
            found = ready.describe(np.stack(maps), weights[0], boxes[0], query=True)
            for k, vector in zip(numbers, found, strict=True):
                made[k] = vector
        return np.stack(made)

    def _query_region(
        self, features: Features, query: Query, name: str, mode: Mode
    ) -> tuple[np.ndarray, np.ndarray | None, Window]:
        i = self.dataset(name).image_index[query.image]
        maps = features.map(i)
        how = self.profile.encoding.box
        cells = query_cells(query, tuple(features.sizes[i]), maps.shape[1:], mode, how)
        box = cells_window(cells)
        y0, y1, x0, x1 = box
        # A drawn mask is not a rectangle: what it leaves out weighs nothing.
        weights = None if cells[y0:y1, x0:x1].all() else cells.astype(np.float32)
        return maps, weights, box

    def rmac_decomposition(self, name: str, levels: Sequence[int] = (1, 2, 3, 7)) -> pd.DataFrame:
        """Compare weighted sums with R-MAC, mean over the database (R-MAC as weighting scheme).

        Returns:
            One row per number of scales L; columns regions (of the first image), and the mean
            cosine of R-MAC's vector without whitening to plain sums, to sums under the location
            factor and to sums under location and region post-processing.
        """
        features, lines = self.features(name), {}
        images = np.arange(min(features.n_database, 200))
        for level in levels:
            parts = [decompose(features.map(i), level) for i in images if features.shapes[i].all()]
            lines[level] = {
                "regions": len(rmac_regions(tuple(features.shapes[images[0]]), level)),
                "sum": np.mean([part.cosine_sum for part in parts]),
                "location": np.mean([part.cosine_coverage for part in parts]),
                "location and post-processing": np.mean([part.cosine_alpha for part in parts]),
            }
        return pd.DataFrame(lines).T.rename_axis("L").astype({"regions": int})

    def compared(
        self,
        name: str,
        method: str,
        mode: Mode = "ls",
        expansion: bool = False,
        dimensions: int | None = None,
    ) -> dict[str, Ranking]:
        """Return the rankings of the whole database by a compared method.

        Args:
            name: the dataset.
            method: a name of ``comparison.methods.METHODS``.
            mode: ``gs`` or ``ls``.
            expansion: refine the ranking as the method's paper does: average query expansion,
                R-MAC after localised re-ranking; nothing for sets of patches.
            dimensions: the most values of a vector; the profile's when None.
        """
        if _method(method).kind == "online":
            return self._online(name, method, mode, expansion, dimensions)
        database = self.described(name, method, dimensions)
        vectors = self.described_queries(name, method, mode, dimensions)
        queries = self.dataset(name).queries
        if _method(method).kind == "set":
            scores = patch_set_scores(vectors, database)
        else:
            scores = vectors @ database.T
        found = {query.id: ranked(row) for query, row in zip(queries, scores, strict=True)}
        if not expansion or _method(method).expansion == "none":
            return found
        refine, looked_at = partial(self._refined, name, method, mode, database), []
        if _method(method).expansion == "aml":
            most = self.profile.comparison.rerank
            looked_at = [ranking.images[:most] for ranking in found.values()]
            refine = partial(
                self._localised,
                name,
                method,
                mode,
                database,
                self.compared_method(name, method, dimensions),
            )
        pairs = zip(queries, vectors, strict=True)
        pairs = progress(pairs, label=f"expansion {method}", total=len(queries), unit="query")
        features = self.comparison_maps(method).features(name)
        held = nullcontext()
        if looked_at and hasattr(features, "holding"):  # maps that are computed as they are read
            held = features.holding(np.unique(np.concatenate(looked_at)))
        with held:
            return {query.id: refine(query, vector, found[query.id]) for query, vector in pairs}

    def class_vectors(self, name: str, dimensions: int | None = None) -> np.ndarray:
        """Return CAM's post-processed vector of every database image and class, (n, classes, D).

        float16, mapped from the file.
        """
        method, head = "cam-online", self.head()
        ready = self.compared_method(name, method, dimensions)
        study = self.comparison_maps(method)
        features = study.features(name)
        kept = self._class_whitening(name, dimensions)
        every, count = np.arange(len(head.linear)), features.n_database
        document = {"version": STAGE_VERSION, "features": features.key, "method": ready.document}

        def make(folder: Path) -> None:
            shape = (count, len(every), kept.dimensions)
            firsts, place = np.unique(features.distinct[:count], return_inverse=True)
            bar = progress(label=f"class vectors of {name}", total=len(firsts), unit="image")
            with atomic_path(folder / "vectors.npy") as path, bar:
                held = np.lib.format.open_memmap(path, "w+", np.float16, shape)
                for images, maps in batches(features, firsts):
                    classes = np.broadcast_to(every, (len(maps), len(every)))
                    vectors = cam_pool(maps, head=head, classes=classes)
                    white = kept.apply(vectors.reshape(-1, vectors.shape[2]))
                    held[images] = white.reshape(len(maps), len(every), -1)
                    bar.update(len(images))
                for i in np.flatnonzero(firsts[place] != np.arange(count)):
                    held[i] = held[firsts[place[i]]]
                held.flush()

        label = f"{features.artefact.label}-cam"
        made = self.store.get_or_make("class-vectors", label, document, make, quiet=True)
        return np.load(made / "vectors.npy", mmap_mode="r")

    def _class_whitening(self, name: str, dimensions: int | None) -> Whitening:
        return class_whitening(self._teaching(name, "cam-online", dimensions))

    def _online(
        self, name: str, method: str, mode: Mode, expansion: bool, dimensions: int | None
    ) -> dict[str, Ranking]:
        """Rank by CAM with the classes that the network sees in the query."""
        head, held = self.head(), self.class_vectors(name, dimensions)
        queries = self.described_queries(name, method, mode, dimensions)
        features = self.comparison_maps(method).features(name)
        count = min(self.profile.comparison.cam_classes, len(head.linear))
        found = {}
        pairs = list(zip(self.dataset(name).queries, queries, strict=True))
        for query, vector in progress(pairs, label=f"{method} of {name}", unit="query"):
            maps, _, box = self._query_region(features, query, name, mode)
            classes = np.sort(predicted_classes(maps, head, count, box))
            database = normalise_rows(held[:, classes].sum(axis=1, dtype=np.float32))
            ranking = ranked(database @ vector)
            if expansion:
                images = self.profile.comparison.expansion
                ranking = ranked(database @ expand_average(vector, database, ranking, images))
            found[query.id] = ranking
        return found

    def _refined(self, name, method, mode, database, query, vector, ranking) -> Ranking:
        images = self.profile.comparison.expansion
        return ranked(database @ expand_average(vector, database, ranking, images))

    def _localised(self, name, method, mode, database, ready, query, vector, ranking) -> Ranking:
        features = self.comparison_maps(method).features(name)
        maps, weights, box = self._query_region(features, query, name, mode)
        maximum = mac_pool(maps, weights, box)
        aspect = (box[3] - box[2]) / (box[1] - box[0])
        config = self.profile.comparison
        return rerank_aml(vector, maximum, aspect, ranking, features, ready, config)[0]


def _method(name: str) -> Method:
    if name not in METHODS:
        raise known("compared method", name, METHODS)
    return METHODS[name]
