"""What the networks see of an image while they train: varied pixels, or maps of frozen layers.

Both are drawn from the step's seed alone, so a resumed training sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from blcf_utils.config.finetuning import FinetuneTrainingConfig
from blcf_utils.config.profile import Alpha, Resize
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.maps import FeatureMaps, in_batches
from blcf_utils.features.networks.backbones import Backbone


class PixelMaps:
    """Normalised pixels of whole images, with the face of stored maps: those of no layer at all.

    Networks without frozen layers describe images from these.

    Args:
        dataset: whose images are read.
        backbone: whose normalisation is applied.
        longest_side: pixels.
        left_out: numbers of images that do not decode.
        resize: how images are resized.

    Attributes:
        shapes: (n, 2) height and width of each image as it is read; (0, 0) if it is left out.
        sizes: (n, 2) width and height in pixels of the stored image.
        n_database: the first ``n_database`` images are the database.
    """

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        longest_side: int,
        left_out: np.ndarray | None = None,
        resize: Resize = "antialias",
        alpha: Alpha = "white",
    ):
        self.dataset, self.longest_side = dataset, longest_side
        self.how = {"resize": resize, "alpha": alpha}
        self.mean = torch.tensor(backbone.mean).view(3, 1, 1)
        self.std = torch.tensor(backbone.std).view(3, 1, 1)
        exif = dataset.exif_orientation
        skipped = set() if left_out is None else set(left_out.tolist())
        sizes = [
            (0, 0) if i in skipped else image_size(path, exif_orientation=exif)
            for i, path in enumerate(dataset.all_images)
        ]
        self.sizes = np.array(sizes, np.int64)
        self.inputs = [resized_size(size, longest_side) if any(size) else size for size in sizes]
        self.shapes = np.array(self.inputs, np.int64)[:, ::-1]
        self.n_database = len(dataset.images)

    def batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers, pixels (B, 3, h, w)) of images of one size at a time."""
        yield from in_batches(self, images)

    def pixels(self, image: int) -> np.ndarray:
        """Return an image at its reading size, (h, w, 3) uint8 RGB."""
        path, exif = self.dataset.all_images[image], self.dataset.exif_orientation
        # A copy: what PIL gives cannot be written to, which torch does not like.
        size = self.inputs[image]
        return read_image(path, size, exif_orientation=exif, **self.how).copy()

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels (3, h, w) of 0..1 as the network takes them."""
        return (pixels - self.mean) / self.std

    def map(self, image: int) -> np.ndarray:
        """Return the normalised pixels of an image, (3, h, w) float32."""
        values = torch.from_numpy(self.pixels(image)).permute(2, 0, 1).float() / 255
        return self.normalised(values).numpy()


# What a network's inputs are read from: stored maps of its frozen layers, or pixels.
Maps = FeatureMaps | PixelMaps


@dataclass(frozen=True)
class StoredMaps:
    """Inputs from the stored maps of the frozen layers, cropped and mirrored.

    Attributes:
        features: maps of the last frozen layer.
        config: crop and flip.
    """

    features: FeatureMaps
    config: FinetuneTrainingConfig

    def load(self, images: Sequence[int], seed: int) -> list[torch.Tensor]:
        """Return varied maps (C, h, w) float32 of images.

        The crops of one call keep the same share of each side, so that images of one shape can go
        through the network together.
        """
        draw = np.random.default_rng(seed)
        share = draw.uniform(self.config.crop, 1)
        return [self._varied(self.features.map(int(i)), share, draw) for i in images]

    def _varied(self, values: np.ndarray, share: float, draw: np.random.Generator) -> torch.Tensor:
        sides = np.maximum(1, np.round(share * np.array(values.shape[1:]))).astype(int)
        top, left = draw.integers(0, np.array(values.shape[1:]) - sides + 1)
        part = values[:, top : top + sides[0], left : left + sides[1]]
        if self.config.flip and draw.random() < 0.5:
            part = part[:, :, ::-1]
        # Channels lie last, as they are stored: convolutions read them so at no cost.
        rows = np.ascontiguousarray(part.transpose(1, 2, 0))
        return torch.from_numpy(rows).permute(2, 0, 1)


@dataclass(frozen=True)
class Photographs:
    """Inputs from the photographs: square crops, mirrored, mildly lighter or darker.

    Attributes:
        images: gives the pixels.
        config: size, crop, flip, colour.
    """

    images: PixelMaps
    config: FinetuneTrainingConfig

    def load(self, images: Sequence[int], seed: int) -> list[torch.Tensor]:
        """Return varied normalised pixels (3, size, size) float32 of images."""
        draw = np.random.default_rng(seed)
        return [self._varied(self.images.pixels(int(i)), draw) for i in images]

    def _varied(self, pixels: np.ndarray, draw: np.random.Generator) -> torch.Tensor:
        config, shorter = self.config, min(pixels.shape[:2])
        side = max(1, round(draw.uniform(config.crop, 1) * shorter))
        top, left = (draw.integers(0, n - side + 1) for n in pixels.shape[:2])
        part = pixels[top : top + side, left : left + side].copy()
        out = torch.from_numpy(part).permute(2, 0, 1).float() / 255
        if config.flip and draw.random() < 0.5:
            out = out.flip(2)
        size = (config.size, config.size)
        out = functional.interpolate(out[None], size, mode="bilinear", antialias=True)[0]
        bright, contrast = np.exp(draw.uniform(-1, 1, 2) * np.log1p(config.colour))
        middle = out.mean()
        out = ((out - middle) * float(contrast) + middle) * float(bright)
        return self.images.normalised(out.clamp(0, 1))
