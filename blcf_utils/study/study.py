"""A profile opened for work: the stages of the study chained, each result made once.

Every method names one stage and returns what it made; what lies before it is made on the way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from blcf_utils.config.profile import BackboneConfig, FeatureConfig, Profile, load_profile
from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.datasets.views import augmented_views
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.joined import JoinedFeatures, JoinedMaps
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.features.stored import Features
from blcf_utils.features.streamed import StreamedFeatures
from blcf_utils.ground.artefacts import ArtefactStore, atomic_path, log_event
from blcf_utils.ground.errors import known
from blcf_utils.ground.paths import results_dir
from blcf_utils.ground.settings import Config, digest_of
from blcf_utils.pooling.compared.detector import StudyDetector
from blcf_utils.pooling.crow import crow_pool
from blcf_utils.pooling.sum_pooling import (
    database_sums,
    query_sums,
    sum_pool,
    sum_pooled_vectors,
)
from blcf_utils.results.evaluation import Evaluation, evaluate
from blcf_utils.results.rehearsal import STAMP, banner, mark_results, stamp, unmark_results
from blcf_utils.results.tables import Measurement, write_table
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import Mode
from blcf_utils.search.index.inverted_file import InvertedFile, build_index, invert
from blcf_utils.search.looking import StudyQueries
from blcf_utils.search.query import QueryMaps, Ranking, SearchBase, dense_rankings
from blcf_utils.search.recipes import Found, Searcher, parse_recipe
from blcf_utils.study.comparison import StudyComparison
from blcf_utils.study.finetuning import StudyFinetuning
from blcf_utils.study.sift import StudySift
from blcf_utils.study.weightings import StudyWeighting
from blcf_utils.words.assignment_maps import AssignmentMaps, assignment_maps
from blcf_utils.words.codebook import Codebook, learn_codebook
from blcf_utils.words.histograms import database_histograms
from blcf_utils.words.whitening import Whitening, learn_whitening

log = logging.getLogger("blcf")


def open_study(profile: str = "mini", settings: dict | None = None) -> Study:
    """Open a profile by name (or YAML path) with dotted settings changed.

    In a notebook that is not executed by ``blcf run``, changed settings send tables and figures to
    a folder of their own, ``results/<profile>+<digest>``.

    Args:
        profile: a name in ``data/profiles`` or a YAML path.
        settings: such as ``{"codebook.words": 512, "features.longest_side": 256}``.
    """
    _say_stages()
    # A reader's trial must not overwrite the profile's results; a run chooses its folder itself.
    trial = digest_of(settings)[:8] if settings and not os.environ.get("BLCF_BATCH") else ""
    return Study(load_profile(profile, settings), trial=trial)


class _Stdout(logging.Handler):
    """Prints where print() prints at the time: a notebook replaces sys.stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record))


def _say_stages() -> None:
    """Let stages say what they made or reused, one line each."""
    log = logging.getLogger("blcf")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Stdout) for handler in log.handlers):
        log.addHandler(_Stdout())


_CACHED = (
    "dataset",
    "features",
    "whitening",
    "codebook",
    "maps",
    "index",
    "augmented_maps",
    "searcher",
    "database_sums",
    "saliency_model",
    "_saliency",
    "weights",
    "at_full_resolution",
    "comparison_maps",
    "compared_method",
    "described",
    "described_queries",
    "head",
    "sift_features",
    "sift_words",
    "sift_index",
    "_verification",
    "splits",
    "image_rankings",
    "triplets",
    "network_inputs",
    "finetuned",
    "network_descriptors",
    "on_finetuned",
)


POOLINGS = {"sum": sum_pool, "crow": crow_pool}


def _counts(dataset: Dataset) -> dict[str, str | int]:
    """Return what tells how much of a stage's work a dataset is."""
    asked = sorted({dataset.image_index[query.image] for query in dataset.queries})
    return {
        "dataset": dataset.name,
        "images": len(dataset.images),
        "all_images": len(dataset.all_images),
        "distinct": len(np.unique(dataset.distinct)),
        "query_images": len(asked),
        "distinct_query_images": len(np.unique(dataset.distinct[asked])),
    }


