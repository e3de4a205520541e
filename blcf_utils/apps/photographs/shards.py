"""Encoded photographs on disk, a few dozen a file, so that a killed indexing loses little."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blcf_utils.ground.artefacts import atomic_path

THUMBNAIL = 200  # pixels of the longest side
PER_SHARD = 64


@dataclass(frozen=True)
class Stamp:
    """What a photograph was when it was read.

    Attributes:
        path: relative to the folder, with forward slashes.
        size: bytes.
        mtime: nanoseconds.
        digest: of its content.
    """

    path: str
    size: int
    mtime: int
    digest: str


@dataclass(frozen=True)
class Encoded:
    """One encoded photograph.

    Attributes:
        stamp: which file, in which state.
        size: (width, height) in pixels, turned as its EXIF tag says.
        words: assignment map (h, w) uint16.
        weights: weighting to weights (h, w) float16.
        thumbnail: JPEG.
    """

    stamp: Stamp
    size: tuple[int, int]
    words: np.ndarray
    weights: dict[str, np.ndarray]
    thumbnail: bytes


def thumbnail_of(pixels: np.ndarray) -> bytes:
    """Return a small JPEG of an image (H, W, 3) uint8."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def shard_path(folder: Path, number: int) -> Path:
    """Return where shard ``number`` lies."""
    return folder / f"{number:06d}.npz"


def write_shard(path: Path, photographs: list[Encoded]) -> None:
    """Write encoded photographs, atomically."""
    arrays = {
        "stamps": np.array(json.dumps([asdict(one.stamp) for one in photographs])),
        "sizes": np.array([one.size for one in photographs], np.int64).reshape(-1, 2),
        "shapes": np.array([one.words.shape for one in photographs], np.int64).reshape(-1, 2),
        "words": np.concatenate([one.words.ravel() for one in photographs]),
        "thumbnail_ends": np.cumsum([len(one.thumbnail) for one in photographs]),
        "thumbnails": np.frombuffer(b"".join(one.thumbnail for one in photographs), np.uint8),
    }
    for name in photographs[0].weights:
        arrays[f"weights {name}"] = np.concatenate(
            [one.weights[name].ravel() for one in photographs]
        )
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def read_stamps(path: Path) -> list[Stamp]:
    """Return what a shard holds, without reading it whole."""
    with np.load(path) as arrays:
        return [Stamp(**one) for one in json.loads(str(arrays["stamps"]))]


def read_shard(path: Path) -> list[Encoded]:
    """Return the photographs of a shard."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    stamps = [Stamp(**one) for one in json.loads(str(arrays["stamps"]))]
    shapes = arrays["shapes"]
    ends = np.cumsum(shapes.prod(axis=1))
    thumbnails, until = arrays["thumbnails"].tobytes(), [0, *arrays["thumbnail_ends"].tolist()]

    def cells(name: str, i: int) -> np.ndarray:
        return arrays[name][ends[i] - shapes[i].prod() : ends[i]].reshape(shapes[i])

    named = [name.removeprefix("weights ") for name in arrays if name.startswith("weights ")]
    return [
        Encoded(
            stamp,
            (int(arrays["sizes"][i, 0]), int(arrays["sizes"][i, 1])),
            cells("words", i),
            {name: cells(f"weights {name}", i) for name in named},
            thumbnails[until[i] : until[i + 1]],
        )
        for i, stamp in enumerate(stamps)
    ]
