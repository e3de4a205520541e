"""A profile opened for work: the stages of the study chained, each result made once.

Every method names one stage and returns what it made; what lies before it is made on the way.
"""

from __future__ import annotations

import logging
import os
from functools import cache, cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from blcf_utils.artefacts import ArtefactStore, atomic_path, log_event
from blcf_utils.backbones import Backbone, load_backbone
from blcf_utils.bow import (
    AssignmentMaps,
    assignment_maps,
    database_histograms,
    inverse_document_frequency,
    scale_words,
)
from blcf_utils.boxes import Mode
from blcf_utils.codebook import Codebook, learn_codebook
from blcf_utils.config import BackboneConfig, Profile, digest_of, load_profile
from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.errors import StudyError, known
from blcf_utils.evaluation import Evaluation, evaluate, unit_ranking
from blcf_utils.features import Features, extract_features, resolve_device
from blcf_utils.index import InvertedFile, build_index
from blcf_utils.paths import results_dir
from blcf_utils.pooling.sum_pooling import sum_pooled_vectors
from blcf_utils.search import Ranking, dense_rankings, search_all
from blcf_utils.whitening import Whitening, learn_whitening


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


class Study:
    """The stages of one profile.

    Attributes:
        profile: the configuration.
        store: where artefacts live.
        trial: names the results folder of changed settings; empty for the profile's own.
    """

    def __init__(self, profile: Profile, store: ArtefactStore | None = None, trial: str = ""):
        self.profile, self.store, self.trial = profile, store or ArtefactStore(), trial
        # One result per argument list, for as long as this object lives.
        for stage in ("dataset", "features", "whitening", "codebook", "maps", "index", "pooled"):
            setattr(self, stage, cache(getattr(self, stage)))

    def with_backbone(self, backbone: BackboneConfig) -> Study:
        """Return the same study on another backbone; datasets are shared, not read again."""
        features = self.profile.features.model_copy(update={"backbone": backbone})
        profile = self.profile.model_copy(update={"features": features})
        other = Study(profile, self.store, self.trial)
        other.dataset = self.dataset
        return other

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the profile's datasets."""
        return self.profile.datasets

    def dataset(self, name: str) -> Dataset:
        """Load a dataset; the first time, check that every file decodes and every box fits."""
        dataset = load_dataset(name, **self.profile.dataset_options.get(name, {}))
        decode = self.profile.features.on_corrupt == "error"
        document = {
            "version": 1,
            "images": dataset.manifest,
            "queries": dataset.ground_truth_digest,
            "decode": decode,
        }
        self.store.get_or_make(
            "checks", name, document, lambda folder: check_dataset(dataset, decode=decode)
        )
        log_event(
            {
                "dataset": name,
                "manifest": dataset.manifest,
                "ground_truth": dataset.ground_truth_digest,
                "images": len(dataset.images),
                "queries": len(dataset.queries),
            }
        )
        return dataset

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

    def save_figure(self, name: str, figure: Figure) -> Figure:
        """Save a figure as ``figures/<name>.png`` in the results and return it for display."""
        with atomic_path(self.results / "figures" / f"{name}.png") as path:
            # Without the library's version in the file, equal pictures are equal bytes.
            figure.savefig(path, metadata={"Software": None})
        return figure

    @cached_property
    def backbone(self) -> Backbone:
        """The trunk with its weights."""
        return load_backbone(self.profile.features.backbone)

    def features(self, name: str) -> Features:
        """Return the feature maps of a dataset's images."""
        return extract_features(
            self.dataset(name), self.profile.features, self.store, self.backbone
        )

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
        return learn_codebook(
            features,
            self.whitening(name),
            self.profile.codebook,
            self.store,
            seed=self.profile.seed,
        )

    def maps(self, name: str) -> AssignmentMaps:
        """Return the assignment maps of a dataset's images."""
        return assignment_maps(
            self.features(name),
            self.whitening(name),
            self.codebook(name),
            self.profile.encoding,
            self.store,
            resolve_device(self.profile.features.device).type,
        )

    def index(self, name: str) -> InvertedFile:
        """Return the inverted file of a dataset's database images."""
        maps, idf = self.maps(name), self.profile.encoding.idf

        def build() -> InvertedFile:
            histograms = database_histograms(maps)
            if not idf:
                return InvertedFile.from_histograms(histograms)
            factors = inverse_document_frequency(histograms)
            return InvertedFile.from_histograms(scale_words(histograms, factors), factors)

        document = {"maps": maps.key, "idf": idf}
        return build_index(document, maps.artefact.label, self.store, build)

    def search(self, name: str, mode: Mode) -> dict[str, Ranking]:
        """Return BLCF rankings of the whole database for every query (``gs`` or ``ls``)."""
        return search_all(
            self.dataset(name), self.maps(name), self.index(name), mode, self.profile.encoding.box
        )

    def pooled(self, name: str, mode: Mode, whiten: bool | None = None):
        """Return sum-pooled unit vectors of the database and of the queries.

        Args:
            name: the dataset.
            mode: ``gs`` or ``ls``.
            whiten: whether to PCA-whiten them; as the profile says when None.
        """
        config = self.profile.sum_pooling
        if whiten is not None:
            config = config.model_copy(update={"whiten": whiten})
        how = self.profile.encoding.box
        return sum_pooled_vectors(self.dataset(name), self.features(name), config, mode, how)

    def sum_pooling(self, name: str, mode: Mode, whiten: bool | None = None) -> dict[str, Ranking]:
        """Return sum-pooling rankings for every query (arguments as for :meth:`pooled`)."""
        return dense_rankings(self.dataset(name), *self.pooled(name, mode, whiten))

    def evaluate(self, name: str, rankings: dict[str, Ranking]) -> Evaluation:
        """Score rankings by the dataset's protocol."""
        images = {query: ranking.images for query, ranking in rankings.items()}
        return evaluate(self.dataset(name), images)

    def varied_queries(self, name: str, count: int) -> list[Query]:
        """Return queries of different instances, spread over the dataset."""
        queries = self.dataset(name).queries
        first = {query.instance or query.id: query for query in reversed(queries)}
        queries = list(first.values())[::-1]
        return queries[:: max(1, len(queries) // count)][:count]

    def query(self, name: str, number: int) -> Query:
        """Return a dataset's query by its number.

        Raises:
            StudyError: no such query.
        """
        queries = self.dataset(name).queries
        if not 0 <= number < len(queries):
            raise StudyError(
                f"{name}: expected a query number from 0 to {len(queries) - 1}, found {number}"
            )
        return queries[number]

    def positive_images(self, name: str, query: Query, count: int) -> list[int]:
        """Return the numbers of some images that show the query's instance."""
        dataset = self.dataset(name)
        return [dataset.image_of(unit) for unit in query.positives[:count]]

    def other_images(self, name: str, query: Query, count: int) -> list[int]:
        """Return the numbers of some images, spread over the database, that do not show it."""
        dataset = self.dataset(name)
        known = {dataset.image_of(unit) for unit in (*query.positives, *query.junk)}
        others = [i for i in range(len(dataset.images)) if i not in known]
        return others[:: max(1, len(others) // count)][:count]

    def best_images(self, name: str, query: Query, ranking: Ranking, count: int) -> list[int]:
        """Return the first images of a ranking, without junk and the query's own image."""
        dataset = self.dataset(name)
        units = unit_ranking(dataset, ranking.images)
        images = [dataset.image_of(unit) for unit in units if unit not in query.junk]
        return [i for i in images if dataset.images[i] != query.image][:count]

    def queries_by_gain(
        self, name: str, better: Evaluation, than: Evaluation | None = None
    ) -> list[Query]:
        """Return a dataset's queries, largest AP (or AP gain over ``than``) first."""
        base = than.per_query if than else dict.fromkeys(better.per_query, 0.0)
        queries = self.dataset(name).queries
        return sorted(queries, key=lambda q: base[q.id] - better.per_query[q.id])

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
        return pd.DataFrame(rows).set_index("dataset")

    def config_digest(self, name: str) -> str:
        """Return a digest of everything that determines the numbers of a dataset."""
        dataset = self.dataset(name)
        settings = self.profile.document()
        for speed_only in ("batch_size", "device"):
            del settings["features"][speed_only]
        used = ("features", "whitening", "codebook", "encoding", "sum_pooling", "seed")
        return digest_of(
            {
                **{key: settings[key] for key in used},
                "teacher": self.profile.teacher_of(name),
                "weights": self.backbone.weights_digest,
                "images": dataset.manifest,
                "ground_truth": dataset.ground_truth_digest,
            }
        )
