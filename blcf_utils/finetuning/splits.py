"""Which images train and which queries test: no image of a tested instance is ever trained on.

Instances are dealt to folds. A fold's queries are answered by networks trained without any image
of its instances, so every query can be tested although every instance trains somewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from blcf_utils.config.finetuning import FinetuningConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.ground.errors import StudyError


@dataclass(frozen=True)
class Split:
    """One fold.

    Attributes:
        number: from 0.
        test: ids of the queries that its networks answer.
        validation: ids of the held-out queries that early stopping watches.
        images: (m,) numbers of the database images that may train, sorted.
    """

    number: int
    test: tuple[str, ...]
    validation: tuple[str, ...]
    images: np.ndarray

    def document(self) -> dict:
        """What determines a training on this fold, as JSON values."""
        return {"images": self.images.tolist(), "validation": list(self.validation)}


def instance_of(query: Query) -> str:
    """Return the name of a query's instance; its own id where the dataset names none."""
    return query.instance or query.id


def images_of(dataset: Dataset, queries: Iterable[Query], junk: bool = True) -> np.ndarray:
    """Return the database images known to show the instances of queries, sorted.

    Args:
        dataset: whose queries they are.
        queries: some of them.
        junk: count images that show too little of an instance to be positives.
    """
    units: set[int] = set()
    own: set[int] = set()
    for query in queries:
        units.update(query.positives)
        if junk:
            units.update(query.junk)
        number = dataset.image_index[query.image]
        if number < len(dataset.images):
            own.add(number)
    shown = np.flatnonzero(np.isin(dataset.unit_numbers, sorted(units)))
    return np.union1d(shown, np.array(sorted(own), np.int64))


def class_labels(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return each instance and the numbers of its database images, junk left out."""
    groups: dict[str, list[Query]] = {}
    for query in dataset.queries:
        groups.setdefault(instance_of(query), []).append(query)
    return {name: images_of(dataset, queries, junk=False) for name, queries in groups.items()}


def make_splits(
    dataset: Dataset, config: FinetuningConfig, left_out: np.ndarray | None = None
) -> tuple[Split, ...]:
    """Deal a dataset's instances to folds; return those that are tested.

    With one fold every image trains and every query tests, as in the slides.

    Args:
        dataset: images and queries.
        config: folds, tested, validation, seed.
        left_out: numbers of images that do not decode; none of them trains.

    Raises:
        StudyError: fewer instances than folds, or nothing left to train with.
    """
    instances = list(dict.fromkeys(instance_of(query) for query in dataset.queries))
    everyone = np.arange(len(dataset.images))
    if left_out is not None:
        everyone = np.setdiff1d(everyone, left_out)
    if config.folds == 1:
        queries = tuple(query.id for query in dataset.queries)
        return (Split(0, queries, (), everyone),)
    if len(instances) < config.folds:
        raise StudyError(
            f"{dataset.name}: expected at least as many instances as finetuning.folds = "
            f"{config.folds}, found {len(instances)}; lower finetuning.folds (1 trains and tests "
            "on every image)"
        )
    order = np.random.default_rng([config.seed, len(instances)]).permutation(len(instances))
    folds = [order[k :: config.folds] for k in range(config.folds)]
    splits = []
    for number in range(config.tested or config.folds):
        tested = {instances[i] for i in folds[number]}
        left = [instances[i] for i in order if instances[i] not in tested]
        # The largest share that leaves an instance to train with; one at least, if any is wanted.
        count = min(int(np.ceil(config.validation * len(left))), len(left) - 1)
        held_out = set(left[:count])
        test = [q for q in dataset.queries if instance_of(q) in tested]
        validation = [q for q in dataset.queries if instance_of(q) in held_out]
        images = np.setdiff1d(everyone, images_of(dataset, [*test, *validation]))
        if len(images) < 3:
            raise StudyError(
                f"{dataset.name}: expected images to train with beside those of tested instances, "
                f"found {len(images)}; use a larger dataset or set finetuning.folds: 1"
            )
        ids = (tuple(q.id for q in some) for some in (test, validation))
        splits.append(Split(number, *ids, images))
    return tuple(splits)