class Study(
    StudyQueries, StudySift, StudyWeighting, StudyComparison, StudyDetector, StudyFinetuning
):
    """The stages of one profile.

    Attributes:
        profile: the configuration.
        store: where artefacts live.
        trial: names the results folder of changed settings; empty for the profile's own.
    """

    def __init__(self, profile: Profile, store: ArtefactStore | None = None, trial: str = ""):
        parse_recipe(profile.fusion.recipe)  # said now, not after an hour
        self.profile, self.store, self.trial = profile, store or ArtefactStore(), trial
        self._stand_ins: dict[str, None] = {}  # datasets loaded so far that are stand-ins
        self.weighting_name(None)  # likewise
        # One result per argument list, for as long as this object lives.
        for stage in _CACHED:
            setattr(self, stage, cache(getattr(self, stage)))

    def with_backbone(self, backbone: BackboneConfig) -> Study:
        """Return the same study on another backbone; datasets are shared, not read again."""
        features, pooling = self.profile.features, self.profile.sum_pooling
        changed = {"features": features.model_copy(update={"backbone": backbone})}
        if backbone.name != features.backbone.name and pooling.full_layer:
            # A layer name of one network means nothing in another.
            changed["sum_pooling"] = pooling.model_copy(update={"full_layer": ""})
        return self._with(**changed)

    def with_words(self, words: int) -> Study:
        """Return the same study with another number of visual words."""
        other = self._with(codebook=self.profile.codebook.model_copy(update={"words": words}))
        other.features = self.features
        return other

    def with_index_weights(self, kept: str) -> Study:
        """Return the same study with another choice of what the index keeps of weights."""
        encoding = self.profile.encoding.model_copy(update={"index_weights": kept})
        other = self._with(encoding=encoding)
        other.features, other.maps, other.weights = self.features, self.maps, self.weights
        return other

    def with_finetuning(self, **changes) -> Study:
        """Return the same study with other settings of ``finetuning``."""
        return self._with(finetuning=self.profile.finetuning.model_copy(update=changes))

    def _with_features(self, features: FeatureConfig) -> Study:
        return self._with(features=features)

    def _with(self, **groups: Config) -> Study:
        other = Study(self.profile.model_copy(update=groups), self.store, self.trial)
        other.dataset, other._stand_ins = self.dataset, self._stand_ins
        return other

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the profile's datasets."""
        return self.profile.datasets

    def dataset(self, name: str) -> Dataset:
        """Load a dataset; the first time, check that every file decodes and every box fits."""
        dataset = load_dataset(name, **self.profile.dataset_options.get(name, {}))
        decode = self.profile.features.on_corrupt == "error"
        for part in dataset.parts or (dataset,):
            document = {
                "version": 1,
                "images": part.manifest,
                "queries": part.ground_truth_digest,
                "decode": decode,
            }
            check = partial(check_dataset, part, decode=decode)
            self.store.get_or_make(
                "checks", part.name, document, lambda folder, check=check: check()
            )
        event = {
            **_counts(dataset),
            "dataset": name,
            "manifest": dataset.manifest,
            "ground_truth": dataset.ground_truth_digest,
            "queries": len(dataset.queries),
        }
        if dataset.parts:
            event["parts"] = [_counts(part) for part in dataset.parts]
        if dataset.stand_in:
            self._stand_ins[name] = None
            event["stand_in"] = True
            log.warning(banner([name]))
        log_event(event)
        return dataset

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Names of the datasets, teachers among them, whose pictures stand in for their own.

        What such a study finds is a rehearsal's, never a measurement.
        """
        for name in self.datasets:
            if self.dataset(name).stand_in:
                self._stand_ins[name] = None
        return tuple(self._stand_ins)

    def pick(self, name: str = "") -> str:
        """Return ``name`` if it is one of the profile's datasets; the first one when empty."""
        if name and name not in self.datasets:
            raise known(f"dataset of profile {self.profile.name}", name, self.datasets)
        return name or self.datasets[0]

    @property
    def results(self) -> Path:
        """The folder this profile's tables and figures go to."""
        name = self.profile.name
        return results_dir(f"{name}+{self.trial}" if self.trial else name)

    def write_table(
        self, table_id: str, measurements: Iterable[Measurement], **options
    ) -> pd.DataFrame:
        """Write a table of this study's results (see ``tables.write_table``, also for options).

        On stand-ins no cell is measured: what the pipeline gave stands in its status.
        """
        if self.stand_ins:
            mark_results(self.results, self.stand_ins)
        else:
            unmark_results(self.results)
        return write_table(table_id, measurements, self.results, **options)

    def save_figure(self, name: str, figure: Figure) -> Figure:
        """Save a figure as ``figures/<name>.png`` in the results and return it for display.

        On stand-ins it is stamped as a rehearsal's.
        """
        if self._stand_ins:
            mark_results(self.results, self._stand_ins)
            stamp(figure)
        with atomic_path(self.results / "figures" / f"{name}.png") as path:
            # Without the library's version in the file, equal pictures are equal bytes.
            figure.savefig(path, metadata={"Software": None})
        return figure

    @cached_property
    def backbone(self) -> Backbone:
        """The trunk with its weights."""
        return load_backbone(self.profile.features.backbone)

    def features(self, name: str) -> Features:
        """Return the feature maps of a dataset's images.

        Those of distractors are computed as they are read, or stored, as the profile says.
        """
        dataset, config = self.dataset(name), self.profile.features
        if not dataset.parts:
            return extract_features(dataset, config, self.store, self.backbone)
        benchmark, *distractors = dataset.parts
        stored = self.profile.distractors.features == "stored"
        of_distractors = extract_features if stored else StreamedFeatures
        parts = [extract_features(benchmark, config, self.store, self.backbone)]
        parts += [of_distractors(p, config, self.store, self.backbone) for p in distractors]
        return JoinedFeatures(name, parts)

    def whitening(self, name: str) -> Whitening:
        """Return the PCA whitening used for a dataset (learned on its teacher)."""
        features = self.features(self.profile.teacher_of(name))
        config = self.profile.whitening
        if config.dimensions > features.channels:  # a backbone narrower than the profile's main
            config = config.model_copy(update={"dimensions": features.channels})
        return learn_whitening(features, config, self.store, seed=self.profile.seed)

    def codebook(self, name: str) -> Codebook:
        """Return the visual words used for a dataset (learned on its teacher)."""
        features = self.features(self.profile.teacher_of(name))
        codebook = learn_codebook(
            features,
            self.whitening(name),
            self.profile.codebook,
            self.store,
            seed=self.profile.seed,
            device=self.profile.features.device,
        )
        return codebook.with_assignment(self.profile.encoding)

    def maps(self, name: str) -> AssignmentMaps:
        """Return the assignment maps of a dataset's images."""
        return self._assigned(self.features(name), name)

    def _assigned(self, features: Features, name: str) -> AssignmentMaps:
        if isinstance(features, JoinedFeatures):
            return JoinedMaps(name, [self._assigned(part, name) for part in features.parts])
        return assignment_maps(
            features,
            self.whitening(name),
            self.codebook(name),
            self.profile.encoding,
            self.store,
            resolve_device(self.profile.features.device).type,
        )

    def index(self, name: str, weighting: str | None = None) -> InvertedFile:
        """Return the inverted file of a dataset's database images.

        Args:
            name: the dataset.
            weighting: how much each position counts, a row of table t09; as the profile's
                ``weighting.search`` says when None.
        """
        maps, config = self.maps(name), self.profile.encoding
        idf, kept = config.idf, config.index_weights
        weighting = self.weighting_name(weighting)
        weights = self.weights(name, weighting)

        def build() -> InvertedFile:
            return invert(database_histograms(maps, weights), idf, kept)

        document, label = {"maps": maps.key, "idf": idf}, maps.artefact.label
        if weights is not None:
            document, label = {**document, "weights": weights.key}, f"{label}-{weighting}"
        if kept != "exact":
            document, label = {**document, "kept": kept}, f"{label}-{kept}"
        return build_index(document, label, self.store, build, quiet=weights is not None)

    def augmented_maps(self, name: str) -> tuple[QueryMaps, ...]:
        """Return the query images' assignment maps in the views of query augmentation."""
        config = self.profile.features
        images = self.dataset(name).of_query_images()
        made = []
        for view in augmented_views(self.profile.augmentation):
            features = extract_features(images, config, self.store, self.backbone, view)
            maps = self._assigned(features, name)
            made.append(QueryMaps(view, maps, images.image_index))
        return tuple(made)

    def searcher(self, name: str, weighting: str | None = None) -> Searcher:
        """Return what runs search recipes on a dataset (weighting as for :meth:`index`)."""
        base = SearchBase(
            self.dataset(name),
            self.maps(name),
            self.index(name, weighting),
            self.profile.encoding.box,
            partial(self.augmented_maps, name),
            self.weights(name, self.weighting_name(weighting)),
        )
        return Searcher(base, self.profile.reranking, self.profile.expansion)

    def find(
        self, name: str, recipe: str, augment: bool = False, weighting: str | None = None
    ) -> dict[str, Found]:
        """Run a search recipe, such as ``LS + R + LQE``, for every query of a dataset.

        Args:
            name: the dataset.
            recipe: steps joined by ``+`` (see ``blcf_utils.search.recipes``).
            augment: whether mirrored and zoomed views of the query image join in.
            weighting: how much each position of a database image counts (see :meth:`index`).
        """
        return self.searcher(name, weighting).run_all(recipe, augment)

    def search(
        self, name: str, recipe: str, augment: bool = False, weighting: str | None = None
    ) -> dict[str, Ranking]:
        """Return the rankings of the whole database that a recipe finds (see :meth:`find`)."""
        found = self.find(name, recipe, augment, weighting)
        return {query: one.ranking for query, one in found.items()}

    def query_words(self, name: str, query: Query, recipe: str) -> np.ndarray:
        """Return the distinct words with which a recipe (last) searches for a query."""
        return self.searcher(name).run(recipe, query).histogram[0]

    def at_full_resolution(self) -> Study:
        """Return the same study on the last layer at full resolution ("as in [20]")."""
        pooling, features = self.profile.sum_pooling, self.profile.features
        layer = pooling.full_layer or features.backbone.layer
        backbone = features.backbone.model_copy(update={"layer": layer})
        changes = {"backbone": backbone, "longest_side": pooling.full_longest_side}
        return self._with_features(features.model_copy(update=changes))

    def pooled(
        self,
        name: str,
        mode: Mode,
        whiten: bool | None = None,
        weighting: str = NONE,
        pooling: str = "sum",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return pooled unit vectors of the database and of the queries.

        Args:
            name: the dataset.
            mode: ``gs`` or ``ls``.
            whiten: whether to PCA-whiten them; as the profile says when None.
            weighting: how much each position of a database image counts, a row of table t08.
            pooling: ``sum`` or ``crow``.
        """
        config = self.profile.sum_pooling
        if whiten is not None:
            config = config.model_copy(update={"whiten": whiten})
        database = self.database_sums(name, weighting, pooling)  # says if a name is unknown
        how, pool = self.profile.encoding.box, POOLINGS[pooling]
        queries = query_sums(self.dataset(name), self.features(name), mode, how, pool)
        return sum_pooled_vectors(database, queries, config)

    def database_sums(self, name: str, weighting: str = NONE, pooling: str = "sum") -> np.ndarray:
        """Return the pooled descriptors of every database image, (n, C), before normalisation."""
        if pooling not in POOLINGS:
            raise known("pooling", pooling, POOLINGS)
        weights = self.weights(name, self.weighting_name(weighting), 1)
        return database_sums(self.features(name), weights, POOLINGS[pooling])

    def sum_pooling(
        self,
        name: str,
        mode: Mode,
        whiten: bool | None = None,
        weighting: str = NONE,
        pooling: str = "sum",
    ) -> dict[str, Ranking]:
        """Return pooled rankings for every query (arguments as for :meth:`pooled`)."""
        vectors = self.pooled(name, mode, whiten, weighting, pooling)
        return dense_rankings(self.dataset(name), *vectors)

    def evaluate(self, name: str, rankings: dict[str, Ranking]) -> Evaluation:
        """Score rankings by the dataset's protocol."""
        images = {query: ranking.images for query, ranking in rankings.items()}
        return evaluate(self.dataset(name), images)

    def describe(self) -> pd.DataFrame:
        """Return what this study runs on, one row per dataset, for the top of a notebook."""
        network = self.profile.features
        rows = [
            {
                "dataset": name,
                "images": len(self.dataset(name).images),
                "queries": len(self.dataset(name).queries),
                "backbone": network.backbone.label,
                "longest side": network.longest_side,
                "K": self.profile.codebook.words,
                "words learned on": self.profile.teacher_of(name),
                "seed": self.profile.seed,
            }
            for name in self.datasets
        ]
        table = pd.DataFrame(rows).set_index("dataset")
        if self.stand_ins:
            table.insert(0, "pictures", [STAMP if n in self.stand_ins else "" for n in table.index])
        return table

    def config_digest(self, name: str) -> str:
        """Return a digest of everything that determines the numbers of a dataset."""
        dataset = self.dataset(name)
        settings = self.profile.document()
        for speed_only in ("batch_size", "device"):
            del settings["features"][speed_only]
        # Places, not contents: a weighted cell's digest has those of its maps.
        del settings["saliency"]["weights"], settings["weighting"]["folders"]
        del settings["comparison"]["weights"]
        # Of what a trained network answers: its cells' digests have the network's own key.
        del settings["finetuning"]
        used = set(settings) - {
            "name", "description", "datasets", "learn_on", "dataset_options",
            "compare_backbones", "distractors", "notebooks", "parameters",
        }  # fmt: skip
        return digest_of(
            {
                **{key: settings[key] for key in sorted(used)},
                "teacher": self.profile.teacher_of(name),
                "weights": self.backbone.weights_digest,
                "images": dataset.manifest,
                "ground_truth": dataset.ground_truth_digest,
            }
        )
