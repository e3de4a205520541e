"""What a compared method learns before it describes images: PCA whitening, on another dataset.

A method may see neither the images it is tested on nor their queries; the field learns on Paris for
Oxford and the other way round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blcf_utils.config.comparison import ComparisonConfig
from blcf_utils.features.networks.heads import ClassifierHead
from blcf_utils.features.networks.weights import read_state
from blcf_utils.features.rows import normalise_rows, sample_rows
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.rmac import rmac_regions
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import Whitening, fit_whitening, read_whitening, save_whitening

# (B, C, h, w) maps, their weights or None, a window or None, to descriptors (B, ..., D).
Pool = Callable[[np.ndarray, np.ndarray | None, Window | None], np.ndarray]

STAGE = Stage("pooled-whitening", version=2)
# Beyond so many values a covariance no longer fits in memory; a few thousand vectors do, drawn
# from the regions of as many images as it takes.
_WIDE = 4096
_WIDE_VECTORS, _WIDE_DIRECTIONS = 1100, 256


# Settings of the comparison that change nothing of what is learned or of a database's vectors.
_NOT_LEARNED = {"weights", "whitening", "learn_on", "rerank", "query"}


@dataclass(frozen=True)
class TeacherData:
    """What a method may learn from.

    Attributes:
        features: feature maps of the teacher's images.
        config: settings of the comparison.
        dimensions: the most that a whitened descriptor may have.
        store: where what was learned is kept.
        seed: of samples and k-means.
        head: the classifier behind the backbone, where the method needs one.
        layer_weights: file of the method's own trained layers, where it has some.
        learned: a whitening that was trained with the network, in place of PCA.
    """

    features: Features
    config: ComparisonConfig
    dimensions: int
    store: ArtefactStore
    seed: int = 0
    head: ClassifierHead | None = None
    layer_weights: Path | None = None
    learned: Whitening | None = None

    def document(self) -> dict:
        """What determines all that is learned here beside the method, as JSON values."""
        return {
            "version": STAGE.version,
            "features": self.features.key,
            "dimensions": self.dimensions,
            "comparison": self.config.model_dump(exclude=_NOT_LEARNED),
            "seed": self.seed,
            "head": self.head.digest if self.head else "",
        }

    def sample(self, most: int) -> Iterator[np.ndarray]:
        """Yield the maps (B, C, h, w) of the teacher's database images, or of a seeded sample."""
        everyone = np.arange(self.features.n_database)
        for _, maps in self.features.batches(sample_rows(everyone, most, self.seed)):
            yield maps

    def whitening(self, name: str, pool: Pool, settings: dict, regions: bool) -> Whitening:
        """Learn the whitening of a method's descriptors on the teacher's images.

        Args:
            name: the method.
            pool: its descriptors, (B, D) or (B, P, D).
            settings: what determines ``pool``, as JSON values.
            regions: describe every R-MAC region of an image instead of the image.
        """

        def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
            for _, maps in self.features.batches(images):
                boxes = [None]
                if regions:
                    boxes = [tuple(box) for box in rmac_regions(maps.shape[2:]).tolist()]
                for box in boxes:
                    found = pool(maps, None, box)
                    yield found.reshape(-1, found.shape[-1])

        def make(folder):
            save_whitening(folder, self._fit(chunks))

        if self.learned:
            given, needed = len(self.learned.mean), next(chunks(np.arange(1))).shape[1]
            if given != needed:
                raise StudyError(
                    f"comparison.whitening: expected m of {needed} values for {name}, found "
                    f"{given}; name the whitening that was learned with this network"
                )
            return self._cut(self.learned)
        # Whole, however many directions are asked for: the first ones are always the same.
        document = {"features": self.features.key, "seed": self.seed}
        document |= {"head": self.head.digest if self.head else "", "regions": regions}
        document |= {"method": name, "settings": settings}
        label = f"{self.features.artefact.label}-{name}"
        made = self.store.get_or_make(STAGE, label, document, make, quiet=True)
        return self._cut(read_whitening(made))

    def _cut(self, whole: Whitening) -> Whitening:
        kept = min(self.dimensions, whole.dimensions)
        projection = np.ascontiguousarray(whole.projection[:, :kept])
        return replace(whole, projection=projection, key=f"{whole.key}/{kept}")

    def _fit(self, chunks: Callable[[np.ndarray], Iterator[np.ndarray]]) -> Whitening:
        everyone = np.arange(self.features.n_database)
        first = np.concatenate(list(chunks(everyone[:1])))
        if first.shape[1] <= _WIDE:
            return fit_whitening(chunks(everyone), None)
        images = sample_rows(everyone, max(2, _WIDE_VECTORS // len(first)), self.seed)
        vectors = np.concatenate(list(chunks(images)))
        return fit_wide_whitening(vectors, _WIDE_DIRECTIONS)


def read_learned_whitening(path: Path) -> Whitening:
    """Read a whitening that was trained with a network: L2(P (x - m)) of a unit vector x.

    Args:
        path: a file of tensors ``m``, (C,) or (C, 1), and ``P``, (D, C), most important row first,
            as Radenović et al. (TPAMI 2019, section 3.3) learn them from matching pairs.

    Raises:
        StudyError: the file does not hold them.
    """
    state = read_state(path)
    mean, rows = (state[k].numpy().squeeze() if k in state else np.empty(0) for k in ("m", "P"))
    if mean.ndim != 1 or rows.ndim != 2 or rows.shape[1] != len(mean):
        raise StudyError(
            f"{path}: expected a whitening, tensors m (C) and P (D, C), found "
            f"{', '.join(f'{k} {tuple(v.shape)}' for k, v in state.items()) or 'no tensor'}"
        )
    key = f"learned-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    return Whitening(mean, np.ascontiguousarray(rows.T), np.empty(0, np.float32), 0, key)


def fit_wide_whitening(vectors: np.ndarray, dimensions: int) -> Whitening:
    """Learn PCA whitening from fewer vectors than they have values, (n, D) with n < D.

    Through their n x n products: a covariance of D x D is never formed. No more than a quarter as
    many directions as vectors are kept: the last ones of a small sample are chance, and whitening
    would make them as loud as the first.
    """
    unit = normalise_rows(np.asarray(vectors, np.float32))
    mean = unit.mean(axis=0)
    centred = unit - mean
    values, sides = np.linalg.eigh((centred @ centred.T).astype(np.float64) / len(unit))
    kept = max(1, min(dimensions, len(unit) // 4))
    variances = np.maximum(values[::-1][:kept], 1e-12)
    # A direction is the sum of the centred vectors under its eigenvector, over its length.
    scale = np.sqrt(variances * len(unit))
    directions = centred.T @ (sides[:, ::-1][:, :kept] / scale).astype(np.float32)
    # eigh leaves signs open; fixing them makes the projection the same on every machine.
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(kept)])
    projection = directions * (signs / np.sqrt(variances)).astype(np.float32)
    return Whitening(mean, projection, variances.astype(np.float32), len(unit))
