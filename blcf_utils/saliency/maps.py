"""Saliency maps of a dataset's images, computed once and stored as PNG, as the authors do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage, read_image
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.mapping import mapped
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.saliency.base import SaliencyModel

STAGE = Stage("saliency", version=1)
_A_TASK = 8  # images that a worker is sent at once


class SaliencyMaps:
    """The stored saliency maps of a dataset's database images.

    Calling it with an image's number gives its map (H, W) uint8, as large as the image.
    """

    def __init__(self, artefact: Artefact):
        self.artefact, self.key = artefact, artefact.key

    def __call__(self, image: int) -> np.ndarray:
        path = _file(self.artefact.folder, image)
        saliency = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if saliency is None:
            raise StudyError(
                f"{path}: expected a saliency map (PNG) that decodes; delete {path.parent}"
            )
        return saliency


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


def _file(folder: Path, image: int) -> Path:
    return folder / f"{image:06d}.png"


@dataclass(frozen=True)
class _Observer:
    """How a picture becomes a saliency map, here or on a worker."""

    model: SaliencyModel
    exif: bool
    skip: bool


def _look(observer: _Observer, path: Path) -> bytes:
    """Return the saliency map of a picture as PNG."""
    try:
        pixels = read_image(path, exif_orientation=observer.exif)
        saliency = observer.model.predict(pixels)
    except UnreadableImage:
        if not observer.skip:
            raise
        saliency = np.zeros((1, 1), np.uint8)
    return cv2.imencode(".png", saliency)[1].tobytes()


def _link(first: Path, copy: Path) -> None:
    """Give a file a second name; copy it where the file system has no (more) links."""
    with atomic_path(copy) as path:
        path.unlink()
        try:
            os.link(first, path)
        except OSError:
            shutil.copyfile(first, path)


def saliency_maps(
    dataset: Dataset, model: SaliencyModel, store: ArtefactStore, on_corrupt: str = "error"
) -> SaliencyMaps:
    """Compute the saliency map of every database image, several at a time; resumable per image.

    Images with the same bytes are looked at once; the maps of copies are links to the first one's.

    Args:
        dataset: the images.
        model: the saliency model.
        store: where the maps are kept.
        on_corrupt: ``error``, or ``skip`` to give an unreadable image a map without saliency.

    Raises:
        UnreadableImage: an image does not decode and ``on_corrupt`` is ``error``.
    """
    document = {
        "model": model.document,
        "images": dataset.manifest,
        "exif_orientation": dataset.exif_orientation,
        "on_corrupt": on_corrupt,
    }

    def make(folder: Path) -> None:
        distinct = dataset.distinct[: len(dataset.images)]
        number = {
            dataset.images[i]: i
            for i in np.unique(distinct).tolist()
            if not _file(folder, i).exists()
        }
        observer = _Observer(model, dataset.exif_orientation, on_corrupt == "skip")
        bar = progress(label=f"{model.name} maps", total=len(number), unit="image")
        looked = mapped(
            _look,
            observer,
            number,
            files=lambda path: [path],
            threads=pool_threads(),
            at_once=_A_TASK,
        )
        with bar, closing(looked):
            for path, content in looked:
                with atomic_path(_file(folder, number[path])) as target:
                    target.write_bytes(content)
                bar.update(1)
        for i in np.flatnonzero(distinct != np.arange(len(distinct))).tolist():
            if not _file(folder, i).exists():
                _link(_file(folder, int(distinct[i])), _file(folder, i))

    artefact = store.get_or_make(STAGE, f"{dataset.name}-{model.name}", document, make)
    return SaliencyMaps(artefact)
