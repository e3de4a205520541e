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
        return self._rows[start : start + count].astype(np.float32)

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
                yield self._rows[part[0] : part[-1] + 1].astype(np.float32)
            else:
                yield self._rows[part].astype(np.float32)
            # Pages once read would count as this process' memory until others need it.
            self._rows._mmap.madvise(mmap.MADV_DONTNEED)


def _map_dataset(path: Path, name: str) -> np.memmap:
    """Map a contiguous HDF5 dataset's bytes as an array, to read from."""
    with h5py.File(path, "r") as file:
        data = file[name]
        offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
