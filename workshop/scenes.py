"""Rendered scenes with fixation-like targets, for training small saliency networks.

Nobody looked at these scenes: a target is made from what was drawn. With ``M_i`` the visible
mask of object ``i``, ``A_i`` its area, ``w_i`` its weight (1 for a main object, 0.2 for the small
things behind), ``G(s)`` a Gaussian blur and ``W`` the image's width, the density is

    D = sum_i w_i sqrt(A_i) N(G(s_i) * M_i),    s_i = clip(0.15 sqrt(A_i), 0.02 W, 0.1 W),

where ``N`` divides by the sum: a larger object attracts more looks, less than in proportion to
its area, and looks gather in its middle. The target adds a weak centre bias,

    T = 0.9 N(D) + 0.1 N(C),    C a Gaussian in the middle, sigma = a quarter of each side,

and is ``N(C)`` alone where a scene shows nothing. Scenes are drawn from generators named
``("saliency", ...)`` and from photographs of the pretraining split, so that they share no
instance and no photograph with the rendered benchmarks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from blcf_utils.datasets.rendering import photographs
from blcf_utils.datasets.rendering.camera import over
from blcf_utils.datasets.rendering.objects import (
    Thing,
    draw_object,
    gloss,
    random_pose,
    render_object,
)
from blcf_utils.datasets.rendering.parallel import run_all
from blcf_utils.datasets.rendering.photography import expose
from blcf_utils.datasets.rendering.seeds import chance, generator, pick
from blcf_utils.datasets.rendering.streets import street_scene
from blcf_utils.datasets.rendering.textures import fractal_noise, ground, palette, sky, surface
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError
from workshop.fractals import draw_fractal

# Goes up whenever the pixels or the targets of the same seed change.
SCENES_VERSION = 1
HEIGHT, WIDTH = 192, 256
REDUCTION = 4  # of the stored densities
CENTRE_SHARE = 0.1

Part = Literal["training", "held-out"]
Name = tuple[str | int, ...]

_CHUNK = 16
_FILLERS, _THINGS = 24, 80
_CLUTTER_WEIGHT = 0.2
# Of a main object, at least this share stays visible behind what lies over it.
_VISIBLE = 0.5
# Largest extent of a main object by the number of main objects, as a share of the shorter side.
_LARGEST = {1: 1.15, 2: 0.8, 3: 0.6, 4: 0.5}
_SUBJECTLESS = (
    "skimage/grass.png",
    "skimage/moon.png",
    "skimage/hubble_deep_field.jpg",
    "skimage/ihc.png",
    "skimage/retina.jpg",
    "skimage/text.png",
)


@dataclass(frozen=True)
class SaliencyScenes:
    """Rendered scenes, memory-mapped and read-only.

    Attributes:
        images: (N, 192, 256, 3) uint8 RGB.
        densities: (N, 48, 64) float16, the density D divided by its maximum; zero where a scene
            shows nothing.
        folder: where they lie.
    """

    images: np.ndarray
    densities: np.ndarray
    folder: Path


def centre_prior(height: int, width: int) -> torch.Tensor:
    """Return the centre bias N(C) of a map (height, width), summing to 1."""
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / width - 0.5
    bump = torch.exp(-8 * y[:, None] ** 2) * torch.exp(-8 * x[None, :] ** 2)
    return bump / bump.sum()


def targets_of(densities: torch.Tensor) -> torch.Tensor:
    """Return the targets T of densities: centre bias added, each map summing to 1.

    Args:
        densities: (..., h, w), at any scale; all zero where nothing is shown.
    """
    densities = densities.float()
    total = densities.sum((-2, -1), keepdim=True)
    prior = centre_prior(*densities.shape[-2:]).to(densities.device)
    shown = densities / total.clamp(min=1e-12)
    mixed = (1 - CENTRE_SHARE) * shown + CENTRE_SHARE * prior
    return torch.where(total > 1e-12, mixed, prior)


@lru_cache(maxsize=2 * _THINGS)
def _pooled_thing(name: Name) -> Thing:
    return draw_object(generator(*name, "style"), generator(*name, "layout"), "pretraining")


def _photograph(
    rng, height: int, width: int, names: tuple[str, ...], smallest: float
) -> np.ndarray:
    picture = photographs.crop(rng, "pretraining", height, width, names=names, smallest=smallest)
    if chance(rng, 0.25):  # thirteen photographs are few: other colours make more of them
        picture = picture[..., rng.permutation(3)]
    return picture.astype(np.float32) / 255


def _background(rng, height: int, width: int) -> np.ndarray:
    kind = rng.random()
    if kind < 0.4:
        # A photograph with a subject stays out of focus: what it shows is not in the target.
        subject = chance(rng, 0.5)
        names = photographs.SCENES["pretraining"] if subject else _SUBJECTLESS
        softness = rng.uniform(4, 8) if subject else rng.uniform(0.3, 2.5)
        return cv2.GaussianBlur(_photograph(rng, height, width, names, 0.15), (0, 0), softness)
    if kind < 0.55:  # a plain wall, studio paper, fog
        image = np.empty((height, width, 3), np.float32)
        image[:] = pick(rng, palette(rng))
        shade = fractal_noise(rng, height, width, cells=1.5, octaves=2)
        return image * (1 + rng.uniform(0, 0.4) * (shade - 0.5))[..., None]
    edge = int(height * rng.uniform(0.2, 0.65))
    if kind < 0.7:  # a landscape
        return np.concatenate([sky(rng, edge, width), ground(rng, height - edge, width)])
    image = surface(rng, height, width)
    if chance(rng, 0.4):  # a wall above a table
        image[:edge] = surface(rng, edge, width) * rng.uniform(0.7, 1.0)
        image[edge : edge + 2] *= 0.6
    return image


def _blob(rng, center, extent: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a body of random outline and material; return colour and coverage."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angles)
    for harmonic in range(2, 7):
        radius += rng.normal(0, 0.35 / harmonic) * np.sin(
            harmonic * angles + rng.uniform(0, 2 * np.pi)
        )
    radius = np.maximum(radius, 0.25) / radius.max() * extent / 2
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.45, 1.0)
    along, across = radius * np.cos(angles), radius * np.sin(angles) * flat
    x = center[0] + along * np.cos(turn) - across * np.sin(turn)
    y = center[1] + along * np.sin(turn) + across * np.cos(turn)
    mask = np.zeros((height, width), np.uint8)
    outline = np.round(np.stack([x, y], 1) * 16).astype(np.int32)
    cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, 4)
    side = max(16, int(extent))
    kind = rng.random()
    if kind < 0.35:
        texture = _photograph(rng, side, side, photographs.SCENES["pretraining"], 0.08)
    elif kind < 0.5:
        texture = surface(rng, side, side)
    elif kind < 0.6:
        texture = draw_fractal(rng, side, side)
    else:
        texture = np.empty((side, side, 3), np.float32)
        colors = palette(rng)
        texture[:] = colors[0]
        for color in colors[1 : int(rng.integers(1, 4))]:
            patch = fractal_noise(rng, side, side, cells=2, octaves=2) > rng.uniform(0.5, 0.75)
            texture[patch] = color
    color = np.zeros((height, width, 3), np.float32)
    x0, y0 = int(center[0] - side / 2), int(center[1] - side / 2)
    xs, ys = (
        np.clip(np.arange(width) - x0, 0, side - 1),
        np.clip(np.arange(height) - y0, 0, side - 1),
    )
    color[:] = texture[ys[:, None], xs[None, :]]
    # Light from one side and darker towards the outline, as on a round body.
    depth = cv2.GaussianBlur(mask, (0, 0), max(1.0, extent * 0.12)).astype(np.float32) / 255
    tilt = rng.uniform(-0.6, 0.6)
    light = 0.55 + 0.5 * depth + tilt * (np.arange(width, dtype=np.float32) - center[0]) / extent
    return np.clip(color * np.clip(light, 0.2, 1.4)[..., None], 0, 1), mask.astype(np.float32) / 255


class _Canvas:
    """A picture under construction and the visible coverage of each object on it."""

    def __init__(self, image: np.ndarray):
        self.image = np.ascontiguousarray(image, np.float32)
        self.masks: list[np.ndarray] = []
        self.weights: list[float] = []

    def lay(self, rng, name: Name, center, extent: float, weight: float) -> None:
        """Lay an object with its soft shadow, unless it would hide too much of a main one."""
        height, width = self.image.shape[:2]
        if chance(rng, 0.35):
            color, alpha = _blob(rng, center, extent, height, width)
        else:
            thing = _pooled_thing(name)
            color, alpha = render_object(
                thing, random_pose(rng, thing, center, extent), height, width
            )
            gloss(rng, color, alpha)
        for mask, given in zip(self.masks, self.weights, strict=True):
            if given == 1 and (mask * alpha).sum() > (1 - _VISIBLE) * mask.sum():
                return
        blur = max(1.0, extent * 0.04)
        shift = np.float32([[1, 0, rng.uniform(-1, 1) * extent * 0.05], [0, 1, extent * 0.05]])
        shadow = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), blur), shift, (width, height))
        self.image *= 1 - rng.uniform(0, 0.5) * shadow[..., None]
        over(self.image, np.clip(color, 0, 1), alpha)
        self.masks = [mask * (1 - alpha) for mask in self.masks] + [alpha]
        self.weights.append(weight)


def _objects(rng, name: Name, pool: Name, height: int, width: int, main: int) -> _Canvas:
    canvas = _Canvas(_background(rng, height, width))
    short = min(height, width)

    def small() -> None:
        place = (*pool, "thing", int(rng.integers(_THINGS)))
        center = (rng.uniform(0, width), rng.uniform(0, height))
        canvas.lay(rng, place, center, short * rng.uniform(0.1, 0.3), _CLUTTER_WEIGHT)

    for _ in range(int(rng.integers(0, 5)) if chance(rng, 0.7) else 0):
        small()
    for number in range(main):
        extent = short * rng.uniform(0.25, _LARGEST[main])
        margin = 0.35 * extent
        center = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
        canvas.lay(rng, (*name, "object", number), center, extent, 1.0)
    return canvas


def _street(rng, name: Name, pool: Name, height: int, width: int, empty: bool) -> _Canvas:
    # A window of a larger picture: the building stands anywhere, and smaller.
    tall, wide = (int(side * rng.uniform(1.0, 1.6)) for side in (height, width))
    fillers = tuple(
        ((*pool, "facade", i, "style"), (*pool, "facade", i, "layout")) for i in range(_FILLERS)
    )
    subject = (None, None) if empty else ((*name, "style"), (*name, "layout"))
    # A neighbour would be the subject of a street without one.
    image, seen = street_scene(rng, *subject, () if empty else fillers, tall, wide)
    for _ in range(10):
        y, x = int(rng.integers(tall - height + 1)), int(rng.integers(wide - width + 1))
        window = np.s_[y : y + height, x : x + width]
        if seen[window].sum() >= 0.6 * seen.sum():
            break
    canvas = _Canvas(image[window])
    if not empty:
        canvas.masks, canvas.weights = [seen[window]], [1.0]
    return canvas


def density_of(masks: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Return the density D of objects (see the module), float32 (H, W).

    Args:
        masks: visible coverage of each object, (H, W) float32 in [0, 1]; at least one.
        weights: of each object.
    """
    total = np.zeros_like(masks[0])
    width = total.shape[1]
    for mask, weight in zip(masks, weights, strict=True):
        area = float(mask.sum())
        if area < 1:
            continue
        sigma = float(np.clip(0.15 * np.sqrt(area), 0.02 * width, 0.1 * width))
        # What the blur carries over the border is lost, and the sum is restored.
        spread = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        total += weight * np.sqrt(area) * spread / spread.sum()
    return total


