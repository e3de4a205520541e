"""PCA whitening of L2-normalised vectors, learned from a streamed covariance.

L2, PCA whitening, L2 is the post-processing of every descriptor of the study (Jegou and Chum,
ECCV 2012): whitening takes away the weight of the few strong directions that decide every cosine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import WhiteningConfig
from blcf_utils.features.rows import normalise_rows, sample_rows
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

log = logging.getLogger("blcf")

STAGE = Stage("whitening", version=1)
# Directions with less than this share of the largest variance hold only rounding noise (dead
# channels); dividing by their standard deviation would make the noise as loud as the signal.
VARIANCE_FLOOR = 1e-7


@dataclass(frozen=True)
class Whitening:
    """A learned projection.

    Attributes:
        mean: (C,) mean of the L2-normalised vectors.
        projection: (C, D) principal directions, each divided by its standard deviation.
        variances: (C,) every eigenvalue of the covariance, largest first.
        n_vectors: how many vectors taught it.
        key: artefact key, or a digest.
    """

    mean: np.ndarray
    projection: np.ndarray
    variances: np.ndarray
    n_vectors: int
    key: str = ""

    @property
    def dimensions(self) -> int:
        """D, the length of a whitened vector."""
        return self.projection.shape[1]

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return L2(whiten(L2(vectors))): (N, C) to (N, D) float32."""
        white = normalise_rows(np.asarray(vectors, np.float32)) @ self.projection
        white -= self.mean @ self.projection
        return normalise_rows(white)


def _gathered(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join chunks until there are as many rows as columns: a product of few rows is slow."""
    held: list[np.ndarray] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= chunk.shape[1]:
            yield np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)


def fit_whitening(chunks: Iterable[np.ndarray], dimensions: int | None) -> Whitening:
    """Learn PCA whitening from chunks of raw vectors, (n, C) each, in one pass.

    Products and sums are in float64; memory is C x C whatever the number of vectors. Of dimensions
    None all directions with a variance are kept.

    Raises:
        StudyError: fewer vectors or channels than ``dimensions``, or vectors that are all equal.

    Directions without variance are left out, with a warning.
    """
    count, total, product = 0, 0.0, 0.0
    for chunk in _gathered(chunks):
        unit = normalise_rows(np.asarray(chunk, np.float32))
        count += len(unit)
        # In float32 the rounding of this product would pass for variance where there is none.
        unit = unit.astype(np.float64)
        total = total + unit.sum(axis=0)
        product = product + unit.T @ unit
    channels = len(total) if count else 0
    asked, dimensions = dimensions, dimensions or max(1, min(channels, count - 1))
    if dimensions > channels:
        raise StudyError(
            f"whitening.dimensions: {dimensions} is more than the {channels} channels of a "
            f"descriptor; set it to {channels} or less"
        )
    if count <= dimensions:
        raise StudyError(
            f"whitening.dimensions: {dimensions} directions cannot be learned from {count} "
            "vectors; lower it or learn on more images"
        )
    mean = total / count
    covariance = product / count - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1].clip(0), directions[:, ::-1]
    alive = int((variances > VARIANCE_FLOOR * variances[0]).sum())
    if alive == 0:
        raise StudyError(
            f"whitening: the {count} vectors are all equal; check the images and the weights"
        )
    if alive < dimensions:
        if asked:
            log.warning(
                "whitening keeps %d of %d directions: the others have no variance", alive, asked
            )
        dimensions = alive
    directions = directions[:, :dimensions]
    # eigh leaves signs open; fixing them makes the projection the same on every machine.
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(dimensions)])
    projection = directions * signs / np.sqrt(variances[:dimensions])
    return Whitening(
        mean.astype(np.float32), projection.astype(np.float32), variances.astype(np.float32), count
    )


def learn_whitening(
    features: Features, config: WhiteningConfig, store: ArtefactStore, *, seed: int = 0
) -> Whitening:
    """Learn the whitening of a dataset's local descriptors (un-interpolated, database images).

    Args:
        features: stored feature maps.
        config: dimensions and the most descriptors to use (a seeded uniform sample of them).
        store: where artefacts live.
        seed: of the sample.
    """
    document = {
        "features": features.key,
        "config": config.document(),
        "seed": seed,
        "floor": VARIANCE_FLOOR,
    }

    def make(folder):
        rows = sample_rows(features.database_rows(), config.max_descriptors, seed)
        chunks = features.stream(rows)
        total = -(-len(rows) // 32_768)
        chunks = progress(chunks, label="whitening", total=total, unit="chunk")
        whitening = fit_whitening(chunks, config.dimensions)
        save_whitening(folder, whitening)

    artefact = store.get_or_make(STAGE, features.artefact.label, document, make)
    return store.once(artefact.key, lambda: read_whitening(artefact))


def save_whitening(folder: Path, whitening: Whitening) -> None:
    """Write a whitening into an artefact's folder."""
    np.save(folder / "mean.npy", whitening.mean)
    np.save(folder / "projection.npy", whitening.projection)
    np.save(folder / "variances.npy", whitening.variances)
    np.save(folder / "n_vectors.npy", np.array(whitening.n_vectors))


def read_whitening(artefact: Artefact) -> Whitening:
    """Read what :func:`save_whitening` wrote."""
    return Whitening(
        np.load(artefact / "mean.npy"),
        np.load(artefact / "projection.npy"),
        np.load(artefact / "variances.npy"),
        int(np.load(artefact / "n_vectors.npy")),
        artefact.key,
    )
