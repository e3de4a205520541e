"""A database that is made of others, a benchmark and shards of distractors, read as one.

Each part is an artefact of its own: a benchmark's features are those it has without distractors,
two benchmarks share the distractors', and a pass over the whole reads one shard after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import Artefact
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.settings import digest_of


class Joined:
    """Maps of several parts under one numbering: all database images, then other query images.

    Attributes:
        key: digest of the parts' keys.
        artefact: the first part's, under the name of the whole; it holds nothing of its own.
        shapes, sizes, n_database: as of one part.
    """

    def __init__(self, name: str, parts: Sequence):
        self.parts, self.name = tuple(parts), name
        self.key = digest_of({"joined": [part.key for part in parts]})
        first: Artefact = parts[0].artefact
        label = f"{name}-{first.label.split('-', 1)[1]}" if "-" in first.label else name
        self.artefact = replace(first, label=label, key=self.key)
        places = [
            (k, i)
            for of_database in (True, False)
            for k, part in enumerate(parts)
            for i in range(len(part))
            if (i < part.n_database) == of_database
        ]
        self.part_of, self.local = np.array(places, np.int64).reshape(-1, 2).T
        self.n_database = sum(part.n_database for part in parts)
        self.shapes = np.stack([parts[k].shapes[i] for k, i in places])
        self.sizes = np.stack([parts[k].sizes[i] for k, i in places])

    def __len__(self) -> int:
        return len(self.shapes)

    def map(self, image: int) -> np.ndarray:
        """Return the map of an image."""
        return self.parts[self.part_of[image]].map(int(self.local[image]))


class JoinedFeatures(Joined):
    """Feature maps of several parts (see ``FeatureMaps``)."""

    def __init__(self, name: str, parts: Sequence[Features]):
        super().__init__(name, parts)
        self.channels = parts[0].channels
        self.skipped = tuple(name for part in parts for name in part.skipped)
        # A part's own numbers to those of the whole: a part's images keep their order.
        self._number = [np.flatnonzero(self.part_of == k) for k in range(len(parts))]
        self.distinct = np.empty(len(self), np.int64)
        for number, part in zip(self._number, parts, strict=True):
            self.distinct[number] = number[part.distinct]

    def descriptors(self, image: int) -> np.ndarray:
        """Return the local descriptors of an image, (h*w, C) float32, row-major positions."""
        return self.parts[self.part_of[image]].descriptors(int(self.local[image]))

    def batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers, maps (B, C, h, w)) of one map shape and part at a time."""
        images = np.asarray(images)
        for k, part in enumerate(self.parts):
            for numbers, maps in part.batches(self.local[images[self.part_of[images] == k]]):
                yield self._number[k][numbers], maps

    def database_rows(self) -> np.ndarray:
        """Refuse: what is learned is learned without the distractors.

        Raises:
            StudyError: always.
        """
        raise StudyError(
            f"{self.name}: words and whitenings are learned without its distractors; name the "
            f"dataset that teaches, learn_on: {{{self.name}: "
            f"{self.parts[0].artefact.label.split('-')[0]}}}"
        )

    def stream(self, rows: np.ndarray, chunk: int = 32_768) -> Iterator[np.ndarray]:
        """Refuse as :meth:`database_rows` does."""
        return self.database_rows()
