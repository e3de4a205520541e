"""The codebook: k-means over whitened local descriptors, and assignment to visual words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import CodebookConfig, EncodingConfig
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.rows import sample_rows
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.words.assignment import (
    DEFAULT_EFFORT,
    Searcher,
    TorchSearcher,
    make_searcher,
)
from blcf_utils.words.kmeans import DescriptorFile, fit_kmeans, write_descriptors
from blcf_utils.words.whitening import Whitening

STAGE = Stage("codebook", version=1)
# Files of an artefact that learns words: the first two are gone when it has, the last is written
# after all others.
DESCRIPTORS, _ITERATIONS, _LAST = "descriptors.f32", "iterations.npz", "n_descriptors.npy"


@dataclass(frozen=True)
class Codebook:
    """K visual words.

    Attributes:
        centroids: (K, D) float32.
        objective: (iterations,) sum of squared distances as each iteration assigned the
            descriptors, before it moved the words.
        n_descriptors: how many descriptors taught it.
        key: artefact key, with how words are assigned where that is approximate.
        assignment: how :meth:`assign` finds the nearest word: ``exact``, ``hnsw`` or ``ivf``.
        effort: of approximate assignment; 0 is its default.
    """

    centroids: np.ndarray
    objective: np.ndarray
    n_descriptors: int
    key: str = ""
    assignment: str = "exact"
    effort: int = 0

    @property
    def words(self) -> int:
        """K."""
        return len(self.centroids)

    def with_assignment(self, config: EncodingConfig) -> Codebook:
        """Return the codebook whose words are assigned as ``config`` says."""
        method = config.assignment
        if method == "exact":
            return self
        effort = config.assignment_effort or DEFAULT_EFFORT[method]
        key = f"{self.key}-{method}-{effort}" if self.key else ""
        return replace(self, key=key, assignment=method, effort=effort)

    @cached_property
    def searcher(self) -> Searcher:
        """What finds the nearest words on a CPU."""
        return make_searcher(self.centroids, self.assignment, self.effort)

    @cached_property
    def _gpu_searchers(self) -> dict[str, Searcher]:
        return {}

    def assign(self, descriptors: np.ndarray, device: str = "cpu") -> np.ndarray:
        """Return the nearest word of each descriptor: (N, D) to (N,) uint16.

        Exactly, unless the codebook was asked for otherwise (:meth:`with_assignment`).

        Args:
            descriptors: whitened as those the words were learned on.
            device: ``cpu``, ``cuda`` or ``cuda:N``; a GPU rounds differently, which can move a
                descriptor that lies between two words. Approximate assignment runs on the CPU.
        """
        if descriptors.shape[1] != self.centroids.shape[1]:
            raise StudyError(
                f"assignment: descriptors have {descriptors.shape[1]} dimensions and the codebook "
                f"{self.centroids.shape[1]}; use the whitening the codebook was learned with"
            )
        if device == "cpu" or self.assignment != "exact":
            searcher = self.searcher
        elif (searcher := self._gpu_searchers.get(device)) is None:
            searcher = self._gpu_searchers[device] = TorchSearcher(self.centroids, device)
        return searcher.search(np.ascontiguousarray(descriptors, np.float32))[0].astype(np.uint16)


def learn_codebook(
    features: Features,
    whitening: Whitening,
    config: CodebookConfig,
    store: ArtefactStore,
    *,
    seed: int = 0,
    device: str = "auto",
) -> Codebook:
    """Learn K visual words on a dataset's whitened local descriptors (un-interpolated maps).

    Uses every database descriptor, or a seeded uniform sample of ``config.max_descriptors``; the
    number used is kept in the codebook. The whitened descriptors are written to a file beside the
    words while these are learned (4 N D bytes), so memory does not grow with their number. After a
    kill it goes on from the last finished iteration.

    Args:
        features: stored feature maps of the teacher.
        whitening: learned on them.
        config: K, iterations, the most descriptors, how they are assigned.
        store: where artefacts live.
        seed: of the sample and of the first draw.
        device: ``auto`` (GPU when present), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        StudyError: fewer descriptors than words, or a GPU asked for where there is none.
    """
    device = str(resolve_device(device))
    document = {
        "features": features.key,
        "whitening": whitening.key,
        "config": config.document(),
        "seed": seed,
        "min_gain": config.min_gain,
        "gpu": device != "cpu",
    }

    def descriptors(folder: Path) -> DescriptorFile:
        rows = sample_rows(features.database_rows(), config.max_descriptors, seed + 1)
        if len(rows) < config.words:
            raise StudyError(
                f"codebook.words: {config.words} words cannot be learned from the {len(rows)} "
                f"descriptors of {features.artefact.label}; lower it or learn on more images"
            )

        def whitened(first: int):
            bar = progress(label="whitened descriptors", total=len(rows), unit="descriptor")
            with bar:
                bar.update(first)
                for chunk in features.stream(rows[first:]):
                    yield whitening.apply(chunk)
                    bar.update(len(chunk))

        shape = (len(rows), whitening.dimensions)
        return write_descriptors(folder / DESCRIPTORS, shape, whitened)

    def make(folder):
        train_words(
            folder,
            descriptors,
            config.words,
            config.iterations,
            seed,
            assignment=config.assignment,
            effort=config.assignment_effort,
            min_gain=config.min_gain,
            device=device,
        )

    label = f"{features.artefact.label}-K{config.words}"
    artefact = store.get_or_make(STAGE, label, document, make)
    return store.once(artefact.key, lambda: read_codebook(artefact))


def train_words(
    folder: Path,
    descriptors: Callable[[Path], np.ndarray | DescriptorFile],
    words: int,
    iterations: int,
    seed: int,
    **settings,
) -> None:
    """Run :func:`fit_kmeans` into a folder; after a kill, go on from the last finished iteration.

    What words are learned from and with is removed only when the words are there, so that a kill
    never costs more than one iteration.

    Args:
        folder: of an artefact.
        descriptors: function from the folder to what they are learned from, in memory or in the
            file ``DESCRIPTORS`` of the folder.
        words, iterations, seed, settings: as for :func:`fit_kmeans`.
    """
    saved = folder / _ITERATIONS
    if not (folder / _LAST).exists():
        data = descriptors(folder)
        centroids, objective = fit_kmeans(
            data, words, iterations, seed=seed, saved=saved, **settings
        )
        np.save(folder / "centroids.npy", centroids)
        np.save(folder / "objective.npy", objective)
        with atomic_path(folder / _LAST) as path:
            np.save(path, np.array(len(data)))
    for path in (saved, folder / DESCRIPTORS):
        path.unlink(missing_ok=True)


def read_codebook(artefact: Artefact) -> Codebook:
    """Read what :func:`train_words` left in an artefact."""
    return Codebook(
        np.load(artefact / "centroids.npy"),
        np.load(artefact / "objective.npy"),
        int(np.load(artefact / _LAST)),
        artefact.key,
    )
