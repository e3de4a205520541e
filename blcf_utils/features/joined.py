"""Features and words of a database that is made of others: a benchmark and its distractors.

What each part has stays its own artefact, so a benchmark's features are those it has without
distractors, and two benchmarks share the distractors'.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from blcf_utils.features.stored import Features, batches
from blcf_utils.features.streamed import StreamedFeatures
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.settings import digest_of
from blcf_utils.saliency.maps import SaliencyMaps
from blcf_utils.words.assignment_maps import AssignmentMaps


class _Joined:
    """Numbers of images: every part's database images, then every part's other query images.

    Attributes:
        key: digest of the parts' keys.
        artefact: the first part's, under the name of the whole; it holds nothing of its own.
        shapes, sizes, n_database: as of one part.
    """

    def __init__(self, name: str, parts: Sequence):
        self.parts, self.name = tuple(parts), name
        self.key = digest_of({"joined": [part.key for part in parts]})
        first = parts[0].artefact
        label = f"{name}-{first.label.split('-', 1)[1]}" if "-" in first.label else name
        self.artefact = replace(first, label=label, key=self.key)
        places = [
            (k, i)
            for inside in (True, False)
            for k, part in enumerate(parts)
            for i in range(len(part))
            if (i < part.n_database) == inside
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


class JoinedMaps(_Joined):
    """Assignment maps of a database that is made of others, read as one.

    Attributes:
        words: K.
    """

    def __init__(self, name: str, parts: Sequence[AssignmentMaps]):
        super().__init__(name, parts)
        self.words = parts[0].words

    @property
    def quality(self) -> dict | None:
        """How good approximate assignment is, of the first part."""
        return self.parts[0].quality


class JoinedSaliency:
    """Saliency maps of a database that is made of others, called with an image's number.

    Args:
        parts: maps of each part's database images.
        counts: how many these are.

    Attributes:
        key: digest of the parts' keys.
    """

    def __init__(self, parts: Sequence[SaliencyMaps], counts: Sequence[int]):
        self.parts, self.key = tuple(parts), digest_of({"joined": [part.key for part in parts]})
        self._starts = np.cumsum([0, *counts])

    def __call__(self, image: int) -> np.ndarray:
        k = int(np.searchsorted(self._starts, image, side="right")) - 1
        return self.parts[k](image - int(self._starts[k]))


class JoinedFeatures(_Joined):
    """Feature maps of a database that is made of others, read as one.

    Attributes:
        channels: C.
        distinct: (n,) number of the first image of the same part with the same bytes.
        skipped: names of the images that do not decode.
    """

    def __init__(self, name: str, parts: Sequence[Features | StreamedFeatures]):
        super().__init__(name, parts)
        self.channels = parts[0].channels
        self.skipped = tuple(name for part in parts for name in part.skipped)
        self._number = [np.empty(len(part), np.int64) for part in parts]
        for i, (k, local) in enumerate(zip(self.part_of, self.local, strict=True)):
            self._number[k][local] = i
        self.distinct = np.array(
            [
                self._number[k][parts[k].distinct[local]]
                for k, local in zip(self.part_of, self.local, strict=True)
            ]
        )

    def descriptors(self, image: int) -> np.ndarray:
        """Return the local descriptors of an image, (h*w, C) float32, row-major positions."""
        return self.parts[self.part_of[image]].descriptors(int(self.local[image]))

    def in_batches(
        self, images: np.ndarray, at_once: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers, maps (B, C, h, w)) of images of one map shape and part at a time."""
        images = np.asarray(images)
        for k, part in enumerate(self.parts):
            members = self.local[images[self.part_of[images] == k]]
            if len(members):
                for numbers, maps in batches(part, members):
                    yield self._number[k][numbers], maps

    @contextlib.contextmanager
    def holding(self, images: np.ndarray) -> Iterator[None]:
        """Keep the maps of some images that are not stored while the block lasts."""
        images = np.asarray(images)
        with contextlib.ExitStack() as stack:
            for k, part in enumerate(self.parts):
                if isinstance(part, StreamedFeatures):
                    stack.enter_context(part.holding(self.local[images[self.part_of[images] == k]]))
            yield

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
