"""Which photograph a person means: paths in whatever form they are given, names as typed."""

from __future__ import annotations

from pathlib import Path

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.files import composed
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute


def photograph_of(dataset: Dataset, given: Path | str) -> Path:
    """Return the path of an image as a dataset writes it, however it was named.

    Args:
        dataset: whose images are looked through.
        given: a path from the working folder, else one from the dataset's folder. It may lead
            over links, and have accents as one character or as two, as systems write them.

    Returns:
        A path of ``dataset.images``, or an absolute one that is not among them.

    Raises:
        StudyError: no such file.
    """
    places = absolute(given), dataset.root / given
    for path in places:
        for form in (path, path.resolve()):
            if form in dataset.image_index:
                return form
        if path.exists():
            return _same_file(dataset, path)
    typed = {composed(str(form)) for path in places for form in (path, path.resolve())}
    for image in dataset.images:
        if composed(str(image)) in typed:
            return image
    raise StudyError(
        f"{given}: no such file, nor a photograph of {dataset.root}; name an image file"
    )


def printable(name: str) -> str:
    """Return a file's name for a line of text: what is no character of a line is escaped."""
    shown = "".join(c if c.isprintable() or _is_byte(c) else ascii(c)[1:-1] for c in name)
    return shown.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _same_file(dataset: Dataset, path: Path) -> Path:
    """Return the image that is a file, by another name or over a link; the path if none is."""
    wanted = path.stat()
    for image in dataset.images:
        try:
            found = image.stat()
        except OSError:
            continue
        if (found.st_ino, found.st_dev) == (wanted.st_ino, wanted.st_dev):
            return image
    return path


def _is_byte(character: str) -> bool:
    """Return whether Python read a byte that is not UTF-8 as this character."""
    return 0xDC80 <= ord(character) <= 0xDCFF
