"""What light, lens and file do to a rendered scene: exposure, colour, blur, noise."""

from __future__ import annotations

import cv2
import numpy as np

from blcf_utils.datasets.rendering.seeds import chance
from blcf_utils.datasets.rendering.textures import fractal_noise


def expose(
    rng: np.random.Generator, image: np.ndarray, *, strength: float = 1.0, shade: bool = True
) -> np.ndarray:
    """Return the scene as a camera records it.

    Args:
        rng: generator.
        image: (H, W, 3) float32 RGB in [0, 1].
        strength: 0 (nothing) to 1 (evening light, motion blur, sensor noise).
        shade: whether trees outside the picture may throw dappled shade on it.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    h, w = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    falloff = 1 + strength * rng.uniform(0, 0.3) * (np.cos(angle) * x + np.sin(angle) * y)
    falloff *= 1 - strength * rng.uniform(0, 0.25) * (x * x + y * y) / 2
    if shade and chance(rng, 0.35 * strength):
        dapples = fractal_noise(rng, h, w, cells=2, octaves=4)
        falloff *= 1 - rng.uniform(0.1, 0.45) * np.clip((dapples - 0.5) * 6, 0, 1)
    warmth = strength * rng.normal(0, 0.07)
    gain = np.array([1 + warmth, 1, 1 - warmth], np.float32) * np.exp(
        strength * rng.normal(0, 0.16)
    )
    out = image * falloff[..., None].astype(np.float32) * gain
    grey = out.mean(axis=2, keepdims=True)
    out = grey + (out - grey) * (1 + strength * rng.uniform(-0.45, 0.2))
    middle = float(out.mean())
    out = middle + (out - middle) * (1 + strength * rng.uniform(-0.3, 0.2))
    out = np.clip(out, 0, 1) ** np.exp(strength * rng.normal(0, 0.15))
    kind = rng.random()
    if kind < 0.35:
        out = cv2.GaussianBlur(out, (0, 0), strength * rng.uniform(0.3, 1.2) + 0.01)
    elif kind < 0.5:
        length = int(3 + strength * rng.uniform(0, 5))
        kernel = np.zeros((length, length), np.float32)
        t = rng.uniform(0, np.pi)
        c, r = (length - 1) / 2, length / 2
        start, end = ((int(c + s * r * np.cos(t)), int(c + s * r * np.sin(t))) for s in (-1, 1))
        cv2.line(kernel, start, end, 1.0, 1)
        out = cv2.filter2D(out, -1, kernel / max(kernel.sum(), 1e-6))
    noise = strength * rng.uniform(0.002, 0.022)
    out = out + noise * rng.standard_normal(out.shape, dtype=np.float32)
    return (np.clip(out, 0, 1) * 255).round().astype(np.uint8)
