"""FlickrLogos-32: 32 logo classes of 70 photographs, and 6,000 photographs without a logo.

Layout (the folder itself or ``FlickrLogos-v2`` in it)::

    classes/jpg/<class>/<image>.jpg                   no-logo is a class here
    classes/masks/<class>/<image>.jpg.bboxes.txt      header "x y width height", one box a line
    trainset.txt, valset.txt, testset.txt             lines "class,image.jpg"; or
    trainset.relpaths.txt, ...                        lines "classes/jpg/class/image.jpg"

Training set: 320 logo images; validation and test set: 960 logo images and 3,000 without, each.

Romberg et al., Scalable Logo Recognition in Real-World Images, ICMR 2011; retrieval protocol:
Romberg and Lienhart, Bundle Min-Hashing for Logo Recognition, ICMR 2013.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from blcf_utils.datasets.base import Box, Dataset, Protocol
from blcf_utils.datasets.files import absolute_folder, find_images, read_lines, some_names
from blcf_utils.datasets.joining import Expected, ParsedQuery, check_count, join_files
from blcf_utils.ground.errors import StudyError, known

CLASSES = 32
PER_CLASS = 70
NO_LOGO_IMAGES = 6_000
EXPECTED = {"trainval": Expected(4_280, 960), "all": Expected(8_240, 960)}
NO_LOGO = "no-logo"


def load_flickrlogos(
    root: Path | str,
    *,
    name: str = "flickrlogos32",
    database: Literal["trainval", "all"] = "trainval",
    partial: bool = False,
) -> Dataset:
    """Load FlickrLogos-32: the test set's logo images look for images of the same class.

    Args:
        root: the folder of ``classes`` and the lists.
        name: registry name.
        database: ``trainval`` (published: the training and validation set, 4,280 images, the
            queries outside) or ``all`` (every image, each query its own junk).
        partial: accept an incomplete copy (see ``join_files``).

    A query image with several logos is boxed by its largest.

    Raises:
        StudyError: a file is missing or malformed, or a count is not the published one.
    """
    if database not in EXPECTED:
        raise known("database of FlickrLogos-32", database, EXPECTED)
    root = absolute_folder(root, name)
    inner = root / "FlickrLogos-v2"
    top = inner if inner.is_dir() else root
    # One class is written HP in some of the lists and hp in others.
    files = {
        f"{path.parent.name.lower()}/{path.name}": path
        for path in find_images(absolute_folder(top / "classes" / "jpg", name))
    }
    _check_classes(name, files, partial)
    train, val, test = (_read_split(top, split) for split in ("train", "val", "test"))
    names = list(dict.fromkeys([*train, *val, *(test if database == "all" else ())]))
    queries = [
        ParsedQuery(
            id=image.rpartition(".")[0],
            image=image,
            box=largest_box(_box_file(files[image])) if image in files else None,
            positives=tuple(n for n in names if _class(n) == _class(image) and n != image),
            junk=(image,) if database == "all" else (),
            instance=_class(image),
        )
        for image in test
        if _class(image) != NO_LOGO
    ]
    return join_files(
        name,
        root,
        names,
        files,
        queries,
        protocol=Protocol(
            "trapezoid",
            "junk" if database == "all" else "absent",
            "Romberg and Lienhart 2013",
        ),
        domain="logos",
        expected=EXPECTED[database],
        partial=partial,
    )


def parse_image_list(path: Path) -> list[str]:
    """Read one of the lists, in either style.

    Returns:
        ``class/image.jpg`` for each line, the class in lower case.

    Raises:
        StudyError: a line is of neither style.
    """
    images = []
    for line in read_lines(path):
        parts = line.split(",") if "," in line else line.split("/")[-2:]
        if len(parts) != 2 or not all(parts):
            raise StudyError(
                f"{path}: expected lines like adidas,1.jpg or classes/jpg/adidas/1.jpg, "
                f"found {line!r}: fetch the file again"
            )
        images.append(f"{parts[0].strip().lower()}/{parts[1].strip()}")
    return images


def largest_box(path: Path) -> Box:
    """Read a ``.bboxes.txt`` file and return its largest box as (x1, y1, x2, y2).

    Raises:
        StudyError: the file is missing, malformed or holds no box.
    """
    boxes = []
    for line in read_lines(path)[1:]:
        try:
            x, y, width, height = (float(word) for word in line.split())
        except ValueError:
            raise StudyError(
                f"{path}: expected lines of x y width height, found {line!r}: fetch the file again"
            ) from None
        boxes.append((x, y, x + width, y + height))
    if not boxes:
        raise StudyError(f"{path}: expected a header and at least one box: fetch the file again")
    return max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))


def _class(image: str) -> str:
    return image.partition("/")[0]


def _read_split(top: Path, split: str) -> list[str]:
    plain, relative = top / f"{split}set.txt", top / f"{split}set.relpaths.txt"
    if not plain.is_file() and not relative.is_file():
        raise StudyError(f"{plain} is missing, and so is {relative.name}: expected one of the two")
    return parse_image_list(plain if plain.is_file() else relative)


def _box_file(image: Path) -> Path:
    masks = image.parents[2] / "masks"
    named = masks / image.parent.name / f"{image.name}.bboxes.txt"
    if named.is_file():
        return named
    return masks / image.parent.name.lower() / f"{image.name}.bboxes.txt"


def _check_classes(name: str, files: dict[str, Path], partial: bool) -> None:
    counts: dict[str, int] = {}
    for image in files:
        counts[_class(image)] = counts.get(_class(image), 0) + 1
    check_count(name, "no-logo images", counts.pop(NO_LOGO, 0), NO_LOGO_IMAGES, partial)
    check_count(name, "logo classes", len(counts), CLASSES, partial)
    odd = [logo for logo, count in sorted(counts.items()) if count != PER_CLASS]
    if odd and not partial:
        raise StudyError(
            f"{name}: expected {PER_CLASS} images of each class, found {counts[odd[0]]} of "
            f"{odd[0]} ({len(odd)} such classes: {some_names(odd)}): complete the copy, or set the "
            "loader's option partial to use what is there"
        )
