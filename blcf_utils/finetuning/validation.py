"""How well a network in training answers held-out queries, among a part of the database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.finetuning.descriptors import describe_images
from blcf_utils.finetuning.inputs import Maps
from blcf_utils.finetuning.networks import DescriptorNetwork
from blcf_utils.finetuning.splits import Split, images_of
from blcf_utils.results.evaluation import evaluate_query


@dataclass(frozen=True)
class Validation:
    """Held-out queries and the images among which they search.

    Attributes:
        dataset: whose queries they are.
        features: maps of the frozen layers.
        queries: none of an instance that trains or tests.
        images: (m,) numbers of database images: all that the queries' ground truth knows, and a
            seeded sample of the training images.
    """

    dataset: Dataset
    features: Maps
    queries: tuple[Query, ...]
    images: np.ndarray

    @classmethod
    def of(
        cls, dataset: Dataset, features: Maps, split: Split, others: int, seed: int
    ) -> Validation:
        """Return the validation of a fold, among ``others`` of its training images."""
        held_out = set(split.validation)
        queries = tuple(query for query in dataset.queries if query.id in held_out)
        count = min(others, len(split.images))
        sample = np.random.default_rng(seed).choice(split.images, count, replace=False)
        images = np.union1d(images_of(dataset, queries), sample).astype(np.int64)
        return cls(dataset, features, queries, images)

    def score(self, network: DescriptorNetwork, device: torch.device) -> float:
        """Return the mAP of global search with a network's descriptors."""
        asked = np.array([self.dataset.image_index[query.image] for query in self.queries])
        # Most query images are among the images searched: each goes through the network once.
        needed = np.union1d(self.images, asked)
        found = describe_images(network, self.features, needed, device)
        database, queries = (found[np.searchsorted(needed, i)] for i in (self.images, asked))
        scores = queries @ database.T
        orders = np.argsort(-scores, axis=1, kind="stable")
        found = [
            evaluate_query(self.dataset, query, self.images[order])
            for query, order in zip(self.queries, orders, strict=True)
        ]
        return float(np.mean(found))
