"""Reading the MATLAB ground-truth files that retrieval benchmarks are published with."""

from __future__ import annotations

from pathlib import Path

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


def strings(cells: np.ndarray) -> tuple[str, ...]:
    """Return a cell array of strings as a tuple."""
    return tuple(str(np.ravel(cell)[0]) for cell in np.ravel(cells))


def indices(cell: np.ndarray, count: int, path: Path) -> list[int]:
    """Return 1-based MATLAB indices as sorted 0-based ones.

    Raises:
        StudyError: an index is not in 1..``count``.
    """
    # Indices are stored as uint16 or uint8, in which subtracting could wrap around.
    found = sorted(int(i) - 1 for i in np.ravel(cell))
    if found and (found[0] < 0 or found[-1] >= count):
        wrong = found[0] if found[0] < 0 else found[-1]
        raise StudyError(
            f"{path}: index {wrong + 1} is outside 1 to {count}: fetch the official file again"
        )
    return found


def box(cell: np.ndarray, path: Path) -> Box:
    """Return a 1 x 4 array as (x1, y1, x2, y2)."""
    values = [float(v) for v in np.ravel(cell)]
    if len(values) != 4:
        raise StudyError(
            f"{path}: expected boxes of 4 numbers, found {len(values)}: fetch the official file"
        )
    return (values[0], values[1], values[2], values[3])
