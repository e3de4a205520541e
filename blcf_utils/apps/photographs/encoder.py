"""From the pixels of any photograph to its assignment map, without a dataset around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from blcf_utils.config.profile import FeatureConfig
from blcf_utils.datasets.images import UnreadableImage, image_size, read_image, resized_size
from blcf_utils.datasets.views import AS_IT_IS
from blcf_utils.features.forward import (
    ForwardPass,
    batches_of_one_size,
    resolve_device,
    resolve_precision,
)
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.assignment_maps import whitened_positions
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import Whitening


@dataclass(frozen=True)
class Encoder:
    """Encodes photographs as the images of a dataset were.

    Attributes:
        backbone, whitening, codebook: as learned for the dataset.
        features: longest side, resizing, device, precision and batch size of the network.
        interpolate: cells per position of a feature map and side.
        exif_orientation: turn photographs as their EXIF tag says.
    """

    backbone: Backbone
    whitening: Whitening
    codebook: Codebook
    features: FeatureConfig
    interpolate: int = 1
    exif_orientation: bool = True

    @cached_property
    def _network(self) -> ForwardPass:
        device = self.features.device
        precision = resolve_precision(self.features, resolve_device(device))
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        seen = self.exif_orientation, AS_IT_IS, self.features.resize, self.features.alpha
        return ForwardPass(self.backbone, device, dtype, *seen)

    def read(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Return what the network sees, (H, W, 3) uint8, and (width, height) of the photograph.

        Raises:
            UnreadableImage: it does not decode, or is too narrow for the network.
        """
        turned, features = self.exif_orientation, self.features
        size, seen = network_sizes(path, self.backbone, features.longest_side, turned)
        how = {"resize": features.resize, "alpha": features.alpha}
        return read_image(path, seen, exif_orientation=turned, **how), size

    def feature_maps(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the feature map (C, h, w) float32 of each picture (H, W, 3) uint8.

        They are rounded to float16 on the way, as stored ones are.
        """
        maps: list[np.ndarray] = [None] * len(pictures)
        sizes = np.array([picture.shape[1::-1] for picture in pictures])
        each = np.arange(len(pictures))
        for batch in batches_of_one_size(sizes, each, self.features.batch_size):
            found = self._network.forward([pictures[i] for i in batch])
            for i, rows in zip(batch, found, strict=True):
                _, height, width = self.backbone.output_shape(*pictures[i].shape[:2])
                positions = rows.astype(np.float32).reshape(height, width, -1)
                maps[i] = positions.transpose(2, 0, 1)
        return maps

    def words(self, feature_map: np.ndarray) -> np.ndarray:
        """Return the assignment map (h, w) uint16 of a feature map (C, h', w')."""
        return self.words_and_distance(feature_map)[0]

    def words_and_distance(self, feature_map: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the assignment map, and the mean squared distance of descriptors to their words.

        The distance is what k-means lowers; it is high where the words do not fit.
        """
        device, factor = str(resolve_device(self.features.device)), self.interpolate
        height, width = feature_map.shape[1:]
        rows = whitened_positions(feature_map, self.whitening, factor)
        words = self.codebook.assign(rows, device)
        away = rows - self.codebook.centroids[words]
        distance = float(np.einsum("nd,nd->n", away, away).mean())
        return words.reshape(height * factor, width * factor), distance

    def encode(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Return a photograph's assignment map (h, w) uint16 and its (width, height) in pixels."""
        pixels, size = self.read(path)
        return self.words(self.feature_maps([pixels])[0]), size


def network_sizes(
    path: Path, backbone: Backbone, longest_side: int, exif_orientation: bool = True
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) of a photograph and of what a network sees of it.

    Raises:
        UnreadableImage: it is no image, or so narrow that nothing of it reaches the layer.
    """
    size = image_size(path, exif_orientation=exif_orientation)
    seen = resized_size(size, longest_side)
    try:
        # A network that pads would see hardly anything but padding of a strip below its stride.
        cells = backbone.output_shape(longest_side, longest_side)[1]
        fits = min(seen) * cells >= longest_side - cells
        fits = fits and 0 not in backbone.output_shape(seen[1], seen[0])
    except RuntimeError:  # a pooling layer is left without a pixel
        fits = False
    if not fits:
        reason = f"{size[0]}x{size[1]} pixels are too narrow for the network"
        raise UnreadableImage(f"{path}: {reason}; choose another image", reason)
    return size, seen


@contextmanager
def reading_query(path: Path) -> Iterator[None]:
    """Turn the error of an image that cannot be read into advice for someone who searches with it.

    Raises:
        StudyError: instead of UnreadableImage.
    """
    try:
        yield
    except UnreadableImage as error:
        raise StudyError(
            f"{path}: cannot be searched with ({error.reason}); choose another image"
        ) from None
