"""SIFT keypoints and descriptors of a dataset's images on disk, streamed and resumable.

Three flat files hold a whole dataset, appended to image by image: 128 uint8 values a descriptor
(OpenCV's SIFT values are integers from 0 to 255), four float32 a keypoint, and, written last, one
record an image that says how many it has. What a killed process left behind a record is cut off.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from blcf_utils.config.profile import SiftConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.images import UnreadableImage, image_size, read_image, resized_size
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.mapping import mapped
from blcf_utils.ground.progress import progress
from blcf_utils.search.boxes import Mode, query_cells

log = logging.getLogger("blcf")

STAGE = Stage("sift", version=1)
DIMENSIONS = 128
DENSE_OCTAVES = (0, 1, 2)
_THREADS = 2
_A_TASK = 8  # images that a worker is sent at once
_KEYPOINT = 4 * 4  # bytes
_RECORD = np.dtype([("count", "<i4"), ("width", "<i4"), ("height", "<i4")])


class SiftFeatures:
    """The stored keypoints and descriptors of a dataset's images, read on demand.

    Attributes:
        counts: (n,) keypoints of each image.
        sizes: (n, 2) width and height in pixels of the stored image; (0, 0) for a skipped image.
        shrunk: (n,) how many times longer the stored image is than the one SIFT saw, at least 1.
        n_database: the first ``n_database`` images are the database, the rest query images.
        root: descriptors are read as RootSIFT.
        distinct: (n,) number of the first image with the same bytes, whose keypoints are the same.
    """

    def __init__(
        self,
        artefact: Artefact,
        n_database: int,
        longest_side: int,
        root: bool,
        distinct: np.ndarray | None = None,
    ):
        self.artefact, self.n_database, self.root = artefact, n_database, root
        records = np.fromfile(artefact / "images.bin", _RECORD)
        self.counts = records["count"].astype(np.int64)
        self.distinct = np.arange(len(records)) if distinct is None else distinct
        self.sizes = np.stack([records["width"], records["height"]], axis=1).astype(np.int64)
        self.shrunk = np.maximum(self.sizes.max(axis=1) / longest_side, 1.0)
        self._offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self._keypoints = _mapped(artefact / "keypoints.bin", np.float32, 4)
        self._descriptors = _mapped(artefact / "descriptors.bin", np.uint8, DIMENSIONS)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def key(self) -> str:
        """Digest of what determines the descriptors as they are read."""
        return f"{self.artefact.key}{'-root' if self.root else ''}"

    @property
    def n_database_descriptors(self) -> int:
        """How many descriptors the database images have; they are the first rows."""
        return int(self._offsets[self.n_database])

    def keypoints(self, image: int) -> np.ndarray:
        """Return x, y, size (pixels of the stored image) and angle (degrees), (m, 4) float32.

        A pixel's centre has whole coordinates. Keypoints are sorted strongest first; those of a
        grid scale by scale, row by row.
        """
        return np.array(self._keypoints[self._offsets[image] : self._offsets[image + 1]])

    def descriptors(self, image: int) -> np.ndarray:
        """Return the unit-length descriptors of an image's keypoints, (m, 128) float32."""
        return self.rows(slice(self._offsets[image], self._offsets[image + 1]))

    def rows(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the unit-length descriptors at ``rows`` of the dataset, (m, 128) float32."""
        raw = self._descriptors[rows]
        return root_sift(raw) if self.root else normalise_rows(raw.astype(np.float32))


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Return the square roots of L1-normalised descriptors, (m, 128) float32, of unit L2 length.

    Their Euclidean distance is the Hellinger distance of the SIFT histograms (Arandjelovic and
    Zisserman, CVPR 2012).
    """
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


def extract_sift(
    dataset: Dataset, config: SiftConfig, store: ArtefactStore, on_corrupt: str = "error"
) -> SiftFeatures:
    """Find and describe SIFT keypoints in every image of ``dataset``.

    Database images come first, then query images outside the database. Images are shrunk, never
    enlarged, to ``config.longest_side``. The ``config.keypoints`` keypoints of highest contrast
    are kept. With ``config.dense`` they lie on a grid instead, upright, at the same places in
    three scales (24, 48 and 97 pixels a patch), a whole number of pixels apart, as densely as
    ``config.keypoints`` allows; patches without any gradient are left out.

    Images with the same bytes are described once. Killed, it goes on with the images that are
    missing and ends with the same files.

    Args:
        dataset: images and queries.
        config: of it only the keypoints, the longest side and dense make another artefact;
            RootSIFT is made of the stored descriptors on reading.
        store: where artefacts live.
        on_corrupt: ``error``, or ``skip`` to give unreadable images no keypoints.

    Raises:
        StudyError: a missing image, or an unreadable one (unless ``skip``).
    """
    document = {
        "images": dataset.manifest,
        "n_database": len(dataset.images),
        "keypoints": config.keypoints,
        "longest_side": config.longest_side,
        "dense": config.dense,
        "exif_orientation": dataset.exif_orientation,
        "on_corrupt": on_corrupt,
    }
    label = f"{dataset.name}-{'dense' if config.dense else 'sift'}{config.keypoints}"
    artefact = store.get_or_make(
        STAGE, label, document, lambda folder: _extract(dataset, config, on_corrupt, folder)
    )
    n_database, distinct = len(dataset.images), dataset.distinct
    return SiftFeatures(artefact, n_database, config.longest_side, config.root, distinct)


def describe(grey: np.ndarray, config: SiftConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the keypoints (m, 4) float32 and raw descriptors (m, 128) uint8 of a grey image.

    Coordinates are pixels of ``grey``, (H, W) uint8. OpenCV returns more keypoints than it is
    asked for where the last ones are equally strong, so they are sorted and cut here.
    """
    if config.dense:
        points, raw = cv2.SIFT_create().compute(grey, _grid(grey.shape, config.keypoints))
    else:
        points, raw = cv2.SIFT_create(config.keypoints).detectAndCompute(grey, None)
    if not points:
        return np.empty((0, 4), np.float32), np.empty((0, DIMENSIONS), np.uint8)
    keypoints = np.array([(*p.pt, p.size, p.angle) for p in points], np.float32)
    if config.dense:
        kept = np.flatnonzero(raw.any(axis=1))
    else:
        strength = np.array([p.response for p in points])
        kept = np.lexsort((*keypoints.T[::-1], -strength))[: config.keypoints]
    return keypoints[kept], raw[kept].astype(np.uint8)


def query_keypoints(
    dataset: Dataset, query: Query, features: SiftFeatures, mode: Mode
) -> np.ndarray:
    """Return which keypoints of the query's image take part in the search, boolean (m,).

    Global search (``gs``) takes them all, local search (``ls``) those whose centres lie in the
    query's mask, or in its box: x1 <= x < x2 and y1 <= y < y2. There may be none.

    Raises:
        StudyError: an unknown mode, a query image that was left out, a box outside the image.
    """
    i = dataset.image_index[query.image]
    width, height = features.sizes[i]
    # One cell stands for the image: what a search of maps refuses is refused here, alike.
    query_cells(query, (width, height), (min(height, 1), min(width, 1)), mode)
    x, y = features.keypoints(i)[:, :2].T
    if mode == "gs" or (query.mask is None and query.box is None):
        return np.ones(len(x), bool)
    if query.mask is None:
        x1, y1, x2, y2 = query.box
        return (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)
    mask = read_image(query.mask, alpha="drop").max(axis=2) > 0
    rows = np.floor((y + 0.5) * (mask.shape[0] / height)).astype(int)
    columns = np.floor((x + 0.5) * (mask.shape[1] / width)).astype(int)
    return mask[rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)]


def _mapped(path: Path, dtype, columns: int) -> np.ndarray:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty((0, columns), dtype)
    return np.memmap(path, dtype, "r").reshape(-1, columns)


def _grid(shape: tuple[int, int], most: int) -> list[cv2.KeyPoint]:
    """Return at most ``most`` keypoints on a square grid centred in an image of ``shape``."""
    # An octave halves the image, which a very small one does not survive.
    octaves = [octave for octave in DENSE_OCTAVES if min(shape) >> octave][:most]
    step = 1
    while max(1, shape[0] // step) * max(1, shape[1] // step) * len(octaves) > most:
        step += 1
    rows, columns = (
        (side - 1) / 2 + step * (np.arange(count) - (count - 1) / 2)
        for side, count in ((side, max(1, side // step)) for side in shape)
    )
    # The keypoint size of an octave's first layer (a descriptor covers 6 sizes a side), and, in the
    # second byte, that layer's number.
    return [
        cv2.KeyPoint(float(x), float(y), 3.2 * 2 ** (octave + 1 / 3), 0.0, 0.0, octave | 1 << 8)
        for octave in octaves
        for y in rows
        for x in columns
    ]


@dataclass(frozen=True)
class _Describer:
    """How a picture becomes keypoints, here or on a worker."""

    config: SiftConfig
    exif: bool
    skip: bool


def _read_and_describe(describer: _Describer, path: Path):
    """Return the stored image's size, keypoints in its pixels, and raw descriptors."""
    try:
        return _describe_file(path, describer.config, describer.exif)
    except UnreadableImage:
        if not describer.skip:
            raise
        return (0, 0), np.empty((0, 4)), np.empty((0, DIMENSIONS))


def _describe_file(path: Path, config: SiftConfig, exif: bool):
    width, height = image_size(path, exif_orientation=exif)
    size = None
    if max(width, height) > config.longest_side:
        size = resized_size((width, height), config.longest_side)
    pixels = read_image(path, size, exif_orientation=exif)
    keypoints, raw = describe(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), config)
    if size is not None:
        across = np.array([width / size[0], height / size[1]])
        keypoints[:, :2] = (keypoints[:, :2] + 0.5) * across - 0.5
        keypoints[:, 2] *= np.sqrt(across.prod())
    return (width, height), keypoints, raw


def _extract(dataset: Dataset, config: SiftConfig, on_corrupt: str, folder: Path) -> None:
    paths, distinct = dataset.all_images, dataset.distinct
    records = _cut_to_finished(folder).tolist()
    ends = [0, *np.cumsum([record[0] for record in records], dtype=np.int64).tolist()]
    missing = [paths[i] for i in range(len(records), len(paths)) if distinct[i] == i]
    describer = _Describer(config, dataset.exif_orientation, on_corrupt == "skip")
    described = mapped(
        _read_and_describe,
        describer,
        missing,
        files=lambda path: [path],
        threads=_THREADS,
        at_once=_A_TASK,
    )
    bar = progress(label="sift", total=len(paths), unit="image")
    bar.update(len(records))
    with (
        contextlib.closing(described),
        open(folder / "keypoints.bin", "ab") as keypoint_file,
        open(folder / "descriptors.bin", "ab") as descriptor_file,
        open(folder / "images.bin", "ab") as record_file,
        bar,
    ):
        for i in range(len(records), len(paths)):
            first = int(distinct[i])
            if first < i:
                record = records[first]
                for file, row in ((keypoint_file, _KEYPOINT), (descriptor_file, DIMENSIONS)):
                    file.write(_read_rows(Path(file.name), ends[first], record[0], row))
            else:
                _, (size, keypoints, raw) = next(described)
                keypoint_file.write(keypoints.astype(np.float32).tobytes())
                descriptor_file.write(raw.astype(np.uint8).tobytes())
                record = (len(raw), *size)
            keypoint_file.flush()
            descriptor_file.flush()  # before the record that says so
            record_file.write(np.array(record, _RECORD).tobytes())
            record_file.flush()
            records.append(record)
            ends.append(ends[-1] + record[0])
            bar.update(1)
    sizes = np.fromfile(folder / "images.bin", _RECORD)["width"]
    skipped = [paths[i].name for i in np.flatnonzero(sizes == 0)]
    if len(skipped) == len(paths):
        raise StudyError(f"{paths[0].parent}: none of its {len(skipped)} images decodes")
    if skipped:
        log.warning("%d unreadable images left out: %s", len(skipped), ", ".join(skipped))
    write_json(folder / "skipped.json", skipped)


def _read_rows(path: Path, start: int, count: int, row_bytes: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start * row_bytes)
        return file.read(count * row_bytes)


def _cut_to_finished(folder: Path) -> np.ndarray:
    """Return the records of finished images, and cut what lies behind them off the files."""
    for name in ("images.bin", "keypoints.bin", "descriptors.bin"):
        (folder / name).touch()
    records = np.fromfile(folder / "images.bin", _RECORD)
    rows = int(records["count"].sum())
    os.truncate(folder / "images.bin", records.nbytes)
    os.truncate(folder / "keypoints.bin", rows * _KEYPOINT)
    os.truncate(folder / "descriptors.bin", rows * DIMENSIONS)
    return records
