"""From the pixels of any photograph to its assignment map, without a dataset around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from blcf_utils.datasets.images import UnreadableImage, image_size, read_image, resized_size
from blcf_utils.features.forward import forward_images, resolve_device
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.assignment_maps import assign_map
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import Whitening


@dataclass(frozen=True)
class Encoder:
    """Encodes photographs as the images of a dataset were.

    Attributes:
        backbone, whitening, codebook: as learned for the dataset.
        longest_side: pixels of the longest side that the network sees.
        interpolate: cells per position of a feature map and side.
        exif_orientation: turn photographs as their EXIF tag says.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    backbone: Backbone
    whitening: Whitening
    codebook: Codebook
    longest_side: int
    interpolate: int = 1
    exif_orientation: bool = True
    device: str = "auto"

    def read(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Return what the network sees, (H, W, 3) uint8, and (width, height) of the photograph.

        Raises:
            UnreadableImage: it does not decode, or is too narrow for the network.
        """
        turned = self.exif_orientation
        size, seen = network_sizes(path, self.backbone, self.longest_side, turned)
        return read_image(path, seen, exif_orientation=turned), size

    @cached_property
    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def feature_maps(self, pixels: np.ndarray) -> np.ndarray:
        """Return the feature maps (B, C, h, w) float32 of equally sized images (B, H, W, 3).

        They are rounded to float16 on the way, as stored ones are.
        """
        height, width = pixels.shape[1:3]
        _, rows, columns = self.backbone.output_shape(height, width)
        self.backbone.module.to(self._device)  # extraction moves it back to the CPU
        made = forward_images(self.backbone, pixels, self._device)
        maps = made.astype(np.float32).reshape(len(pixels), rows, columns, -1)
        return maps.transpose(0, 3, 1, 2)

    def words(self, feature_map: np.ndarray) -> np.ndarray:
        """Return the assignment map (h, w) uint16 of a feature map (C, h', w')."""
        return assign_map(
            feature_map, self.whitening, self.codebook, self.interpolate, self._device.type
        )

    def encode(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Return a photograph's assignment map (h, w) uint16 and its (width, height) in pixels."""
        pixels, size = self.read(path)
        return self.words(self.feature_maps(np.stack([pixels]))[0]), size


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
        fits = 0 not in backbone.output_shape(seen[1], seen[0])
    except RuntimeError:  # a pooling layer is left without a pixel
        fits = False
    if not fits:
        reason = f"{size[0]}x{size[1]} pixels are too narrow for the network"
        raise UnreadableImage(f"{path}: {reason}; choose another image", reason)
    return size, seen


@contextmanager
def reading_query(path: Path) -> Iterator[None]:
    """Say of an image that cannot be read what helps someone who asks with it.

    Raises:
        StudyError: instead of UnreadableImage.
    """
    try:
        yield
    except UnreadableImage as error:
        raise StudyError(
            f"{path}: cannot be searched with ({error.reason}); choose another image"
        ) from None
