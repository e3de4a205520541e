"""Procedural materials: fractal noise, plaster, brick, stone, wood, fabric, roof tiles, ground.

Every material is (H, W, 3) float32 RGB in [0, 1].
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from blcf_utils.datasets.rendering.seeds import chance, pick

Color = tuple[float, float, float]


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Return an RGB colour in [0, 1] for hue, saturation and value in [0, 1]."""
    clip = [min(max(x, 0.0), 1.0) for x in (saturation, value)]
    return colorsys.hsv_to_rgb(hue % 1.0, *clip)


def palette(rng: np.random.Generator, size: int = 5) -> list[Color]:
    """Return harmonious colours: neighbouring hues or opposites, with varied lightness."""
    hue = rng.random()
    step = pick(rng, (0.03, 0.08, 0.33, 0.5))
    vivid = rng.uniform(0.25, 0.9)
    colors = [
        hsv(hue + step * i + rng.normal(0, 0.02), vivid * rng.uniform(0.4, 1.1), v)
        for i, v in enumerate(rng.permutation(np.linspace(0.18, 0.97, size)))
    ]
    return colors


def fractal_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    cells: float = 4,
    octaves: int = 5,
    persistence: float = 0.55,
    stretch: float = 1.0,
) -> np.ndarray:
    """Return value noise summed over octaves, (H, W) float32 scaled to [0, 1].

    Args:
        rng: generator.
        height: pixels.
        width: pixels.
        cells: grid cells over the shorter side in the first octave.
        octaves: number of octaves; each doubles the cells.
        persistence: amplitude ratio of successive octaves.
        stretch: elongation along x (wood grain, brushed metal).
    """
    total = np.zeros((height, width), np.float32)
    side = min(height, width)
    for octave in range(octaves):
        n = cells * 2**octave
        if n > side:
            break
        grid = rng.random(
            (max(2, round(n * height / side)) + 1, max(2, round(n * width / side / stretch)) + 1),
            dtype=np.float32,
        )
        total += persistence**octave * cv2.resize(
            grid, (width, height), interpolation=cv2.INTER_CUBIC
        )
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def tinted(noise: np.ndarray, color: Color, contrast: float) -> np.ndarray:
    """Return ``color`` made lighter and darker by ``noise`` (H, W) in [0, 1]."""
    shade = 1.0 + contrast * (noise - 0.5)
    return np.clip(np.asarray(color, np.float32) * shade[..., None], 0, 1).astype(np.float32)


def plaster(rng, height: int, width: int, color: Color) -> np.ndarray:
    """Return painted plaster with stains that run downwards."""
    fine = fractal_noise(rng, height, width, cells=24, octaves=3, persistence=0.8)
    stains = fractal_noise(rng, height, width, cells=3, octaves=4)
    runs = fractal_noise(rng, width, height, cells=10, octaves=3, stretch=6).T
    return tinted(0.35 * fine + 0.4 * stains + 0.25 * runs, color, rng.uniform(0.15, 0.5))


def masonry(
    rng,
    height: int,
    width: int,
    color: Color,
    *,
    course: float,
    ratio: float = 2.2,
    joint: float = 0.1,
    variation: float = 0.2,
) -> np.ndarray:
    """Return bricks or ashlar in a running bond.

    Args:
        rng: generator.
        height: pixels.
        width: pixels.
        color: mean colour of the blocks.
        course: height of a course in pixels.
        ratio: block width by height.
        joint: joint width as a share of the course.
        variation: spread of lightness between blocks.
    """
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    row = np.floor(y / course).astype(int)
    along = x / (course * ratio) + 0.5 * (row % 2)
    column = np.floor(along).astype(int)
    rows, columns = row.max() + 1, column.max() + 1
    block = row * columns + column
    shades = rng.normal(1, variation, rows * columns).astype(np.float32)
    hues = rng.normal(0, variation * 0.25, (rows * columns, 3)).astype(np.float32) * 0.3
    shade = shades.take(block) * (
        0.85 + 0.3 * fractal_noise(rng, height, width, cells=16, octaves=4, persistence=0.75)
    )
    blocks = np.asarray(color, np.float32) * shade[..., None] + hues.take(block, axis=0)
    edge_y = np.minimum(y / course % 1, 1 - y / course % 1) * course
    edge_x = np.minimum(along % 1, 1 - along % 1) * course * ratio
    inside = np.clip(np.minimum(edge_x, edge_y) / max(0.8, joint * course), 0, 1)
    inside = inside[..., None].astype(np.float32)
    mortar = np.asarray(color, np.float32) * 0.4 + rng.uniform(0.1, 0.4)
    blocks -= mortar
    blocks *= inside
    blocks += mortar
    return np.clip(blocks, 0, 1, out=blocks)


def wood(rng, height: int, width: int, color: Color, *, planks: int = 0) -> np.ndarray:
    """Return wood grain along x, in planks when their number is given."""
    grain = fractal_noise(rng, height, width, cells=14, octaves=4, stretch=9, persistence=0.7)
    bend = fractal_noise(rng, height, width, cells=2, octaves=2, stretch=3)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (y * rng.uniform(5, 14) + 2.5 * bend))
    surface = tinted(0.6 * grain + 0.4 * rings, color, 0.6)
    if planks:
        index = np.minimum((y[:, 0] * planks).astype(int), planks - 1)
        surface *= rng.normal(1, 0.1, planks).astype(np.float32)[index][:, None, None]
        near = np.abs(y[:, 0] * planks - np.round(y[:, 0] * planks)) * height / planks
        surface *= np.where(near < 1.2, 0.45, 1.0).astype(np.float32)[:, None, None]
    return np.clip(surface, 0, 1)


