"""Finding a benchmark's files: images below a folder, ground-truth files, and names in messages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blcf_utils.datasets.formats import IMAGE_ENDINGS, OTHER_ENDINGS, begins_as_picture
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute


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


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file that a path leads to; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def content_digest(path: Path) -> str:
    """Return a digest of a file's bytes: files with equal ones are one image."""
    with path.open("rb") as file:  # of any size, such as a film that is called .jpg
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@dataclass(frozen=True)
class Listing:
    """What lies in a folder and its sub-folders, by paths relative to it with forward slashes.

    Attributes:
        images: image files, sorted.
        repeated: those of ``images`` that are links to a file of ``images``.
        other: ending to what looks like a picture but is not read.
        failed: what has the name of an image but is none, and links that lead nowhere, to why.
        unlisted: sub-folders that cannot be looked into, to why.
    """

    images: list[str] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)
    other: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)


def look_through(folder: Path, skip: Iterable[str] = ()) -> Listing:
    """Look at every entry of a folder, without opening any that has a picture's ending.

    Links are followed, to folders too, since large sets are often linked; but no folder is looked
    through twice, and under its own name rather than a link's.

    Args:
        folder: searched with all sub-folders; hidden files and folders are passed over.
        skip: names of sub-folders, at any depth, that are passed over.

    Raises:
        StudyError: the folder itself cannot be listed.
    """
    listing, passed_over = Listing(), {"__MACOSX", *skip}
    links: dict[str, str] = {}  # image to the file it is a link to
    files, visited = set(), set()
    folders, linked_folders = [""], []
    while folders or linked_folders:
        inside = folders.pop() if folders else linked_folders.pop(0)
        try:
            real = os.path.realpath(folder / inside)
            if real in visited:
                continue
            visited.add(real)
            with os.scandir(folder / inside) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            listing.unlisted[inside] = error.strerror or repr(error)
            continue
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            ending = ending_of(entry.name)
            if entry.name.startswith("."):
                continue
            try:
                linked, is_folder, is_file = entry.is_symlink(), entry.is_dir(), entry.is_file()
            except OSError as error:  # such as a link to itself
                listing.failed[name] = error.strerror or repr(error)
                continue
            if is_folder:
                if entry.name not in passed_over:
                    (linked_folders if linked else folders).append(name)
            elif not is_file:
                if linked and not os.path.exists(entry.path):
                    listing.failed[name] = "a link that leads nowhere"
                elif ending in IMAGE_ENDINGS | OTHER_ENDINGS:
                    listing.failed[name] = "no regular file"
            elif ending in IMAGE_ENDINGS:
                listing.images.append(name)
                if linked:
                    links[name] = os.path.realpath(entry.path)
                else:
                    files.add(os.path.join(real, entry.name))
            elif ending in OTHER_ENDINGS or _begins_as_picture(entry.path):
                listing.other.setdefault(ending, []).append(name)
    if "" in listing.unlisted:
        raise StudyError(
            f"{folder}: cannot be listed ({listing.unlisted['']}); mend its permissions"
        )
    listing.images.sort()
    for name, target in sorted(links.items()):
        if target in files:
            listing.repeated.add(name)
        files.add(target)
    return listing


def ending_of(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; nothing if it has none."""
    return os.path.splitext(name)[1].lower()


def _begins_as_picture(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return begins_as_picture(file)
    except OSError:
        return False


def find_images(folder: Path, skip: Iterable[str] = ()) -> list[Path]:
    """Return every image file below ``folder``, sorted by its path relative to the folder.

    What has the name of an image but is none, such as a broken link, is among them: it is for
    those who read it to say so.

    Args:
        folder: searched with all sub-folders; hidden files and folders are passed over.
        skip: names of sub-folders, at any depth, that are passed over.

    Raises:
        StudyError: the folder or one below it cannot be listed.
    """
    listing = look_through(folder, skip)
    for inside, why in listing.unlisted.items():
        raise StudyError(f"{folder / inside}: cannot be listed ({why}); mend its permissions")
    named = [name for name in listing.failed if name.lower().endswith(tuple(IMAGE_ENDINGS))]
    return [folder / name for name in sorted([*listing.images, *named])]


def within(name: str, folders: Iterable[str]) -> bool:
    """Tell whether a relative path lies below one of some folders."""
    return any(name.startswith(f"{folder}/") for folder in folders)


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
