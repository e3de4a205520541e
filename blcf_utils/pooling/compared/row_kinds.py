"""The kinds of rows of the comparison: how each ranks, what it costs, when it cannot run.

A row is declared once (``rows.py``). It is measured on a ``Compared``: one dataset with another one
that teaches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.heads import ClassifierHead, missing_head
from blcf_utils.features.networks.weight_files import candidate_files
from blcf_utils.ground.paths import in_project
from blcf_utils.pooling.compared.asmk_search import AsmkSearch, asmk_missing
from blcf_utils.pooling.compared.detector import DetectorSearch
from blcf_utils.pooling.compared.methods import DATABASE_LEVELS
from blcf_utils.pooling.compared.online_cam import rank_online
from blcf_utils.pooling.compared.refinement import expand_average, ranked
from blcf_utils.pooling.compared.timing import TIMED_IMAGES, TIMED_QUERIES, TOP, best_of, median_ms
from blcf_utils.pooling.compared.vectors import MethodVectors, method_named
from blcf_utils.pooling.patches import patch_set_scores
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking, region_histogram

T10, T11, T13 = "t10_comparison", "t11_comparison_expansion", "t13_state_of_the_art"
SIFT_BYTES = 128 + 4 * 4  # of a keypoint: descriptor, place, size and angle

Rankings = dict[str, Ranking]


class Compared(Protocol):
    """The dataset that a row is measured on.

    Attributes:
        bench: its pipeline: profile, words, SIFT words, weightings.
        no_teacher: why no other dataset teaches the methods, or "".
        head: the classifier behind the pipeline's backbone.
    """

    bench: Any
    no_teacher: str
    head: ClassifierHead

    def on(self, backbone: BackboneConfig) -> Compared:
        """Return the same dataset and teacher on another backbone."""
        ...

    def vectors(
        self, method: str, dimensions: int | None = None, whitening: str = ""
    ) -> MethodVectors:
        """Return the dataset as a method describes it, with at most so many values a vector."""
        ...

    def detector(self, weights: Path) -> DetectorSearch:
        """Return the dataset as a detector describes it."""
        ...

    @property
    def learned_elsewhere(self) -> Compared:
        """The same with words that the teacher teaches."""
        ...

    @property
    def asmk(self) -> AsmkSearch:
        """The dataset under the aggregated selective match kernel."""
        ...


@dataclass(frozen=True)
class Row:
    """One row of the comparison.

    Attributes:
        id: names it in ``comparison.weights`` and on the command line.
        labels: table to the row's label there.
        off_the_shelf: nothing was trained for retrieval.
        impossible_because: why no run of this study can measure it; "" if one can.
        too_large_because: what it keeps of an image, where that is too much for 100,000
            distractors.
    """

    id: str
    labels: dict[str, str] = field(default_factory=dict)
    off_the_shelf: bool = True
    impossible_because: str = ""
    too_large_because: str = ""

    modes = ("gs", "ls")
    expands = True

    @property
    def label(self) -> str:
        """Its label in the table of all methods: that of t13 without the group, or of t10."""
        text = self.labels.get(T13) or self.labels.get(T10) or self.id
        return text.split(" / ")[-1]

    def unavailable_because(self, at: Compared) -> str:
        """Return why the row cannot be measured there, or "" when it can."""
        if self.impossible_because:
            return self.impossible_because
        name = at.bench.name
        if self.too_large_because and name not in at.bench.profile.datasets:
            kept = self.too_large_because
            return f"keeps {kept}; name {name} in datasets to measure it all the same"
        return self._missing(at)

    def _missing(self, at: Compared) -> str:
        return ""

    def on(self, at: Compared) -> Compared:
        """Return the dataset on the network that the row asks for."""
        return at

    def vectors(self, at: Compared) -> MethodVectors | None:
        """Return the dataset as the row's method describes it; None for rows of other kinds."""
        return None

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        """Return the rankings of the whole database for every query."""
        raise NotImplementedError

    def cost(self, at: Compared) -> dict[str, float]:
        """Return ``values`` and ``bytes`` of an image, ``milliseconds`` of a query."""
        raise NotImplementedError

    def key(self, at: Compared) -> list:
        """Return what determines the row's numbers beside the dataset and the profile."""
        raise NotImplementedError


