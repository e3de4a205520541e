"""Any folder of photographs, with a small CSV of queries or none.

``queries.csv`` in the folder, one query a line, with the header
``id,image,x1,y1,x2,y2,positives,junk``: images are paths relative to the folder, or bare file
names where those are unique; a blank box is the whole image; positives and junk are separated by
``;``. Boxes are in pixels of the photograph as a viewer shows it (EXIF orientation applied).
With a CSV, photographs in a sub-folder ``queries`` are query images only, no part of the database.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from blcf_utils.datasets.base import Box, Dataset, Protocol
from blcf_utils.datasets.files import absolute_folder, by_relative_name, find_images
from blcf_utils.datasets.formats import EXPECTED
from blcf_utils.datasets.joining import ParsedQuery, join_files
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import composed

CORNERS = ("x1", "y1", "x2", "y2")
COLUMNS = ("id", "image", *CORNERS, "positives", "junk")
FILE = "queries.csv"


def load_folder(root: Path | str, *, name: str, queries_csv: str = FILE) -> Dataset:
    """Load a folder of photographs, searched recursively (``formats.py`` says of which kinds).

    Args:
        root: the folder.
        name: the dataset's name.
        queries_csv: the CSV of queries, relative to ``root``; a folder without the default file
            is a dataset without queries, to be searched but not scored.

    A query's own image in the database is its junk unless it is listed as a positive.

    Raises:
        StudyError: no photograph, or a malformed CSV (the message names its line).
    """
    root = absolute_folder(root, name)
    files = by_relative_name(find_images(root), root)
    table = root / queries_csv
    if not table.is_file():
        if queries_csv != FILE:
            raise StudyError(f"{table} is missing: expected the CSV of queries there")
        names, queries = list(files), ()
    else:
        names = [image for image in files if not image.startswith("queries/")]
        queries = parse_queries_csv(table, files, set(names))
    if not names:
        raise StudyError(f"{name}: no photograph in {root}: expected {EXPECTED}")
    inside = any(query.image in set(names) for query in queries)
    return join_files(
        name,
        root,
        names,
        files,
        queries,
        protocol=Protocol("trapezoid", "junk" if inside else "absent", f"own {queries_csv}"),
        domain="own photographs",
        exif_orientation=True,
    )


def parse_queries_csv(
    path: Path, files: Mapping[str, Path], database: set[str]
) -> tuple[ParsedQuery, ...]:
    """Read a CSV of queries.

    Args:
        path: the file.
        files: the folder's photographs by their relative names.
        database: those that are searched; positives and junk must be among them.

    Raises:
        StudyError: a column is missing, or a line is wrong (the message names line and column).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restkey="beyond")
            header = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path}: not a UTF-8 CSV file ({error}): save it as one") from None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}): mend or remove it") from None
    lacking = [column for column in COLUMNS if column not in header]
    if lacking:
        raise StudyError(
            f"{path}: the columns {', '.join(lacking)} are missing: expected the header "
            f"{','.join(COLUMNS)}, separated by commas"
        )
    by_name: dict[str, list[str]] = {}
    for relative in files:
        typed = composed(relative)
        for name in {typed, typed.rpartition("/")[2]}:
            by_name.setdefault(name, []).append(relative)

    queries: dict[str, ParsedQuery] = {}
    for line, row in rows:
        query = _parse_row(row, f"{path}, line {line}", files, by_name, database)
        if query.id in queries:
            raise StudyError(f"{path}, line {line}: the id {query.id} is used twice: change one")
        queries[query.id] = query
    if not queries:
        raise StudyError(f"{path}: no query in it: add a line, or remove the file to search only")
    return tuple(queries.values())


def _parse_row(
    row: dict[str, str],
    where: str,
    files: Mapping[str, Path],
    by_name: Mapping[str, list[str]],
    database: set[str],
) -> ParsedQuery:
    if "beyond" in row or any(row[column] is None for column in COLUMNS):
        raise StudyError(f"{where}: expected as many fields as the header has: mend the line")
    row = {column: row[column].strip() for column in COLUMNS}

    def resolve(given: str, column: str) -> str:
        relative = given.replace("\\", "/").removeprefix("./")
        if relative in files:
            return relative
        candidates = by_name.get(composed(relative), [])
        if len(candidates) == 1:
            return candidates[0]
        found = f"{len(candidates)} files of that name" if candidates else "no such file"
        raise StudyError(
            f"{where}: {column} names {given!r}, found {found}: give its path relative to the "
            "folder of photographs"
        )

    def members(column: str) -> tuple[str, ...]:
        given = [part.strip() for part in row[column].split(";") if part.strip()]
        resolved = tuple(resolve(part, column) for part in given)
        outside = [part for part in resolved if part not in database]
        if outside:
            raise StudyError(
                f"{where}: {column} names {outside[0]}, which is a query image only: expected an "
                "image of the database"
            )
        return resolved

    if not row["id"]:
        raise StudyError(f"{where}: the column id is blank: give the query a name")
    image = resolve(row["image"], "image")
    positives, junk = members("positives"), members("junk")
    if not positives:
        raise StudyError(
            f"{where}: query {row['id']} has no positives, so its AP cannot be computed: list the "
            "images that show the same instance, or remove the line"
        )
    both = sorted(set(positives) & set(junk))
    if both:
        raise StudyError(f"{where}: {both[0]} is both positive and junk: remove it from one")
    if image in database and image not in positives and image not in junk:
        junk = (*junk, image)
    return ParsedQuery(row["id"], image, _box(row, where), positives, junk)


def _box(row: Mapping[str, str], where: str) -> Box | None:
    given = [row[corner] for corner in CORNERS]
    if not any(given):
        return None
    try:
        x1, y1, x2, y2 = (float(value) for value in given)
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ValueError
    except ValueError:
        raise StudyError(
            f"{where}: expected numbers in x1, y1, x2 and y2, or all four blank for the whole "
            f"image, found {','.join(given)}"
        ) from None
    return (x1, y1, x2, y2)
