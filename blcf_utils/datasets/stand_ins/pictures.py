"""The pictures of a stand-in: rendered scenes of a photograph's size, and which image shows which.

A stand-in has thousands of images but some hundred different pictures. Images of one instance share
a picture half of the time, so that a search finds something.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from blcf_utils.datasets.base import Box
from blcf_utils.datasets.checks import BOX_SLACK
from blcf_utils.datasets.rendering.benchmark import BENCHMARKS as SCENES
from blcf_utils.datasets.rendering.parallel import run_all
from blcf_utils.datasets.rendering.photography import expose
from blcf_utils.datasets.rendering.seeds import chance, generator
from blcf_utils.datasets.stand_ins.names import Names
from blcf_utils.ground.artefacts import atomic_path

# Goes up whenever the same options give other bytes.
RECIPE_VERSION = 2
LONG, SHORT = 1024, 768  # pixels
SIZES = {"landscape": (LONG, SHORT), "portrait": (SHORT, LONG), "square": (LONG, LONG)}
PORTRAITS = 0.25  # share of the pictures, and of the images whose box fits into either shape
SHARED = 0.5  # how often an image shows its instance's own picture


def assign_pictures(names: Names, pictures: int, seed: int) -> dict[str, str]:
    """Return the file name of every image's picture, ``landscape-017.jpg``; each box fits into it.

    Args:
        names: the images.
        pictures: how many landscapes and portraits there are to choose from, at least 2.
        seed: of the choice.
    """
    portraits = max(1, round(PORTRAITS * pictures))
    different = {"landscape": pictures - portraits, "portrait": portraits, "square": 1}
    given = {}
    for image in names.images:
        rng = generator(seed, names.dataset, "image", image)
        boxes, instance = names.boxes.get(image, []), names.instances.get(image)
        shape = _shape_for(boxes) or ("portrait" if chance(rng, PORTRAITS) else "landscape")
        if instance and (boxes or chance(rng, SHARED)):
            rng = generator(seed, names.dataset, "instance", instance)
        given[image] = f"{shape}-{rng.integers(different[shape]):03d}.jpg"
    return given


def _shape_for(boxes: list[Box]) -> str:
    """Return the shape that all boxes fit into; "" when they fit into every shape.

    Images of the benchmarks are up to 1024 pixels wide and high.
    """
    wide = any(box[2] > SHORT + BOX_SLACK for box in boxes)
    high = any(box[3] > SHORT + BOX_SLACK for box in boxes)
    return "square" if wide and high else "landscape" if wide else "portrait" if high else ""


def render_pictures(
    dataset: str, files: Iterable[str], folder: Path, seed: int, workers: int | None = None
) -> None:
    """Render the pictures that are not there yet into ``folder``, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = sorted(file for file in set(files) if not (folder / file).is_file())
    if waiting:
        draw = partial(_render, dataset=dataset, folder=folder, seed=seed)
        run_all(draw, waiting, workers=workers, label=f"pictures of {dataset}", unit="picture")


def _render(file: str, *, dataset: str, folder: Path, seed: int) -> None:
    recipe = SCENES["mini-objects" if dataset.startswith("instre") else "mini-buildings"]
    things = [(seed, dataset, file), *((seed, dataset, "filler", i) for i in range(recipe.fillers))]
    subject, *fillers = [((*thing, "style"), (*thing, "layout")) for thing in things]
    rng = generator(seed, dataset, "picture", file)
    width, height = SIZES[file.partition("-")[0]]
    scene, _ = recipe.scene(rng, *subject, tuple(fillers), height, width)
    pixels = expose(rng, scene, shade=recipe.shade)
    # With the noise of a sensor, files are as large as a camera's.
    noise = cv2.GaussianBlur(rng.normal(0, 6, pixels.shape).astype(np.float32), (0, 0), 0.8)
    with atomic_path(folder / file) as path:
        noisy = np.clip(noise + pixels, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, "JPEG", quality=92)
