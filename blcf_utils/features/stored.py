"""Stored feature maps, read on demand.

A feature map (C, h, w) is stored as its h*w local descriptors, row by row, so that one flat
(N, C) float16 array in HDF5 holds a whole dataset: the descriptors of image i are rows
``offset[i]`` to ``offset[i] + h*w``.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from blcf_utils.features.maps import in_batches
from blcf_utils.ground.artefacts import Artefact

PENDING, DONE, SKIPPED = 0, 1, 2  # status of an image


class Features:
    """The stored feature maps of a dataset's images, read on demand (see ``FeatureMaps``).

    Args:
        artefact: of the extraction.
        distinct: (n,) number of the first image with the same bytes; each its own when None.
    """

    def __init__(self, artefact: Artefact, distinct: np.ndarray | None = None):
        self.artefact = artefact
        self.key = artefact.key
        with h5py.File(artefact / "features.h5", "r") as file:
            self.shapes = file["shape"][:].astype(np.int64)
            self.sizes = file["size"][:].astype(np.int64)
            self.offsets = file["offset"][:]
            self.n_database = int(file.attrs["n_database"])
            self.channels = int(file["descriptors"].shape[1])
            self.shapes[file["status"][:] == SKIPPED] = 0
        self.skipped = tuple(json.loads((artefact / "skipped.json").read_text(encoding="utf-8")))
        self.distinct = np.arange(len(self.shapes)) if distinct is None else distinct

    def __len__(self) -> int:
        return len(self.shapes)

    def __getstate__(self) -> dict:
        """What travels to another process, which reads the maps themselves from the file."""
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}

    @cached_property
    def _rows(self) -> np.ndarray:
        return _map_dataset(self.artefact / "features.h5", "descriptors")

    def descriptors(self, image: int) -> np.ndarray:
        """Return the local descriptors of an image, (h*w, C) float32, row-major positions."""
        start, count = self.offsets[image], int(self.shapes[image].prod())
        return _widened(self._rows[start : start + count])

    def map(self, image: int) -> np.ndarray:
        """Return the feature map of an image, (C, h, w) float32."""
        height, width = self.shapes[image]
        return self.descriptors(image).reshape(height, width, self.channels).transpose(2, 0, 1)

    def batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers, maps (B, C, h, w)) of images of one map shape at a time."""
        yield from in_batches(self, images)

    def database_rows(self) -> np.ndarray:
        """Return the row numbers of every database descriptor, int64, sorted."""
        counts = self.shapes[: self.n_database].prod(axis=1)
        spans = zip(self.offsets[: self.n_database], counts, strict=True)
        return np.concatenate([np.arange(s, s + c, dtype=np.int64) for s, c in spans if c])

    def stream(self, rows: np.ndarray, chunk: int = 32_768) -> Iterator[np.ndarray]:
        """Yield the descriptors at sorted ``rows``, (<= chunk, C) float32 at a time."""
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            if part[-1] - part[0] + 1 == len(part):  # a contiguous run is one read
                yield _widened(self._rows[part[0] : part[-1] + 1])
            else:
                yield _widened(self._rows[part])
            # Pages once read would count as this process' memory until others need it.
            self._rows._mmap.madvise(mmap.MADV_DONTNEED)


def _widened(rows: np.ndarray) -> np.ndarray:
    """Return finite float16 rows as float32: the same values, in a tenth of ``astype``'s time.

    The bits move to their places, and 2^112 makes up for the smaller offset of the exponent. In one
    thread, since pools of threads read maps.
    """
    bits = rows.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= ~0x70000000  # copies of the sign
    values = bits.view(np.float32)
    values *= np.float32(2**112)
    return values


def lay_out(
    file: h5py.File,
    sizes: np.ndarray,
    shapes: np.ndarray,
    status: np.ndarray,
    n_database: int,
    channels: int,
) -> None:
    """Give every descriptor of a dataset its place in a new file, before any is known.

    Args:
        file: open for writing.
        sizes: (n, 2) width and height in pixels of the stored images.
        shapes: (n, 2) map height and width.
        status: (n,) of the images.
        n_database: how many of them are the database.
        channels: C.
    """
    counts = shapes.astype(np.int64).prod(axis=1)
    file.attrs["n_database"] = n_database
    file["size"], file["shape"] = sizes, shapes
    file["offset"] = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    _create_contiguous(file, "descriptors", (int(counts.sum()), channels), np.float16)
    _create_contiguous(file, "status", (len(status),), np.uint8)
    file["status"][:] = status


def _create_contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # equal features are equal bytes
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, layout)


def _map_dataset(path: Path, name: str) -> np.memmap:
    """Map a contiguous HDF5 dataset's bytes as an array, to read from."""
    with h5py.File(path, "r") as file:
        data = file[name]
        offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
