"""The codebook: k-means over whitened local descriptors, and exact assignment to visual words."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
import torch

from blcf_utils.artefacts import Artefact, ArtefactStore, atomic_path
from blcf_utils.config import CodebookConfig
from blcf_utils.errors import StudyError
from blcf_utils.features import Features, sample_rows
from blcf_utils.progress import progress
from blcf_utils.whitening import Whitening

log = logging.getLogger("blcf")

STAGE_VERSION = 1
# VLFeat's default, which the original pipeline ran with: stop when an iteration lowers the
# objective by less than this share of all it has gained so far.
MIN_GAIN = 1e-4
_SCORES_AT_ONCE = 32_000_000  # float32 values: 128 MB


@dataclass(frozen=True)
class Codebook:
    """K visual words.

    Attributes:
        centroids: (K, D) float32.
        objective: (iterations,) sum of squared distances as each iteration assigned the
            descriptors, before it moved the words.
        n_descriptors: how many descriptors taught it.
        key: artefact key.
    """

    centroids: np.ndarray
    objective: np.ndarray
    n_descriptors: int
    key: str = ""

    @property
    def words(self) -> int:
        """K."""
        return len(self.centroids)

    @cached_property
    def _on_gpu(self) -> tuple[torch.Tensor, torch.Tensor]:
        centroids = torch.from_numpy(self.centroids).to("cuda")
        return centroids.T.contiguous(), -0.5 * (centroids * centroids).sum(1)

    @torch.inference_mode()
    def assign(self, descriptors: np.ndarray, device: str = "cpu") -> np.ndarray:
        """Return the nearest word of each descriptor, exactly: (N, D) to (N,) uint16.

        The nearest centroid c minimises |x - c|^2, that is maximises x.c - |c|^2 / 2, so a matrix
        product and an argmax do it: torch's on a GPU, faiss' fused one, which never writes the
        product to memory, on a CPU.

        Args:
            descriptors: whitened as those the words were learned on.
            device: ``cpu`` or ``cuda``; the two round differently, which can move a descriptor
                that lies between two words.
        """
        if descriptors.shape[1] != self.centroids.shape[1]:
            raise StudyError(
                f"assignment: descriptors have {descriptors.shape[1]} dimensions and the codebook "
                f"{self.centroids.shape[1]}; use the whitening the codebook was learned with"
            )
        descriptors = np.ascontiguousarray(descriptors, np.float32)
        if device == "cpu":
            return faiss.knn(descriptors, self.centroids, 1)[1][:, 0].astype(np.uint16)
        centroids, bias = self._on_gpu
        rows = torch.from_numpy(descriptors)
        words = np.empty(len(rows), np.uint16)
        step = max(1, _SCORES_AT_ONCE // self.words)
        for start in range(0, len(rows), step):
            part = rows[start : start + step].to(centroids.device)
            scores = torch.addmm(bias, part, centroids)
            words[start : start + step] = scores.argmax(dim=1).cpu().numpy()
        return words


def fit_kmeans(
    data: np.ndarray, words: int, iterations: int, *, seed: int = 0, start=None, on_iteration=None
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's k-means with faiss, from randomly drawn descriptors.

    Runs one iteration at a time, so that a caller can save and resume: the centroids after n
    iterations are the same however often the run was interrupted.

    Args:
        data: (N, D) float32.
        words: K.
        iterations: at most this many.
        seed: of the initial draw and of faiss' re-seeding of empty clusters.
        start: (centroids, objectives so far) to go on from.
        on_iteration: called with (centroids, objectives) after each iteration.

    Returns:
        Centroids (K, D) float32 and the objective as each iteration assigned the descriptors.

    Raises:
        StudyError: fewer descriptors than words.
    """
    if len(data) < words:
        raise StudyError(
            f"codebook.words: {words} words cannot be learned from {len(data)} descriptors; lower "
            "codebook.words or learn on more images"
        )
    if start is None:
        drawn = np.random.default_rng(seed).choice(len(data), words, replace=False)
        start = data[np.sort(drawn)], []
    centroids, objective = start[0], list(start[1])
    kmeans = faiss.Kmeans(
        data.shape[1],
        words,
        niter=1,
        seed=seed,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(data) // words + 1,
    )
    while len(objective) < iterations and not _settled(objective):
        kmeans.train(data, init_centroids=np.ascontiguousarray(centroids))
        centroids = kmeans.centroids.copy()
        objective.append(float(kmeans.obj[-1]))
        if on_iteration:
            on_iteration(centroids, objective)
    return centroids, np.array(objective)


def _settled(objective: list[float]) -> bool:
    if len(objective) < 3:
        return False
    gained = objective[0] - objective[-1]
    return objective[-2] - objective[-1] < MIN_GAIN * max(gained, 1e-12)


def learn_codebook(
    features: Features,
    whitening: Whitening,
    config: CodebookConfig,
    store: ArtefactStore,
    *,
    seed: int = 0,
) -> Codebook:
    """Learn K visual words on a dataset's whitened local descriptors (un-interpolated maps).

    Uses every database descriptor, or a seeded uniform sample of ``config.max_descriptors``; the
    number used is kept in the codebook. Killed, it goes on from the last finished iteration.
    """
    document = {
        "version": STAGE_VERSION,
        "features": features.key,
        "whitening": whitening.key,
        "config": config.document(),
        "seed": seed,
        "min_gain": MIN_GAIN,
        "gpu": faiss.get_num_gpus() > 0,
    }

    def make(folder):
        rows = sample_rows(features.database_rows(), config.max_descriptors, seed + 1)
        if len(rows) < config.words:
            raise StudyError(
                f"codebook.words: {config.words} words cannot be learned from the {len(rows)} "
                f"descriptors of {features.artefact.label}; lower it or learn on more images"
            )
        data = np.empty((len(rows), whitening.dimensions), np.float32)
        filled = 0
        for chunk in features.stream(rows):
            data[filled : filled + len(chunk)] = whitening.apply(chunk)
            filled += len(chunk)
        train_words(folder, data, config.words, config.iterations, seed)

    label = f"{features.artefact.label}-K{config.words}"
    artefact = store.get_or_make("codebook", label, document, make)
    return read_codebook(artefact)


def train_words(folder: Path, data: np.ndarray, words: int, iterations: int, seed: int) -> None:
    """Run :func:`fit_kmeans` into a folder; killed, it goes on from the last finished iteration."""
    bar = progress(label=f"k-means K={words}", total=iterations, unit="iteration")
    saved, start = folder / "iterations.npz", None

    def save(centroids, objective):
        with atomic_path(saved) as temporary:
            np.savez(temporary, centroids=centroids, objective=objective)
        bar.update(1)

    if saved.exists():
        with np.load(saved) as state:
            start = state["centroids"], state["objective"].tolist()
        bar.update(len(start[1]))
    with bar:
        centroids, objective = fit_kmeans(
            data, words, iterations, seed=seed, start=start, on_iteration=save
        )
    np.save(folder / "centroids.npy", centroids)
    np.save(folder / "objective.npy", objective)
    np.save(folder / "n_descriptors.npy", np.array(len(data)))
    saved.unlink(missing_ok=True)


def read_codebook(artefact: Artefact) -> Codebook:
    """Read what :func:`train_words` left in an artefact."""
    return Codebook(
        np.load(artefact / "centroids.npy"),
        np.load(artefact / "objective.npy"),
        int(np.load(artefact / "n_descriptors.npy")),
        artefact.key,
    )
