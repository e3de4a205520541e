"""Fine-tuning, as stages of a study: rankings of images, triplets, training, descriptors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blcf_utils.config.finetuning import ProjectionConfig
from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.features.stored import Features
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
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, atomic_path, write_text
from blcf_utils.ground.errors import known
from blcf_utils.results.evaluation import Evaluation, evaluate
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking, dense_rankings
from blcf_utils.search.recipes import Searcher
from blcf_utils.search.sift.words import search_sift

if TYPE_CHECKING:
    from blcf_utils.study.study import Study

TRAINING_VERSION = 1
DESCRIBING_VERSION = 1
JUDGING_VERSION = 1
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


class StudyFinetuning:
    """The part of a study that fine-tunes networks."""

    profile: Profile
    store: ArtefactStore
    dataset: Callable[[str], Dataset]
    backbone: Backbone
    features: Callable[[str], Features]
    searcher: Callable[[str], Searcher]
    with_backbone: Callable[[BackboneConfig], Study]
    pooled: Callable[..., tuple[np.ndarray, np.ndarray]]

    def stands_for(self, which: str) -> str:
        """Return the dataset that stands for ``oxford`` or ``instre`` in this profile; "" if none.

        Raises:
            StudyError: the profile names a dataset that it does not have.
        """
        name = getattr(self.profile.finetuning, which)
        if name and name not in self.profile.datasets:
            raise known(f"dataset of finetuning.{which}", name, self.profile.datasets)
        return name

    def splits(self, name: str) -> tuple[Split, ...]:
        """Return the tested folds of a dataset."""
        return make_splits(self.dataset(name), self.profile.finetuning, self._left_out(name))

    def _left_out(self, name: str) -> np.ndarray | None:
        """Return the numbers of a dataset's images that do not decode, if that is allowed."""
        if self.profile.features.on_corrupt == "error":
            return None
        return np.flatnonzero(self.features(name).shapes.prod(axis=1) == 0)

    def _pixels(self, name: str) -> PixelMaps:
        side = self.profile.features.longest_side
        return PixelMaps(self.dataset(name), self.backbone, side, self._left_out(name))

    def tested_queries(self, name: str) -> list[str]:
        """Return the ids of the queries that the tested folds answer."""
        tested = {query for split in self.splits(name) for query in split.test}
        return [query.id for query in self.dataset(name).queries if query.id in tested]

    def image_rankings(self, name: str) -> ImageRankings:
        """Return the fused rankings of all of a dataset's images."""
        config, sift = self.profile.finetuning.mining, self.profile.sift
        words, index = self.sift_words(name), self.sift_index(name)
        base = self.searcher(name).base

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
            self.dataset(name),
            search_words,
            sift_search,
            words.features,
            sift.verification,
            config,
            self.store,
            made_of,
            self._left_out(name),
        )

    def triplets(self, name: str, fold: int = 0, source: Source = "fused") -> Triplets:
        """Return the triplets mined on a fold of a dataset."""
        config = self.profile.finetuning
        return mine_triplets(
            self.dataset(name),
            self.image_rankings(name),
            self.splits(name)[fold],
            source,
            config.mining,
            self.store,
            config.seed + fold,
        )

    def mining_statistics(self, name: str, fold: int = 0) -> pd.DataFrame:
        """Return what there was to mine and how right it is, by where triplets come from."""
        return pd.DataFrame(
            {
                source: json.loads((self.judged_triplets(name, fold, source) / JUDGED).read_text())
                for source in SOURCES
            }
        )

    def judged_triplets(self, name: str, fold: int = 0, source: Source = "fused") -> Artefact:
        """Return what a reader needs to judge the triplets of a fold: statistics and pictures.

        Its files are ``statistics.json`` and ``triplets.jpg``. It is an artefact of its own beside
        the triplets, because only it knows the ground truth.
        """
        dataset, split = self.dataset(name), self.splits(name)[fold]
        found = self.triplets(name, fold, source)
        document = {
            "version": JUDGING_VERSION,
            "triplets": found.key,
            "images": dataset.manifest,
            "ground_truth": dataset.ground_truth_digest,
        }

        def make(folder: Path) -> None:
            mining, rankings = self.profile.finetuning.mining, self.image_rankings(name)
            candidates = triplet_candidates(dataset, rankings, split, source, mining)
            told = mining_statistics(dataset, found, split, candidates)
            write_text(folder / JUDGED, json.dumps(told, indent=1) + "\n")  # in this order
            with atomic_path(folder / "triplets.jpg") as path:
                triplet_sheet(dataset, found).save(path, quality=90)

        label = f"{name}-fold{fold}-{source}"
        return self.store.get_or_make("judged-triplets", label, document, make)

    def network_inputs(self, name: str) -> Maps:
        """Return what the networks read of a dataset: maps of the frozen layers, or pixels."""
        frozen, features = self.profile.finetuning.training.frozen, self.profile.features
        if not frozen:
            return self._pixels(name)
        backbone = features.backbone.model_copy(update={"layer": frozen, "relu": "post"})
        return self.with_backbone(backbone).features(name)

    def finetuned(self, trained_on: str, row: str = TRAINED_A.row, fold: int = 0) -> Finetuned:
        """Return a network trained on a fold of a dataset; training it is resumable.

        Args:
            trained_on: the dataset.
            row: a trained row of table t07.
            fold: number of the fold.
        """
        trained = {label: one for label, one in VARIANTS.items() if one.source}
        if row not in trained:
            raise known("fine-tuned row", row, trained)
        variant, config = trained[row], self.profile.finetuning
        dataset, split = self.dataset(trained_on), self.splits(trained_on)[fold]
        triplets = self.triplets(trained_on, fold, variant.source)
        training = config.training.document()
        for speed_only in SPEED_ONLY:
            del training[speed_only]
        document = {
            "version": TRAINING_VERSION,
            "network": variant.network,
            "projection": config.projection.document() if variant.network == "B" else None,
            "backbone": self.backbone.document(),
            "longest_side": self.profile.features.longest_side,
            "triplets": triplets.key,
            "split": split.document(),
            "ground_truth": dataset.ground_truth_digest if split.validation else "",
            "training": training,
            "seed": config.seed + fold,
        }

        def train(folder: Path) -> None:
            maps, frozen = self.network_inputs(trained_on), None
            asked = variant.network, self.backbone, config.training.frozen, config.projection
            network = build_network(*asked)
            if config.training.inputs == "maps":
                inputs = StoredMaps(maps, config.training)
            else:
                frozen, _ = split_trunk(self.backbone, config.training.frozen)
                inputs = Photographs(self._pixels(trained_on), config.training)
            validation = Validation.of(
                dataset, maps, split, config.training.validation_images, config.seed
            )
            trainer = Trainer(
                network,
                triplets,
                inputs,
                config.training,
                config.seed + fold,
                validation,
                document,
                frozen,
            )
            trainer.run(folder)
            save_network(network, self.backbone, folder)
            (folder / CHECKPOINT).unlink(missing_ok=True)

        label = f"{trained_on}-fold{fold}-{variant.network}-{variant.source}"
        made = self.store.get_or_make("finetuned", label, document, train)
        return Finetuned(variant, trained_on, split, made)

    def network_descriptors(
        self,
        name: str,
        row: str,
        trained_on: str = "",
        fold: int = 0,
        projection: ProjectionConfig | None = None,
    ) -> Descriptors:
        """Return a dataset's descriptors by a row's network.

        Args:
            name: the dataset described.
            row: a row of table t07; trained rows need the next two.
            trained_on, fold: which training.
            projection: of baseline B; as the profile says when None.
        """
        if row not in VARIANTS:
            raise known("row of fine-tuning", row, VARIANTS)
        variant, config = VARIANTS[row], self.profile.finetuning
        projection = projection or config.projection
        frozen, how = config.training.frozen, self.profile.encoding.box
        tuned = self.finetuned(trained_on, row, fold) if variant.source else None
        dataset = self.dataset(name)
        document = {
            "version": DESCRIBING_VERSION,
            "network": tuned.artefact.key if tuned else variant.network,
            "projection": projection.document() if variant.network == "B" else None,
            "backbone": self.backbone.document(),
            "longest_side": self.profile.features.longest_side,
            "frozen": frozen,
            "images": dataset.manifest,
            "n_database": len(dataset.images),
            "queries": dataset.ground_truth_digest,
            "box": how,
        }

        def describe(folder: Path) -> None:
            asked = variant.network, self.backbone, frozen, projection
            if tuned:
                network = load_network(*asked, tuned.artefact.folder)
            else:
                network = build_network(*asked).requires_grad_(False)
            device = resolve_device(self.profile.features.device)
            found = describe_dataset(network, dataset, self.network_inputs(name), how, device)
            with atomic_path(folder / "descriptors.npz") as path:
                np.savez(path, database=found.database, **found.queries)

        label = f"{name}-by-{row}-{trained_on or 'untrained'}"
        made = self.store.get_or_make("descriptors", label, document, describe, quiet=True)
        with np.load(made / "descriptors.npz") as stored:
            queries = {mode: stored[mode] for mode in ("gs", "ls")}
            return Descriptors(stored["database"], queries, made.key)

    def network_rankings(
        self, name: str, row: str, trained_on: str = "", mode: Mode = "gs"
    ) -> dict[str, Ranking]:
        """Rank a dataset for its tested queries, each by a network that never saw its instance.

        On the dataset trained on every query is answered by the network of its own fold. On other
        datasets every network answers; the first fold's answers are returned, see
        :meth:`network_evaluation` for the mean of all.
        """
        return self._network_rankings(name, row, trained_on, mode)[0]

    def _network_rankings(
        self, name: str, row: str, trained_on: str, mode: Mode
    ) -> list[dict[str, Ranking]]:
        """Return the rankings of the tested queries, once for each independent training."""
        dataset, tested = self.dataset(name), set(self.tested_queries(name))
        trained = VARIANTS[row].source is not None
        folds = range(len(self.splits(trained_on))) if trained else (0,)
        every = []
        for fold in folds:
            found = self.network_descriptors(name, row, trained_on, fold)
            every.append(dense_rankings(dataset, found.database, found.queries[mode]))
        if trained and name == trained_on:
            splits = self.splits(name)
            own = {query: split.number for split in splits for query in split.test}
            return [{query: every[own[query]][query] for query in self.tested_queries(name)}]
        return [{q: found[q] for q in found if q in tested} for found in every]

    def network_evaluation(
        self, name: str, row: str, trained_on: str = "", mode: Mode = "gs"
    ) -> Evaluation:
        """Score a row's networks: AP of each tested query, the mean of the folds' networks."""
        found = self._network_rankings(name, row, trained_on, mode)
        return mean_evaluation([self.evaluate_tested(name, rankings) for rankings in found])

    def projected(
        self, name: str, projection: ProjectionConfig | None, mode: Mode
    ) -> dict[str, Ranking]:
        """Rank a dataset with baseline B under some projection; with baseline A when None."""
        row = "Baseline B" if projection else "Baseline A"
        found = self.network_descriptors(name, row, projection=projection)
        rankings = dense_rankings(self.dataset(name), found.database, found.queries[mode])
        return {query: rankings[query] for query in self.tested_queries(name)}

    def evaluate_tested(self, name: str, rankings: dict[str, Ranking]) -> Evaluation:
        """Score rankings of the tested queries by the dataset's protocol."""
        dataset = self.dataset(name)
        some = replace(dataset, queries=tuple(q for q in dataset.queries if q.id in rankings))
        return evaluate(some, {query: found.images for query, found in rankings.items()})

    def most_changed(self, name: str, row: str) -> Query:
        """Return the tested query whose AP a network trained on the same dataset changes most."""
        baseline = f"Baseline {VARIANTS[row].network}" if row in VARIANTS else row
        after = self.network_evaluation(name, row, name).per_query
        before = self.network_evaluation(name, baseline).per_query
        changed = max(after, key=lambda query: abs(after[query] - before[query]))
        return next(query for query in self.dataset(name).queries if query.id == changed)

    def on_finetuned(self, trained_on: str, row: str = TRAINED_A.row, fold: int = 0) -> Study:
        """Return the same study on a trained network's features: words, searches, everything."""
        tuned = self.finetuned(trained_on, row, fold)
        backbone = self.profile.features.backbone
        return self.with_backbone(backbone.model_copy(update={"weights": str(tuned.weights)}))

    def tested_words(
        self, name: str, mode: Mode, weighting: str | None = None
    ) -> dict[str, Ranking]:
        """Search with words of the profile's own features, for the tested queries."""
        tested, searcher = set(self.tested_queries(name)), self.searcher(name, weighting)
        queries = [query for query in self.dataset(name).queries if query.id in tested]
        return {query.id: searcher.run(mode.upper(), query).ranking for query in queries}

    def finetuned_words(
        self, name: str, mode: Mode, weighting: str | None = None
    ) -> dict[str, Ranking]:
        """Search with words of network A's features, trained on the same dataset's other folds.

        Returns:
            Rankings of the tested queries, each by the words of its own fold's network.
        """
        found = {}
        for split in self.splits(name):
            searcher = self.on_finetuned(name, fold=split.number).searcher(name, weighting)
            found |= {
                query.id: searcher.run(mode.upper(), query).ranking
                for query in self.dataset(name).queries
                if query.id in split.test
            }
        return found


def mean_evaluation(evaluations: list[Evaluation]) -> Evaluation:
    """Return the mean AP of every query over several evaluations of the same queries."""
    queries = evaluations[0].per_query
    return Evaluation(
        {q: float(np.mean([one.per_query[q] for one in evaluations])) for q in queries}
    )
