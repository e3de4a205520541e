"""Bags of local convolutional features: assignment maps and (weighted) histograms of words.

An assignment map holds the visual word of every position of a feature map (Mohedano et al.,
ICMR 2016). It is the compact form of an image: a histogram of any part of it is a count away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import EncodingConfig
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.joined import Joined
from blcf_utils.features.rows import copies_of, sample_rows
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path, write_json
from blcf_utils.ground.cluster import connected
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.mapping import mapped
from blcf_utils.ground.progress import progress
from blcf_utils.words.assignment import assignment_quality
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import Whitening

STAGE = Stage("assignment", version=1)
_A_TASK = 4  # images that a worker is sent at once
# Of so many images every position tells how good approximate assignment is.
QUALITY_IMAGES = 24
QUALITY_FILE = "quality.json"


class AssignmentMaps:
    """The stored assignment maps of a dataset's images.

    Attributes:
        words: K, the size of the codebook.
        shapes: (n, 2) height and width of each map; (0, 0) for a skipped image.
        sizes: (n, 2) width and height in pixels of each stored image.
        n_database: the first ``n_database`` images are the database.
    """

    def __init__(self, artefact: Artefact, words: int, features: Features, factor: int):
        self.artefact, self.key, self.words = artefact, artefact.key, words
        self.shapes, self.sizes = features.shapes * factor, features.sizes
        self.n_database = features.n_database
        self._flat = np.load(artefact / "words.npy", mmap_mode="r")
        self._offsets = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1))])

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def quality(self) -> dict | None:
        """Recall and distortion of approximate assignment (``Codebook.quality``); None if exact."""
        path = self.artefact / QUALITY_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def map(self, image: int) -> np.ndarray:
        """Return the assignment map of an image, (h, w) uint16."""
        start, end = self._offsets[image], self._offsets[image + 1]
        return self._flat[start:end].reshape(self.shapes[image])


class JoinedMaps(Joined):
    """Assignment maps of a benchmark and its distractors, read as one.

    Attributes:
        words: K.
    """

    def __init__(self, name: str, parts: Sequence[AssignmentMaps]):
        super().__init__(name, parts)
        self.words = parts[0].words

    @property
    def quality(self) -> dict | None:
        """Recall and distortion of approximate assignment, of the first part."""
        return self.parts[0].quality


def interpolate_map(feature_map: np.ndarray, factor: int) -> np.ndarray:
    """Return a feature map (C, h, w) enlarged ``factor`` times per side, bilinear.

    Corners are aligned, as in ``scipy.ndimage.zoom(order=1)`` of the original pipeline.
    """
    if factor == 1:
        return feature_map
    channels, height, width = feature_map.shape
    # Stored maps are channels last; they are enlarged as they lie, one side after the other.
    rows = np.ascontiguousarray(feature_map.transpose(1, 2, 0))
    wide = _enlargement(width, factor, rows.dtype) @ rows
    large = _enlargement(height, factor, rows.dtype) @ wide.reshape(height, -1)
    return large.reshape(height * factor, width * factor, channels).transpose(2, 0, 1)


def _enlargement(size: int, factor: int, dtype) -> np.ndarray:
    """Return the linear interpolation from ``size`` to ``size * factor`` positions, as a matrix."""
    positions = np.linspace(0, size - 1, size * factor)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(size))).astype(dtype)


def assign_map(
    feature_map: np.ndarray,
    whitening: Whitening,
    codebook: Codebook,
    factor: int = 1,
    device: str = "cpu",
) -> np.ndarray:
    """Return the assignment map of one feature map: (C, h, w) to (h*factor, w*factor) uint16.

    Order of the steps: interpolate the raw map, L2, whiten, L2, nearest centroid.
    """
    height, width = feature_map.shape[1:]
    rows = whitened_positions(feature_map, whitening, factor)
    return codebook.assign(rows, device).reshape(height * factor, width * factor)


def whitened_positions(feature_map: np.ndarray, whitening: Whitening, factor: int) -> np.ndarray:
    """Return the descriptors that words are given to: (C, h, w) to (h*factor*w*factor, D)."""
    enlarged = interpolate_map(feature_map, factor)
    return whitening.apply(enlarged.reshape(len(enlarged), -1).T)


def measure_assignment(
    features: Features,
    whitening: Whitening,
    codebook: Codebook,
    factor: int,
    images: int = QUALITY_IMAGES,
    seed: int = 0,
) -> dict:
    """Return how near a codebook's assignment comes to exact on a dataset's own descriptors.

    It holds the codebook's ``assignment`` and ``effort``, and what ``assignment_quality`` returns.

    Args:
        features, whitening, codebook: as for :func:`assignment_maps`.
        factor: enlargement of the maps.
        images: every position of so many database images, drawn at random, is looked at.
        seed: of the draw.
    """
    usable = np.flatnonzero(features.shapes[: features.n_database].prod(axis=1))
    drawn = sample_rows(usable, images, seed)
    rows = [whitened_positions(features.map(i), whitening, factor) for i in drawn]
    found = assignment_quality(codebook.centroids, codebook.searcher, np.concatenate(rows))
    return {"assignment": codebook.assignment, "effort": codebook.effort, **found}


@dataclass(frozen=True)
class _Encoder:
    """What assigns the positions of feature maps, here or on a worker."""

    whitening: Whitening
    codebook: Codebook
    factor: int
    device: str


def _encode(encoder: _Encoder, feature_map: np.ndarray) -> np.ndarray:
    if encoder.device != "cpu" and encoder.codebook.assignment == "exact":
        resolve_device(encoder.device)  # says if a worker has none
    return assign_map(
        feature_map, encoder.whitening, encoder.codebook, encoder.factor, encoder.device
    )


def _encode_image(shared: tuple[Features, _Encoder], image: int) -> np.ndarray:
    features, encoder = shared
    return _encode(encoder, features.map(image))


def _encoded(
    features: Features, encoder: _Encoder, images: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (numbers of an image and its copies, its assignment map), each image once."""
    copies, files = copies_of(features.distinct), [features.artefact / "features.h5"]
    results = mapped(
        _encode_image,
        (features, encoder),
        np.unique(features.distinct[images]).tolist(),
        files=lambda image: files,
        threads=pool_threads() if encoder.device == "cpu" else 1,
        at_once=_A_TASK,
    )
    for image, words in results:
        yield copies[image], words