def draw_scene(seed: int, part: Part, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        seed: of everything drawn.
        part: training or held-out; the two share no object and no building.
        index: number of the scene.

    Returns:
        image (192, 256, 3) uint8 RGB and density D (192, 256) float32, all zero where the scene
        shows nothing.
    """
    pool = ("saliency", seed, part)
    name = (*pool, "scene", index)
    rng = generator(*name)
    kind = rng.random()
    if kind < 0.5:
        canvas = _objects(rng, name, pool, HEIGHT, WIDTH, main=int(rng.integers(1, 5)))
    elif kind < 0.54:
        canvas = _Canvas(_background(rng, HEIGHT, WIDTH))
    else:
        canvas = _street(rng, name, pool, HEIGHT, WIDTH, empty=kind > 0.96)
    density = np.zeros((HEIGHT, WIDTH), np.float32)
    if canvas.masks:
        density = density_of(canvas.masks, canvas.weights)
    return expose(rng, np.clip(canvas.image, 0, 1)), density


def _render_chunk(start: int, *, folder: str, seed: int, part: Part) -> None:
    images = np.load(Path(folder, "images.partial.npy"), mmap_mode="r+")
    densities = np.load(Path(folder, "densities.partial.npy"), mmap_mode="r+")
    for index in range(start, min(start + _CHUNK, len(images))):
        image, density = draw_scene(seed, part, index)
        small = cv2.resize(density, densities.shape[:0:-1], interpolation=cv2.INTER_AREA)
        images[index] = image
        densities[index] = small / max(float(small.max()), 1e-12)
    images.flush()
    densities.flush()


def render_scenes(
    folder: Path, *, scenes: int, seed: int = 0, part: Part = "training", workers: int | None = None
) -> SaliencyScenes:
    """Render scenes, or reuse those of the same recipe that lie in ``folder``.

    Args:
        folder: gets ``images.npy``, ``densities.npy`` and ``scenes.json``.
        scenes: how many.
        seed: of everything drawn.
        part: training or held-out.
        workers: processes; all cores when None. The pixels do not depend on it.

    Raises:
        StudyError: ``folder`` holds scenes of another recipe.
    """
    folder = Path(folder)
    recipe = {"version": SCENES_VERSION, "scenes": scenes, "seed": seed, "part": part}
    described = folder / "scenes.json"
    if described.is_file():
        found = json.loads(described.read_text(encoding="utf-8"))
        if found != recipe:
            raise StudyError(
                f"{described}: expected the recipe {recipe}, found {found}; name another folder "
                "or delete this one"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        shapes = {
            "images": (np.uint8, (scenes, HEIGHT, WIDTH, 3)),
            "densities": (np.float16, (scenes, HEIGHT // REDUCTION, WIDTH // REDUCTION)),
        }
        for name, (dtype, shape) in shapes.items():
            path = folder / f"{name}.partial.npy"
            np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
        run_all(
            partial(_render_chunk, folder=str(folder), seed=seed, part=part),
            range(0, scenes, _CHUNK),
            workers=workers,
            label=f"{part} scenes",
            unit="chunk",
        )
        for name in shapes:
            (folder / f"{name}.partial.npy").replace(folder / f"{name}.npy")
        write_json(described, recipe)
    return SaliencyScenes(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "densities.npy", mmap_mode="r"),
        folder,
    )
