"""Views of instances that no benchmark contains, for training ``vgg-mini``.

Seeds and photographs are disjoint from those of the benchmark (``photographs.SCENES``). An
instance is an object, a facade, a piece of a photograph, a fractal or a piece of a material; its
views differ in pose, scale, background, light and camera.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from blcf_utils.datasets.rendering import photographs
from blcf_utils.datasets.rendering.camera import over, rotation, warp
from blcf_utils.datasets.rendering.facades import draw_facade
from blcf_utils.datasets.rendering.objects import draw_object, gloss, random_pose, render_object
from blcf_utils.datasets.rendering.parallel import run_all
from blcf_utils.datasets.rendering.photography import expose
from blcf_utils.datasets.rendering.seeds import chance, generator, pick
from blcf_utils.datasets.rendering.textures import surface
from blcf_utils.ground.errors import StudyError
from workshop.fractals import draw_fractal

PRETRAINING_VERSION = 1
_KINDS = ("photograph",) * 7 + ("object",) * 6 + ("facade",) * 3 + ("fractal",) * 2 + ("material",)
_CHUNK = 16


@dataclass(frozen=True)
class PretrainingSet:
    """Rendered views.

    Attributes:
        views: (instances, views, size, size, 3) uint8 RGB, memory-mapped, read-only.
        folder: where they lie.
    """

    views: np.ndarray
    folder: Path


def _background(rng, size: int) -> np.ndarray:
    if chance(rng, 0.7):
        names = photographs.SCENES["pretraining"]
        picture = photographs.crop(rng, "pretraining", size, size, names=names, smallest=0.15)
        return picture.astype(np.float32) / 255
    return surface(rng, size, size)


def _flat_view(rng, texture: np.ndarray, size: int, *, fill: tuple[float, float]) -> np.ndarray:
    """Return a view of a flat RGBA texture under a random homography, over a background."""
    h, w = texture.shape[:2]
    extent = size * rng.uniform(*fill) / max(h, w) * 2
    corners = np.array([[-w, -h, 0], [w, -h, 0], [w, h, 0], [-w, h, 0]]) / 2
    turn = rotation(rng.uniform(-0.7, 0.7), rng.uniform(-0.45, 0.45), rng.normal(0, 0.2))
    points = corners @ turn.T
    distance = max(h, w) * rng.uniform(1.2, 4)
    points = points[:, :2] / (1 + points[:, 2:] / distance) * extent / 2
    points += size / 2 + rng.normal(0, 0.08, 2) * size
    color, alpha = warp(texture, points.astype(np.float32), size, size)
    image = _background(rng, size)
    over(image, color.astype(np.float32) / 255, alpha)
    return image


def _opaque(color: np.ndarray) -> np.ndarray:
    return np.dstack([color, np.full(color.shape[:2], 255, np.uint8)])


def _views(seed: int, index: int, views: int, size: int) -> np.ndarray:
    name = (seed, "pretraining", index)
    draw = generator(*name)
    kind = pick(draw, _KINDS)
    result = np.empty((views, size, size, 3), np.uint8)
    fill = (0.75, 1.5)
    thing = relief = texture = None
    if kind == "object":
        thing = draw_object(generator(*name, "style"), generator(*name, "layout"), "pretraining")
    elif kind == "facade":
        relief = draw_facade(generator(*name, "style"), generator(*name, "layout"))
        fill = (0.7, 1.25)
    elif kind == "photograph":
        shape = (int(draw.integers(160, 257)), int(draw.integers(160, 257)))
        texture = _opaque(
            photographs.crop(
                draw, "pretraining", *shape, smallest=0.12, names=photographs.SCENES["pretraining"]
            )
        )
        if chance(draw, 0.3):  # other colours: the same shapes seen as another instance
            texture[..., :3] = texture[..., draw.permutation(3)]
    else:
        made = draw_fractal if kind == "fractal" else surface
        texture = _opaque((made(draw, 220, 220) * 255).astype(np.uint8))
    for i in range(views):
        rng = generator(*name, "view", i)
        if thing is not None:
            center = size / 2 + rng.normal(0, 0.07, 2) * size
            pose = random_pose(rng, thing, tuple(center), size * rng.uniform(0.75, 1.5))
            color, alpha = render_object(thing, pose, size, size)
            gloss(rng, color, alpha)
            image = _background(rng, size)
            over(image, color, alpha)
        else:
            if relief is not None:
                texture = relief.lit(rng.uniform(-1, 1), rng.uniform(0.3, 1), rng.uniform(0, 1))
            image = _flat_view(rng, texture, size, fill=fill)
        result[i] = expose(rng, image)
    return result


def _render_chunk(start: int, *, path: str, seed: int) -> None:
    memory = np.load(path, mmap_mode="r+")
    for index in range(start, min(start + _CHUNK, len(memory))):
        memory[index] = _views(seed, index, memory.shape[1], memory.shape[2])
    memory.flush()


def render_pretraining_set(
    folder: Path,
    *,
    instances: int = 4000,
    views: int = 8,
    size: int = 128,
    seed: int = 0,
    workers: int | None = None,
) -> PretrainingSet:
    """Render the set, or reuse the one of the same recipe that lies in ``folder``.

    Args:
        folder: gets ``views.npy`` and ``set.json``.
        instances: number of instances.
        views: views of each.
        size: side of a view in pixels.
        seed: of everything drawn.
        workers: processes; all cores when None. The pixels do not depend on it.

    Raises:
        StudyError: ``folder`` holds a set of another recipe.
    """
    folder = Path(folder)
    recipe = {
        "version": PRETRAINING_VERSION,
        "instances": instances,
        "views": views,
        "size": size,
        "seed": seed,
    }
    described, path = folder / "set.json", folder / "views.npy"
    if described.is_file():
        found = json.loads(described.read_text(encoding="utf-8"))
        if found != recipe:
            raise StudyError(
                f"{described}: expected the recipe {recipe}, found {found}; name another folder "
                "or delete this one"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        partial_path = folder / "views.partial.npy"
        shape = (instances, views, size, size, 3)
        np.lib.format.open_memmap(partial_path, "w+", np.uint8, shape).flush()
        run_all(
            partial(_render_chunk, path=str(partial_path), seed=seed),
            range(0, instances, _CHUNK),
            workers=workers,
            label="pretraining views",
            unit="chunk",
        )
        partial_path.replace(path)
        described.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return PretrainingSet(np.load(path, mmap_mode="r"), folder)
