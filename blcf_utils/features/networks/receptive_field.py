"""What a position of a feature map sees of the image.

The layers before it reach over hundreds of pixels, but those far from its middle hardly move it
(Luo et al., "Understanding the effective receptive field in deep convolutional neural networks",
NIPS 2016): that is read off the gradient.
"""

from __future__ import annotations

import numpy as np
import torch

from blcf_utils.features.networks.backbones import Backbone


def pixel_influence(backbone: Backbone, pixels: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """Return how much each pixel moves the descriptor at a position of the map.

    Args:
        backbone: the trunk, which runs on the CPU.
        pixels: RGB as the network sees them, (H, W, 3) uint8.
        cell: row and column of the position.

    Returns:
        (H, W) float32: the absolute gradient of the sum of the descriptor's channels, added up over
        the three colours.
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    seen = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None].div_(255)
    seen = seen.sub_(mean).div_(std).requires_grad_()
    with torch.enable_grad():
        total = backbone.module.cpu()(seen)[0, :, cell[0], cell[1]].sum()
        (gradient,) = torch.autograd.grad(total, seen)
    return gradient[0].abs().sum(dim=0).numpy()


def reach(influence: np.ndarray, middle: tuple[float, float], share: float) -> int:
    """Return the side in pixels of the smallest square around a place that holds a share.

    Args:
        influence: (H, W), at least 0.
        middle: y, x of the place in pixels; the centre of the first pixel is 0.5.
        share: of the whole influence, above 0 and up to 1.
    """
    y, x = np.ogrid[: influence.shape[0], : influence.shape[1]]
    away = np.maximum(np.abs(y + 0.5 - middle[0]), np.abs(x + 0.5 - middle[1])).ravel()
    order = np.argsort(away, kind="stable")
    held = influence.ravel()[order].cumsum(dtype=np.float64)
    last = min(np.searchsorted(held, share * held[-1]), len(order) - 1)
    return round(2 * away[order[last]] + 1)