def fabric(rng, height: int, width: int, colors: list[Color]) -> np.ndarray:
    """Return woven cloth: plain, striped or checked."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    period = rng.uniform(18, 60)
    kind = int(rng.integers(3))
    stripes_x = np.sin(2 * np.pi * x / period) > rng.uniform(-0.6, 0.6)
    stripes_y = np.sin(2 * np.pi * y / period) > rng.uniform(-0.6, 0.6)
    mix = (0.15 * stripes_x, stripes_x, 0.5 * stripes_x + 0.5 * stripes_y)[kind][..., None]
    a, b = (np.asarray(colors[i % len(colors)], np.float32) for i in (0, 1))
    weave = 0.9 + 0.1 * np.sin(x * 1.9) * np.sin(y * 1.9)
    folds = fractal_noise(rng, height, width, cells=2, octaves=3)
    surface = (a * (1 - mix) + b * mix) * (weave * (0.75 + 0.4 * folds))[..., None]
    return np.clip(surface, 0, 1).astype(np.float32)


def roof_tiles(rng, height: int, width: int, color: Color, *, course: float = 9) -> np.ndarray:
    """Return rows of tiles or slates, darker under each row's edge."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    row = np.floor(y / course).astype(int)
    column = np.floor(x / course + 0.5 * (row % 2)).astype(int)
    shades = rng.normal(1, 0.16, (row.max() + 1, column.max() + 1)).astype(np.float32)
    relief = 0.7 + 0.45 * (y / course % 1) * (0.8 + 0.2 * np.sin(2 * np.pi * x / course))
    stains = 0.8 + 0.4 * fractal_noise(rng, height, width, cells=4, octaves=4)
    shade = shades[row, column] * relief * stains
    return np.clip(np.asarray(color, np.float32) * shade[..., None], 0, 1).astype(np.float32)


def ground(rng, height: int, width: int) -> np.ndarray:
    """Return asphalt, paving, cobbles, gravel or lawn, seen from above."""
    kind = pick(rng, ("asphalt", "paving", "cobbles", "lawn", "sand"))
    if kind == "paving":
        return masonry(
            rng,
            height,
            width,
            hsv(0.1, 0.1, rng.uniform(0.5, 0.75)),
            course=34,
            ratio=rng.uniform(1, 2),
            joint=0.05,
            variation=0.06,
        )
    if kind == "cobbles":
        return masonry(
            rng,
            height,
            width,
            hsv(0.6, 0.08, rng.uniform(0.35, 0.6)),
            course=15,
            ratio=1.1,
            joint=0.2,
            variation=0.15,
        )
    fine = fractal_noise(rng, height, width, cells=40, octaves=4, persistence=0.9)
    coarse = fractal_noise(rng, height, width, cells=3, octaves=4)
    color = {
        "asphalt": hsv(0.6, 0.05, rng.uniform(0.3, 0.5)),
        "lawn": hsv(rng.uniform(0.2, 0.3), 0.55, rng.uniform(0.35, 0.55)),
        "sand": hsv(0.11, 0.25, rng.uniform(0.6, 0.8)),
    }[kind]
    return tinted(0.55 * fine + 0.45 * coarse, color, 0.7)


def sky(rng, height: int, width: int) -> np.ndarray:
    """Return a clear, cloudy, overcast or evening sky."""
    kind = pick(rng, ("clear", "cloudy", "cloudy", "overcast", "evening"))
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    hue = rng.uniform(0.55, 0.62)
    top, bottom = {
        "clear": (hsv(hue, 0.65, 0.75), hsv(hue, 0.2, 0.95)),
        "cloudy": (hsv(hue, 0.6, 0.75), hsv(hue, 0.15, 0.92)),
        "overcast": (hsv(hue, 0.06, 0.72), hsv(hue, 0.03, 0.9)),
        "evening": (hsv(0.62, 0.5, 0.45), hsv(rng.uniform(0.03, 0.1), 0.4, 0.9)),
    }[kind]
    base = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    base = np.broadcast_to(base, (height, width, 3)).copy()
    if kind != "clear":
        noise = fractal_noise(rng, height, width, cells=2.5, octaves=6, stretch=2.2)
        cover = np.clip((noise - rng.uniform(0.42, 0.6)) * rng.uniform(2.5, 5), 0, 1)[..., None]
        light = 0.97 if kind == "cloudy" else 0.8
        depth = fractal_noise(rng, height, width, cells=4, octaves=4, stretch=1.6)[..., None]
        base = base * (1 - 0.85 * cover) + 0.85 * cover * light * (0.86 + 0.14 * depth)
    return base.astype(np.float32)


def surface(rng, height: int, width: int) -> np.ndarray:
    """Return a table, wall or cloth, as it lies behind or under objects."""
    kind = pick(rng, ("wood", "wood", "fabric", "plaster", "stone", "brick"))
    if kind == "wood":
        color = hsv(rng.uniform(0.05, 0.1), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.85))
        planks = int(rng.integers(3, 8)) if chance(rng, 0.6) else 0
        return wood(rng, height, width, color, planks=planks)
    if kind == "fabric":
        return fabric(rng, height, width, palette(rng))
    if kind == "plaster":
        return plaster(rng, height, width, hsv(rng.random(), rng.uniform(0, 0.35), 0.8))
    warm = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.05, 0.5), rng.uniform(0.45, 0.8))
    course = rng.uniform(12, 18) if kind == "brick" else rng.uniform(24, 48)
    return masonry(rng, height, width, warm, course=course, joint=0.1, variation=0.1)
