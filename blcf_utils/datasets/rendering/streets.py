"""Street scenes: one building under a sky, with ground, neighbours and things before it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from blcf_utils.datasets.rendering.camera import Camera, over, rotation, warp
from blcf_utils.datasets.rendering.facades import draw_facade, draw_side_wall
from blcf_utils.datasets.rendering.relief import Relief
from blcf_utils.datasets.rendering.seeds import chance, generator
from blcf_utils.datasets.rendering.sprites import draw_sprite
from blcf_utils.datasets.rendering.textures import ground, sky

Name = tuple[str | int, ...]


@lru_cache(maxsize=48)
def facade(style: Name, layout: Name) -> Relief:
    """Return the facade named by its style and layout."""
    return draw_facade(generator(*style), generator(*layout))


@lru_cache(maxsize=16)
def _side(style: Name, height: int, width: int) -> np.ndarray:
    return draw_side_wall(generator(*style), height, width)


def look_at(rng: np.random.Generator, size: tuple[float, float], height: int, width: int) -> Camera:
    """Return a camera on the street that sees a facade of ``size`` (w, h)."""
    w, h = size
    azimuth = float(np.clip(rng.normal(0, 0.42), -0.85, 0.85))
    distance = max(w, h) * rng.uniform(1.0, 2.4)
    eye = rng.uniform(25, 60) if chance(rng, 0.8) else rng.uniform(60, 0.6 * h + 60)
    position = np.array([distance * np.sin(azimuth), -eye, -distance * np.cos(azimuth)])
    target = np.array([rng.normal(0, 0.05) * w, -h * rng.uniform(0.42, 0.56), 0.0])
    ahead = target - position
    yaw = -np.arctan2(ahead[0], ahead[2])
    pitch = np.arctan2(ahead[1], np.hypot(ahead[0], ahead[2]))
    turn = rotation(yaw, pitch, rng.normal(0, 0.03))
    share = rng.uniform(0.68, 1.05)
    center = (width * rng.uniform(0.42, 0.58), height * rng.uniform(0.45, 0.55))
    corners = np.array([[-w / 2, -h, 0], [w / 2, -h, 0], [w / 2, 0, 0], [-w / 2, 0, 0]])
    unit = Camera(1.0, (0.0, 0.0), turn, position).project(corners)
    spread = np.ptp(unit, axis=0)
    focal = share * min(width / spread[0], height / spread[1])
    return Camera(float(focal), center, turn, position)


def _sky_and_ground(rng, camera: Camera, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    rays = np.stack(
        [
            (x - camera.center[0]) / camera.focal,
            (y - camera.center[1]) / camera.focal,
            np.ones_like(x),
        ],
        -1,
    ) @ camera.rotation.astype(np.float32)
    down = rays[..., 1]
    reach = np.where(down > 1e-3, -camera.position[1] / np.maximum(down, 1e-3), 0)
    ground_x = camera.position[0] + reach * rays[..., 0]
    ground_z = camera.position[2] + reach * rays[..., 2]
    texture = ground(rng, 512, 512)
    color = cv2.remap(
        texture,
        (ground_x * 2.2).astype(np.float32),
        (ground_z * 2.2).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    mean = texture.mean(axis=(0, 1))
    # One texture pixel covers less than an image pixel far away: fade to the mean, not to noise.
    far = np.clip(reach * 2.2 / camera.focal - 1.0, 0, 1)[..., None]
    color = color * (1 - far) + mean * far
    above = sky(rng, height, width)
    cover = np.clip((down - 1e-3) * camera.focal, 0, 1)[..., None]
    return (above * (1 - cover) + color * cover).astype(np.float32)


def _standing(camera: Camera, x: float, z: float, height: float, aspect: float) -> np.ndarray:
    """Return the corners of an upright picture that faces the camera."""
    right = camera.rotation[0] * (1, 0, 1)
    right = right / np.linalg.norm(right) * height * aspect / 2
    foot = np.array([x, 0.0, z])
    up = np.array([0, -height, 0])
    return camera.project(
        np.stack([foot - right + up, foot + right + up, foot + right, foot - right])
    )


def street_scene(
    rng: np.random.Generator,
    style: Name | None,
    layout: Name | None,
    fillers: tuple[tuple[Name, Name], ...],
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Render a building in a street.

    Args:
        rng: generator of viewpoint, light and everything around the building.
        style: name of the building's style; None leaves its place empty.
        layout: name of the building's layout.
        fillers: styles and layouts of buildings that may stand beside it.
        height: pixels.
        width: pixels.

    Returns:
        (height, width, 3) float32 RGB in [0, 1] and the building's visible coverage
        (height, width) float32.
    """
    main = facade(style, layout) if style and layout else None
    h, w = main.alpha.shape if main else (int(rng.integers(250, 420)), int(rng.integers(280, 500)))
    camera = look_at(rng, (w, h), height, width)
    image = _sky_and_ground(rng, camera, height, width)
    seen = np.zeros((height, width), np.float32)
    sun = (
        rng.uniform(-1, 1),
        rng.uniform(0.3, 1.0),
        0.0 if chance(rng, 0.3) else rng.uniform(0.4, 1),
    )

    def draw(picture: np.ndarray, points: np.ndarray, light: float = 1.0) -> np.ndarray:
        color, alpha = warp(picture, camera.project(points), height, width)
        over(image, np.clip(color.astype(np.float32) / 255 * light, 0, 1), alpha)
        return alpha

    def front(x: float, z: float, wide: float, high: float) -> np.ndarray:
        return np.array(
            [
                [x - wide / 2, -high, z],
                [x + wide / 2, -high, z],
                [x + wide / 2, 0, z],
                [x - wide / 2, 0, z],
            ]
        )

    for side in (-1, 1):
        if not fillers or chance(rng, 0.4):
            continue
        name = fillers[int(rng.integers(len(fillers)))]
        other = facade(*name)
        oh, ow = other.alpha.shape
        gap = rng.uniform(-4, 0.5 * w)
        draw(other.lit(*sun), front(side * (w / 2 + gap + ow / 2), rng.uniform(0, 60), ow, oh))
    if main is None and fillers and chance(rng, 0.6):
        other = facade(*fillers[int(rng.integers(len(fillers)))])
        oh, ow = other.alpha.shape
        draw(other.lit(*sun), front(0, rng.uniform(100, 400), ow, oh))
    if main is not None:
        if abs(camera.position[0]) > w / 2:
            side = np.sign(camera.position[0])
            depth, tall = 0.6 * w, 0.72 * h
            x = side * (w / 2 - 32)
            near, far = (0, depth) if side > 0 else (depth, 0)
            wall = _side(style, int(tall), int(depth))
            draw(
                wall,
                np.array([[x, -tall, near], [x, -tall, far], [x, 0, far], [x, 0, near]]),
                0.7 + 0.25 * sun[0] * side,
            )
        seen = draw(main.lit(*sun), front(0, 0, w, h))
    for _ in range(int(rng.integers(0, 6))):
        picture, tall = draw_sprite(rng)
        aspect = picture.shape[1] / picture.shape[0]
        x, z = rng.uniform(-0.8, 0.8) * w, -rng.uniform(15, 0.5 * max(w, h))
        corners = _standing(camera, x, z, tall, aspect)
        color, alpha = warp(picture, corners, height, width)
        # An occluder that would hide too much of the building is left out.
        if main is not None and (alpha * seen).sum() > 0.3 * seen.sum():
            continue
        over(image, color.astype(np.float32) / 255, alpha)
        seen = seen * (1 - alpha)
    haze = rng.uniform(0, 0.12)
    image += haze * (np.float32([0.8, 0.84, 0.9]) - image)
    return np.clip(image, 0, 1), seen
