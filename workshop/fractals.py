"""Pictures of random iterated function systems, the formula-driven images of FractalDB.

Kataoka et al., "Pre-training without natural images", ACCV 2020.
"""

from __future__ import annotations

import numpy as np

from blcf_utils.datasets.rendering.textures import fractal_noise, palette

_PARTICLES, _STEPS, _SKIPPED = 400, 150, 15


def draw_fractal(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw the attractor of a random system of 2 to 5 affine maps in colour on a soft ground.

    Returns:
        (height, width, 3) float32 RGB in [0, 1].
    """
    maps = int(rng.integers(2, 6))
    turn, skew = rng.uniform(0, 2 * np.pi, (2, maps))
    stretch = rng.uniform(0.25, 0.85, (maps, 2)) * rng.choice([-1, 1], (maps, 2), p=(0.25, 0.75))
    linear = np.stack(
        [
            np.stack([np.cos(turn) * stretch[:, 0], -np.sin(skew) * stretch[:, 1]], 1),
            np.stack([np.sin(turn) * stretch[:, 0], np.cos(skew) * stretch[:, 1]], 1),
        ],
        1,
    )
    shift = rng.uniform(-1, 1, (maps, 2))
    weight = np.abs(np.linalg.det(linear)) + 0.02
    points = np.zeros((_PARTICLES, 2))
    seen, colour = [], []
    for step in range(_STEPS):
        chosen = rng.choice(maps, _PARTICLES, p=weight / weight.sum())
        points = np.einsum("nij,nj->ni", linear[chosen], points) + shift[chosen]
        if step >= _SKIPPED:
            seen.append(points)
            colour.append(chosen)
    points, chosen = np.concatenate(seen), np.concatenate(colour)
    low, high = np.quantile(points, 0.01, axis=0), np.quantile(points, 0.99, axis=0)
    place = (points - low) / np.maximum(high - low, 1e-6) * 0.9 + 0.05
    x = np.clip(place[:, 0] * width, 0, width - 1).astype(int)
    y = np.clip(place[:, 1] * height, 0, height - 1).astype(int)
    colors = np.asarray(palette(rng, 6), np.float32)
    flat = y * width + x
    count = np.bincount(flat, minlength=height * width).reshape(height, width)
    ink = (
        np.stack(
            [np.bincount(flat, colors[1 + chosen % 5, c], height * width) for c in range(3)], -1
        ).reshape(height, width, 3)
        / np.maximum(count, 1)[..., None]
    )
    cover = np.clip(count / 2.0, 0, 1)[..., None]
    ground = colors[0] * (0.7 + 0.5 * fractal_noise(rng, height, width, cells=2)[..., None])
    return np.clip(ground * (1 - cover) + ink * cover, 0, 1).astype(np.float32)
