"""The rendered benchmarks ``mini-buildings`` and ``mini-objects`` with exact ground truth.

Each image is drawn from a generator named by seed, collection and image, so its bytes depend on
neither the number of processes nor the order of rendering.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from blcf_utils.datasets.rendering.camera import box_of
from blcf_utils.datasets.rendering.clutter import clutter_scene
from blcf_utils.datasets.rendering.parallel import run_all
from blcf_utils.datasets.rendering.photography import expose
from blcf_utils.datasets.rendering.seeds import chance, generator
from blcf_utils.datasets.rendering.streets import street_scene
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError, known

# Goes up whenever the pixels or the ground truth of the same seed change.
RECIPE_VERSION = 1

Name = tuple[str | int, ...]


@dataclass(frozen=True)
class Recipe:
    """What a collection consists of.

    Attributes:
        scene: draws one image and its instance's coverage.
        instances: number of instances.
        views: images of each instance.
        distractors: images without any instance.
        queries: queries for each instance.
        fillers: number of buildings or objects that stand about in all images.
        similar: share of distractors that show another instance's style with another layout.
        shade: whether dappled shade may fall on the picture.
    """

    scene: Callable
    instances: int
    views: int
    distractors: int
    queries: int
    fillers: int
    similar: float
    shade: bool


BENCHMARKS = {
    "mini-buildings": Recipe(street_scene, 24, 8, 160, 3, 20, 0.4, False),
    "mini-objects": Recipe(clutter_scene, 28, 8, 220, 3, 60, 0.4, True),
}


@dataclass(frozen=True)
class _Task:
    """The images of one instance (or a group of distractors), rendered by one process."""

    instance: int | None
    images: tuple[tuple[int, str], ...]  # number within the group and file name


def _subject(recipe: Recipe, seed: int, name: str, task: _Task, view: int) -> tuple[Name, Name]:
    """Return style and layout of the building or object that an image is about."""
    if task.instance is not None:
        place = (seed, name, "instance", task.instance)
        return (*place, "style"), (*place, "layout")
    place = (seed, name, "distractor", view)
    rng = generator(*place, "kind")
    if chance(rng, recipe.similar):
        alike = (seed, name, "instance", int(rng.integers(recipe.instances)))
        return (*alike, "style"), (*place, "layout")
    return (*place, "style"), (*place, "layout")


def _render(task: _Task, *, folder: str, name: str, seed: int) -> None:
    recipe = BENCHMARKS[name]
    fillers = tuple(
        ((seed, name, "filler", i, "style"), (seed, name, "filler", i, "layout"))
        for i in range(recipe.fillers)
    )
    for view, file in task.images:
        group = "distractor" if task.instance is None else task.instance
        rng = generator(seed, name, group, "view", view)
        long, short = int(rng.integers(384, 417)), int(rng.integers(280, 321))
        height, width = (short, long) if chance(rng, 0.7) else (long, short)
        style, layout = _subject(recipe, seed, name, task, view)
        # Some distractors are scenes without any subject: streets, clutter, empty places.
        empty = task.instance is None and chance(rng, 0.2)
        subject = (None, None) if empty else (style, layout)
        image, seen = recipe.scene(rng, *subject, fillers, height, width)
        pixels = expose(rng, image, shade=recipe.shade)
        quality = int(rng.integers(88, 96))
        path = Path(folder, "images", file)
        done = cv2.imwrite(
            str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        if task.instance is not None:
            mask = ((seen > 0.5) * 255).astype(np.uint8)
            done &= cv2.imwrite(str(Path(folder, "masks", file).with_suffix(".png")), mask)
        if not done:
            raise StudyError(f"{path}: the image could not be written; is the disk full?")


def _plan(recipe: Recipe, name: str, seed: int, scale: float) -> tuple[list[_Task], list[str]]:
    """Return the rendering tasks and all file names; the names say nothing about the content."""
    instances = max(2, round(recipe.instances * scale))
    distractors = max(4, round(recipe.distractors * scale))
    total = instances * recipe.views + distractors
    numbers = generator(seed, name, "names").permutation(total)
    names = [f"{number:04d}.jpg" for number in numbers]
    tasks = [
        _Task(i, tuple((v, names[i * recipe.views + v]) for v in range(recipe.views)))
        for i in range(instances)
    ]
    first = instances * recipe.views
    for start in range(0, distractors, recipe.views):
        group = range(start, min(start + recipe.views, distractors))
        tasks.append(_Task(None, tuple((v, names[first + v]) for v in group)))
    return tasks, sorted(names)


def _ground_truth(
    folder: Path, recipe: Recipe, name: str, seed: int, scale: float, tasks, names
) -> dict:
    boxes, queries, labels = {}, [], []
    for task in tasks:
        if task.instance is None:
            continue
        label = f"{name.removeprefix('mini-').removesuffix('s')}-{task.instance:02d}"
        labels.append(label)
        files = [file for _, file in task.images]
        for file in files:
            mask = cv2.imread(str((folder / "masks" / file).with_suffix(".png")), 0)
            boxes[file] = list(box_of(mask > 0))
        chosen = generator(seed, name, task.instance, "queries").permutation(files)
        for file in sorted(str(f) for f in chosen[: recipe.queries]):
            queries.append(
                {
                    "id": f"{label}-{Path(file).stem}",
                    "image": f"images/{file}",
                    "bbox": boxes[file],
                    "instance": label,
                    "positives": sorted(set(files) - {file}),
                    "junk": [file],
                }
            )
    return {
        "name": name,
        "recipe_version": RECIPE_VERSION,
        "seed": seed,
        "scale": float(scale),
        "images": names,
        "queries": queries,
        "instances": labels,
        "boxes": dict(sorted(boxes.items())),
        "bbox_format": "x1,y1,x2,y2 in pixels of the stored image, x2 and y2 exclusive",
    }


def render_benchmark(
    name: str, folder: Path, *, seed: int = 0, scale: float = 1.0, workers: int | None = None
) -> Path:
    """Render a collection: images, masks and ground truth.

    The folder appears complete or not at all. It holds ``images/*.jpg``, ``masks/*.png`` (the
    visible part of the instance, for every image that shows one) and ``groundtruth.json`` (the
    format of ``datasets.groundtruth_json`` with ``boxes``, ``instances`` and the recipe besides).

    Args:
        name: a key of ``BENCHMARKS``.
        folder: where it goes; must not exist or be empty.
        seed: of everything drawn; the same seed gives the same bytes.
        scale: share of the instances and distractors that is rendered, above 0 and at most 1.
        workers: processes; all cores when None.

    Returns:
        ``folder``.

    Raises:
        StudyError: unknown collection, scale out of range, or a folder that is in use.
    """
    if name not in BENCHMARKS:
        raise known("rendered collection", name, BENCHMARKS)
    if not 0 < scale <= 1:
        raise StudyError(f"scale of {name}: expected above 0 and at most 1, found {scale}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(f"{folder}: expected a new or empty folder; delete it to render anew")
    recipe = BENCHMARKS[name]
    tasks, names = _plan(recipe, name, seed, scale)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (unfinished / "images").mkdir()
        (unfinished / "masks").mkdir()
        run_all(
            partial(_render, folder=str(unfinished), name=name, seed=seed),
            tasks,
            workers=workers,
            label=f"rendering {name}",
            unit="group",
        )
        write_json(
            unfinished / "groundtruth.json",
            _ground_truth(unfinished, recipe, name, seed, scale, tasks, names),
        )
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
