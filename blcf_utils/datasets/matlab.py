"""Reading the MATLAB ground-truth files that retrieval benchmarks are published with."""

from __future__ import annotations

import math
import numbers
from pathlib import Path
from typing import Any

import numpy as np

from blcf_utils.datasets.base import Box
from blcf_utils.ground.errors import StudyError


def read_mat(path: Path, fields: tuple[str, ...]) -> dict:
    """Read a ``.mat`` file and check that it holds the given variables.

    Raises:
        StudyError: the file is missing, not a MATLAB file, or lacks a variable.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise StudyError(f"{path} is missing: put the benchmark's ground-truth file there")
    try:
        content = loadmat(path)
    except NotImplementedError:
        raise StudyError(
            f"{path}: is of MATLAB's version 7.3, expected an older one: save it with -v7"
        ) from None
    except Exception:
        # scipy lets format errors of many types through.
        raise StudyError(
            f"{path}: expected a MATLAB file, found something else: fetch it again"
        ) from None
    lacking = [field for field in fields if field not in content]
    if lacking:
        raise StudyError(
            f"{path}: lacks the variables {', '.join(lacking)}, expected {', '.join(fields)}: "
            "fetch the benchmark's official file"
        )
    return content


def strings(content: dict, variable: str, path: Path) -> tuple[str, ...]:
    """Return a variable, a cell array of texts or a matrix of characters, as a tuple.

    Raises:
        StudyError: something in it is no text, or empty.
    """
    found = []
    for number, cell in enumerate(np.ravel(content[variable]), 1):
        values = _flat(cell)
        if len(values) != 1 or not isinstance(values[0], str) or not values[0].strip():
            shown = "nothing" if not values else repr(values[0])[:60]
            raise _malformed(path, f"{variable}, entry {number}", "a name", shown)
        found.append(values[0].rstrip())  # rows of a matrix have one length
    return tuple(found)


def records(
    content: dict, variable: str, fields: tuple[str, ...], count: int, path: Path
) -> list[dict[str, Any]]:
    """Return a variable, an array of structs or a cell array of them, as one dict a query.

    Raises:
        StudyError: not ``count`` structs, or one that lacks a field.
    """
    cells = np.ravel(content[variable])
    if len(cells) != count:
        raise _malformed(path, variable, f"one struct for each of {count:,} queries", len(cells))
    found = []
    for number, cell in enumerate(cells, 1):
        while isinstance(cell, np.ndarray) and cell.size == 1:  # in a cell, and in an array of one
            cell = cell.flat[0]
        names = getattr(getattr(cell, "dtype", None), "names", None) or ()
        if lacking := [field for field in fields if field not in names]:
            shown = f"no {', '.join(lacking)}" if names else "no struct"
            expected = f"a struct with {', '.join(fields)}"
            raise _malformed(path, f"{variable}, entry {number}", expected, shown)
        found.append({field: cell[field] for field in fields})
    return found


def indices(cell: Any, count: int, path: Path) -> list[int]:
    """Return 1-based MATLAB indices as sorted 0-based ones.

    Raises:
        StudyError: an index is not a whole number in 1..``count``.
    """
    # Indices are stored as uint16 or uint8, in which subtracting could wrap around.
    found = sorted(_numbers(cell, path, "an index"))
    for index in found:
        if not 1 <= index <= count or index != int(index):
            raise StudyError(
                f"{path}: index {index:g} is outside 1 to {count} or not a whole number: fetch the "
                "official file again"
            )
    return [int(index) - 1 for index in found]


def box(cell: Any, path: Path) -> Box:
    """Return a 1 x 4 array as (x1, y1, x2, y2).

    Raises:
        StudyError: not four numbers.
    """
    values = _numbers(cell, path, "a box")
    if len(values) != 4:
        raise StudyError(
            f"{path}: expected boxes of 4 numbers, found {len(values)}: fetch the official file"
        )
    return (values[0], values[1], values[2], values[3])


def _flat(cell: Any) -> list:
    """Return the values in arrays within cells within arrays, in their order."""
    if isinstance(cell, np.ndarray):
        return [value for inner in cell.flat for value in _flat(inner)]
    return [cell]


def _numbers(cell: Any, path: Path, what: str) -> list[float]:
    values = _flat(cell)
    for value in values:
        number = isinstance(value, numbers.Real | np.bool_)
        if not number or not math.isfinite(value):
            raise _malformed(path, what, "a number", repr(value)[:60])
    return [float(value) for value in values]


def _malformed(path: Path, where: str, expected: str, found: object) -> StudyError:
    return StudyError(
        f"{path}: {where}: expected {expected}, found {found}: fetch the official file, or mend it"
    )
