"""Training batches for ``vgg-mini``: which views a step sees, and how they are augmented."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from blcf_utils.datasets.rendering.seeds import generator
from blcf_utils.features.networks.vgg_mini import MEAN, STD


def instances_of_step(step: int, *, instances: int, batch: int, seed: int) -> np.ndarray:
    """Return the instances of a step: each epoch visits every instance once, in a new order.

    Args:
        step: number of the step from 0.
        instances: in the set.
        batch: instances a step.
        seed: of the order.

    Returns:
        (batch,) indices; an incomplete last batch of an epoch is left out.
    """
    steps_an_epoch = max(1, instances // batch)
    epoch, place = divmod(step, steps_an_epoch)
    order = generator(seed, "epoch", epoch).permutation(instances)
    return order[place * batch : (place + 1) * batch]


def load_step(
    views: np.ndarray, step: int, *, batch: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load two different views of each of ``batch`` instances.

    Args:
        views: (instances, views, size, size, 3) uint8.
        step: number of the step from 0.
        batch: instances a step.
        seed: of order and choice.

    Returns:
        images (2 * batch, 3, size, size) uint8, first views before second views, and the
        instance of each image (2 * batch,).
    """
    chosen = instances_of_step(step, instances=len(views), batch=batch, seed=seed)
    rng = generator(seed, "views", step)
    first = rng.integers(views.shape[1], size=len(chosen))
    second = (first + rng.integers(1, views.shape[1], size=len(chosen))) % views.shape[1]
    pixels = np.concatenate([views[chosen, first], views[chosen, second]])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.concatenate([chosen, chosen]))


def augment(images: torch.Tensor, size: int, *, seed: int) -> torch.Tensor:
    """Crop, turn slightly and recolour each image at random; never mirror it (texts).

    Args:
        images: (N, 3, H, W) uint8 RGB.
        size: side of the result in pixels.
        seed: of this batch.

    Returns:
        (N, 3, size, size) float32, normalised as the network expects, channels last.
    """
    draw = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=draw) * (high - low) + low).to(images.device)

    side = torch.sqrt(uniform(0.3, 1.0))
    stretch = torch.exp(uniform(-math.log(1.25), math.log(1.25)) / 2)
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    angle = uniform(-0.2, 0.2)
    shift_x, shift_y = (1 - width) * uniform(-1, 1), (1 - height) * uniform(-1, 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([width * cos, -height * sin, shift_x], 1),
            torch.stack([width * sin, height * cos, shift_y], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    out = functional.grid_sample(
        images.float() / 255,
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    tint = torch.stack([uniform(0.85, 1.15) for _ in range(3)], 1)[:, :, None, None]
    out = out * tint * per_image(torch.exp(uniform(-0.35, 0.35)))
    grey = out.mean(1, keepdim=True)
    saturation = torch.where(uniform(0, 1) < 0.15, torch.zeros_like(side), uniform(0.4, 1.4))
    out = grey + (out - grey) * per_image(saturation)
    middle = out.mean((1, 2, 3), keepdim=True)
    out = middle + (out - middle) * per_image(uniform(0.6, 1.4))
    blurred = functional.avg_pool2d(out, 3, stride=1, padding=1, count_include_pad=False)
    out = out + (blurred - out) * per_image((uniform(-0.6, 1.0)).clamp(min=0))
    mean = torch.tensor(MEAN, device=out.device)[:, None, None]
    std = torch.tensor(STD, device=out.device)[:, None, None]
    return ((out.clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)