@dataclass(frozen=True)
class WordsRow(Row):
    """Bags of local convolutional features.

    Attributes:
        recipe, expanded_recipe: searches without and with expansion.
        weighting: a row of table t09.
        elsewhere: whitening and words are learned on the dataset that teaches its rivals.
    """

    recipe: str = "LS"
    expanded_recipe: str = "LS + GQE"
    weighting: str = "None"
    elsewhere: bool = False

    def on(self, at: Compared) -> Compared:
        return at.learned_elsewhere if self.elsewhere else at

    def _missing(self, at: Compared) -> str:
        if self.elsewhere and at.no_teacher:
            return at.no_teacher
        return at.bench.weightings.unavailable_because(self.weighting)

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        recipe = self.expanded_recipe if expanded else self.recipe
        if mode == "gs":
            recipe = recipe.replace("LS", "GS", 1)
        return at.bench.search(recipe, weighting=self.weighting)

    def cost(self, at: Compared) -> dict[str, float]:
        index, base = at.bench.index(self.weighting), at.bench.searcher().base
        queries = base.dataset.queries[:TIMED_QUERIES]
        held = [region_histogram(base.regions(query, "ls")) for query in queries]
        size, answers = index.nbytes, [lambda h=h: index.search(*h, TOP) for h in held]
        if self.recipe != "LS":  # re-ranking reads the assignment maps, two bytes a position
            maps, searcher = base.maps, at.bench.searcher(self.weighting)
            size += 2 * int(maps.shapes[: maps.n_database].prod(axis=1).sum())
            answers = [lambda q=q: searcher.run(self.recipe, q) for q in queries]
        return {
            "values": index.entries / index.n_images,
            "bytes": size / index.n_images,
            "milliseconds": median_ms(answers),
        }

    def key(self, at: Compared) -> list:
        weights = at.bench.weightings.weights(self.weighting)
        return [self.id, weights.key if weights else ""]


@dataclass(frozen=True)
class SiftRow(Row):
    """SIFT words, whose matches are verified by geometry: local search only, in minutes."""

    modes = ("ls",)
    expands = False

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        return at.bench.sift.verified(mode)

    def cost(self, at: Compared) -> dict[str, float]:
        sift = at.bench.sift
        index, queries = sift.index, len(at.bench.dataset.queries)
        keypoints = sift.features.n_database_descriptors / index.n_images
        started = time.perf_counter()
        sift.search("ls")
        seconds = time.perf_counter() - started + sift.verification_seconds("ls")
        return {
            "values": index.entries / index.n_images,
            "bytes": index.nbytes / index.n_images + SIFT_BYTES * keypoints,
            "milliseconds": 1e3 * seconds / queries,
        }

    def key(self, at: Compared) -> list:
        return [self.id, ""]


@dataclass(frozen=True)
class NetworkRow(Row):
    """A row that may ask for a network of its own.

    Attributes:
        network, layer, relu: other than the profile's own; empty for that.
        weights: where its weights are; ``comparison.weights`` must give them when empty.
    """

    network: str = ""
    layer: str = ""
    relu: Literal["post", "pre"] = "post"
    weights: str = ""

    def backbone(self, at: Compared) -> BackboneConfig:
        """Return the backbone that the row runs on."""
        if not self.network:
            return at.bench.profile.features.backbone
        weights = self.weights or at.bench.profile.comparison.weights[self.id]
        return BackboneConfig(name=self.network, layer=self.layer, relu=self.relu, weights=weights)

    def _missing(self, at: Compared) -> str:
        if at.no_teacher:
            return at.no_teacher
        if self.weights and at.bench.profile.features.backbone.name == self.network:
            return f"{self.network} is the profile's own network; see the other rows"
        if self.network and not self.weights:
            what = f"the weights of {self.network} trained for retrieval"
            if why := self._missing_file(at, "weights", what):
                return why
        if self.weights == "local" and not candidate_files(self.backbone(at)):
            return f"needs the weights of {self.network} in the folder BLCF_WEIGHTS"
        return ""

    def _missing_file(self, at: Compared, setting: str, what: str) -> str:
        """Return why a file that ``comparison.<setting>`` names for the row is not here, or ""."""
        path = getattr(at.bench.profile.comparison, setting).get(self.id)
        if path and in_project(path).is_file():
            return ""
        given = f"found none at {path}" if path else "none is given"
        return (
            f"needs {what}, {given}; run it with "
            f"`blcf run 08 --set comparison.{setting}.{self.id}=FILE`"
        )


@dataclass(frozen=True)
class DenseRow(NetworkRow):
    """One vector an image.

    Attributes:
        method: a name of ``METHODS``.
        dimensions: the most values of its vector after PCA.
        learned_whitening: its network came with a whitening of its own, which PCA cannot stand
            for; ``comparison.whitening`` must give it.
    """

    method: str = ""
    dimensions: int = 512
    learned_whitening: bool = False

    bytes_per_value = 4  # kept of an image, for each value of its vector

    @property
    def expands(self) -> bool:
        """Whether its paper refines the ranking."""
        return method_named(self.method).expansion != "none"

    def _missing(self, at: Compared) -> str:
        needs = method_named(self.method).needs
        why = super()._missing(at) or (missing_head(self.backbone(at), needs) if needs else "")
        if not why and self.learned_whitening:
            what = "the whitening that was learned with its network, tensors m and P"
            why = self._missing_file(at, "whitening", what)
        return why

    def on(self, at: Compared) -> Compared:
        return at.on(self.backbone(at)) if self.network else at

    def vectors(self, at: Compared) -> MethodVectors:
        learned = at.bench.profile.comparison.whitening.get(self.id, "")
        return at.vectors(self.method, self.dimensions, learned)

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        return self.vectors(at).rank(mode, expanded)

    def cost(self, at: Compared) -> dict[str, float]:
        """Return also ``images_per_second``: descriptions from stored feature maps."""
        vectors = self.vectors(at)
        database = np.ascontiguousarray(vectors.database())
        queries = vectors.queries("ls")[:TIMED_QUERIES]
        fitted, features = vectors.fitted, vectors.features
        some = np.arange(min(TIMED_IMAGES, features.n_database))
        stored = list(features.batches(some))
        fitted.describe(stored[0][1])
        started = time.perf_counter()
        for _, maps in stored:
            fitted.describe(maps)
        seconds = time.perf_counter() - started
        return {
            "values": float(np.prod(database.shape[1:])),
            "bytes": float(database[0].nbytes),
            "milliseconds": median_ms([lambda q=q: self._best(q, database) for q in queries]),
            "images_per_second": len(some) / max(seconds, 1e-9),
        }

    def _best(self, query: np.ndarray, database: np.ndarray) -> np.ndarray:
        return best_of(database @ query)

    def key(self, at: Compared) -> list:
        return [self.id, self.vectors(at).fitted.document]


