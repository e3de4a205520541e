"""The pictures of a stand-in: rendered scenes of a photograph's size, and who gets which.

A stand-in has thousands of names on some hundred different pictures: the recorded sample of what
the benchmark would need. Images of one instance share a picture half of the time, so that what is
searched for can be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from blcf_utils.datasets.rendering.benchmark import BENCHMARKS as SCENES
from blcf_utils.datasets.rendering.parallel import run_all
from blcf_utils.datasets.rendering.photography import expose
from blcf_utils.datasets.rendering.seeds import chance, generator, pick
from blcf_utils.datasets.stand_ins.names import Names
from blcf_utils.ground.artefacts import atomic_path

# Goes up whenever the same options give other bytes.
RECIPE_VERSION = 1
LONG, SHORT = 1024, 768
SIZES = {"landscape": (LONG, SHORT), "portrait": (SHORT, LONG), "square": (LONG, LONG)}
PORTRAITS = 0.25  # share of the pictures, and of the images that no box turns
SHARED = 0.5  # how often an image shows its instance's own picture
SLACK = 2.0  # pixels that a published box may leave its image by
COMMENT = b"A picture made by blcf rehearse write. It stands in for a photograph and is none."
_SCENE_OF = {"instre": "mini-objects"}


@dataclass(frozen=True)
class Picture:
    """One distinct picture: its number and what shape it has."""

    number: int
    shape: str

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.number:04d}-{self.shape}.jpg"


def plan_pictures(names: Names, pictures: int) -> tuple[Picture, ...]:
    """Return the distinct pictures: landscapes, portraits, and a square one if a box needs it."""
    portraits = min(pictures - 1, max(1, round(PORTRAITS * pictures)))
    shapes = ["portrait"] * portraits + ["landscape"] * (pictures - portraits)
    if any(_shape_for(boxes) == "square" for boxes in names.boxes.values()):
        shapes.append("square")
    return tuple(Picture(number, shape) for number, shape in enumerate(shapes))


def _shape_for(boxes: tuple[tuple[float, ...], ...]) -> str:
    """Return the shape into which every box fits: ``any``, ``landscape``, ``portrait``, ``square``.

    A benchmark's own image may have been of any size up to 1024 pixels.
    """
    wide = any(box[2] > SHORT + SLACK for box in boxes)
    high = any(box[3] > SHORT + SLACK for box in boxes)
    if wide and high:
        return "square"
    return "landscape" if wide else "portrait" if high else "any"


def assign_pictures(names: Names, pictures: tuple[Picture, ...], seed: int) -> dict[str, Picture]:
    """Return the picture of every image; each box fits into its image's picture."""
    of_shape = {
        shape: [picture for picture in pictures if picture.shape == shape] for shape in SIZES
    }
    of_group = {image: group for group, members in names.groups.items() for image in members}
    given = {}
    for image in names.images:
        rng = generator(seed, names.name, "image", image)
        shape = _shape_for(names.boxes.get(image, ()))
        if shape == "any":
            shape = "portrait" if chance(rng, PORTRAITS) else "landscape"
        candidates = of_shape[shape] or list(pictures)
        group = of_group.get(image)
        # The query images themselves always show it.
        asked = image in names.boxes
        if group is not None and (asked or chance(rng, SHARED)):
            home = generator(seed, names.name, "home", group)
            given[image] = candidates[int(home.integers(2**31)) % len(candidates)]
        else:
            given[image] = pick(rng, candidates)
    return given


def render_pictures(
    name: str,
    pictures: tuple[Picture, ...],
    folder: Path,
    seed: int,
    workers: int | None = None,
) -> None:
    """Render the pictures that are not there yet into ``folder``, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [picture for picture in pictures if not (folder / picture.file).is_file()]
    if waiting:
        draw = partial(_render, name=name, folder=str(folder), seed=seed)
        run_all(draw, waiting, workers=workers, label=f"pictures of {name}", unit="picture")


def _render(picture: Picture, *, name: str, folder: str, seed: int) -> None:
    collection = _SCENE_OF.get(name, "mini-buildings")
    recipe, place = SCENES[collection], (seed, "stand-in", name)
    fillers = tuple(
        ((*place, "filler", i, "style"), (*place, "filler", i, "layout"))
        for i in range(recipe.fillers)
    )
    rng = generator(*place, "picture", picture.number)
    subject = (*place, "subject", picture.number)
    width, height = SIZES[picture.shape]
    scene, _ = recipe.scene(rng, (*subject, "style"), (*subject, "layout"), fillers, height, width)
    pixels = expose(rng, scene, shade=recipe.shade)
    # Sensor noise that rendering at this size lacks: files are as large as a camera's.
    noise = rng.normal(0, 4, pixels.shape).astype(np.float32)
    pixels = np.clip(cv2.GaussianBlur(noise, (0, 0), 0.8) * 1.5 + pixels, 0, 255).astype(np.uint8)
    with atomic_path(Path(folder, picture.file)) as path:
        Image.fromarray(pixels).save(path, "JPEG", quality=92, comment=COMMENT)
