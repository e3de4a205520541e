"""Words and drawn emblems for covers, signs and packages, set in the fonts matplotlib ships."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blcf_utils.datasets.rendering.seeds import chance, pick

FONTS = (
    "DejaVuSans-Bold.ttf",
    "DejaVuSans.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "cmtt10.ttf",
)
_CLUSTERS = ("br", "cl", "dr", "fl", "gr", "pl", "st", "tr", "sh", "th")
_ONSETS = (*"bcdfghklmnprstvwz", *_CLUSTERS)
_VOWELS = (*"aeiou", "ai", "ea", "io", "ou")
_CODAS = ["", "", "n", "r", "l", "s", "t", "x", "nd", "rt", "ck"]


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    folder = Path(find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / name), size, layout_engine=ImageFont.Layout.BASIC)


def word(rng: np.random.Generator, syllables: int | None = None) -> str:
    """Return a pronounceable invented word."""
    count = syllables or int(rng.integers(1, 4))
    return "".join(pick(rng, _ONSETS) + pick(rng, _VOWELS) for _ in range(count)) + pick(
        rng, _CODAS
    )


def text_mask(text: str, font: str, size: int) -> np.ndarray:
    """Return the coverage (H, W) float32 in [0, 1] of a line of text, cropped to its ink."""
    face = _font(font, max(6, size))
    x1, y1, x2, y2 = face.getbbox(text)
    image = Image.new("L", (max(1, x2 - x1), max(1, y2 - y1)), 0)
    ImageDraw.Draw(image).text((-x1, -y1), text, fill=255, font=face)
    return np.asarray(image, np.float32) / 255


def put(canvas: np.ndarray, mask: np.ndarray, color, x: float, y: float) -> None:
    """Paint ``color`` through ``mask`` onto ``canvas`` (H, W, 3) with its top left at (x, y)."""
    x, y = round(x), round(y)
    h, w = canvas.shape[:2]
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + mask.shape[1], w), min(y + mask.shape[0], h)
    if x1 >= x2 or y1 >= y2:
        return
    part = mask[y1 - y : y2 - y, x1 - x : x2 - x, None]
    canvas[y1:y2, x1:x2] += part * (np.asarray(color, np.float32) - canvas[y1:y2, x1:x2])


def title(canvas, rng, text: str, color, box, *, font: str | None = None, align=None) -> None:
    """Fit a line of text into ``box`` (x1, y1, x2, y2) of ``canvas``."""
    x1, y1, x2, y2 = box
    mask = text_mask(text, font or pick(rng, FONTS), int(y2 - y1))
    factor = min((x2 - x1) / mask.shape[1], (y2 - y1) / mask.shape[0])
    size = (max(1, int(mask.shape[1] * factor)), max(1, int(mask.shape[0] * factor)))
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    align = align if align is not None else pick(rng, (0.0, 0.5, 1.0))
    put(canvas, mask, color, x1 + align * (x2 - x1 - size[0]), y1 + (y2 - y1 - size[1]) / 2)


def paragraph(canvas, rng, color, box, *, line: int = 11) -> None:
    """Fill ``box`` with small lines of invented text."""
    x1, y1, x2, y2 = (int(v) for v in box)
    font = pick(rng, FONTS[:4])
    for y in range(y1, y2 - line, int(line * 1.5)):
        text = " ".join(word(rng) for _ in range(1 + (x2 - x1) // (line * 4)))
        mask = text_mask(text, font, line)[:, : max(1, x2 - x1)]
        put(canvas, mask, color, x1, y)


def emblem(rng: np.random.Generator, size: int, colors) -> tuple[np.ndarray, np.ndarray]:
    """Draw a logo: a star, a ring, petals, bars, a shield or a polygon with a letter.

    Returns:
        colour (size, size, 3) float32 and coverage (size, size) float32.
    """
    color = np.zeros((size, size, 3), np.float32)
    color[:] = colors[0]
    mask = np.zeros((size, size), np.uint8)
    inner = np.zeros((size, size), np.uint8)
    c, kind = size / 2, int(rng.integers(6))

    def fill(target, points):
        cv2.fillPoly(
            target, [np.round(np.asarray(points) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4
        )

    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    if kind == 0:
        points = int(rng.integers(4, 10))
        a = np.arange(2 * points) * np.pi / points + rng.uniform(0, 1)
        r = np.where(np.arange(2 * points) % 2, rng.uniform(0.4, 0.75), 1.0) * c * 0.95
        fill(mask, np.stack([c + r * np.cos(a), c + r * np.sin(a)], 1))
        fill(inner, np.stack([c + c * 0.3 * np.cos(angles), c + c * 0.3 * np.sin(angles)], 1))
    elif kind == 1:
        for i, r in enumerate(np.linspace(0.95, 0.2, int(rng.integers(3, 6)))):
            ring = np.stack([c + r * c * np.cos(angles), c + r * c * np.sin(angles)], 1)
            fill(mask, ring)
            cv2.fillPoly(inner, [np.round(ring).astype(np.int32)], 255 if i % 2 else 0)
    elif kind == 2:
        petals = int(rng.integers(3, 8))
        r = np.abs(np.cos(petals * angles / 2 + rng.uniform(0, 3))) * 0.7 * c + 0.25 * c
        fill(mask, np.stack([c + r * np.cos(angles), c + r * np.sin(angles)], 1))
        fill(inner, np.stack([c + c * 0.2 * np.cos(angles), c + c * 0.2 * np.sin(angles)], 1))
    elif kind == 3:
        bars = int(rng.integers(3, 7))
        for i in range(bars):
            x, h = size * (i + 0.1) / bars, size * rng.uniform(0.25, 1)
            cv2.rectangle(
                mask if i % 2 else inner,
                (int(x), int(size - h)),
                (int(x + size * 0.75 / bars), size),
                255,
                -1,
            )
        mask = np.maximum(mask, inner)
    elif kind == 4:
        fill(
            mask,
            np.array([[0.08, 0.05], [0.92, 0.05], [0.88, 0.6], [0.5, 0.97], [0.12, 0.6]]) * size,
        )
        cross = rng.uniform(0.3, 0.6)
        cv2.rectangle(
            inner, (int(size * (cross - 0.08)), 0), (int(size * (cross + 0.08)), size), 255, -1
        )
        cv2.rectangle(inner, (0, int(size * 0.35)), (size, int(size * 0.5)), 255, -1)
    else:
        sides = int(rng.integers(3, 9))
        a = np.arange(sides) * 2 * np.pi / sides + rng.uniform(0, 1)
        fill(mask, np.stack([c + c * 0.95 * np.cos(a), c + c * 0.95 * np.sin(a)], 1))
        letter = np.zeros((size, size, 3), np.float32)
        put_size = int(size * 0.42)
        glyph = text_mask(word(rng)[0].upper(), pick(rng, FONTS), put_size)
        put(letter, glyph, (1, 1, 1), c - glyph.shape[1] / 2, c - glyph.shape[0] / 2)
        inner = (letter[..., 0] * 255).astype(np.uint8)
    share = (inner.astype(np.float32) / 255)[..., None]
    color += share * (np.asarray(colors[1], np.float32) - color)
    if chance(rng, 0.3):
        color *= np.linspace(1.15, 0.75, size, dtype=np.float32)[:, None, None]
    return np.clip(color, 0, 1), mask.astype(np.float32) / 255
