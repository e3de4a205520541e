"""Places that cannot be written: the system's error as one sentence that says what helps."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir, datasets_dir

_FULL = (errno.ENOSPC, errno.EDQUOT)
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


def is_full(error: OSError) -> bool:
    """Return whether a disk or a quota is full; h5py tells it in its text only."""
    return error.errno in _FULL or "errno = 28" in str(error)


def cannot_write(path: Path, error: OSError) -> StudyError:
    """Return the error of a place that cannot be written, with the setting that moves it."""
    if path.is_relative_to(cache_dir()):
        elsewhere = "set BLCF_CACHE to another folder"
    elif path.is_relative_to(datasets_dir()):
        elsewhere = "set BLCF_DATA to another folder"
    else:
        elsewhere = "name another place (of results: --results DIR or BLCF_RESULTS)"
    if is_full(error):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        return StudyError(
            f"{path}: the disk is full ({free / 1e6:.0f} MB free); free some space or {elsewhere} "
            "and run again: finished parts are kept"
        )
    reason = _REASONS.get(error.errno, error.strerror or str(error))
    return StudyError(f"{path}: cannot be written ({reason}); {elsewhere}")
