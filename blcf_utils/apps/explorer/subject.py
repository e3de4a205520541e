"""What is explored: a dataset of a study in several codings, or an indexed folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.opened import Collection
from blcf_utils.apps.photographs.shards import THUMBNAIL, thumbnail_of
from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.networks.backbones import layer_names
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.query import SearchBase
from blcf_utils.search.recipes import Searcher
from blcf_utils.study.study import Study


class Subject:
    """What an explorer searches in; one *coding* is a layer with a codebook.

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

    def base(self, coding: str, weighting: str) -> SearchBase:
        """Return what searches need."""
        raise NotImplementedError

    def encoder(self, coding: str) -> Encoder:
        """Return what encodes a photograph that is not in the dataset."""
        raise NotImplementedError

    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a database image."""
        raise NotImplementedError

    def searcher(self, base: SearchBase) -> Searcher:
        """Return what runs recipes on a base."""
        return Searcher(base, self.profile.reranking, self.profile.expansion)

    def picture(self, path: Path, longest: int) -> np.ndarray:
        """Return an image (H, W, 3) uint8, its longest side at most ``longest`` pixels."""
        exif = self.dataset.exif_orientation
        size = image_size(path, exif_orientation=exif)
        small = resized_size(size, longest) if max(size) > longest else None
        return read_image(path, small, exif_orientation=exif)


class StudySubject(Subject):
    """A dataset of a study.

    Args:
        study: its profile gives the default coding.
        name: the dataset; the profile's first when empty.
        layers: further layers of the same backbone; the one beside the profile's when empty.
        words: further sizes of the codebook.
        weightings: by their row names.
    """

    def __init__(
        self,
        study: Study,
        name: str = "",
        layers: Sequence[str] = (),
        words: Sequence[int] = (),
        weightings: Sequence[str] = (),
    ):
        self.name = study.pick(name)
        self.profile, self.dataset, self.title = study.profile, study.dataset(self.name), self.name
        main = (study.profile.features.backbone.layer, study.profile.codebook.words)
        self._studies: dict[str, Study] = {}
        for layer in dict.fromkeys((main[0], *(layers or [_neighbour(study)]))):
            backbone = study.profile.features.backbone.model_copy(update={"layer": layer})
            there = study if layer == main[0] else study.with_backbone(backbone)
            for k in dict.fromkeys((main[1], *words)):
                label = f"{layer}, K = {k:,}"
                self._studies[label] = there if k == main[1] else there.with_words(k)
        self.codings = tuple(self._studies)
        self.weightings = tuple(dict.fromkeys((NONE, *weightings)))

    def prepare(self) -> StudySubject:
        """Make everything that a knob could ask for; what is stored already is only opened."""
        for coding in self.codings:
            for weighting in self.weightings:
                self.base(coding, weighting)
        return self

    def base(self, coding: str, weighting: str) -> SearchBase:
        """Return what searches need."""
        return self._studies[coding].searcher(self.name, weighting).base

    def encoder(self, coding: str) -> Encoder:
        """Return what encodes a photograph that is not in the dataset."""
        study, features = self._studies[coding], self.profile.features
        return Encoder(
            study.backbone,
            study.whitening(self.name),
            study.codebook(self.name),
            features.longest_side,
            self.profile.encoding.interpolate,
            self.dataset.exif_orientation,
            features.device,
        )

    @lru_cache(maxsize=2000)  # noqa: B019 - lives as long as the session does
    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a database image."""
        return thumbnail_of(self.picture(self.dataset.all_images[image], THUMBNAIL))


class FolderSubject(Subject):
    """An indexed folder of photographs.

    Args:
        folder: as given to ``blcf index``.
    """

    def __init__(self, folder: Path | str):
        self._collection = collection = Collection(folder)
        self.title, self.dataset = collection.folder.name, collection.dataset
        self.profile, self.weightings = collection.profile, collection.weightings
        backbone = self.profile.features.backbone
        self.codings = (f"{backbone.layer}, K = {collection.maps.words:,}",)

    def base(self, coding: str, weighting: str) -> SearchBase:
        """Return what searches need."""
        return replace(self._collection.base(weighting))

    def encoder(self, coding: str) -> Encoder:
        """Return what encodes a photograph that is not in the folder."""
        return self._collection.encoder

    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a photograph."""
        return self._collection.thumbnail(image)


def jpeg(pixels: np.ndarray, quality: int = 85) -> bytes:
    """Return an image (H, W, 3) uint8 as a JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _neighbour(study: Study) -> str:
    """Return the layer after a study's own, or before it where that is the last."""
    backbone = study.profile.features.backbone
    names = layer_names(backbone.name)
    at = names.index(backbone.layer)
    return names[at + 1] if at + 1 < len(names) else names[max(0, at - 1)]
