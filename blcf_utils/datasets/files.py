"""Finding a benchmark's files: images below a folder, ground-truth files, and names in messages."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def absolute_folder(folder: Path | str, dataset: str) -> Path:
    """Return ``folder`` as an absolute path.

    Raises:
        StudyError: the folder does not exist.
    """
    path = absolute(folder)
    if not path.is_dir():
        raise StudyError(
            f"{dataset}: the folder {path} does not exist: put the dataset there (`blcf data "
            "fetch` gets what may be downloaded), or set BLCF_DATA to the folder that holds one "
            "sub-folder per dataset"
        )
    return path


def composed(name: str) -> str:
    """Return a name with every accented letter as one character (Unicode's form NFC)."""
    return unicodedata.normalize("NFC", name)


def content_digest(path: Path) -> str:
    """Return a digest of a file's bytes: files with equal ones are one image."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def find_images(
    folder: Path, skip: Iterable[str] = (), suffixes: Collection[str] = IMAGE_SUFFIXES
) -> list[Path]:
    """Return every image file below ``folder``, sorted by its path relative to the folder.

    Args:
        folder: searched with all sub-folders; hidden files and folders are passed over.
        skip: names of sub-folders, at any depth, that are passed over.
        suffixes: of image files, in lower case.
    """
    passed_over = {"__MACOSX", *skip}
    found = []
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # Links to folders are followed, since large sets are often linked; but not in a circle.
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [f for f in folders if f not in passed_over and not f.startswith(".")]
        found += [
            Path(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def by_relative_name(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Return the paths under their names relative to ``folder``, with forward slashes."""
    return {path.relative_to(folder).as_posix(): path for path in paths}


def by_stem(paths: Iterable[Path], dataset: str) -> dict[str, Path]:
    """Return the paths under their file names without suffix.

    Raises:
        StudyError: two files share a stem, so a ground-truth name would be ambiguous.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.stem, path)
        if other is not path:
            raise StudyError(
                f"{dataset}: {other} and {path} share the name {path.stem}: expected one file "
                "per image, remove one of the two"
            )
    return found


def read_lines(path: Path) -> list[str]:
    """Return the non-blank lines of a UTF-8 text file, stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StudyError(f"{path} is missing: complete the dataset's ground truth") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path} is not UTF-8 text: fetch the file again") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def some_names(names: Sequence[str], shown: int = 5) -> str:
    """Return the first names for a message: ``a, b, c and 12 more``."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest:,} more" if rest > 0 else "")
