"""The face every benchmark shows: images, boxed queries and the protocol that scores them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from blcf_utils.datasets.files import content_digest, file_identity
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.errors import StudyError

# x1, y1, x2, y2 in pixels of the image: left, top, right, bottom.
Box = tuple[float, float, float, float]
# Ends the name of a dataset that `blcf standins write` makes from a benchmark's ground truth.
STANDIN = "-standin"


@dataclass(frozen=True)
class Query:
    """One query: an image, the box of the instance in it, and what counts as found.

    Attributes:
        id: unique within the dataset.
        image: path of the query image; it may or may not be one of the database's images.
        box: (x1, y1, x2, y2) in pixels of the stored image, or None for the whole image.
        positives: indices of the relevant units (database images, or shots where the protocol
            groups images into shots), sorted.
        junk: indices removed from the ranking before ranks are counted, sorted.
        instance: name of the object or building.
        mask: path of a binary mask image (TRECVID topics); the box encloses it.
    """

    id: str
    image: Path
    box: Box | None
    positives: tuple[int, ...]
    junk: tuple[int, ...] = ()
    instance: str = ""
    mask: Path | None = None


@dataclass(frozen=True)
class Protocol:
    """What counts.

    Attributes:
        ap: ``trapezoid`` (Oxford's compute_ap) or ``rectangular`` (TREC).
        query_image: ``positive`` (in the database and counted: Oxford5k, Paris6k), ``junk``
            (in the database, ignored: Holidays, the mini sets) or ``absent`` (INSTRE).
        source: paper or script that defines it, one line.
    """

    ap: Literal["trapezoid", "rectangular"] = "trapezoid"
    query_image: Literal["positive", "junk", "absent"] = "absent"
    source: str = ""


@dataclass(frozen=True)
class Dataset:
    """A benchmark: database images, queries and protocol.

    Attributes:
        name: registry name.
        root: the folder that holds it.
        images: paths of the database images, in ranking order of ties.
        queries: the queries.
        protocol: how rankings are scored.
        units: for each image the name of the unit it belongs to (TRECVID shots); None when an
            image is its own unit.
        domain: what the images show, for table t01.
        boxes: image number to the box of the one instance it shows, where that is known beyond
            the queries; used to judge localisation only.
        exif_orientation: turn images as their EXIF tag says (own photographs); benchmark boxes
            are in pixels of the stored image, so benchmarks leave it off.
        parts: a benchmark and shards of its distractors, each a database of its own whose features
            and words are made and kept apart; empty for every other dataset.
        published_code: the same with the ground truth as published evaluation code misread it,
            where published numbers may rest on that; None for most.
    """

    name: str
    root: Path
    images: tuple[Path, ...]
    queries: tuple[Query, ...]
    protocol: Protocol = Protocol()
    units: tuple[str, ...] | None = None
    domain: str = ""
    boxes: dict[int, Box] = field(default_factory=dict, compare=False)
    exif_orientation: bool = False
    notes: str = field(default="", compare=False)
    parts: tuple[Dataset, ...] = field(default=(), compare=False)
    published_code: Dataset | None = field(default=None, compare=False)

    @cached_property
    def unit_names(self) -> tuple[str, ...]:
        """Names of the ranked units, in order of first appearance (images when not grouped)."""
        if self.units is None:
            return tuple(path.name for path in self.images)
        return tuple(dict.fromkeys(self.units))

    def image_of(self, unit: int) -> int:
        """Return the number of a unit's first image (the unit itself when images are units)."""
        return unit if self.units is None else self.units.index(self.unit_names[unit])

    @cached_property
    def unit_numbers(self) -> np.ndarray:
        """The number of the unit that each database image belongs to, (n,)."""
        if self.units is None:  # names of images may repeat in other folders (INSTRE's 001.jpg)
            return np.arange(len(self.images))
        number = {name: i for i, name in enumerate(self.unit_names)}
        return np.array([number[name] for name in self.units])

    def unit_of(self, image: int) -> int:
        """Return the number of the unit that a database image belongs to."""
        return image if self.units is None else int(self.unit_numbers[image])

    @cached_property
    def extra_images(self) -> tuple[Path, ...]:
        """Query images that are not in the database, in order of first use."""
        database = set(self.images)
        return tuple(dict.fromkeys(q.image for q in self.queries if q.image not in database))

    @cached_property
    def all_images(self) -> tuple[Path, ...]:
        """Database images followed by the query images outside the database."""
        return self.images + self.extra_images

    @cached_property
    def image_index(self) -> dict[Path, int]:
        """Position of each path in ``all_images``."""
        return {path: i for i, path in enumerate(self.all_images)}

    @cached_property
    def by_file(self) -> dict[tuple[int, int], Path]:
        """The database images by device and inode; one with several names by its first."""
        found = {file_identity(path): path for path in reversed(self.images)}
        return {identity: path for identity, path in found.items() if identity}

    def of_query_images(self) -> Dataset:
        """Return the query images as a database of their own, without queries."""
        images = tuple(dict.fromkeys(query.image for query in self.queries))
        return replace(
            self,
            name=f"{self.name}-queries",
            images=images,
            queries=(),
            units=None,
            boxes={},
            parts=(),
        )

    @cached_property
    def manifest(self) -> str:
        """SHA-256 over the names and contents of every image: the identity of the pixels."""
        whole = hashlib.sha256()
        for path, content in zip(self.all_images, self._contents, strict=True):
            whole.update(f"{path.name}\0{content}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()[:16]

    @cached_property
    def _contents(self) -> tuple[str, ...]:
        """The digest of every image's bytes; a file with several names is read once."""
        files: dict[tuple[int, int], Path] = {}
        keys = []
        for path in self.all_images:
            if not path.is_file():
                raise StudyError(
                    f"{self.name}: the image {path.name} is missing from {path.parent}; put it "
                    "there or get the dataset again"
                )
            found = path.stat()
            keys.append((found.st_dev, found.st_ino))
            files.setdefault(keys[-1], path)
        with ThreadPoolExecutor(pool_threads()) as pool:
            digests = dict(zip(files, pool.map(content_digest, files.values()), strict=True))
        return tuple(digests[key] for key in keys)

    @cached_property
    def distinct(self) -> np.ndarray:
        """For each of ``all_images`` the number of the first image with the same bytes, (n,).

        Equal bytes give equal results, so what is computed of one image is computed of the first
        of its copies only.
        """
        first: dict[str, int] = {}
        numbers = [first.setdefault(content, i) for i, content in enumerate(self._contents)]
        return np.array(numbers, np.int64)

    @cached_property
    def ground_truth_digest(self) -> str:
        """SHA-256 over queries, known boxes, positives, junk and protocol."""
        whole = hashlib.sha256(repr((self.protocol, self.units)).encode())
        if self.boxes:
            whole.update(repr(sorted(self.boxes.items())).encode())
        for q in self.queries:
            mask = q.mask.read_bytes() if q.mask else b""
            truth = (q.id, q.image.name, q.box, q.positives, q.junk, q.instance)
            whole.update(repr(truth).encode() + mask)
        return whole.hexdigest()[:16]
