"""Real photographs that scikit-image, scikit-learn and matplotlib ship inside their wheels.

They are read from the installed packages, never downloaded. The benchmark and the scenes that the
small saliency networks learned from use disjoint photographs.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from blcf_utils.datasets.rendering.seeds import chance, pick
from blcf_utils.ground.errors import StudyError

Split = Literal["benchmark", "pretraining"]

_FOLDERS = {
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}

# Scenes stand behind objects; pictures are also printed on covers, posters and packages.
SCENES: dict[Split, tuple[str, ...]] = {
    "benchmark": (
        "skimage/motorcycle_left.png",
        "skimage/motorcycle_right.png",
        "skimage/coffee.png",
        "sklearn/china.jpg",
        "skimage/rocket.jpg",
        "skimage/gravel.png",
    ),
    "pretraining": (
        "skimage/astronaut.png",
        "skimage/chelsea.png",
        "sklearn/flower.jpg",
        "skimage/camera.png",
        "matplotlib/grace_hopper.jpg",
        "skimage/hubble_deep_field.jpg",
        "skimage/ihc.png",
        "skimage/retina.jpg",
        "skimage/coins.png",
        "skimage/grass.png",
        "skimage/moon.png",
        "skimage/text.png",
        "matplotlib/Minduka_Present_Blue_Pack.png",
    ),
}
PICTURES: dict[Split, tuple[str, ...]] = {
    "benchmark": (
        "skimage/motorcycle_left.png",
        "skimage/coffee.png",
        "sklearn/china.jpg",
        "skimage/rocket.jpg",
        "skimage/brick.png",
        "skimage/page.png",
    ),
    "pretraining": SCENES["pretraining"],
}
# Mirrored letters would look wrong.
_WITH_TEXT = ("skimage/page.png", "skimage/text.png")


@lru_cache(maxsize=32)
def photograph(name: str) -> np.ndarray:
    """Return a shipped photograph.

    Args:
        name: ``package/file``, for instance ``skimage/coffee.png``.

    Returns:
        (H, W, 3) uint8 RGB, read-only.

    Raises:
        StudyError: the installed package does not ship the file.
    """
    package, file = name.split("/")
    spec = find_spec(package)
    path = Path(spec.origin).parent / _FOLDERS[package] / file if spec else Path(package) / file
    if not path.is_file():
        raise StudyError(
            f"{path}: expected a photograph shipped with {package}, found none; install the "
            "versions named in pyproject.toml"
        )
    if path.suffix == ".png":
        # OpenCV's PNG reader prints a warning about a colour profile in every process.
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    else:
        pixels = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    pixels.setflags(write=False)
    return pixels


def crop(
    rng: np.random.Generator,
    split: Split,
    height: int,
    width: int,
    *,
    names: tuple[str, ...] | None = None,
    smallest: float = 0.35,
) -> np.ndarray:
    """Return a random crop of a random photograph at the wanted size.

    Args:
        rng: generator.
        split: whose photographs.
        height: of the result, pixels.
        width: of the result, pixels.
        names: photographs to choose from; the split's pictures when not given.
        smallest: shortest crop side as a share of the largest one that fits.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    name = pick(rng, names or PICTURES[split])
    source = photograph(name)
    largest = min(source.shape[0] / height, source.shape[1] / width)
    factor = largest * rng.uniform(smallest, 1.0)
    h, w = max(2, int(height * factor)), max(2, int(width * factor))
    y = int(rng.integers(source.shape[0] - h + 1))
    x = int(rng.integers(source.shape[1] - w + 1))
    part = source[y : y + h, x : x + w]
    if chance(rng, 0.5) and name not in _WITH_TEXT:
        part = part[:, ::-1]
    method = cv2.INTER_AREA if h > height else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=method)
