"""Training batches for the saliency networks: which scenes a step sees, and how they are varied."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from blcf_utils.datasets.rendering.seeds import generator
from workshop.scenes import targets_of

# How a network's own ``prepare`` brings an image of any shape into its input: squashed into it
# (SalGAN), fitted into a black canvas (SAM), or not at all (SalNet takes any shape).
Canvas = Literal["squashed", "padded", "free"]

# Width of an upright 3:4 picture, as a share of that of a 4:3 picture of the same height.
_UPRIGHT = 0.5625
# Less than this share of a scene's density inside a crop: the crop shows nothing.
_SHOWN = 0.05


def scenes_of_step(step: int, *, scenes: int, batch: int, seed: int) -> np.ndarray:
    """Return the scenes of a step: each epoch visits every scene once, in a new order.

    Args:
        step: number of the step from 0.
        scenes: in the set.
        batch: scenes a step.
        seed: of the order.

    Returns:
        (batch,) indices; an incomplete last batch of an epoch is left out.
    """
    steps_an_epoch = max(1, scenes // batch)
    epoch, place = divmod(step, steps_an_epoch)
    order = generator(seed, "epoch", epoch).permutation(scenes)
    return order[place * batch : (place + 1) * batch]


def load_step(
    images: np.ndarray, densities: np.ndarray, step: int, *, batch: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load the scenes of a step; each epoch visits every scene once, in a new order.

    Args:
        images: (scenes, H, W, 3) uint8.
        densities: (scenes, h, w) float16.
        step: number of the step from 0.
        batch: scenes a step.
        seed: of the order.

    Returns:
        images (batch, 3, H, W) uint8 and densities (batch, h, w) float32.
    """
    chosen = scenes_of_step(step, scenes=len(images), batch=batch, seed=seed)
    pixels = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(densities[chosen].astype(np.float32))


def upright_step(step: int, seed: int, canvas: Canvas) -> bool:
    """Say whether a step's inputs are upright: three in ten where the input's shape is free."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return canvas == "free" and float(torch.rand(1, generator=draw)) < 0.3


def augment(
    images: torch.Tensor,
    densities: torch.Tensor,
    size: tuple[int, int],
    canvas: Canvas,
    *,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop, mirror and mildly recolour scenes, bring them into a network's input, make targets.

    Args:
        images: (N, 3, H, W) uint8 RGB.
        densities: (N, h, w), the D of the scenes.
        size: height and width of the inputs.
        canvas: how the network takes images of other shapes: three in ten are made upright and
            come squashed or between black borders.
        seed: of this batch.

    Returns:
        inputs (N, 3, *size) float32 RGB in [0, 255] and targets (N, 1, h, w), transposed with
        upright inputs; each sums to 1, and black borders have none of it.
    """
    count, device = len(images), images.device
    draw = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return (torch.rand(count, generator=draw) * (high - low) + low).to(device)

    side = torch.sqrt(uniform(0.3, 1.0))
    wide, high = side * torch.exp(uniform(-0.12, 0)), side
    upright = uniform(0, 1) < 0.3
    panorama = ~upright & (uniform(0, 1) < 0.15)
    whole = torch.ones_like(side)
    if canvas == "squashed":
        wide = torch.where(upright, wide * _UPRIGHT, wide)
        high = torch.where(panorama, high * 0.65, high)
        seen_x = seen_y = whole
    elif canvas == "padded":
        seen_x = torch.where(upright, _UPRIGHT * torch.exp(uniform(-0.1, 0.25)), whole)
        seen_y = torch.where(panorama, uniform(0.6, 0.95), whole)
    else:
        wide = wide * _UPRIGHT if size[0] > size[1] else wide
        seen_x = seen_y = whole
    shift_x = (1 - wide * seen_x) * uniform(-1, 1)
    shift_y = (1 - high * seen_y) * uniform(-1, 1)
    wide = torch.where(uniform(0, 1) < 0.5, -wide, wide)  # mirrored
    none = torch.zeros_like(side)
    theta = torch.stack(
        [torch.stack([wide, none, shift_x], 1), torch.stack([none, high, shift_y], 1)], 1
    )

    def sampled(values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        grid = functional.affine_grid(theta, [count, 1, *shape], align_corners=False)
        values = functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
        y = torch.linspace(-1, 1, 2 * shape[0] + 1, device=device)[1::2]
        x = torch.linspace(-1, 1, 2 * shape[1] + 1, device=device)[1::2]
        inside_y = y.abs()[None, :] <= seen_y[:, None]
        inside_x = x.abs()[None, :] <= seen_x[:, None]
        return values, (inside_y[:, None, :, None] & inside_x[:, None, None, :]).float()

    out, inside = sampled(images.float(), size)
    out = _recolour(out, uniform) * inside
    reduced = densities.shape[-2:] if size[0] <= size[1] else densities.shape[:0:-1]
    cropped, inside = sampled(densities[:, None], tuple(reduced))
    cropped = cropped * inside
    left = cropped.mean((-2, -1)) * (wide.abs() * high)[:, None]
    shown = left > _SHOWN * densities.mean((-2, -1))[:, None]
    targets = targets_of(cropped * shown[..., None, None]) * inside
    return out, targets / targets.sum((-2, -1), keepdim=True)


def _recolour(images: torch.Tensor, uniform) -> torch.Tensor:
    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    tint = torch.stack([uniform(0.9, 1.1) for _ in range(3)], 1)[:, :, None, None]
    out = images * tint * per_image(torch.exp(uniform(-0.25, 0.25)))
    grey = out.mean(1, keepdim=True)
    colourless = uniform(0, 1) < 0.1
    out = grey + (out - grey) * per_image(uniform(0.5, 1.4) * ~colourless)
    middle = out.mean((1, 2, 3), keepdim=True)
    out = middle + (out - middle) * per_image(torch.exp(uniform(-math.log(1.5), math.log(1.3))))
    return out.clamp(0, 255)
