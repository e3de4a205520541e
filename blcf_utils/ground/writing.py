"""Places that cannot be written: the system's error as one sentence that says what helps."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir, datasets_dir

_FULL = (errno.ENOSPC, errno.EDQUOT)
_H5PY = re.compile(r"errno = (\d+)")
_REASONS = {
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOTDIR: "a file lies where a folder is expected",
    errno.EEXIST: "a file lies where a folder is expected",
    errno.EFBIG: "the file grew larger than this user or the file system may have it",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says while something is written at a path into advice.

    Raises:
        StudyError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def has_no_room(error: Exception) -> bool:
    """Return whether a disk or a quota is full, or a file as large as it may be."""
    return _number(error) in (*_FULL, errno.EFBIG)


def _number(error: Exception) -> int | None:
    """Return the number of a system's error; errors of h5py, of any type, tell it in their text."""
    told = _H5PY.search(str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


def cannot_write(path: Path, error: Exception) -> StudyError:
    """Return the error of a place that cannot be written, with the setting that moves it."""
    if path.is_relative_to(cache_dir()):
        elsewhere = "set BLCF_CACHE to another folder"
    elif path.is_relative_to(datasets_dir()):
        elsewhere = "set BLCF_DATA to another folder"
    else:
        elsewhere = "name another place (of results: --results DIR or BLCF_RESULTS)"
    number = _number(error)
    if number in _FULL:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        return StudyError(
            f"{path}: the disk is full ({free / 1e6:.0f} MB free); free some space or {elsewhere} "
            "and run again: finished parts are kept"
        )
    reason = _REASONS.get(number) or getattr(error, "strerror", None) or str(error)
    return StudyError(f"{path}: cannot be written ({reason}); {elsewhere}")
