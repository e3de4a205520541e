"""Writing a stand-in to disk: pictures, images that are links to them, and the ground truth.

When writing was interrupted, the next call continues where it stopped and ends with the same files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from blcf_utils.datasets.stand_ins.names import Names, names_of
from blcf_utils.datasets.stand_ins.pictures import (
    RECIPE_VERSION,
    assign_pictures,
    render_pictures,
)
from blcf_utils.ground.artefacts import atomic_path, write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import canonical_json, digest_of

BENCHMARKS = ("oxford5k", "paris6k", "instre")
PICTURES = ".pictures"  # a hidden folder, which loaders pass over
RECIPE = "standin.json"


def write_stand_ins(
    folder: Path,
    groundtruth: Path,
    *,
    benchmarks: Sequence[str] = BENCHMARKS,
    pictures: int = 96,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, dict[str, str]]:
    """Write the stand-ins of benchmarks, a folder each (``oxford5k-standin``).

    Args:
        folder: where they go; a folder for BLCF_DATA.
        groundtruth: folder of the official ground truth (see :func:`names_of`).
        benchmarks: ``oxford5k``, ``paris6k``, ``instre`` and ``oxc1_100k``, the distractors.
        pictures: different pictures of each; every image is a hard link to one of them.
        seed: of the pictures and of which image shows which.
        workers: processes that render; all cores when None.

    Returns:
        The file name of every image's picture, by dataset and image.

    Raises:
        StudyError: ground truth is missing, or a folder holds something else.
    """
    if pictures < 2:
        raise StudyError(f"pictures: expected at least 2, found {pictures}")
    wanted = [names_of(name, Path(groundtruth)) for name in dict.fromkeys(benchmarks)]
    for names in wanted:
        _start(Path(folder) / names.dataset, names, pictures, seed)
    return {
        names.dataset: _write(Path(folder) / names.dataset, names, pictures, seed, workers)
        for names in wanted
    }


def _start(root: Path, names: Names, pictures: int, seed: int) -> None:
    """Note in a new folder how it is written.

    Raises:
        StudyError: the folder holds other files, or a stand-in that was written otherwise.
    """
    content = digest_of({**asdict(names), "groundtruth": sorted(names.groundtruth)})
    recipe = {"version": RECIPE_VERSION, "pictures": pictures, "seed": seed, "names": content}
    path, text = root / RECIPE, canonical_json(recipe) + "\n"
    found = path.read_text(encoding="utf-8") if path.is_file() else None
    if found is None and not (root.is_dir() and any(root.iterdir())):
        write_text(path, text)
    elif found != text:
        raise StudyError(
            f"{root}: expected a new folder or a stand-in of {text.strip()}, found "
            f"{found.strip() if found else 'other files'}; delete it or name another folder"
        )


def _write(
    root: Path, names: Names, pictures: int, seed: int, workers: int | None
) -> dict[str, str]:
    given = assign_pictures(names, pictures, seed)
    render_pictures(names.dataset, given.values(), root / PICTURES, seed, workers)
    for folder in {(root / image).parent for image in given}:
        folder.mkdir(parents=True, exist_ok=True)
    for image, file in progress(given.items(), label=f"images of {names.dataset}", unit="image"):
        if not (root / image).exists():
            _link(root / PICTURES / file, root / image)
    for relative, path in names.groundtruth.items():
        _copy(path, root / relative)
    return given


def _link(original: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        os.link(original, target)
    except OSError:
        _copy(original, target)


def _copy(original: Path, target: Path) -> None:
    with atomic_path(target) as path:
        shutil.copyfile(original, path)
