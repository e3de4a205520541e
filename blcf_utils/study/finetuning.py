"""Fine-tuning on one dataset: rankings of its images, triplets, trained networks, descriptors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from blcf_utils.config.finetuning import ProjectionConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.continued import continue_features
from blcf_utils.features.forward import resolve_device
from blcf_utils.finetuning.descriptors import Descriptors, describe_dataset
from blcf_utils.finetuning.image_rankings import ImageRankings, rank_images
from blcf_utils.finetuning.inputs import Maps, Photographs, PixelMaps, StoredMaps
from blcf_utils.finetuning.networks import (
    TRUNK,
    build_network,
    load_network,
    save_network,
    split_trunk,
)
from blcf_utils.finetuning.sheets import triplet_sheet
from blcf_utils.finetuning.splits import Split, make_splits
from blcf_utils.finetuning.training import CHECKPOINT, CURVE, SPEED_ONLY, Trainer
from blcf_utils.finetuning.training_run import training_device
from blcf_utils.finetuning.triplets import (
    SOURCES,
    Source,
    Triplets,
    mine_triplets,
    mining_statistics,
    triplet_candidates,
)
from blcf_utils.finetuning.validation import Validation
from blcf_utils.finetuning.variants import TRAINED_A, VARIANTS, Variant
from blcf_utils.ground.artefacts import Artefact, Stage, atomic_path, write_text
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.errors import known
from blcf_utils.ground.mapping import core_pool
from blcf_utils.ground.remembered import remembered
from blcf_utils.results.evaluation import Evaluation, evaluate
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking, dense_rankings
from blcf_utils.search.recipes import Searcher
from blcf_utils.search.sift.words import search_sift
from blcf_utils.study.pipeline import Pipeline

TRAINED = Stage("finetuned", version=2)
DESCRIBED = Stage("descriptors", version=2)
JUDGED_TRIPLETS = Stage("judged-triplets", version=1)
JUDGED = "statistics.json"


@dataclass(frozen=True)
class Finetuned:
    """A trained network.

    Attributes:
        variant: which row.
        trained_on: dataset.
        split: fold.
        artefact: its files.
    """

    variant: Variant
    trained_on: str
    split: Split
    artefact: Artefact

    @property
    def weights(self) -> Path:
        """State dict of its trunk, to be named in ``features.backbone.weights``."""
        return self.artefact / TRUNK

    def curve(self) -> pd.DataFrame:
        """Return its curve: step, loss, active, rate, validation."""
        return pd.read_csv(self.artefact / CURVE).set_index("step")


class Finetuning:
    """The networks that are trained on a dataset, and what networks find in it.

    Args:
        bench: the dataset's pipeline.
    """

    def __init__(self, bench: Pipeline):
        self.bench, self.name, self.profile = bench, bench.name, bench.profile
        self.dataset, self.store = bench.dataset, bench.store
        self.config = bench.profile.finetuning

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """The tested folds."""
        return make_splits(self.dataset, self.config, self._left_out)

    @cached_property
    def _left_out(self) -> np.ndarray | None:
        """The numbers of the images that do not decode, if that is allowed."""
        if self.profile.features.on_corrupt == "error":
            return None
        return np.flatnonzero(self.bench.features.shapes.prod(axis=1) == 0)

    @cached_property
    def _pixels(self) -> PixelMaps:
        seen, backbone = self.profile.features, self.bench.backbone
        how = seen.resize, seen.alpha
        return PixelMaps(self.dataset, backbone, seen.longest_side, self._left_out, *how)

    @cached_property
    def tested_queries(self) -> list[str]:
        """The ids of the queries that the tested folds answer."""
        tested = {query for split in self.splits for query in split.test}
        return [query.id for query in self.dataset.queries if query.id in tested]

    @cached_property
    def image_rankings(self) -> ImageRankings:
        """The fused rankings of all of the dataset's images."""
        config, sift = self.config.mining, self.profile.sift
        words, index = self.bench.sift.words, self.bench.sift.index
        base = self.bench.searcher().base

        def search_words(queries: Dataset):
            searcher = Searcher(
                replace(base, dataset=queries), self.profile.reranking, self.profile.expansion
            )
            return lambda query: searcher.run(config.recipe, query).ranking

        def sift_search(queries: Dataset) -> dict[str, Ranking]:
            # The image itself comes first and is not one of those asked for.
            top = min(len(queries.images), config.images + 1)
            return search_sift(queries, words, index, "gs", sift.burstiness, top)

        made_of = {
            "words": base.maps.key,
            "idf": self.profile.encoding.idf,
            "weighting": self.profile.weighting.search,
            "reranking": self.profile.reranking.document(),
            "expansion": self.profile.expansion.document(),
            "sift_words": words.key,
            "sift_idf": sift.idf,
            "burstiness": sift.burstiness,
        }
        return rank_images(
            self.dataset,
            search_words,
            sift_search,
            words.features,
            sift.verification,
            config,
            self.store,
            made_of,
            self._left_out,
        )

    @remembered
    def triplets(self, fold: int = 0, source: Source = "fused", seed: int = 0) -> Triplets:
        """Return the triplets mined on a fold with a seed, by its number."""
        return mine_triplets(
            self.dataset,
            self.image_rankings,
            self.splits[fold],
            source,
            self.config.mining,
            self.store,
            self._seed(fold, seed),
        )

    def _seed(self, fold: int, number: int) -> int:
        """Return what the drawing of triplets and the training of a fold's network start from."""
        return self.config.seed + fold + number * self.config.folds

    def seeds(self, row: str) -> range:
        """Return the numbers of the seeds with which a row is trained; 0 alone if it is not."""
        return range(self.config.seeds if VARIANTS[row].source else 1)

    def mining_statistics(self, fold: int = 0) -> pd.DataFrame:
        """Return what there was to mine and how right it is, by where triplets come from."""
        return pd.DataFrame(
            {
                source: json.loads((self.judged_triplets(fold, source) / JUDGED).read_text())
                for source in SOURCES
            }
        )

    def judged_triplets(self, fold: int = 0, source: Source = "fused") -> Artefact:
        """Return what a reader needs to judge the triplets of a fold: statistics and pictures.

        Its files are ``statistics.json`` and ``triplets.jpg``. It is an artefact of its own beside
        the triplets, because only it knows the ground truth.
        """
        dataset, split = self.dataset, self.splits[fold]
        found = self.triplets(fold, source)
        document = {
            "triplets": found.key,
            "images": dataset.manifest,
            "ground_truth": dataset.ground_truth_digest,
        }

        def make(folder: Path) -> None:
            asked = split, source, self.config.mining
            candidates = triplet_candidates(dataset, self.image_rankings, *asked)
            told = mining_statistics(dataset, found, split, candidates)
            write_text(folder / JUDGED, json.dumps(told, indent=1) + "\n")  # in this order
            with atomic_path(folder / "triplets.jpg") as path:
                triplet_sheet(dataset, found).save(path, quality=90)

        label = f"{self.name}-fold{fold}-{source}"
        return self.store.get_or_make(JUDGED_TRIPLETS, label, document, make)

    @cached_property
    def inputs(self) -> Maps:
        """What the networks read of the dataset: maps of the frozen layers, or pixels."""
        frozen = self.config.training.frozen
        if not frozen:
            return self._pixels
        layer = {"features.backbone.layer": frozen, "features.backbone.relu": "post"}
        return self.bench.changed(layer).features

    @remembered
    def trained(self, row: str = TRAINED_A.row, fold: int = 0, seed: int = 0) -> Finetuned:
        """Return a network trained on a fold of the dataset; training it is resumable.

        Args:
            row: a trained row of table t07.
            fold: number of the fold.
            seed: number of the seed.
        """
        rows = {label: one for label, one in VARIANTS.items() if one.source}
        if row not in rows:
            raise known("fine-tuned row", row, rows)
        variant, config, backbone = rows[row], self.config, self.bench.backbone
        dataset, split = self.dataset, self.splits[fold]
        triplets = self.triplets(fold, variant.source, seed)
        projection, start = config.projection.with_seed(seed), self._seed(fold, seed)
        training = config.training.document()
        for speed_only in SPEED_ONLY:
            del training[speed_only]
        document = {
            "network": variant.network,
            "projection": projection.document() if variant.network == "B" else None,
            "backbone": backbone.document(),
            "longest_side": self.profile.features.longest_side,
            "resize": self.profile.features.resize,
            "alpha": self.profile.features.alpha,
            "triplets": triplets.key,
            "split": split.document(),
            "ground_truth": dataset.ground_truth_digest if split.validation else "",
            "training": training,
            "seed": start,
        }

        def train(folder: Path) -> None:
            maps, frozen = self.inputs, None
            asked = variant.network, backbone, config.training.frozen, projection
            network = build_network(*asked)
            if config.training.inputs == "maps":
                inputs = StoredMaps(maps, config.training)
            else:
                frozen, _ = split_trunk(backbone, config.training.frozen)
                inputs = Photographs(self._pixels, config.training)
            validation = Validation.of(
                dataset, maps, split, config.training.validation_images, config.seed
            )
            trainer = Trainer(
                network,
                triplets,
                inputs,
                config.training,
                start,
                validation,
                document,
                frozen,
            )
            trainer.run(folder)
            save_network(network, backbone, folder)
            (folder / CHECKPOINT).unlink(missing_ok=True)

        label = f"{self.name}-fold{fold}-seed{seed}-{variant.network}-{variant.source}"
        made = self.store.get_or_make(TRAINED, label, document, train)
        return Finetuned(variant, self.name, split, made)

    def train(self, rows: Sequence[str]) -> None:
        """Train all networks of those of some rows that are trained; on a CPU several at once."""
        asked = [
            (row, split.number, seed)
            for row in rows
            if VARIANTS[row].source
            for seed in self.seeds(row)
            for split in self.splits
        ]
        for row, fold, seed in asked:  # what they have in common is made before
            self.triplets(fold, VARIANTS[row].source, seed)
        self._make(self.trained, asked, training_device(self.config.training.device))

    def describe(self, asked: Iterable[tuple]) -> None:
        """Make what several calls of :meth:`descriptors` ask for; on a CPU several at once."""
        self._make(self.descriptors, asked, resolve_device(self.profile.features.device))

    def _make(self, method: Callable, asked: Iterable[tuple], device: torch.device) -> None:
        """Call a method with each of some arguments, in threads that share a CPU's cores."""
        if device.type != "cpu":
            for one in asked:
                method(*one)
            return
        _, _ = self.inputs, self.bench.backbone  # which all of them read
        with core_pool(pool_threads()) as pool:
            for made in [pool.submit(method, *one) for one in asked]:
                made.result()

    @remembered
    def descriptors(
        self,
        row: str,
        trained_on: Finetuning | None = None,
        fold: int = 0,
        seed: int = 0,
        projection: ProjectionConfig | None = None,
    ) -> Descriptors:
        """Return the dataset's descriptors by a row's network.

        Args:
            row: a row of table t07; trained rows need the next two.
            trained_on, fold, seed: which training.
            projection: of baseline B; as the profile says when None.
        """
        if row not in VARIANTS:
            raise known("row of fine-tuning", row, VARIANTS)
        variant, config, backbone = VARIANTS[row], self.config, self.bench.backbone
        projection = projection or config.projection
        frozen, box = config.training.frozen, self.profile.encoding.box
        tuned = trained_on.trained(row, fold, seed) if variant.source else None
        dataset = self.dataset
        document = {
            "network": tuned.artefact.key if tuned else variant.network,
            "projection": projection.document() if variant.network == "B" else None,
            "backbone": backbone.document(),
            "longest_side": self.profile.features.longest_side,
            "resize": self.profile.features.resize,
            "alpha": self.profile.features.alpha,
            "frozen": frozen,
            "images": dataset.manifest,
            "n_database": len(dataset.images),
            "queries": dataset.ground_truth_digest,
            "box": box,
        }

        def describe(folder: Path) -> None:
            asked = variant.network, backbone, frozen, projection
            if tuned:
                network = load_network(*asked, tuned.artefact.folder)
            else:
                network = build_network(*asked).requires_grad_(False)
            device = resolve_device(self.profile.features.device)
            found = describe_dataset(network, dataset, self.inputs, box, device)
            with atomic_path(folder / "descriptors.npz") as path:
                np.savez(path, database=found.database, **found.queries)

        label = f"{self.name}-by-{row}-{trained_on.name if tuned else 'untrained'}"
        made = self.store.get_or_make(DESCRIBED, label, document, describe, quiet=True)
        with np.load(made / "descriptors.npz") as stored:
            queries = {mode: stored[mode] for mode in ("gs", "ls")}
            return Descriptors(stored["database"], queries, made.key)

    def rankings(
        self, row: str, trained_on: Finetuning | None = None, mode: Mode = "gs", seed: int = 0
    ) -> dict[str, Ranking]:
        """Rank the database for the tested queries, each by a network that never saw its instance.

        Args:
            row: a row of table t07.
            trained_on: where its networks were trained.
            mode: global or local search.
            seed: number of the seed.
        """
        answered_by = self.answered_by(row, trained_on, seed)
        found = {}
        for fold in dict.fromkeys(answered_by.values()):
            one = self.descriptors(row, trained_on, fold, seed)
            found[fold] = dense_rankings(self.dataset, one.database, one.queries[mode])
        return {query: found[fold][query] for query, fold in answered_by.items()}

    def answered_by(self, row: str, trained_on: Finetuning | None, seed: int) -> dict[str, int]:
        """Return the fold whose network answers each tested query.

        On the dataset trained on it is the query's own fold. Elsewhere one network answers all,
        another fold's with each seed: at home, too, a query has one answer a seed, so that the
        spread over seeds is that of single networks on every dataset.
        """
        if VARIANTS[row].source is None:
            return dict.fromkeys(self.tested_queries, 0)
        if trained_on.name != self.name:
            return dict.fromkeys(self.tested_queries, seed % len(trained_on.splits))
        own = {query: split.number for split in self.splits for query in split.test}
        return {query: own[query] for query in self.tested_queries}

    def evaluations(
        self, row: str, trained_on: Finetuning | None = None, mode: Mode = "gs"
    ) -> list[Evaluation]:
        """Score a row's networks, once for each seed; once in all where nothing is trained."""
        return [
            self.evaluate(self.rankings(row, trained_on, mode, seed)) for seed in self.seeds(row)
        ]

    def projected(self, projection: ProjectionConfig | None, mode: Mode) -> dict[str, Ranking]:
        """Rank the database by baseline B under some projection; by baseline A when None."""
        row = "Baseline B" if projection else "Baseline A"
        found = self.descriptors(row, projection=projection)
        rankings = dense_rankings(self.dataset, found.database, found.queries[mode])
        return {query: rankings[query] for query in self.tested_queries}

    def evaluate(self, rankings: dict[str, Ranking]) -> Evaluation:
        """Score rankings of the tested queries by the dataset's protocol."""
        dataset = self.dataset
        some = replace(dataset, queries=tuple(q for q in dataset.queries if q.id in rankings))
        return evaluate(some, {query: found.images for query, found in rankings.items()})

    def most_changed(self, row: str) -> Query:
        """Return the tested query whose AP a network trained on the same dataset changes most."""
        baseline = f"Baseline {VARIANTS[row].network}" if row in VARIANTS else row
        after = self.evaluate(self.rankings(row, self)).per_query
        before = self.evaluate(self.rankings(baseline)).per_query
        changed = max(after, key=lambda query: abs(after[query] - before[query]))
        return next(query for query in self.dataset.queries if query.id == changed)

    @remembered
    def tuned(self, row: str = TRAINED_A.row, fold: int = 0, seed: int = 0) -> Pipeline:
        """Return the dataset's pipeline on a trained network's features: words, searches, all.

        Its maps come from the stored ones of the frozen layers, as those of descriptors do.
        """
        trained, training = self.trained(row, fold, seed), self.config.training
        tuned = self.bench.changed({"features.backbone.weights": str(trained.weights)})
        if training.frozen and not self.dataset.parts:
            _, rest = split_trunk(tuned.backbone, training.frozen)
            device = resolve_device(self.profile.features.device)
            asked = self.dataset, self.inputs, rest.eval(), tuned.backbone, self.store, device
            tuned.features = continue_features(*asked)
        return tuned

    def words(self, mode: Mode, weighting: str | None = None) -> dict[str, Ranking]:
        """Search with words of the profile's own features, for the tested queries."""
        tested, searcher = set(self.tested_queries), self.bench.searcher(weighting)
        queries = [query for query in self.dataset.queries if query.id in tested]
        return {query.id: searcher.run(mode.upper(), query).ranking for query in queries}

    def tuned_words(
        self, mode: Mode, weighting: str | None = None, seed: int = 0
    ) -> dict[str, Ranking]:
        """Search with words of network A's features, trained on the same dataset's other folds.

        Returns:
            Rankings of the tested queries, each by the words of its own fold's network.
        """
        found = {}
        for split in self.splits:
            searcher = self.tuned(fold=split.number, seed=seed).searcher(weighting)
            found |= {
                query.id: searcher.run(mode.upper(), query).ranking
                for query in self.dataset.queries
                if query.id in split.test
            }
        return found
