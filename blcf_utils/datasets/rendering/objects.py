"""Objects with a printed surface: flat prints, signs, packages with three faces, cans and mugs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from blcf_utils.datasets.rendering.camera import Camera, over, rotation, warp
from blcf_utils.datasets.rendering.photographs import Split
from blcf_utils.datasets.rendering.printed import draw_print, draw_sign
from blcf_utils.datasets.rendering.seeds import chance, pick
from blcf_utils.datasets.rendering.textures import fractal_noise, hsv, palette
from blcf_utils.datasets.rendering.typography import emblem, put

KINDS = ("print", "print", "print", "sign", "box", "box", "box", "can", "mug")


@dataclass(frozen=True)
class Thing:
    """An object.

    Attributes:
        kind: print, sign, box, can or mug.
        size: width, height and depth in texture pixels.
        faces: uint8 RGBA textures: the front; for a box the side and the top as well; for a can
            or mug the unrolled surface.
        tint: RGB of lid, handle or inside.
    """

    kind: str
    size: tuple[int, int, int]
    faces: tuple[np.ndarray, ...]
    tint: tuple[float, float, float] = (0.7, 0.7, 0.7)


@dataclass(frozen=True)
class Pose:
    """How an object is seen.

    Attributes:
        center: pixel (x, y) of its middle.
        extent: length of its diagonal in pixels.
        yaw, pitch, roll: radians.
        turn: rotation of a can about its own axis, radians.
        nearness: object diagonal by viewing distance: strength of the perspective.
    """

    center: tuple[float, float]
    extent: float
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    turn: float = 0.0
    nearness: float = 0.3


def _opaque(color: np.ndarray) -> np.ndarray:
    rgba = np.full((*color.shape[:2], 4), 255, np.uint8)
    rgba[..., :3] = np.clip(color * 255, 0, 255).round()
    return rgba


def draw_object(
    style: np.random.Generator, layout: np.random.Generator, split: Split, kind: str | None = None
) -> Thing:
    """Draw an object of one of ``KINDS``.

    Args:
        style: generator of kind, proportions and print style.
        layout: generator of what is printed.
        split: whose photographs may be printed.
        kind: the kind, drawn when None.
    """
    kind = kind or pick(style, KINDS)
    if kind == "sign":
        picture = draw_sign(style, layout, split)
        return Thing(kind, (300, 300, 0), ((picture * 255).round().astype(np.uint8),))
    height = int(style.integers(240, 380))
    if kind == "print":
        width = int(height * style.uniform(0.6, 1.35))
        return Thing(
            kind, (width, height, 0), (_opaque(draw_print(style, layout, height, width, split)),)
        )
    if kind == "box":
        width, depth = int(height * style.uniform(0.5, 1.3)), int(height * style.uniform(0.2, 0.7))
        key = int(style.integers(2**31))
        front, side, top = (
            _opaque(draw_print(np.random.default_rng(key), layout, h, w, split))
            for h, w in ((height, width), (height, depth), (depth, width))
        )
        return Thing(kind, (width, height, depth), (front, side, top))
    diameter = int(height * (style.uniform(0.5, 0.75) if kind == "can" else style.uniform(0.8, 1)))
    around = int(diameter * np.pi)
    colors = palette(style)
    if kind == "can":
        label = np.tile(draw_print(style, layout, height, around // 2, split), (1, 2, 1))
        tint = hsv(0.6, 0.03, style.uniform(0.6, 0.8))
    else:  # a mug is nearly textureless: one colour, an emblem, perhaps a band
        label = np.empty((height, 2 * (around // 2), 3), np.float32)
        label[:] = colors[0]
        for _ in range(int(layout.integers(0, 3))):
            y, thick = layout.uniform(0.05, 0.9) * height, layout.uniform(0.03, 0.1) * height
            label[int(y) : int(y + thick)] = pick(layout, colors)
        size = int(height * layout.uniform(0.35, 0.6))
        mark, mask = emblem(layout, size, [pick(layout, colors[1:]), colors[-1]])
        for side in (0, 1):  # the front is at a quarter of the unrolled surface
            x = around * (0.25 + 0.5 * side) - size / 2
            put(label, mask, mark, x, height * 0.5 - size / 2)
        tint = colors[0]
    return Thing(kind, (diameter, height, diameter), (_opaque(label),), tint)


def random_pose(
    rng: np.random.Generator, thing: Thing, center, extent: float, *, roll=0.45
) -> Pose:
    """Return a random pose that keeps the object recognisable.

    Args:
        rng: generator.
        thing: the object.
        center: pixel (x, y).
        extent: diagonal in pixels.
        roll: largest rotation in the image plane, radians.
    """
    sign = 1 if chance(rng, 0.5) else -1
    if thing.kind == "box":
        yaw, pitch = sign * rng.uniform(0.25, 0.85), rng.uniform(0.2, 0.6)
        roll *= 0.5
    elif thing.kind in ("can", "mug"):
        yaw, pitch = 0.0, rng.uniform(0.1, 0.5)
        roll *= 0.5
    else:
        yaw, pitch = rng.uniform(-0.8, 0.8), rng.uniform(-0.55, 0.55)
    return Pose(
        center,
        extent,
        yaw,
        pitch,
        float(rng.uniform(-roll, roll)),
        float(rng.uniform(-0.6, 0.6)),
        float(rng.uniform(0.15, 0.6)),
    )


def _cylinder(thing: Thing, pitch: float, turn: float) -> np.ndarray:
    """Return a can or mug seen from slightly above, uint8 RGBA."""
    diameter, height, _ = thing.size
    texture = thing.faces[0]
    squash = np.sin(pitch)
    rim = int(np.ceil(diameter / 2 * squash)) + 1
    pad = int(0.4 * diameter) if thing.kind == "mug" else 2
    rows, columns = height + 2 * rim, diameter + 2 * pad
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    across = np.clip((x - pad - diameter / 2) / (diameter / 2), -1, 1)
    theta = np.arcsin(across)
    front = np.sqrt(1 - across**2)
    v = y - rim - front * rim
    inside = (np.abs(x - pad - diameter / 2) <= diameter / 2) & (v >= -1) & (v <= height)
    # The front of the print is at a quarter of the unrolled surface (it is repeated twice).
    u = (theta + turn) / (2 * np.pi) * texture.shape[1] + texture.shape[1] * 0.25
    color = cv2.remap(
        texture, u, np.clip(v, 0, height - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )[..., :3].astype(np.float32)
    light = 0.5 + 0.55 * np.clip(np.cos(theta + 0.5), 0, 1)
    shine = 60 * np.exp(-((across + 0.45) ** 2) / 0.01)
    out = np.zeros((rows, columns, 4), np.float32)
    tint = np.asarray(thing.tint, np.float32) * 255
    if thing.kind == "mug":
        side = 1 if turn > 0 else -1
        cx = int(pad + diameter / 2 + side * diameter * 0.5)
        cv2.ellipse(
            out,
            (cx, rows // 2),
            (int(pad * 0.8), int(height * 0.28)),
            0,
            0,
            360,
            (*(0.8 * tint).tolist(), 255),
            max(6, diameter // 12),
            cv2.LINE_AA,
        )
    cover = inside[..., None].astype(np.float32)
    body = np.dstack([color * light[..., None] + shine[..., None], np.full_like(x, 255)])
    out = out * (1 - cover) + body * cover
    axes = (diameter // 2, max(1, rim - 1))
    middle = (pad + diameter // 2, rim)
    cv2.ellipse(
        out, middle, axes, 0, 0, 360, (*np.minimum(tint * 1.1, 255).tolist(), 255), -1, cv2.LINE_AA
    )
    inner = tuple(int(a * 0.88) for a in axes)
    dark = 0.45 if thing.kind == "mug" else 0.85
    cv2.ellipse(out, middle, inner, 0, 0, 360, (*(tint * dark).tolist(), 255), -1, cv2.LINE_AA)
    return np.clip(out, 0, 255).astype(np.uint8)


def render_object(
    thing: Thing, pose: Pose, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an object into an empty image.

    Returns:
        colour (height, width, 3) float32 in [0, 1] and alpha (height, width) float32.
    """
    w, h, d = thing.size
    faces = thing.faces
    if thing.kind in ("can", "mug"):
        picture = _cylinder(thing, pose.pitch, pose.turn)
        faces, (h, w), d = (picture,), picture.shape[:2], 0
    diagonal = float(np.sqrt(w * w + h * h + d * d))
    distance = diagonal / pose.nearness
    flat = len(faces) == 1 and thing.kind in ("can", "mug")
    yaw, pitch = (0.0, 0.0) if flat else (pose.yaw, pose.pitch)
    camera = Camera(
        pose.extent * distance / diagonal, pose.center, np.eye(3), np.array([0, 0, -distance])
    )
    turn = rotation(yaw, pitch, pose.roll)
    x, y, z = w / 2, h / 2, d / 2
    side = x if yaw > 0 else -x
    quads = [[[-x, -y, -z], [x, -y, -z], [x, y, -z], [-x, y, -z]]]
    if len(faces) == 3:
        near, far = (-z, z) if side > 0 else (z, -z)
        quads.append([[side, -y, near], [side, -y, far], [side, y, far], [side, y, near]])
        quads.append([[-x, -y, z], [x, -y, z], [x, -y, -z], [-x, -y, -z]])
    color = np.zeros((height, width, 3), np.float32)
    alpha = np.zeros((height, width), np.float32)
    for texture, quad, light in zip(faces, quads, (1.0, 0.72, 1.12), strict=False):
        points = np.asarray(quad, float) @ turn.T
        normal = np.cross(points[1] - points[0], points[3] - points[0])
        if thing.kind == "box" and normal @ (points.mean(0) - camera.position) < 0:
            continue
        face, cover = warp(texture, camera.project(points), height, width)
        over(color, np.clip(face.astype(np.float32) / 255 * light, 0, 1), cover)
        alpha = np.maximum(alpha, cover)
    # Colour was blended onto black at the outline; undo it so the edge does not look dark.
    edge = (alpha > 0.02) & (alpha < 1)
    color[edge] = np.clip(color[edge] / alpha[edge][:, None], 0, 1)
    return color, alpha


def gloss(rng: np.random.Generator, color: np.ndarray, alpha: np.ndarray) -> None:
    """Add a soft reflection to an object, in place."""
    h, w = alpha.shape
    sheen = fractal_noise(rng, h, w, cells=1.5, octaves=2)
    strength = rng.uniform(0, 0.3)
    color += (strength * np.clip(sheen - 0.55, 0, 1) * 2 * (alpha > 0))[..., None] * (1 - color)
