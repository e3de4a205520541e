"""The weights of every position of a dataset's images, stored once for each weighting."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from blcf_utils.features.maps import FeatureMaps
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.mapping import core_pool
from blcf_utils.ground.progress import progress
from blcf_utils.saliency.weighting import Weighting

STAGE = Stage("weights", version=2)


class StoredWeights:
    """The weight maps of a dataset's database images; calling it with an image gives its map.

    Attributes:
        name: the weighting.
        key: of the artefact.
        shapes: (n, 2) height and width of each map; (0, 0) for a skipped image.
    """

    def __init__(self, name: str, artefact: Artefact, shapes: np.ndarray):
        self.name, self.key, self.shapes = name, artefact.key, shapes
        self._flat = np.load(artefact / "weights.npy", mmap_mode="r")
        self._offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])

    def __call__(self, image: int) -> np.ndarray:
        """Return the weights of an image, (h, w) float32 in [0, 1]."""
        start, end = self._offsets[image], self._offsets[image + 1]
        return self._flat[start:end].reshape(self.shapes[image])


def weight_maps(
    weighting: Weighting, features: FeatureMaps, factor: int, store: ArtefactStore
) -> StoredWeights:
    """Weigh every position of every database image, once for images with the same bytes.

    Args:
        weighting: how.
        features: the feature maps of the images.
        factor: cells per position of a feature map and side: the interpolation of assignment maps,
            or 1 for pooling.
        store: where the weights are kept.
    """
    count = features.n_database
    shapes = features.shapes[:count] * factor
    document = {
        "weighting": weighting.document,
        "shapes": hashlib.sha256(np.ascontiguousarray(shapes, "<i8").tobytes()).hexdigest()[:16],
    }
    if weighting.needs_features:
        document["features"] = features.key
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])

    def make(folder: Path) -> None:
        flat = np.empty(int(offsets[-1]), np.float32)
        same = features.distinct[:count] if weighting.by_content else np.arange(count)
        firsts = np.unique(same).tolist()

        def weigh(i: int) -> None:
            shape = (int(shapes[i, 0]), int(shapes[i, 1]))
            if shape[0] * shape[1]:
                maps = features.map(i) if weighting.needs_features else None
                flat[offsets[i] : offsets[i + 1]] = weighting.weights(i, maps, shape).ravel()

        with core_pool(pool_threads()) as pool:
            done, label = pool.map(weigh, firsts), f"{weighting.name} weights"
            for _ in progress(done, label=label, total=len(firsts), unit="image"):
                pass
        for i in np.flatnonzero(same != np.arange(count)).tolist():
            first = int(same[i])
            flat[offsets[i] : offsets[i + 1]] = flat[offsets[first] : offsets[first + 1]]
        with atomic_path(folder / "weights.npy") as path:
            np.save(path, flat)

    label = f"{features.artefact.label}-{weighting.name}-x{factor}"
    made = store.get_or_make(STAGE, label, document, make, quiet=True)
    return store.once(made.key, lambda: StoredWeights(weighting.name, made, shapes))
