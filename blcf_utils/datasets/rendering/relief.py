"""A flat surface with relief: painted parts that cast shadows when the sun moves."""

from __future__ import annotations

import cv2
import numpy as np

# Polygon vertices are passed to OpenCV with this many fractional bits.
_SHIFT = 4


class Relief:
    """Albedo, height and coverage of a facade, painted part by part.

    Attributes:
        albedo: (H, W, 3) float32 RGB in [0, 1].
        height: (H, W) float32, pixels towards the viewer.
        alpha: (H, W) float32 in [0, 1], what belongs to the surface.
    """

    def __init__(self, height: int, width: int):
        self.albedo = np.zeros((height, width, 3), np.float32)
        self.height = np.zeros((height, width), np.float32)
        self.alpha = np.zeros((height, width), np.float32)

    def paint(self, polygon, color, level: float | None = None) -> None:
        """Fill a polygon.

        Args:
            polygon: (N, 2) vertices in pixels.
            color: RGB in [0, 1], or a texture (H, W, 3) as large as the surface.
            level: new height of the part; None leaves the relief as it is.
        """
        points = np.asarray(polygon, np.float32)
        rows, columns = self.alpha.shape
        x1, y1 = np.floor(points.min(0)).astype(int) - 1
        x2, y2 = np.ceil(points.max(0)).astype(int) + 2
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, columns), min(y2, rows)
        if x1 >= x2 or y1 >= y2:
            return
        mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
        fixed = np.round((points - (x1, y1)) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
        cover = mask.astype(np.float32) / 255
        area = np.s_[y1:y2, x1:x2]
        paint = np.asarray(color, np.float32)
        if paint.ndim == 3:
            paint = paint[area]
        self.albedo[area] += cover[..., None] * (paint - self.albedo[area])
        if level is not None:
            self.height[area] += cover * (level - self.height[area])
        self.alpha[area] = np.maximum(self.alpha[area], cover)

    def lit(self, direction: float, elevation: float, strength: float) -> np.ndarray:
        """Return the surface under a sun.

        Args:
            direction: -1 (from the left) to 1 (from the right).
            elevation: 0 (horizon) to 1 (steep); steep light throws longer shadows downwards.
            strength: 0 (overcast: no shadows) to 1.

        Returns:
            (H, W, 4) uint8 RGBA.
        """
        rows, columns = self.alpha.shape
        shadow = np.zeros_like(self.height)
        slope = np.zeros_like(self.height)
        for step in range(1, 6):
            shift = np.float32([[1, 0, -direction * step], [0, 1, elevation * step]])
            moved = cv2.warpAffine(
                self.height, shift, (columns, rows), borderMode=cv2.BORDER_REPLICATE
            )
            shadow = np.maximum(shadow, np.clip(moved - self.height - 0.8 * step, 0, 1.5) / 1.5)
            if step == 1:
                slope = np.clip(self.height - moved, -2, 2)
        shade = (1 - 0.55 * strength * shadow) * (1 + 0.12 * strength * slope)
        color = np.clip(self.albedo * shade[..., None], 0, 1)
        return np.dstack([color * 255, self.alpha * 255]).round().astype(np.uint8)

    def cropped(self) -> Relief:
        """Return the part that is covered."""
        rows, columns = np.flatnonzero(self.alpha.max(1) > 0), np.flatnonzero(self.alpha.max(0) > 0)
        area = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = Relief(1, 1)
        part.albedo, part.height, part.alpha = (
            np.ascontiguousarray(x[area]) for x in (self.albedo, self.height, self.alpha)
        )
        return part


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Return the corners of a rectangle, clockwise."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


def opening(kind: str, cx: float, top: float, width: float, height: float) -> np.ndarray:
    """Return the outline of a window or door.

    Args:
        kind: rect, arch (round), pointed (Gothic), segment (flat arch) or round.
        cx: centre x in pixels.
        top: y of the highest point.
        width: pixels.
        height: pixels.
    """
    half = width / 2
    if kind == "round":
        angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        return np.stack(
            [cx + half * np.cos(angles), top + height / 2 + height / 2 * np.sin(angles)], 1
        )
    t = np.linspace(0, 1, 9)
    if kind == "arch":
        angles = np.pi * (1 - t)
        curve = np.stack([half * np.cos(angles), half - half * np.sin(angles)], 1)
    elif kind == "pointed":
        rise = 0.85 * width
        left = np.stack([-half * (1 - t) ** 1.0, rise * (1 - np.sin(t * np.pi / 2))], 1)
        left[:, 0] = -half * np.cos(t * np.pi / 2) ** 0.8
        curve = np.concatenate([left, left[::-1][1:] * (-1, 1)])
    elif kind == "segment":
        curve = np.stack([half * (2 * t - 1), 0.2 * width * (2 * t - 1) ** 2], 1)
    else:
        curve = np.array([[-half, 0], [half, 0]])
    foot = np.array([[half, height], [-half, height]])
    outline = np.concatenate([curve, foot])
    return outline + np.array([cx, top])