@dataclass(frozen=True)
class AugmentedRow(DenseRow):
    """One vector an image, to which its neighbours in the database are added (DBA).

    As many of them as images join the query in expansion, which is the average here.
    """

    def _database(self, at: Compared) -> np.ndarray:
        return self.vectors(at).augmented(at.bench.profile.comparison.expansion)

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        vectors, database, found = self.vectors(at), self._database(at), {}
        images = at.bench.profile.comparison.expansion
        for query, vector in zip(vectors.dataset.queries, vectors.queries(mode), strict=True):
            ranking = ranked(database @ vector)
            if expanded:
                again = expand_average(vector, database, ranking, images)
                ranking = ranked(database @ again)
            found[query.id] = ranking
        return found


@dataclass(frozen=True)
class ReciprocalRow(DenseRow):
    """One vector an image, re-ranked by the neighbours that images share (k-reciprocal)."""

    expands = False

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        vectors = self.vectors(at)
        pairs = zip(vectors.dataset.queries, vectors.queries(mode), strict=True)
        return {query.id: vectors.reciprocal.rank(vector) for query, vector in pairs}

    def cost(self, at: Compared) -> dict[str, float]:
        vectors, cost = self.vectors(at), super().cost(at)
        again = vectors.reciprocal
        cost["bytes"] += again.nbytes / len(again.vectors)
        queries = vectors.queries("ls")[:TIMED_QUERIES]
        cost["milliseconds"] = median_ms([lambda q=q: again.rank(q) for q in queries])
        return cost


@dataclass(frozen=True)
class AsmkRow(Row):
    """Binary codes of an image's words, compared word by word (ASMK)."""

    expands = False

    def _missing(self, at: Compared) -> str:
        return asmk_missing()

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        return at.asmk.rank(mode)

    def cost(self, at: Compared) -> dict[str, float]:
        search = at.asmk
        images, queries = search.features.n_database, search.dataset.queries[:TIMED_QUERIES]
        held = [search.describe(query, "ls") for query in queries]
        return {
            "values": search.entries / images,
            "bytes": search.nbytes / images,
            "milliseconds": median_ms([lambda h=h: best_of(search.search(*h)) for h in held]),
        }

    def key(self, at: Compared) -> list:
        return [self.id, at.asmk.aggregated.key]


@dataclass(frozen=True)
class PatchSetRow(DenseRow):
    """A set of vectors an image, compared pairwise (Razavian et al.)."""

    bytes_per_value = 4 * sum(level * level for level in range(1, DATABASE_LEVELS + 1))

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        vectors = self.vectors(at)
        scores = patch_set_scores(vectors.queries(mode), vectors.database())
        queries = vectors.dataset.queries
        return {query.id: ranked(row) for query, row in zip(queries, scores, strict=True)}

    def _best(self, query: np.ndarray, database: np.ndarray) -> np.ndarray:
        return best_of(patch_set_scores(query[None], database)[0])


@dataclass(frozen=True)
class OnlineCamRow(DenseRow):
    """One vector for each class an image, of which the query chooses."""

    bytes_per_value = 2 * 1000  # float16, for the classes of ImageNet

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        return rank_online(self.vectors(at), mode, expanded)


@dataclass(frozen=True)
class DetectorRow(NetworkRow):
    """Image vectors and proposals of a detector."""

    def _search(self, at: Compared) -> DetectorSearch:
        return at.detector(in_project(at.bench.profile.comparison.weights[self.id]))

    def rank(self, at: Compared, mode: Mode, expanded: bool) -> Rankings:
        return self._search(at).rank(mode, expanded)

    def cost(self, at: Compared) -> dict[str, float]:
        search = self._search(at)
        database, queries = search.database.vectors, search.queries("ls")[:TIMED_QUERIES]
        return {
            "values": float(database.shape[1]),
            "bytes": float(database[0].nbytes),
            "milliseconds": median_ms([lambda q=q: best_of(database @ q) for q in queries]),
        }

    def key(self, at: Compared) -> list:
        return [self._search(at).database.key]
