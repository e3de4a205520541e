"""Saliency maps that somebody else computed: a folder of pictures, named as the images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage, image_size, read_image
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import in_project

SUFFIXES = (".png", ".jpg")
# The original pipeline reads maps with OpenCV, whose channel 0 is blue; grey maps have three alike.
BLUE = 2


class PrecomputedMaps:
    """The maps of a dataset's images in a folder, such as those the authors distribute.

    The map of ``<root>/jpg/old/a.jpg`` is the first that exists of ``jpg/old/a``, ``old/a`` and
    ``a``, each with .png or .jpg. Names shorter than the whole path from the dataset's root are
    only believed where they fit no other image of the database. Calling the maps with an image's
    number gives its map (H, W) uint8, as large as the image. May be used from several threads.

    Args:
        folder: holds the maps; relative to the project.
        dataset: whose images they belong to.

    Raises:
        StudyError: no such folder, or images that differ in their suffix only.
    """

    def __init__(self, folder: Path | str, dataset: Dataset):
        self.folder = in_project(folder)
        self.dataset = dataset
        if not self.folder.is_dir():
            raise StudyError(
                f"{self.folder}: no such folder, expected the saliency maps of {dataset.name}; "
                "correct the path"
            )
        whole: dict[str, Path] = {}
        for path in dataset.images:
            other = whole.setdefault(self._names(path)[0], path)
            if other != path:
                raise StudyError(
                    f"{path}: differs from {other} in its suffix only, so that one saliency map "
                    "would fit both; rename one of the two"
                )
        self._uses = Counter(name for path in dataset.images for name in self._names(path))
        self._database = set(dataset.images)

    def __call__(self, image: int) -> np.ndarray:
        """Return the map (H, W) uint8 of a database image, as large as the image.

        Raises:
            StudyError: the map is missing or does not decode.
        """
        path = self.dataset.images[image]
        try:
            size = image_size(path, exif_orientation=self.dataset.exif_orientation)
        except UnreadableImage:
            # Whether such images stop a run or are skipped is decided where features are extracted.
            size = None
        return self.map(path, size)

    def map(self, image: Path, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the map of an image, which need not be one of the database.

        Args:
            image: its path.
            size: (width, height) to which the map is resized, bilinearly; its own when None.

        Returns:
            The map, (H, W) uint8.

        Raises:
            StudyError: the map is missing or does not decode.
        """
        path = self._find(image)
        if path is None:
            raise self._lacking([image])
        try:
            saliency = np.ascontiguousarray(read_image(path, alpha="drop")[:, :, BLUE])
        except UnreadableImage as error:
            # An image may be skipped, its map may not: hence another error.
            raise StudyError(
                f"{path}: expected a saliency map that decodes; replace the file"
            ) from error
        if size is not None and saliency.shape != (size[1], size[0]):
            saliency = cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR)
        return saliency

    def missing(self, images: Iterable[Path] | None = None) -> list[Path]:
        """Return those of some images, default the database's, that have no map here."""
        images = self.dataset.images if images is None else images
        return [image for image in images if self._find(image) is None]

    def require(self, images: Iterable[Path] | None = None) -> None:
        """Refuse a folder that lacks the map of one of some images, default the database's.

        Raises:
            StudyError: maps are missing; it names the first and says how many.
        """
        if lacking := self.missing(images):
            raise self._lacking(lacking)

    def digest(self) -> str:
        """Return a hash of every database image's name and the bytes of its map.

        Raises:
            StudyError: a map is missing.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        self.require()
        whole = hashlib.sha256()
        for name, image in sorted((self._names(path)[0], path) for path in self.dataset.images):
            content = hashlib.sha256(self._find(image).read_bytes()).hexdigest()
            whole.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()[:16]

    def _names(self, image: Path) -> list[str]:
        """Return the names a map may have, without suffix, most specific first."""
        inside = image.is_relative_to(self.dataset.root)
        path = image.relative_to(self.dataset.root) if inside else Path(image.name)
        parts = (*path.parts[:-1], path.stem)
        return ["/".join(parts[start:]) for start in range(len(parts))]

    def _find(self, image: Path) -> Path | None:
        others = -1 if image in self._database else 0
        for place, name in enumerate(self._names(image)):
            inside = place == 0 and image.is_relative_to(self.dataset.root)
            if not inside and self._uses[name] + others > 0:
                continue
            for suffix in SUFFIXES:
                path = self.folder / f"{name}{suffix}"
                if path.is_file():
                    return path
        return None

    def _lacking(self, images: list[Path]) -> StudyError:
        names = self._names(images[0])
        short = f" ({names[-1]}{SUFFIXES[0]} would do if only one image had that name)"
        more = f" and {len(images) - 1:,} more images" if len(images) > 1 else ""
        return StudyError(
            f"{self.folder}: has no saliency map of {images[0]}{more}, expected "
            f"{names[0]}{SUFFIXES[0]} or {SUFFIXES[1]}{short if len(names) > 1 else ''}; put the "
            f"{'maps' if more else 'map'} there"
        )
