"""Printed matter: covers, posters, signs and labels as flat pictures.

As with facades, a print has a *style* (palette, fonts, kind of ground) and a *layout*; two prints
of one style are different instances that look alike.
"""

from __future__ import annotations

import cv2
import numpy as np

from blcf_utils.datasets.rendering import photographs
from blcf_utils.datasets.rendering.photographs import Split
from blcf_utils.datasets.rendering.seeds import chance, pick
from blcf_utils.datasets.rendering.textures import Color, fabric, fractal_noise, hsv, palette
from blcf_utils.datasets.rendering.typography import FONTS, emblem, paragraph, put, title, word


def _readable(colors: list[Color], ground: np.ndarray) -> Color:
    """Return the colour that differs most in lightness from the ground's mean."""
    mean = float(ground.mean())
    return max(
        [*colors, (0.97, 0.97, 0.94), (0.08, 0.08, 0.1)], key=lambda c: abs(sum(c) / 3 - mean)
    )


def _ground(style, layout, height: int, width: int, colors, split: Split, kind: str):
    if kind == "photograph":
        picture = photographs.crop(layout, split, height, width).astype(np.float32) / 255
        if chance(style, 0.45):  # duotone print
            grey = picture.mean(2, keepdims=True)
            dark, light = np.asarray(colors[0], np.float32) * 0.5, np.asarray(colors[-1])
            picture = dark + grey * (0.4 + 0.6 * light - dark)
        return picture.astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    a, b = np.asarray(colors[0], np.float32), np.asarray(colors[1], np.float32)
    if kind == "gradient":
        angle = layout.uniform(0, 2 * np.pi)
        t = np.cos(angle) * x / width + np.sin(angle) * y / height
        t = (t - t.min()) / (t.max() - t.min())
    elif kind == "waves":
        noise = fractal_noise(layout, height, width, cells=1.6, octaves=2)
        t = (0.5 + 0.5 * np.sin(noise * layout.uniform(12, 34)) > 0.5).astype(np.float32)
    elif kind == "camouflage":
        noise = fractal_noise(layout, height, width, cells=layout.uniform(3, 7), octaves=3)
        levels = np.quantile(noise, [0.33, 0.66])
        index = (noise > levels[0]).astype(int) + (noise > levels[1])
        return np.asarray(colors[:3], np.float32)[index]
    elif kind == "rays":
        cx, cy = layout.uniform(0.2, 0.8) * width, layout.uniform(0.2, 0.8) * height
        t = (np.sin(np.arctan2(y - cy, x - cx) * int(layout.integers(6, 18))) > 0).astype(float)
    elif kind == "checks":
        return fabric(layout, height, width, colors)
    else:
        t = np.zeros_like(x)
    t = t[..., None].astype(np.float32)
    return (a * (1 - t) + b * t).astype(np.float32)


