"""What a stand-in holds: the images, boxes and instances that a benchmark's ground truth names.

ROxford5k's and RParis6k's ground truth lists every image of Oxford5k and Paris6k, INSTRE's its own.
The distractors have no ground truth: their names are invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blcf_utils.datasets import distractors
from blcf_utils.datasets.base import STANDIN, Box
from blcf_utils.datasets.instre import parse_instre
from blcf_utils.datasets.joining import ParsedQuery
from blcf_utils.datasets.revisited import parse_revisited
from blcf_utils.datasets.vgg_groundtruth import groundtruth_folder, parse_vgg_groundtruth
from blcf_utils.ground.errors import known

REVISITED = {"oxford5k": "gnd_roxford5k.mat", "paris6k": "gnd_rparis6k.mat"}


@dataclass(frozen=True)
class Names:
    """The files of one stand-in, by their paths below its folder.

    Attributes:
        dataset: registry name, which is also the folder's.
        images: every image.
        boxes: the boxes that must fit into an image, for query images.
        instances: the instance that an image shows, where the ground truth says so.
        groundtruth: the ground truth's files and where each is copied from.
    """

    dataset: str
    images: tuple[str, ...]
    boxes: dict[str, list[Box]]
    instances: dict[str, str]
    groundtruth: dict[str, Path]


def names_of(benchmark: str, groundtruth: Path) -> Names:
    """Return the names of a benchmark's stand-in.

    Args:
        benchmark: ``oxford5k``, ``paris6k``, ``instre`` or ``oxc1_100k``, the distractors.
        groundtruth: folder of the official ground truth: ``oxford5k/`` and ``paris6k/`` with
            their text files, ``gnd_roxford5k.mat``, ``gnd_rparis6k.mat``, ``gnd_instre.mat``.

    Raises:
        StudyError: unknown name, or ground truth that is missing or malformed.
    """
    if benchmark not in BENCHMARKS:
        raise known("benchmark to stand in for", benchmark, BENCHMARKS)
    return BENCHMARKS[benchmark](benchmark, groundtruth)


def _vgg(benchmark: str, groundtruth: Path) -> Names:
    folder = groundtruth_folder(groundtruth / benchmark, benchmark)
    database, revisited = parse_revisited(groundtruth / REVISITED[benchmark])
    images = {*database, *(query.image for query in revisited)}
    files = {f"gt/{path.name}": path for path in folder.glob("*_*.txt")}
    return _named(benchmark, "jpg/{}.jpg", images, parse_vgg_groundtruth(folder), files)


def _instre(benchmark: str, groundtruth: Path) -> Names:
    path = groundtruth / "gnd_instre.mat"
    images, queries = parse_instre(path)
    return _named(benchmark, "images/{}", images, queries, {path.name: path})


def _distractors(benchmark: str, groundtruth: Path) -> Names:
    # The official archive has a folder for each of the most popular Flickr tags.
    images = [f"{i // 1000:03d}/oxc1_{i:06d}" for i in range(distractors.EXPECTED)]
    return _named(benchmark, "{}.jpg", images, (), {})


BENCHMARKS: dict[str, Callable[[str, Path], Names]] = {
    "oxford5k": _vgg,
    "paris6k": _vgg,
    "instre": _instre,
    distractors.FOLDER: _distractors,
}


def _named(
    benchmark: str,
    path: str,
    images: Iterable[str],
    queries: Sequence[ParsedQuery],
    groundtruth: dict[str, Path],
) -> Names:
    """Return the names; ``path`` is where the image ``{}`` lies."""
    boxes: dict[str, list[Box]] = {}
    instances: dict[str, str] = {}
    every = set(images)
    for query in queries:
        every.update((query.image, *query.positives, *query.junk))
        instances |= {path.format(image): query.instance for image in query.positives}
        if query.box:
            boxes.setdefault(path.format(query.image), []).append(query.box)
    # A query image shows what it asks for, also where it is a positive of another instance.
    instances |= {path.format(query.image): query.instance for query in queries}
    found = tuple(sorted(path.format(image) for image in every))
    return Names(f"{benchmark}{STANDIN}", found, boxes, instances, groundtruth)
