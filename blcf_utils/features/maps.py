"""What feature maps are to whatever reads them: one file of a dataset, or several read as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from blcf_utils.ground.artefacts import Artefact

_BATCH = 32  # maps of one shape that are read together


class FeatureMaps(Protocol):
    """The feature maps of a dataset's images: database images first, then other query images.

    Attributes:
        key: digest of everything that determines the maps.
        artefact: what it is called; the files themselves are the business of the class.
        shapes: (n, 2) map height and width of each image; (0, 0) for a skipped image.
        sizes: (n, 2) width and height in pixels of the stored image.
        n_database: the first ``n_database`` images are the database, the rest query images.
        channels: C.
        distinct: (n,) number of the first image with the same bytes, whose maps are the same.
        skipped: names of the images that do not decode.
    """

    key: str
    artefact: Artefact
    shapes: np.ndarray
    sizes: np.ndarray
    n_database: int
    channels: int
    distinct: np.ndarray
    skipped: tuple[str, ...]

    def __len__(self) -> int: ...

    def descriptors(self, image: int) -> np.ndarray:
        """Return the local descriptors of an image, (h*w, C) float32, row-major positions."""
        ...

    def map(self, image: int) -> np.ndarray:
        """Return the feature map of an image, (C, h, w) float32."""
        ...

    def batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers, maps (B, C, h, w)) of images of one map shape at a time.

        Images that were left out (no positions) are not among them.
        """
        ...


def in_batches(maps, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (numbers, maps (B, C, h, w)) of images of one map shape at a time.

    Args:
        maps: what has ``shapes`` and ``map``.
        images: (m,) numbers; those without positions are passed over.
    """
    shapes, group = np.unique(maps.shapes[images], axis=0, return_inverse=True)
    for k, shape in enumerate(shapes):
        members = images[group.ravel() == k] if shape.prod() else images[:0]
        for start in range(0, len(members), _BATCH):
            part = members[start : start + _BATCH]
            yield part, np.stack([maps.map(i) for i in part])
