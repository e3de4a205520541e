"""Writing a stand-in to disk: pictures, names that are links to them, ground truth, marker.

The marker is written first, so a folder that was only half written is a stand-in, too. Killed, it
goes on where it stopped and ends with the same files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from blcf_utils.datasets.stand_ins.marker import MARKER
from blcf_utils.datasets.stand_ins.names import COUNTS, Names, names_of
from blcf_utils.datasets.stand_ins.pictures import (
    RECIPE_VERSION,
    Picture,
    assign_pictures,
    plan_pictures,
    render_pictures,
)
from blcf_utils.ground.artefacts import atomic_path, write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

DATASETS = ("oxford5k", "paris6k", "instre")
PICTURES_FOLDER = ".pictures"  # hidden: loaders pass over it
WHAT = (
    "Pictures stand in for this dataset's photographs: nothing that is computed on them is a "
    "measurement."
)


def write_stand_ins(
    folder: Path,
    groundtruth: Path,
    *,
    datasets: Sequence[str] = DATASETS,
    pictures: int = 96,
    names: int | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> list[dict]:
    """Write stand-ins for benchmarks, one folder each, and return their markers' contents.

    Args:
        folder: where they go; what BLCF_DATA must name to use them.
        groundtruth: folder of the official ground truth (see :func:`names_of`).
        datasets: ``oxford5k``, ``paris6k``, ``instre`` and ``oxc1_100k``, the distractors.
        pictures: different pictures of each dataset; every other name is a link to one of them.
        names: a reduced number of names of each dataset, which loaders accept with their option
            ``partial`` only; the official number when None.
        seed: of pictures and of who gets which.
        workers: processes that render; all cores when None.

    Raises:
        StudyError: ground truth is missing, or a folder holds something else.
    """
    if pictures < 2:
        raise StudyError(f"pictures: expected at least 2, found {pictures}")
    wanted = [names_of(name, Path(groundtruth), names) for name in dict.fromkeys(datasets)]
    options = {"version": RECIPE_VERSION, "seed": seed, "pictures": pictures, "names": names}
    for one in wanted:
        _refuse_other(Path(folder) / one.name, options)
    return [_write(Path(folder) / one.name, one, options, workers) for one in wanted]


def _refuse_other(root: Path, options: dict) -> None:
    """Refuse to write into a folder that holds real data, or a stand-in of other options.

    Raises:
        StudyError: it does.
    """
    if root.is_dir() and any(root.iterdir()):
        marker = root / MARKER
        if not marker.is_file():
            raise StudyError(
                f"{root}: holds files and no {MARKER}, so it may be the dataset itself; name "
                "another folder for the stand-ins"
            )
        found = json.loads(marker.read_text(encoding="utf-8")).get("options")
        if found != options:
            raise StudyError(
                f"{root}: a stand-in made with {found}, expected {options}; delete the folder or "
                "name another one"
            )


def _write(root: Path, names: Names, options: dict, workers: int | None) -> dict:
    started = {"what": WHAT, "dataset": names.name, "options": options, "complete": False}
    if not (root / MARKER).is_file():
        write_json(root / MARKER, started)
    drawn = plan_pictures(names, options["pictures"])
    source = root / PICTURES_FOLDER
    render_pictures(names.name, drawn, source, options["seed"], workers)
    given = assign_pictures(names, drawn, options["seed"])
    linked = _link_all(root, source, given, names.name)
    for relative in names.corrupt:
        with atomic_path(root / relative):
            pass  # empty, so it does not decode either
    for relative, path in names.groundtruth.items():
        with atomic_path(root / relative) as temporary:
            shutil.copyfile(path, temporary)
    marker = {**started, **_summary(root, source, names, drawn, given), "links": linked}
    write_json(root / MARKER, {**marker, "complete": True})
    return marker


def _link_all(root: Path, source: Path, given: dict[str, Picture], name: str) -> int:
    """Make every name a hard link to its picture, or a copy where that cannot be; count links."""
    for folder in {(root / image).parent for image in given}:
        folder.mkdir(parents=True, exist_ok=True)
    links = 0
    for image, picture in progress(given.items(), label=f"names of {name}", unit="name"):
        target, original = root / image, source / picture.file
        if not target.exists():
            _link(original, target)
        links += os.path.samefile(target, original)
    return links


def _link(original: Path, target: Path) -> None:
    """Give ``original`` the further name ``target``, at once; copy it if it cannot have one."""
    try:
        os.link(original, target)
    except OSError as error:
        # No links on this file system, or too many of one file.
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EXDEV, errno.EACCES):
            raise
        with atomic_path(target) as temporary:
            shutil.copyfile(original, temporary)


def _summary(
    root: Path,
    source: Path,
    names: Names,
    drawn: tuple[Picture, ...],
    given: dict[str, Picture],
) -> dict:
    contents = {
        picture: hashlib.sha256((source / picture.file).read_bytes()).hexdigest()
        for picture in drawn
    }
    whole = hashlib.sha256()
    for image in sorted(given):
        whole.update(f"{image}\0{contents[given[image]]}\n".encode())
    sizes = {picture: (source / picture.file).stat().st_size for picture in drawn}
    return {
        "images": len(names.images),
        "official_images": COUNTS[names.name],
        "queries": names.queries,
        "distinct_pictures": len(set(given.values())),
        "bytes_of_pictures": sum(sizes.values()),
        "bytes_as_images": sum(sizes[picture] for picture in given.values()),
        "invented_names": list(names.invented),
        "corrupt_files": list(names.corrupt),
        "digest": whole.hexdigest()[:16],
    }
