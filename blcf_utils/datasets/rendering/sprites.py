"""Street furniture that stands before facades: trees, cars, people and lamps, as flat pictures."""

from __future__ import annotations

import cv2
import numpy as np

from blcf_utils.datasets.rendering.relief import Relief, opening, rectangle
from blcf_utils.datasets.rendering.seeds import pick
from blcf_utils.datasets.rendering.textures import fractal_noise, hsv

SPRITES = ("tree", "tree", "bush", "car", "person", "person", "lamp")
# Heights above the ground in facade pixels (a floor is 62 to 92).
_HEIGHTS = {
    "tree": (120, 260),
    "bush": (25, 55),
    "car": (38, 46),
    "person": (42, 52),
    "lamp": (120, 160),
}


def _tree(rng, height: int, width: int, trunk: float) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    noise = fractal_noise(rng, height, width, cells=4, octaves=5, persistence=0.7)
    crown = 1.05 - np.sqrt((x / 0.95) ** 2 + ((y + trunk * 0.6) / (1 - trunk * 0.6)) ** 2)
    alpha = np.clip((crown + (noise - 0.5) * 1.1 - 0.12) * 9, 0, 1)
    color = hsv(rng.uniform(0.18, 0.33), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.55))
    leaves = fractal_noise(rng, height, width, cells=18, octaves=3, persistence=0.9)
    light = 0.45 + 0.75 * leaves - 0.25 * y - 0.15 * x
    rgb = np.asarray(color, np.float32) * light[..., None]
    if trunk:
        stem = (np.abs(x + 0.05 * np.sin(4 * y)) < 0.05 + 0.03 * (y > 0.8)) & (y > -0.2)
        bark = np.array([0.3, 0.22, 0.15]) * (0.6 + 0.6 * noise[..., None])
        hidden = (stem & (alpha < 0.5))[..., None]
        rgb = np.where(hidden, bark, rgb)
        alpha = np.maximum(alpha, stem)
    return np.dstack([np.clip(rgb, 0, 1), alpha])


def _car(rng) -> np.ndarray:
    s = Relief(90, 220)
    body = np.asarray(hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.2, 0.9)))
    hood, tail = rng.uniform(35, 60), rng.uniform(10, 40)
    s.paint(
        [
            [6, 68],
            [8, 42],
            [hood + 10, 36],
            [hood + 40, 10],
            [200 - tail, 10],
            [212 - tail / 3, 38],
            [215, 46],
            [214, 70],
        ],
        body,
        0,
    )
    s.paint([[10, 56], [212, 56], [213, 72], [7, 72]], body * 0.7, 0)
    glass = (0.2, 0.25, 0.3)
    s.paint([[hood + 22, 35], [hood + 44, 15], [110, 15], [110, 35]], glass)
    s.paint([[116, 35], [116, 15], [195 - tail, 15], [203 - tail / 3, 35]], glass)
    for cx in (48, 172):
        for size, color in ((36, (0.08, 0.08, 0.09)), (18, (0.6, 0.6, 0.62))):
            s.paint(opening("round", cx, 72 - size / 2, size, size), color, 0)
    s.paint(rectangle(7, 46, 14, 52), (0.95, 0.9, 0.6))
    return np.dstack([s.albedo, s.alpha])


def _person(rng) -> np.ndarray:
    s = Relief(180, 70)
    skin = hsv(0.06, 0.4, rng.uniform(0.35, 0.9))
    coat, legs = (
        hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.85)),
        hsv(0.6, 0.3, 0.3),
    )
    stride = rng.uniform(2, 12)
    s.paint(
        [
            [27, 95],
            [43, 95],
            [41 + stride, 178],
            [33 + stride, 178],
            [35, 110],
            [37 - stride, 178],
            [28 - stride, 178],
        ],
        legs,
        0,
    )
    s.paint([[22, 38], [48, 38], [53, 96], [46, 100], [24, 100], [17, 96]], coat, 0)
    s.paint(opening("round", 35, 8, 22, 28), skin, 0)
    s.paint(opening("arch", 35, 5, 24, 14), hsv(0.08, 0.5, rng.uniform(0.1, 0.6)), 0)
    return np.dstack([s.albedo, s.alpha])


def _lamp(rng) -> np.ndarray:
    s = Relief(320, 60)
    s.paint(rectangle(28, 40, 33, 318), (0.13, 0.14, 0.14), 0)
    s.paint(rectangle(22, 300, 39, 319), (0.13, 0.14, 0.14), 0)
    s.paint([[18, 8], [43, 8], [38, 42], [23, 42]], (0.85, 0.83, 0.7), 0)
    s.paint([[15, 10], [30, 0], [46, 10]], (0.13, 0.14, 0.14), 0)
    return np.dstack([s.albedo, s.alpha])


def draw_sprite(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Draw a random sprite.

    Returns:
        uint8 RGBA picture whose last row stands on the ground, and its height in facade pixels.
    """
    kind = pick(rng, SPRITES)
    if kind == "tree":
        picture = _tree(rng, 260, int(rng.integers(150, 260)), rng.uniform(0.3, 0.6))
    elif kind == "bush":
        picture = _tree(rng, 90, int(rng.integers(110, 220)), 0.0)
    else:
        picture = {"car": _car, "person": _person, "lamp": _lamp}[kind](rng)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    rgba = np.clip(np.ascontiguousarray(picture) * 255, 0, 255).round().astype(np.uint8)
    return cv2.GaussianBlur(rgba, (0, 0), 0.6), float(rng.uniform(*_HEIGHTS[kind]))
