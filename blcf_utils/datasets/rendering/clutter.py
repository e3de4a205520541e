"""Cluttered scenes: an object anywhere among other objects, before photographs and surfaces."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from blcf_utils.datasets.rendering import photographs
from blcf_utils.datasets.rendering.camera import over
from blcf_utils.datasets.rendering.objects import (
    Thing,
    draw_object,
    gloss,
    random_pose,
    render_object,
)
from blcf_utils.datasets.rendering.seeds import chance, generator
from blcf_utils.datasets.rendering.textures import surface

Name = tuple[str | int, ...]

# At least this share of the object stays visible behind what lies over it.
_VISIBLE = 0.6


@lru_cache(maxsize=160)
def thing(style: Name, layout: Name) -> Thing:
    """Return the object named by its style and layout."""
    return draw_object(generator(*style), generator(*layout), "benchmark")


def _background(rng, height: int, width: int) -> np.ndarray:
    if chance(rng, 0.6):
        picture = (
            photographs.crop(
                rng,
                "benchmark",
                height,
                width,
                names=photographs.SCENES["benchmark"],
                smallest=0.45,
            ).astype(np.float32)
            / 255
        )
        # A lens focused on the objects leaves the scene behind them slightly soft.
        return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 2.6))
    image = surface(rng, height, width)
    if chance(rng, 0.5):  # a wall above a table
        edge = int(height * rng.uniform(0.2, 0.5))
        image[:edge] = surface(rng, edge, width) * rng.uniform(0.7, 1.0)
        image[edge : edge + 3] *= 0.6
    return image


def _lay(rng, image, item: Thing, center, extent: float) -> np.ndarray:
    """Draw an object with its soft shadow and return its coverage."""
    height, width = image.shape[:2]
    color, alpha = render_object(item, random_pose(rng, item, center, extent), height, width)
    gloss(rng, color, alpha)
    blur = max(1.0, extent * 0.03)
    shift = np.float32([[1, 0, rng.uniform(-1, 1) * extent * 0.04], [0, 1, extent * 0.04]])
    shadow = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), blur), shift, (width, height))
    image *= 1 - 0.5 * rng.uniform(0.4, 1.0) * shadow[..., None]
    over(image, np.clip(color, 0, 1), alpha)
    return alpha


def clutter_scene(
    rng: np.random.Generator,
    style: Name | None,
    layout: Name | None,
    others: tuple[tuple[Name, Name], ...],
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Render an object among others.

    Args:
        rng: generator of background, places, poses and light.
        style: name of the object's style; None draws clutter alone.
        layout: name of the object's layout.
        others: styles and layouts of the objects the clutter is chosen from.
        height: pixels.
        width: pixels.

    Returns:
        (height, width, 3) float32 RGB in [0, 1] and the object's visible coverage
        (height, width) float32.
    """
    image = np.ascontiguousarray(_background(rng, height, width), np.float32)
    short = min(height, width)

    def other(low: float, high: float) -> np.ndarray:
        name = others[int(rng.integers(len(others)))]
        center = (rng.uniform(0, width), rng.uniform(0, height))
        return _lay(rng, image, thing(*name), center, short * rng.uniform(low, high))

    for _ in range(int(rng.integers(1, 5))):
        other(0.2, 0.5)
    if style is None or layout is None:
        return np.clip(image, 0, 1), np.zeros((height, width), np.float32)
    extent = short * rng.uniform(0.5, 1.15)
    margin = 0.32 * extent
    center = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
    seen = _lay(rng, image, thing(style, layout), center, extent)
    whole = seen.sum()
    for _ in range(int(rng.integers(0, 3))):
        before, state = image.copy(), seen
        seen = seen * (1 - other(0.15, 0.45))
        if seen.sum() < _VISIBLE * whole:
            image[:], seen = before, state
    return np.clip(image, 0, 1), seen