def assignment_maps(
    features: Features,
    whitening: Whitening,
    codebook: Codebook,
    config: EncodingConfig,
    store: ArtefactStore,
    device: str = "cpu",
) -> AssignmentMaps:
    """Assign every position of every feature map to its visual word; resumable per image.

    Of images with the same bytes the first one's words are those of its copies. How words are
    found is the codebook's. Where that is approximate, its recall and distortion on this dataset
    are measured and kept with the maps.
    """
    document = {
        "features": features.key,
        "whitening": whitening.key,
        "codebook": codebook.key,
        "interpolate": config.interpolate,
        "device": device.split(":")[0],  # which of several GPUs it is changes nothing
    }
    shapes = features.shapes * config.interpolate
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])

    def make(folder):
        # What the codebook keeps on a GPU or has built to search with stays here.
        learned = replace(codebook) if connected() else codebook
        encoder = _Encoder(whitening, learned, config.interpolate, device)
        _write_words(folder, features, offsets, encoder)
        if codebook.assignment != "exact":
            quality = measure_assignment(features, whitening, codebook, config.interpolate)
            write_json(folder / QUALITY_FILE, quality)

    label = f"{features.artefact.label}-K{codebook.words}"
    artefact = store.get_or_make(STAGE, label, document, make)
    return store.once(
        artefact.key,
        lambda: AssignmentMaps(artefact, codebook.words, features, config.interpolate),
    )


def _write_words(folder: Path, features: Features, offsets: np.ndarray, encoder: _Encoder) -> None:
    """Write every image's words from ``offsets`` (n + 1,) on; killed, it goes on."""
    path, done_path = folder / "words.npy", folder / "done.npy"
    if not done_path.exists():
        np.lib.format.open_memmap(path, "w+", np.uint16, (int(offsets[-1]),))
        with atomic_path(done_path) as temporary:
            np.save(temporary, np.zeros(len(features), np.uint8))
    start, done = np.load(path, mmap_mode="r").offset, np.load(done_path, mmap_mode="r+")
    done[np.diff(offsets) == 0] = 1  # images that were left out
    missing = np.flatnonzero(done == 0)
    total = len(np.unique(features.distinct[missing]))
    bar = progress(label="assignment maps", total=total, unit="image")
    # Written, not mapped: on a full disk a map is a bus error.
    with open(path, "r+b") as file, bar, closing(_encoded(features, encoder, missing)) as encoded:
        for copies, words in encoded:
            for copy in copies:
                file.seek(start + int(offsets[copy]) * words.itemsize)
                file.write(words.tobytes())
            file.flush()
            done[copies] = 1
            bar.update(1)
    done.flush()
