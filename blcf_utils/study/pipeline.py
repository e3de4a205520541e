"""One dataset on its way through the method: features, words, index, search, evaluation.

Every stage is a property or a method that makes what lies before it on the way. Results are
artefacts: what was made once is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.views import AS_IT_IS, View, augmented_views
from blcf_utils.features.crops import crop_maps
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.joined import JoinedFeatures
from blcf_utils.features.maps import FeatureMaps
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.features.networks.weight_files import settled
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.remembered import remembered
from blcf_utils.ground.settings import digest_of
from blcf_utils.pooling.crow import crow_pool
from blcf_utils.pooling.sum_pooling import (
    database_sums,
    query_sums,
    sum_pool,
    sum_pooled_vectors,
)
from blcf_utils.results.evaluation import Evaluation, evaluate
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import Mode
from blcf_utils.search.fusion import fuse_all
from blcf_utils.search.index.inverted_file import InvertedFile, build_index, invert
from blcf_utils.search.query import QueryMaps, Ranking, SearchBase, dense_rankings
from blcf_utils.search.recipes import Found, Searcher
from blcf_utils.study.shelf import DatasetShelf
from blcf_utils.study.sift import SiftPipeline
from blcf_utils.study.weightings import Weightings
from blcf_utils.words.assignment_maps import AssignmentMaps, JoinedMaps, assignment_maps
from blcf_utils.words.codebook import Codebook, learn_codebook
from blcf_utils.words.histograms import database_histograms
from blcf_utils.words.whitening import Whitening, learn_whitening

# Above so many words looking at each for every descriptor takes too long; of the approximate
# searches this one learns fastest.
EXACT, APPROXIMATE = 16_384, "ivf"
POOLINGS = {"sum": sum_pool, "crow": crow_pool}


class Pipeline:
    """The stages of one dataset.

    Args:
        name: the dataset.
        profile: the configuration.
        shelf: where datasets come from; its store keeps the artefacts.
        family: the pipelines of the same profile, by dataset; this one joins them.
    """

    def __init__(
        self,
        name: str,
        profile: Profile,
        shelf: DatasetShelf,
        family: dict[str, Pipeline] | None = None,
    ):
        self.name, self.profile, self.shelf, self.store = name, profile, shelf, shelf.store
        self._family = {} if family is None else family
        self._family[name] = self

    def changed(self, settings: Mapping[str, Any]) -> Pipeline:
        """Return the same dataset's pipeline with dotted settings changed.

        Args:
            settings: such as ``{"codebook.words": 512}``.
        """
        return self._under(settled(self.profile.changed(settings)))

    def with_words(self, words: int, exact: int = EXACT) -> Pipeline:
        """Return the pipeline with another number of words; itself with its own.

        Args:
            words: K.
            exact: more words than that are learned and assigned by approximate search.
        """
        if words == self.profile.codebook.words:
            return self
        settings = {"codebook.words": words}
        if words > exact:
            settings |= dict.fromkeys(("codebook.assignment", "encoding.assignment"), APPROXIMATE)
        return self.changed(settings)

    def at_full_resolution(self) -> Pipeline:
        """Return the pipeline on the layer and size at which Kalantidis et al. pool."""
        return self._under(self.profile.at_full_resolution())

    def _under(self, profile: Profile) -> Pipeline:
        return Pipeline(self.name, profile, self.shelf.under(profile))

    def beside(self, name: str) -> Pipeline:
        """Return the pipeline of another dataset under the same settings."""
        found = self._family.get(name)
        return found or Pipeline(name, self.profile, self.shelf, self._family)

    @cached_property
    def dataset(self) -> Dataset:
        """Images and queries."""
        return self.shelf.dataset(self.name)

    def query(self, number: int) -> Query:
        """Return a query by its number.

        Raises:
            StudyError: no such query.
        """
        queries = self.dataset.queries
        if not 0 <= number < len(queries):
            raise StudyError(
                f"{self.name}: expected a query number from 0 to {len(queries) - 1}, found {number}"
            )
        return queries[number]

    @cached_property
    def teacher(self) -> Pipeline:
        """The pipeline of the dataset on which whitening and codebook are learned."""
        return self.beside(self.profile.teacher_of(self.name))

    @cached_property
    def backbone(self) -> Backbone:
        """The trunk with its weights."""
        config = self.profile.features.backbone
        return self.store.once(f"backbone {config.digest()}", lambda: load_backbone(config))

    @cached_property
    def features(self) -> FeatureMaps:
        """The feature maps of the dataset's images."""
        parts = [self._extracted(part) for part in self.dataset.parts or (self.dataset,)]
        return JoinedFeatures(self.name, parts) if self.dataset.parts else parts[0]

    def _extracted(self, dataset: Dataset, view: View = AS_IT_IS) -> FeatureMaps:
        return extract_features(dataset, self.profile.features, self.store, self.backbone, view)

    @cached_property
    def query_crops(self) -> dict[str, np.ndarray]:
        """The feature maps of boxes cut out of their query images, by query."""
        return crop_maps(self.dataset, self.profile.features, self.store, self.backbone)

    @cached_property
    def whitening(self) -> Whitening:
        """The PCA whitening of local descriptors, learned on the teacher."""
        features, config = self.teacher.features, self.profile.whitening
        if config.dimensions > features.channels:  # a backbone narrower than the profile's main
            config = config.model_copy(update={"dimensions": features.channels})
        return learn_whitening(features, config, self.store, seed=self.profile.seed)

    @cached_property
    def codebook(self) -> Codebook:
        """The visual words, learned on the teacher."""
        codebook = learn_codebook(
            self.teacher.features,
            self.whitening,
            self.profile.codebook,
            self.store,
            seed=self.profile.seed,
            device=self.profile.features.device,
        )
        return codebook.with_assignment(self.profile.encoding)

    @cached_property
    def maps(self) -> AssignmentMaps:
        """The assignment maps of the dataset's images."""
        return self._assigned(self.features)

    def _assigned(self, features: FeatureMaps) -> AssignmentMaps:
        if isinstance(features, JoinedFeatures):
            return JoinedMaps(self.name, [self._assigned(part) for part in features.parts])
        return assignment_maps(
            features,
            self.whitening,
            self.codebook,
            self.profile.encoding,
            self.store,
            str(resolve_device(self.profile.features.device)),
        )

    @cached_property
    def augmented_maps(self) -> tuple[QueryMaps, ...]:
        """The query images' assignment maps in the views of query augmentation."""
        images = self.dataset.of_query_images()
        return tuple(
            QueryMaps(view, self._assigned(self._extracted(images, view)), images.image_index)
            for view in augmented_views(self.profile.augmentation)
        )

    @cached_property
    def weightings(self) -> Weightings:
        """The spatial weightings of the dataset's images, and their saliency maps."""
        return Weightings(self)

    @cached_property
    def sift(self) -> SiftPipeline:
        """The same dataset's bags of SIFT words."""
        teacher = self.teacher
        return SiftPipeline(
            self.profile,
            self.dataset,
            self.store,
            None if teacher is self else lambda: teacher.sift,
        )

    @remembered
    def index(self, weighting: str | None = None) -> InvertedFile:
        """Return the inverted file of the database images.

        Args:
            weighting: how much each position counts, a row of table t09; as the profile's
                ``weighting.search`` says when None.
        """
        maps, config = self.maps, self.profile.encoding
        idf, kept = config.idf, config.index_weights
        weighting = self.weightings.checked(weighting)
        weights = self.weightings.weights(weighting)

        def build() -> InvertedFile:
            return invert(database_histograms(maps, weights), idf, kept)

        document, label = {"maps": maps.key, "idf": idf}, maps.artefact.label
        if weights is not None:
            document, label = {**document, "weights": weights.key}, f"{label}-{weighting}"
        if kept != "exact":
            document, label = {**document, "kept": kept}, f"{label}-{kept}"
        return build_index(document, label, self.store, build, quiet=weights is not None)

    @remembered
    def searcher(self, weighting: str | None = None) -> Searcher:
        """Return what runs search recipes (weighting as for :meth:`index`)."""
        base = SearchBase(
            self.dataset,
            self.maps,
            self.index(weighting),
            self.profile.encoding.box,
            lambda: self.augmented_maps,
            self.weightings.weights(self.weightings.checked(weighting)),
        )
        return Searcher(base, self.profile.reranking, self.profile.expansion)

    def find(
        self, recipe: str, augment: bool = False, weighting: str | None = None
    ) -> dict[str, Found]:
        """Run a search recipe, such as ``LS + R + LQE``, for every query.

        Args:
            recipe: steps joined by ``+`` (see ``blcf_utils.search.recipes``).
            augment: whether mirrored and zoomed views of the query image join in.
            weighting: how much each position of a database image counts (see :meth:`index`).
        """
        return self.searcher(weighting).run_all(recipe, augment)

    def search(
        self, recipe: str, augment: bool = False, weighting: str | None = None
    ) -> dict[str, Ranking]:
        """Return the rankings of the whole database that a recipe finds (see :meth:`find`)."""
        found = self.find(recipe, augment, weighting)
        return {query: one.ranking for query, one in found.items()}

    def query_words(self, query: Query, recipe: str) -> np.ndarray:
        """Return the distinct words with which a recipe (last) searches for a query."""
        return self.searcher().run(recipe, query).histogram[0]

    def fused(self) -> dict[str, Ranking]:
        """Return the late fusion of convolutional and SIFT words for every query."""
        config = self.profile.fusion
        return fuse_all(self.search(config.recipe), self.sift.partner(), config)

    def pooled(
        self,
        mode: Mode,
        whiten: bool | None = None,
        weighting: str = NONE,
        pooling: str = "sum",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return pooled unit vectors of the database (n, D) and of the queries (q, D).

        Args:
            mode: ``gs`` or ``ls``.
            whiten: whether to PCA-whiten them; as the profile says when None.
            weighting: how much each position of a database image counts, a row of table t08.
            pooling: ``sum`` or ``crow``.
        """
        config = self.profile.sum_pooling
        if whiten is not None:
            config = config.model_copy(update={"whiten": whiten})
        database = self.database_sums(weighting, pooling)
        projection = self.profile.encoding.box
        queries = query_sums(self.dataset, self.features, mode, projection, POOLINGS[pooling])
        return sum_pooled_vectors(database, queries, config)

    @remembered
    def database_sums(self, weighting: str = NONE, pooling: str = "sum") -> np.ndarray:
        """Return the pooled descriptors of every database image, (n, C), before normalisation.

        Raises:
            StudyError: no such pooling or weighting.
        """
        if pooling not in POOLINGS:
            raise known("pooling", pooling, POOLINGS)
        weights = self.weightings.weights(self.weightings.checked(weighting), 1)
        return database_sums(self.features, weights, POOLINGS[pooling])

    def sum_pooling(
        self,
        mode: Mode,
        whiten: bool | None = None,
        weighting: str = NONE,
        pooling: str = "sum",
    ) -> dict[str, Ranking]:
        """Return pooled rankings for every query (arguments as for :meth:`pooled`)."""
        return dense_rankings(self.dataset, *self.pooled(mode, whiten, weighting, pooling))

    def evaluate(self, rankings: dict[str, Ranking], truth: Dataset | None = None) -> Evaluation:
        """Score rankings by the dataset's ground truth and protocol, or by another ``truth``."""
        images = {query: ranking.images for query, ranking in rankings.items()}
        return evaluate(truth or self.dataset, images)

    def config_digest(self) -> str:
        """Return a digest of everything that determines the numbers of the dataset."""
        settings = self.profile.document()
        for speed_only in ("batch_size", "device"):
            del settings["features"][speed_only]
        # Places, not contents: a weighted cell's digest has those of its maps.
        del settings["saliency"]["weights"], settings["weighting"]["folders"]
        del settings["comparison"]["weights"], settings["comparison"]["whitening"]
        # Of what a trained network answers: its cells' digests have the network's own key.
        del settings["finetuning"]
        used = set(settings) - {
            "name", "description", "datasets", "learn_on", "dataset_options",
            "compare_backbones", "distractors", "notebooks", "parameters",
        }  # fmt: skip
        return digest_of(
            {
                **{key: settings[key] for key in sorted(used)},
                "teacher": self.profile.teacher_of(self.name),
                "weights": self.backbone.weights_digest,
                "images": self.dataset.manifest,
                "ground_truth": self.dataset.ground_truth_digest,
            }
        )
