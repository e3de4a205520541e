"""Spatial weighting: how much each position of a database image counts.

Every weighting answers the same call, ``weights(image, feature_map, shape)``, with a map (h, w) in
[0, 1] whose maximum is 1. A histogram of words adds the weight of each position to its word's bin,
sum pooling and CroW multiply each local descriptor by it. Queries are not weighted: their box says
what matters. Source: Mohedano et al., "Saliency weighted convolutional features for instance
search", CBMI 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from blcf_utils.config.profile import WeightingConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.rmac_weighting import location_weights

NONE = "None"
# A saliency map is read at so many pixels a cell, the stride of VGG's conv5_1.
PIXELS_A_CELL = 16

Shape = tuple[int, int]


@dataclass(frozen=True)
class Weighting:
    """One way to weigh the positions of an image.

    Attributes:
        name: its row in tables t08 and t09.
        raw: (image, feature_map, shape) to any weights of at least 0, (h, w).
        document: what determines the weights beside image and shape, as JSON values.
        needs_features: it reads the feature map; others may be given None.
        by_content: images with the same bytes have the same weights.
    """

    name: str
    raw: Callable[[int, np.ndarray | None, Shape], np.ndarray]
    document: dict = field(default_factory=dict)
    needs_features: bool = False
    by_content: bool = True

    def weights(self, image: int, feature_map: np.ndarray | None, shape: Shape) -> np.ndarray:
        """Return the weights of an image's positions, (h, w) float32 in [0, 1].

        Args:
            image: its number in the dataset.
            feature_map: its feature map (C, h', w'), before interpolation; None where the
                weighting needs none.
            shape: (h, w) of what is weighted: an assignment map, or the feature map itself.
        """
        return normalised(self.raw(image, feature_map, shape))


def normalised(weights: np.ndarray) -> np.ndarray:
    """Return weights divided by their maximum, float32; ones where all of them are zero."""
    most = float(weights.max(initial=0))
    if most <= 0:
        return np.ones(weights.shape, np.float32)
    return (weights / most).astype(np.float32)


def gaussian_weights(shape: Shape, config: WeightingConfig | None = None) -> np.ndarray:
    """Return the centre prior, (h, w) in [0, 1].

    ``config.gaussian`` names the formula, because the sources differ:

    - ``minmax``: exp(-d^2 / 2 sigma^2) with sigma = min(h, w) / 3, then stretched from 0 (the
      corners) to 1; what the published code of the saliency-weighted words does;
    - ``plain``: the same without stretching (with ``sigma: 0.1667`` SPoC's prior);
    - ``linear``: 1 - d / max d, the code of the ICMR 2016 paper;
    - ``inverse``: 1 / d, equation 4.1 of the thesis, d counted as one cell where it is less.

    d is the distance to the centre on axes of n values from -(n // 2) to n // 2, as the published
    code lays them: steps of one cell where n is odd, of a little more where it is even.
    """
    config = config or WeightingConfig()
    if 0 in shape:
        return np.zeros(shape)
    y, x = (np.linspace(-(cells // 2), cells // 2, cells) for cells in shape)
    distance = np.hypot(y[:, None], x)
    if config.gaussian == "linear":
        return 1 - distance / max(distance.max(), 1e-12)
    if config.gaussian == "inverse":
        return 1 / np.maximum(distance, 1)
    bell = np.exp(-0.5 * (distance / (config.sigma * min(shape))) ** 2)
    spread = bell.max() - bell.min()
    return (bell - bell.min()) / spread if config.gaussian == "minmax" and spread else bell


def l2_norm_weights(feature_map: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the L2 norm of each local descriptor, bilinearly resized to ``shape``.

    Args:
        feature_map: (C, h', w') as the network gave it, before normalisation.
        shape: (h, w) of the result.
    """
    norms = np.sqrt(np.einsum("chw,chw->hw", feature_map, feature_map))
    return _resized(norms, shape)


def _resized(values: np.ndarray, shape: Shape) -> np.ndarray:
    if values.shape == tuple(shape):
        return values
    return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)


def rmac_weights(shape: Shape, levels: int = 3) -> np.ndarray:
    """Return how many R-MAC regions cover each position: R-MAC read as a weighting."""
    return location_weights(shape, levels)


def saliency_weights(saliency: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the largest saliency in each cell, (h, w): block-max reduction.

    The map is resized to 16 x 16 pixels a cell (bilinear) and each block keeps its maximum, so
    that a small salient spot is not averaged away.

    Args:
        saliency: (H, W) uint8, any size.
        shape: (h, w) in cells.
    """
    height, width = shape
    if not height * width:
        return np.zeros(shape)
    side = PIXELS_A_CELL
    large = cv2.resize(saliency, (width * side, height * side), interpolation=cv2.INTER_LINEAR)
    # Columns first: whole rows are maximised at once.
    rows = large.reshape(height, side, width * side).max(axis=1)
    return rows.reshape(height, width, side).max(axis=2)


def gaussian(config: WeightingConfig) -> Weighting:
    """Return the centre prior as a weighting."""
    document = {"gaussian": config.gaussian, "sigma": config.sigma}
    return Weighting("Gaussian", lambda _, __, shape: gaussian_weights(shape, config), document)


def l2_norm() -> Weighting:
    """Return the norm of the local descriptors as a weighting."""

    def raw(image: int, feature_map: np.ndarray | None, shape: Shape) -> np.ndarray:
        if feature_map is None:
            raise StudyError(
                f"L2-norm: image {image}: expected its feature map, found none; pass the map that "
                "the weights are the norms of"
            )
        return l2_norm_weights(feature_map, shape)

    return Weighting("L2-norm", raw, {"norm": "l2"}, needs_features=True)


def rmac_coverage(config: WeightingConfig) -> Weighting:
    """Return R-MAC's coverage as a weighting."""
    levels = config.rmac_levels
    return Weighting("R-MAC", lambda _, __, shape: rmac_weights(shape, levels), {"levels": levels})


def by_saliency(
    name: str, saliency: Callable[[int], np.ndarray], document: dict, by_content: bool = True
) -> Weighting:
    """Return saliency maps as a weighting.

    Args:
        name: its row in the tables.
        saliency: image number to its map (H, W) uint8.
        document: what determines the maps.
        by_content: whether the maps of images with the same bytes are the same; those of a folder
            belong to names and may differ.
    """

    def raw(image: int, _: np.ndarray | None, shape: Shape) -> np.ndarray:
        return saliency_weights(saliency(image), shape)

    return Weighting(name, raw, document, by_content=by_content)
