"""What is explored: a dataset of a study in several codings, or an indexed folder."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.shards import THUMBNAIL
from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.networks.backbones import layer_names
from blcf_utils.ground.names import printable
from blcf_utils.ground.remembered import remembered
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.query import SearchBase
from blcf_utils.study.pipeline import Pipeline


class Subject:
    """What an explorer searches in; one *coding* is a layer with a codebook.

    Sub-classes give ``base(coding, weighting)``, a SearchBase; ``encoder(coding)``, an Encoder of
    photographs that are not in the dataset; ``thumbnail(image)``, a small JPEG by its number.

    Attributes:
        title: for people.
        dataset: images, and queries where some are known.
        codings: labels of the layers and codebooks, the default first.
        weightings: what can be searched with, none first.
        profile: settings of re-ranking and expansion.
    """

    title: str
    dataset: Dataset
    codings: tuple[str, ...]
    weightings: tuple[str, ...]
    profile: Profile

    def check_unchanged(self, path: Path) -> None:
        """Check that an image is still the one that was encoded.

        Raises:
            StudyError: it is not.
        """

    def picture(self, path: Path, longest: int) -> np.ndarray:
        """Return an image (H, W, 3) uint8, its longest side at most ``longest`` pixels."""
        exif = self.dataset.exif_orientation
        size = image_size(path, exif_orientation=exif)
        small = resized_size(size, longest) if max(size) > longest else None
        return read_image(path, small, exif_orientation=exif)

    def jpeg(self, path: Path, longest: int) -> bytes:
        """Return an image as a JPEG, its longest side at most ``longest`` pixels."""
        stream = io.BytesIO()
        Image.fromarray(self.picture(path, longest)).save(stream, "JPEG", quality=85)
        return stream.getvalue()


class StudySubject(Subject):
    """A dataset of a study.

    Args:
        bench: its pipeline, which gives the default coding.
        layers: further layers of the same backbone; the one beside the profile's when empty.
        words: further sizes of the codebook.
        weightings: by their row names.
    """

    def __init__(self, bench: Pipeline, layers=(), words=(), weightings=()):
        self.profile, self.dataset, self.title = bench.profile, bench.dataset, bench.name
        layer, k = bench.profile.features.backbone.layer, bench.profile.codebook.words
        self._benches = {
            f"{other}, K = {size:,}": bench
            if (other, size) == (layer, k)
            else bench.changed({"features.backbone.layer": other, "codebook.words": size})
            for other in dict.fromkeys((layer, *(layers or [neighbouring_layer(bench)])))
            for size in dict.fromkeys((k, *words))
        }
        self.codings = tuple(self._benches)
        self.weightings = tuple(dict.fromkeys((NONE, *weightings)))

    def prepare(self) -> StudySubject:
        """Make everything that a knob could ask for; what is stored already is only opened."""
        for coding in self.codings:
            for weighting in self.weightings:
                self.base(coding, weighting)
        return self

    def base(self, coding: str, weighting: str) -> SearchBase:
        """Return what searches need."""
        return self._benches[coding].searcher(weighting).base

    def encoder(self, coding: str) -> Encoder:
        """Return what encodes a photograph that is not in the dataset."""
        bench = self._benches[coding]
        return Encoder(
            bench.backbone,
            bench.whitening,
            bench.codebook,
            self.profile.features,
            self.profile.encoding.interpolate,
            self.dataset.exif_orientation,
        )

    @remembered
    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a database image."""
        return self.jpeg(self.dataset.images[image], THUMBNAIL)


class FolderSubject(Subject):
    """An indexed folder of photographs.

    Args:
        folder: as given to ``blcf index``.
    """

    def __init__(self, folder: Path | str):
        self._folder = folder
        self._collection = collection = Collection(folder)
        self.title, self.dataset = printable(collection.folder.name), collection.dataset
        self.profile, self.weightings = collection.profile, collection.weightings
        backbone = self.profile.features.backbone
        self.codings = (f"{backbone.layer}, K = {collection.maps.words:,}",)

    def check_unchanged(self, path: Path) -> None:
        """Check that a photograph is still the one that was indexed."""
        self._collection.check_unchanged(path)

    def looked_again(self) -> tuple[FolderSubject, str]:
        """Return the folder as it is now, its index brought up to date, and what has changed.

        Raises:
            StudyError: as for ``index_folder``.
        """
        done = index_folder(self._folder)
        counts = {"new": done.added, "changed": done.changed, "moved": done.moved}
        counts |= {"removed": done.removed, "left out": len(done.unreadable)}
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return FolderSubject(self._folder), told or "nothing has changed"

    def base(self, coding: str, weighting: str) -> SearchBase:
        """Return what searches need."""
        return replace(self._collection.base(weighting), dataset=self.dataset)

    def encoder(self, coding: str) -> Encoder:
        """Return what encodes a photograph that is not in the folder."""
        return self._collection.encoder

    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a photograph."""
        return self._collection.thumbnail(image)


def neighbouring_layer(bench: Pipeline) -> str:
    """Return the layer after a pipeline's own, or before it where that is the last."""
    backbone = bench.profile.features.backbone
    names = layer_names(backbone.name)
    at = names.index(backbone.layer)
    return names[at + 1] if at + 1 < len(names) else names[max(0, at - 1)]
