"""Encoded photographs on disk, up to 64 a file, so that a killed indexing loses little.

A shard is an npz file. Each column (words, weights, thumbnail ...) is one flat array of all its
photographs, beside where each photograph ends in it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from blcf_utils.ground.artefacts import atomic_path

THUMBNAIL = 200  # pixels of the longest side
PER_SHARD = 64


def thumbnail_of(pixels: np.ndarray) -> bytes:
    """Return a small JPEG of an image (H, W, 3) uint8."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def shard_path(home: Path, name: str) -> Path:
    """Return where a shard of an index lies."""
    return home / "shards" / f"{name}.npz"


def write_shard(path: Path, photographs: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write photographs, which have the same columns of any shapes, atomically."""
    arrays = {}
    for column in photographs[0]:
        values = [np.ravel(one[column]) for one in photographs]
        arrays[column] = np.concatenate(values)
        arrays[f"{column} ends"] = np.cumsum([len(value) for value in values])
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def read_column(path: Path, column: str) -> list[np.ndarray]:
    """Return the flat values of each photograph of a shard."""
    with np.load(path) as arrays:
        return np.split(arrays[column], arrays[f"{column} ends"][:-1])
