"""The marker of stand-ins: folders that have a benchmark's names, but pictures of another origin.

A stand-in is made by ``blcf rehearse write`` to run the study at a benchmark's true size where the
benchmark itself is not. What comes out of it is no measurement, so every table, figure and record
asks whether a dataset is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

MARKER = "stand-in.json"


def marked_folders(images: Iterable[Path], root: Path) -> tuple[Path, ...]:
    """Return the folders with a marker at or above the images, or above ``root``, sorted.

    Links to folders are looked behind, so a stand-in that is linked to from elsewhere is one.

    Args:
        images: paths of image files.
        root: the dataset's folder.
    """
    below = {os.path.dirname(path) for path in images}
    folders = {os.fspath(root), *below}
    folders |= {os.path.realpath(folder) for folder in folders}
    is_marked = cache(lambda folder: os.path.isfile(os.path.join(folder, MARKER)))
    found = set()
    for folder in folders:
        while True:
            if is_marked(folder):
                found.add(Path(folder))
            above = os.path.dirname(folder)
            if above == folder or not above:
                break
            folder = above
    return tuple(sorted(found))
