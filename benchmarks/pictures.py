"""The pictures a benchmark runs on: a given folder of photographs, or crops of two shipped ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from blcf_utils.datasets.base import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png")
WIDTH, HEIGHT = 400, 300


def write_pictures(folder: Path, number: int, seed: int = 0) -> None:
    """Write ``number`` JPEGs of 400x300: crops of scikit-learn's two photographs, all different.

    Real texture matters: what a JPEG costs to decode depends on its content.
    """
    photographs = [Image.fromarray(image) for image in load_sample_images().images]

    def write(i: int) -> None:
        rng = np.random.default_rng((seed, i))
        photograph = photographs[i % len(photographs)]
        width = int(rng.integers(WIDTH, photograph.width - 80))
        height = width * HEIGHT // WIDTH
        left = int(rng.integers(0, photograph.width - width + 1))
        top = int(rng.integers(0, photograph.height - height + 1))
        crop = photograph.resize((WIDTH, HEIGHT), box=(left, top, left + width, top + height))
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop.save(folder / f"{i:06d}.jpg", quality=90)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(number)))


def picture_paths(given: Path | None, scratch: Path, number: int) -> tuple[Path, ...]:
    """Return ``number`` image paths of the folder ``given``, or of pictures written to ``scratch``.

    Raises:
        SystemExit: the folder holds fewer images.
    """
    if given is None:
        scratch.mkdir(parents=True, exist_ok=True)
        write_pictures(scratch, number)
        given = scratch
    paths = sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(paths) < number:
        raise SystemExit(f"{given}: {len(paths)} images, {number} asked for; lower --number")
    return tuple(paths[:number])


def as_dataset(paths: tuple[Path, ...]) -> Dataset:
    """Return the pictures as a database without queries."""
    return Dataset("pictures", paths[0].parent, paths, ())
