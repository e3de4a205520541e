"""Sets described by one ``groundtruth.json``: the format of the study's small real sets.

::

    {"images": ["a.jpg", ...],                      file names in the folder images/
     "queries": [{"id": "q1", "image": "queries/1.jpg",      relative to the set's folder
                  "bbox": [x1, y1, x2, y2] or null,          pixels of the stored image
                  "instance": "name",
                  "positives": ["a.jpg", ...], "junk": []}],
     "boxes": {"a.jpg": [x1, y1, x2, y2]}}        optional: where images show their instance

Other keys are ignored. A query that is a database image is its own junk unless it is listed as
a positive.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from blcf_utils.datasets.base import Box, Dataset, Protocol
from blcf_utils.datasets.files import absolute_folder, by_relative_name, find_images
from blcf_utils.datasets.joining import ParsedQuery, join_files
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import composed

FILE = "groundtruth.json"


def load_groundtruth_json(root: Path | str, *, name: str, partial: bool = False) -> Dataset:
    """Load a set with a ``groundtruth.json``.

    Args:
        root: the folder of ``groundtruth.json`` and ``images``.
        name: the dataset's name.
        partial: accept an incomplete copy (see ``join_files``).

    Raises:
        StudyError: a file is missing, or the ground truth is malformed.
    """
    root = absolute_folder(root, name)
    names, queries = parse_groundtruth_json(root / FILE)
    database = set(names)
    dataset = join_files(
        name,
        root,
        names,
        by_relative_name(find_images(root), root),
        queries,
        protocol=Protocol(
            "trapezoid",
            "junk" if any(q.image in database for q in queries) else "absent",
            FILE,
        ),
        partial=partial,
    )
    boxes = parse_boxes(root / FILE, database)
    numbers = {
        composed(path.relative_to(root).as_posix()): i for i, path in enumerate(dataset.images)
    }
    located = ((numbers.get(composed(image)), box) for image, box in boxes.items())
    known = {number: box for number, box in located if number is not None}
    return replace(dataset, boxes=known)


def parse_boxes(path: Path, database: set[str]) -> dict[str, Box]:
    """Return the boxes of database images that a ``groundtruth.json`` gives, by relative name.

    Raises:
        StudyError: boxes of images that are not in the database, or malformed ones.
    """
    listed = json.loads(path.read_text(encoding="utf-8")).get("boxes", {})
    if not isinstance(listed, dict):
        raise StudyError(f"{path}: expected boxes as an object of file names: mend or remove it")
    boxes = {}
    for image, value in listed.items():
        box = _box(value, path, f"box of {image}")
        if f"images/{image}" not in database or box is None:
            raise StudyError(
                f"{path}: boxes: expected a name of the list images and a box, found {image}: "
                f"{value!r}: mend the entry"
            )
        boxes[f"images/{image}"] = box
    return boxes


def parse_groundtruth_json(path: Path) -> tuple[tuple[str, ...], tuple[ParsedQuery, ...]]:
    """Read a ``groundtruth.json``.

    Returns:
        The database images in their order and the queries; all names are relative to the set's
        folder (``images/a.jpg``).

    Raises:
        StudyError: the file is missing, not JSON, or an entry is missing or contradictory.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path} is missing: expected the set's ground truth there") from None
    except ValueError as error:
        raise StudyError(f"{path}: not valid JSON ({error}): mend or fetch it again") from None
    listed = _field(content, "images", list, path, "the file")
    names = tuple(f"images/{image}" for image in listed)
    database = set(names)
    if len(database) != len(names):
        raise StudyError(f"{path}: images lists a name twice: expected each image once")
    queries = []
    for number, entry in enumerate(_field(content, "queries", list, path, "the file")):
        where = f"query {number}"
        query_id = str(_field(entry, "id", (str, int), path, where))
        where = f"query {query_id}"
        entry = {"junk": [], **entry}
        positives, junk = (
            tuple(f"images/{image}" for image in _field(entry, key, list, path, where))
            for key in ("positives", "junk")
        )
        for key, members in (("positives", positives), ("junk", junk)):
            unknown = [member for member in members if member not in database]
            if unknown:
                raise StudyError(
                    f"{path}: {where}: {key} names {unknown[0].removeprefix('images/')}, expected "
                    "a name of the list images: mend the entry"
                )
        image = _field(entry, "image", str, path, where)
        if image in database and image not in positives + junk:
            junk = (*junk, image)
        queries.append(
            ParsedQuery(
                id=query_id,
                image=image,
                box=_box(entry.get("bbox"), path, where),
                positives=positives,
                junk=junk,
                instance=str(entry.get("instance", "")),
            )
        )
    return names, tuple(queries)


def _field(entry: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise StudyError(f"{path}: {where}: expected the key {key} with a {wanted}: add it")
    return entry[key]


def _box(value: Any, path: Path, where: str) -> Box | None:
    if value is None:
        return None
    try:
        x1, y1, x2, y2 = (float(v) for v in value)
    except (TypeError, ValueError):
        raise StudyError(
            f"{path}: {where}: expected bbox as [x1, y1, x2, y2] or null, found {value!r}: mend it"
        ) from None
    return (x1, y1, x2, y2)