def _shapes(rng, canvas, colors) -> None:
    """Scatter circles, polygons, stripes and lines over the canvas."""
    height, width = canvas.shape[:2]
    scale = min(height, width)
    for _ in range(int(rng.integers(3, 12))):
        color = tuple(float(c) for c in pick(rng, colors))
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        size = rng.uniform(0.06, 0.32) * scale
        kind = int(rng.integers(5))
        if kind == 0:
            cv2.circle(canvas, (x, y), int(size), color, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(canvas, (x, y), int(size), color, max(2, int(size * 0.2)), cv2.LINE_AA)
        elif kind == 2:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            points = np.stack([x + size * 1.3 * np.cos(angles), y + size * 1.3 * np.sin(angles)], 1)
            cv2.fillPoly(canvas, [points.astype(np.int32)], color, cv2.LINE_AA)
        elif kind == 3:
            angle = rng.uniform(0, np.pi)
            dx, dy = np.cos(angle) * scale, np.sin(angle) * scale
            cv2.line(
                canvas,
                (int(x - dx), int(y - dy)),
                (int(x + dx), int(y + dy)),
                color,
                max(2, int(size * 0.3)),
                cv2.LINE_AA,
            )
        else:
            cv2.rectangle(
                canvas,
                (x, y),
                (int(x + size * 1.6), int(y + size * rng.uniform(0.3, 2))),
                color,
                -1,
            )


def draw_print(
    style: np.random.Generator,
    layout: np.random.Generator,
    height: int,
    width: int,
    split: Split,
) -> np.ndarray:
    """Draw a cover, poster, sign or label.

    Args:
        style: generator of palette, fonts and kind of ground.
        layout: generator of everything placed.
        height: pixels.
        width: pixels.
        split: whose photographs may be printed.

    Returns:
        (height, width, 3) float32 RGB in [0, 1].
    """
    colors = palette(style)
    font = pick(style, FONTS)
    kind = pick(
        style,
        (
            "photograph",
            "photograph",
            "photograph",
            "gradient",
            "waves",
            "camouflage",
            "rays",
            "checks",
            "plain",
            "plain",
        ),
    )
    canvas = np.ascontiguousarray(
        _ground(style, layout, height, width, colors, split, kind), np.float32
    )
    photograph = kind == "photograph"
    if not photograph or chance(layout, 0.3):
        _shapes(layout, canvas, colors[1:])
    if not photograph and chance(layout, 0.55):
        h, w = int(height * layout.uniform(0.3, 0.6)), int(width * layout.uniform(0.45, 0.9))
        y, x = int(layout.uniform(0.15, 0.35) * height), int(layout.uniform(0, width - w))
        picture = photographs.crop(layout, split, h, w).astype(np.float32) / 255
        mask = np.ones((h, w), np.float32)
        if chance(layout, 0.35):
            mask = np.zeros((h, w), np.uint8)
            cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 255, -1, cv2.LINE_AA)
            mask = mask.astype(np.float32) / 255
        put(canvas, mask, picture[: canvas.shape[0] - y, : canvas.shape[1] - x], x, y)
    for _ in range(int(layout.integers(0, 3))):
        size = int(min(height, width) * layout.uniform(0.15, 0.42))
        mark, mask = emblem(layout, size, [pick(layout, colors), pick(layout, colors)])
        x, y = layout.uniform(0, width - size), layout.uniform(0, height - size)
        x, y = round(x), round(y)
        part = canvas[y : y + size, x : x + size]
        part += mask[..., None] * (mark - part)
    top = chance(layout, 0.65)
    y1 = height * (layout.uniform(0.04, 0.12) if top else layout.uniform(0.68, 0.78))
    y2 = y1 + height * layout.uniform(0.09, 0.2)
    box = (0.07 * width, y1, 0.93 * width, y2)
    if chance(style, 0.4):
        canvas[int(y1 - 0.02 * height) : int(y2 + 0.02 * height)] = pick(layout, colors)
    text = word(layout) + ("" if chance(layout, 0.6) else " " + word(layout))
    text = text.upper() if chance(style, 0.6) else text.title()
    ink = _readable(colors, canvas[int(y1) : int(y2)])
    title(canvas, layout, text, ink, box, font=font)
    if chance(layout, 0.6):
        line = (0.07 * width, y2 + 0.03 * height, 0.93 * width, y2 + 0.08 * height)
        title(canvas, layout, " ".join(word(layout) for _ in range(3)), ink, line)
    if chance(layout, 0.35):
        y = height * layout.uniform(0.5, 0.75)
        paragraph(
            canvas,
            layout,
            ink,
            (0.08 * width, y, 0.9 * width, y + 0.2 * height),
            line=max(7, height // 32),
        )
    if chance(layout, 0.35):
        edge = max(2, int(0.025 * min(height, width)))
        cv2.rectangle(canvas, (0, 0), (width - 1, height - 1), pick(layout, colors), 2 * edge)
    return np.clip(canvas, 0, 1)


def draw_sign(style: np.random.Generator, layout: np.random.Generator, split: Split) -> np.ndarray:
    """Draw a round, triangular or octagonal sign with an emblem.

    Returns:
        (H, W, 4) float32 RGBA in [0, 1].
    """
    size = 300
    colors = [hsv(style.random(), 0.75, v) for v in (0.8, 0.35)]
    sides = pick(style, (3, 4, 6, 8, 40))
    angles = np.arange(sides) * 2 * np.pi / sides - np.pi / 2 + (np.pi / sides) * (sides in (4, 8))
    outline = np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas = np.zeros((size, size, 3), np.float32)
    alpha = np.zeros((size, size), np.uint8)
    for share, color in ((0.99, colors[0]), (0.86, (0.95, 0.95, 0.92)), (0.8, colors[1])):
        points = np.round((outline * share * size / 2 + size / 2) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [points], color, cv2.LINE_AA, 4)
        if share > 0.9:
            cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, 4)
    picture = draw_print(style, layout, size, size, split)
    disc = np.zeros((size, size), np.uint8)
    points = np.round((outline * 0.74 * size / 2 + size / 2) * 16).astype(np.int32)
    cv2.fillPoly(disc, [points], 255, cv2.LINE_AA, 4)
    if chance(layout, 0.5):
        put(canvas, disc.astype(np.float32) / 255, picture, 0, 0)
    mark, mask = emblem(layout, 140, [(0.96, 0.96, 0.94), colors[0]])
    part = canvas[55:195, 80:220]
    part += mask[..., None] * (mark - part)
    title(canvas, layout, word(layout).upper(), (0.97, 0.97, 0.95), (100, 205, 200, 232), align=0.5)
    return np.dstack([np.clip(canvas, 0, 1), alpha.astype(np.float32) / 255])
