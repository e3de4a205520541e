"""Checking a dataset before any computing: files, decodability, boxes, indices, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.files import some_names
from blcf_utils.datasets.formats import open_image
from blcf_utils.datasets.images import UnreadableImage, image_size
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

# Published boxes are rounded, and some count pixels from 1.
BOX_SLACK = 2.0


def check_dataset(
    dataset: Dataset,
    *,
    expected_images: int | None = None,
    expected_queries: int | None = None,
    decode: bool = True,
) -> None:
    """Check that a dataset can be computed on, and say by name what cannot.

    Args:
        dataset: what a loader returned.
        expected_images: number of database images, when known.
        expected_queries: number of queries, when known.
        decode: decode every image; off, only the query images' headers are read.

    Raises:
        StudyError: an image or mask is missing or cannot be decoded, a count differs, an index
            is out of range, or a box is empty or leaves its image by more than 2 pixels.
    """
    _check_counts(dataset, expected_images, expected_queries)
    masks = tuple(q.mask for q in dataset.queries if q.mask is not None)
    _check_present(dataset, (*dataset.all_images, *masks))
    for query in dataset.queries:
        _check_indices(dataset, query)
    if decode:  # of images with the same bytes only the first
        images = dataset.all_images
        same = dict(zip(images, (images[i] for i in dataset.distinct), strict=True))
    else:
        same = {query.image: query.image for query in dataset.queries}
    sizes = _read_sizes(dataset, same, decode)
    mask_sizes = _read_sizes(dataset, dict(zip(masks, masks, strict=True)), decode)
    for query in dataset.queries:
        _check_box(dataset, query, sizes[query.image])
        if query.mask is not None and mask_sizes[query.mask] != sizes[query.image]:
            raise StudyError(
                f"{dataset.name}: query {query.id}: the mask {query.mask} is not of the size of "
                f"{query.image.name}: supply the mask of that image"
            )


def _check_counts(dataset: Dataset, images: int | None, queries: int | None) -> None:
    for what, found, expected in (
        ("database images", len(dataset.images), images),
        ("queries", len(dataset.queries), queries),
    ):
        if expected is not None and found != expected:
            raise StudyError(
                f"{dataset.name}: found {found:,} {what} in {dataset.root}, expected "
                f"{expected:,}: complete the copy"
            )
    if not dataset.images:
        raise StudyError(f"{dataset.name}: no database image in {dataset.root}: put them there")
    if dataset.units is not None and len(dataset.units) != len(dataset.images):
        raise StudyError(
            f"{dataset.name}: {len(dataset.units):,} unit names for {len(dataset.images):,} "
            "images: expected one for each image, mend the loader"
        )
    for what, names in (
        ("image", [str(path) for path in dataset.images]),
        ("query id", [query.id for query in dataset.queries]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise StudyError(
                f"{dataset.name}: the {what} {twice[0]} occurs twice: expected it once, mend the "
                "ground truth"
            )


def _check_present(dataset: Dataset, paths: Sequence[Path]) -> None:
    missing = [_relative(dataset, path) for path in paths if not path.is_file()]
    if missing:
        raise StudyError(
            f"{dataset.name}: {len(missing):,} files are missing in {dataset.root}: "
            f"{some_names(missing)}; fetch them again"
        )


def _check_indices(dataset: Dataset, query: Query) -> None:
    units = len(dataset.unit_names) if dataset.units is not None else len(dataset.images)
    where = f"{dataset.name}: query {query.id}"
    if not query.positives:
        raise StudyError(f"{where} has no positive, so no AP: list its positives or remove it")
    for kind, members in (("positives", query.positives), ("junk", query.junk)):
        outside = [i for i in members if not 0 <= i < units]
        if outside:
            raise StudyError(
                f"{where}: {kind} holds the index {outside[0]}, expected 0 to {units - 1}: mend "
                "its ground truth"
            )
        if list(members) != sorted(set(members)):
            raise StudyError(f"{where}: {kind} are not sorted and unique: mend the loader")
    both = sorted(set(query.positives) & set(query.junk))
    if both:
        raise StudyError(
            f"{where}: image {both[0]} is both positive and junk: mend its ground truth"
        )


def _read_sizes(
    dataset: Dataset, same: dict[Path, Path], decode: bool
) -> dict[Path, tuple[int, int]]:
    """Return (width, height) of every image, after decoding all of it when ``decode`` is set.

    Args:
        dataset: whose images they are.
        same: each image and the one that is read for it, which has the same bytes.
        decode: whether all of it is read.
    """
    paths = list(dict.fromkeys(same.values()))

    def read(path: Path) -> tuple[int, int] | str:
        return _read_size(path, decode, dataset.exif_orientation)

    with ThreadPoolExecutor(pool_threads()) as pool:
        found = progress(
            pool.map(read, paths), label=f"check {dataset.name}", total=len(paths), unit="image"
        )
        read_sizes = dict(zip(paths, found, strict=True))
    sizes = {path: read_sizes[first] for path, first in same.items()}
    broken = [
        f"{_relative(dataset, path)} ({size})"
        for path, size in sizes.items()
        if isinstance(size, str)
    ]
    if broken:
        raise StudyError(
            f"{dataset.name}: {len(broken):,} files cannot be decoded as images in "
            f"{dataset.root}: {some_names(broken)}; fetch them again or take them out"
        )
    return sizes


def _read_size(path: Path, decode: bool, exif_orientation: bool) -> tuple[int, int] | str:
    """Return (width, height) as a box of this image sees it, or what is wrong with the file."""
    try:
        if decode:
            with open_image(path) as image:
                image.verify()
            with open_image(path) as image:
                # A JPEG is read to its end at an eighth of the size, several times faster.
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        return image_size(path, exif_orientation=exif_orientation)
    except UnreadableImage as error:
        return error.reason
    except Exception as error:
        # Broken files make the decoders raise errors of many types.
        return str(error).split(" <")[0] or type(error).__name__


def _check_box(dataset: Dataset, query: Query, size: tuple[int, int]) -> None:
    if query.box is None:
        return
    x1, y1, x2, y2 = query.box
    where = f"{dataset.name}: query {query.id}: the box {query.box}"
    # Written so that a coordinate that is not a number fails too.
    if not (x2 - x1 > 0 and y2 - y1 > 0):
        raise StudyError(f"{where} is empty: expected x1 < x2 and y1 < y2, mend its ground truth")
    width, height = size
    if not (min(x1, y1) >= -BOX_SLACK and x2 <= width + BOX_SLACK and y2 <= height + BOX_SLACK) or (
        x1 >= width or y1 >= height
    ):
        raise StudyError(
            f"{where} leaves {_relative(dataset, query.image)} of {width} x {height} pixels: "
            "expected it inside, mend its ground truth"
        )


def _relative(dataset: Dataset, path: Path) -> str:
    return (
        path.relative_to(dataset.root).as_posix()
        if path.is_relative_to(dataset.root)
        else str(path)
    )
