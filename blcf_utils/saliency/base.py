"""What a saliency model is to the rest of the study, and what a saliency network adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blcf_utils.ground.errors import StudyError


@dataclass(frozen=True)
class SaliencyModel:
    """A ready saliency model.

    Attributes:
        name: how tables call it, such as ``BMS`` or ``salgan-mini``.
        predict: RGB image (H, W, 3) uint8 to its saliency map (H, W) uint8; larger is more
            salient. May be called from several threads.
        document: everything that determines its maps (settings, version, digest of the weights)
            as JSON values, for artefact keys.
    """

    name: str
    predict: Callable[[np.ndarray], np.ndarray]
    document: dict = field(default_factory=dict)


def check_image(image: np.ndarray) -> None:
    """Refuse what is no RGB image.

    Raises:
        StudyError: not (H, W, 3) uint8, or without pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise StudyError(
            f"image: expected RGB pixels (H, W, 3) of uint8, found {image.shape} of "
            f"{image.dtype}; read it with blcf_utils.datasets.images.read_image"
        )


def check_finite(path: Path, name: str, array: np.ndarray) -> None:
    """Refuse weights that are no numbers.

    Raises:
        StudyError: an infinite value or NaN in the array ``name`` of the file.
    """
    if not np.isfinite(array).all():
        raise StudyError(
            f"{path}: expected finite numbers in {name}, found others; download the file again"
        )


class SaliencyNetwork(nn.Module):
    """A convolutional saliency model, with the input and output arithmetic of its authors.

    Attributes:
        width: share of the published number of channels in every hidden layer.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.width = width

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """Return the network's input (1, 3, h, w) float32 for an RGB image (H, W, 3) uint8."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map prepared images (B, 3, h, w) to raw saliency (B, 1, h', w')."""
        raise NotImplementedError

    def finish(self, output: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the map (height, width) uint8 of the raw output (h', w') of one image."""
        raise NotImplementedError

    def load_official(self, path: Path) -> None:
        """Take the weights of the authors' own file.

        Raises:
            StudyError: not such a file, or one of another network.
        """
        raise NotImplementedError


def channels(published: int, width: float) -> int:
    """Return the number of channels of a hidden layer of a width-reduced network."""
    return max(1, round(published * width))
