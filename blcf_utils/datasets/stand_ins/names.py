"""What a stand-in is called and what it must hold: names, folders and boxes of a benchmark.

The names are the official ones wherever the ground truth has them: ROxford5k's and RParis6k's list
every image of Oxford5k and Paris6k, INSTRE's its own. Where it has not, names are invented in the
official style up to the official count, and listed as invented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from blcf_utils.datasets.base import Box
from blcf_utils.datasets.distractors import EXPECTED as DISTRACTORS
from blcf_utils.datasets.distractors import FOLDER as DISTRACTORS_FOLDER
from blcf_utils.datasets.instre import EXPECTED as INSTRE
from blcf_utils.datasets.instre import parse_instre
from blcf_utils.datasets.joining import ParsedQuery
from blcf_utils.datasets.revisited import parse_revisited
from blcf_utils.datasets.vgg_groundtruth import (
    EXPECTED,
    PARIS_CORRUPT,
    groundtruth_folder,
    parse_vgg_groundtruth,
)
from blcf_utils.ground.errors import StudyError, known

# How many positives and junk images of a query come first where only some names are wanted.
FIRST_POSITIVES, FIRST_JUNK = 8, 2


@dataclass(frozen=True)
class Names:
    """The files of one stand-in.

    Attributes:
        name: registry name of the benchmark.
        images: paths below the dataset's folder, in their order.
        boxes: boxes that must fit into an image, by its path.
        groups: images that show the same instance, by its name, the query images first.
        invented: those of ``images`` whose names no ground truth has.
        corrupt: paths of files that the official copy holds and that do not decode.
        groundtruth: files to be copied, by their path below the dataset's folder.
        queries: number of queries.
    """

    name: str
    images: tuple[str, ...]
    boxes: dict[str, tuple[Box, ...]]
    groups: dict[str, tuple[str, ...]]
    invented: tuple[str, ...]
    corrupt: tuple[str, ...]
    groundtruth: dict[str, Path]
    queries: int


def names_of(name: str, groundtruth: Path, most: int | None = None) -> Names:
    """Return the names of a benchmark's stand-in.

    Args:
        name: ``oxford5k``, ``paris6k``, ``instre`` or ``oxc1_100k``.
        groundtruth: folder of the official ground truth: ``oxford5k/`` and ``paris6k/`` with
            their text files, ``gnd_instre.mat``, and ``gnd_roxford5k.mat`` and
            ``gnd_rparis6k.mat`` for the names that the text files do not have.
        most: a reduced number of images, of those that queries need first; all when None.

    Raises:
        StudyError: unknown name, or ground truth that is missing or malformed.
    """
    if name not in BENCHMARKS:
        raise known("dataset to stand in for", name, BENCHMARKS)
    if most is not None and most < 2:
        raise StudyError(f"names of {name}: expected at least 2, found {most}")
    return BENCHMARKS[name](name, groundtruth, most)


def _vgg(name: str, groundtruth: Path, most: int | None) -> Names:
    folder = groundtruth / name
    if not folder.is_dir():
        raise StudyError(
            f"{folder} is missing: put {name}'s ground-truth text files there (*_query.txt, "
            "*_good.txt, *_ok.txt, *_junk.txt)"
        )
    texts = groundtruth_folder(folder, name)
    queries = parse_vgg_groundtruth(texts)
    boxes = {q.image: (q.box,) for q in queries if q.box}
    for query in queries:
        if query.box and query.box not in boxes[query.image]:
            boxes[query.image] += (query.box,)
    stems = {n: None for q in queries for n in (q.image, *q.positives, *q.junk)}
    revisited = groundtruth / {"oxford5k": "gnd_roxford5k.mat", "paris6k": "gnd_rparis6k.mat"}[name]
    if revisited.is_file():
        database, labelled = parse_revisited(revisited)
        stems |= dict.fromkeys((*database, *(query.image for query in labelled)))
        for query in labelled:
            boxes[query.image] = (*boxes.get(query.image, ()), query.box)
    true = len(stems)
    for stem in _more(stems, EXPECTED[name].images - true):
        stems[stem] = None
    paths = {stem: _photograph(stem) for stem in stems}
    invented = tuple(paths[stem] for stem in list(stems)[true:])
    corrupt = [_photograph(stem) for stem in sorted(PARIS_CORRUPT)] if name == "paris6k" else []
    return _some(
        Names(
            name,
            tuple(sorted(paths.values())),
            {paths[stem]: of for stem, of in boxes.items()},
            _groups(queries, paths),
            invented,
            tuple(corrupt),
            {f"gt/{path.name}": path for path in sorted(texts.glob("*_*.txt"))},
            len(queries),
        ),
        queries,
        paths,
        most,
    )


def _photograph(stem: str) -> str:
    """Return where ``blcf data fetch`` unpacks an image to."""
    return f"jpg/{stem}.jpg"


def _more(stems: dict[str, None], wanted: int) -> list[str]:
    """Invent names in the style of those there are, landmarks in turn."""
    styles = sorted({stem.rpartition("_")[0] for stem in stems})
    found: list[str] = []
    for number in count(0):
        for style in styles:
            if len(found) >= wanted:
                return found
            stem = f"{style}_{number:06d}"
            if stem not in stems and stem not in PARIS_CORRUPT:
                found.append(stem)
    return found


def _instre(name: str, groundtruth: Path, most: int | None) -> Names:
    path = groundtruth / "gnd_instre.mat"
    database, queries = parse_instre(path)
    paths = {image: f"images/{image}" for image in (*database, *(q.image for q in queries))}
    return _some(
        Names(
            name,
            tuple(paths.values()),
            {paths[q.image]: (q.box,) for q in queries if q.box},
            _groups(queries, paths),
            (),
            (),
            {path.name: path},
            len(queries),
        ),
        queries,
        paths,
        most,
    )


def _distractors(name: str, groundtruth: Path, most: int | None) -> Names:
    # The official archive has a folder for each of the most popular Flickr tags.
    total = DISTRACTORS if most is None else min(most, DISTRACTORS)
    images = tuple(f"{i // 1000:03d}/oxc1_{i:06d}.jpg" for i in range(total))
    return Names(name, images, {}, {}, images, (), {}, 0)


BENCHMARKS: dict[str, Callable[[str, Path, int | None], Names]] = {
    "oxford5k": _vgg,
    "paris6k": _vgg,
    "instre": _instre,
    DISTRACTORS_FOLDER: _distractors,
}
# What a benchmark consists of when it is complete.
COUNTS = {
    "oxford5k": EXPECTED["oxford5k"].images,
    "paris6k": EXPECTED["paris6k"].images,
    "instre": INSTRE.images + INSTRE.queries,
    DISTRACTORS_FOLDER: DISTRACTORS,
}


def _groups(queries: tuple[ParsedQuery, ...], paths: dict[str, str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, dict[str, None]] = {}
    for query in queries:
        groups.setdefault(query.instance, {})[paths[query.image]] = None
    for query in queries:
        groups[query.instance] |= dict.fromkeys(paths[p] for p in query.positives)
    return {instance: tuple(members) for instance, members in groups.items()}


def _some(
    names: Names, queries: tuple[ParsedQuery, ...], paths: dict[str, str], most: int | None
) -> Names:
    """Cut names down to ``most`` images, in an order in which queries keep their images."""
    if most is None or most >= len(names.images):
        return names
    # One query of each instance first, then the second of each ...
    turns: dict[str, int] = {}
    ordered = []
    for number, query in enumerate(queries):
        turn = turns[query.instance] = turns.get(query.instance, -1) + 1
        ordered.append((turn, number, query))
    wanted: dict[str, None] = {}
    for _, _, query in sorted(ordered, key=lambda one: one[:2]):
        members = (*query.positives[:FIRST_POSITIVES], *query.junk[:FIRST_JUNK])
        chosen = dict.fromkeys(paths[member] for member in (query.image, *members))
        if len(wanted | chosen) > most:
            break
        wanted |= chosen
    for image in names.images:
        if len(wanted) >= most:
            break
        wanted[image] = None
    return Names(
        names.name,
        tuple(image for image in names.images if image in wanted),
        {image: boxes for image, boxes in names.boxes.items() if image in wanted},
        {k: tuple(i for i in members if i in wanted) for k, members in names.groups.items()},
        tuple(image for image in names.invented if image in wanted),
        names.corrupt,
        names.groundtruth,
        names.queries,
    )
