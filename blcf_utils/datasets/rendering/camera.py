"""A pinhole camera for textured planes in space, and the compositing of what it sees."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: x right, y down, z away from the viewer.

    Attributes:
        focal: focal length in pixels.
        center: principal point (x, y) in pixels.
        rotation: (3, 3) world to camera.
        position: (3,) of the camera in the world.
    """

    focal: float
    center: tuple[float, float]
    rotation: np.ndarray
    position: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels of world ``points`` (N, 3) as (N, 2) float32."""
        seen = (np.asarray(points, float) - self.position) @ self.rotation.T
        depth = np.maximum(seen[:, 2:], 1e-3)
        return (seen[:, :2] / depth * self.focal + self.center).astype(np.float32)


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Return the rotation matrix that turns by yaw (about y), pitch (x), then roll (z), radians."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def warp(
    texture: np.ndarray, corners: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a rectangular texture into a quadrilateral of an empty image.

    Args:
        texture: (h, w, 4) uint8 RGBA.
        corners: (4, 2) pixels of the texture's corners, clockwise from top left.
        height: of the image.
        width: of the image.

    Returns:
        colour (height, width, 3) uint8 and alpha (height, width) float32 in [0, 1].
    """
    h, w = texture.shape[:2]
    area = abs(cv2.contourArea(corners.astype(np.float32)))
    # Shrinking first keeps windows and letters from aliasing; warpPerspective has no area mode.
    shrink = np.sqrt(max(area, 1.0) / (h * w)) * 1.25
    if shrink < 1:
        w, h = max(2, round(w * shrink)), max(2, round(h * shrink))
        texture = cv2.resize(texture, (w, h), interpolation=cv2.INTER_AREA)
    source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    size = (width, height)
    color = cv2.warpPerspective(
        np.ascontiguousarray(texture[..., :3]),
        matrix,
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    alpha = cv2.warpPerspective(
        np.ascontiguousarray(texture[..., 3]), matrix, size, flags=cv2.INTER_LINEAR
    )
    return color, alpha.astype(np.float32) / 255


def over(below: np.ndarray, color: np.ndarray, alpha: np.ndarray) -> None:
    """Lay ``color`` (H, W, 3) in [0, 1] with ``alpha`` (H, W) onto ``below``, in place."""
    below += alpha[..., None] * (color - below)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return (x1, y1, x2, y2) around a boolean mask, the far edges exclusive; None when empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
