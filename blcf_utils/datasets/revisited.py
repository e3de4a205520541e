"""ROxford5k and RParis6k: Oxford and Paris annotated anew, scored Easy, Medium and Hard.

Layout: ``gnd_roxford5k.mat`` (or ``gnd_rparis6k.mat``) in the folder, photographs anywhere below
it or, when there are none, below a folder ``oxford5k`` (``paris6k``) beside it. The pickled ground
truth of the same authors is not read, because unpickling runs whatever code a file holds.

Radenovic et al., Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking, CVPR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blcf_utils.datasets.base import Box, Dataset, Protocol
from blcf_utils.datasets.distractors import FOLDER as DISTRACTORS
from blcf_utils.datasets.files import absolute_folder, by_stem, find_images
from blcf_utils.datasets.joining import Expected, ParsedQuery, join_files
from blcf_utils.datasets.matlab import box, indices, read_mat, records, strings
from blcf_utils.ground.errors import StudyError, known

EXPECTED = {"roxford5k": Expected(4_993, 70), "rparis6k": Expected(6_322, 70)}
PHOTOGRAPHS = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}

# Which labels count as positive and which as junk.
SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


@dataclass(frozen=True)
class LabelledQuery:
    """One query of the revisited ground truth: for each label the names of its images."""

    image: str
    box: Box
    labels: dict[str, tuple[str, ...]]


def load_revisited(
    root: Path | str,
    *,
    name: str = "roxford5k-medium",
    images: Path | str | None = None,
    partial: bool = False,
) -> Dataset:
    """Load ROxford5k or RParis6k under one of the three setups.

    Args:
        root: the folder of the ground-truth file.
        name: ``roxford5k`` or ``rparis6k`` with ``-easy``, ``-medium`` or ``-hard``.
        images: the folder of the photographs, when neither in nor beside ``root``.
        partial: accept an incomplete copy (see ``join_files``).

    The query images are no part of the database, and the ground truth names no landmarks. Queries
    without a positive under the setup are skipped and said, as the authors do.

    Raises:
        StudyError: a file is missing or malformed, or a count is not the published one.
    """
    base, _, setup = name.rpartition("-")
    if base not in EXPECTED or setup not in SETUPS:
        raise known("revisited benchmark", name, (f"{b}-{s}" for b in EXPECTED for s in SETUPS))
    root = absolute_folder(root, name)
    names, labelled = parse_revisited(_groundtruth_file(root, base))
    if images is None:
        beside = root.parent / PHOTOGRAPHS[base]
        found = find_images(root, skip=(DISTRACTORS,))
        if not found and beside.is_dir():
            found = find_images(beside, skip=(DISTRACTORS,))
    else:
        found = find_images(absolute_folder(images, name))
    return join_files(
        name,
        root,
        names,
        by_stem(found, name),
        queries_for(labelled, setup),
        protocol=Protocol("trapezoid", "absent", "Radenovic et al. 2018"),
        domain="buildings",
        expected=EXPECTED[base],
        partial=partial,
    )


def parse_revisited(path: Path) -> tuple[tuple[str, ...], tuple[LabelledQuery, ...]]:
    """Read ``gnd_roxford5k.mat`` or ``gnd_rparis6k.mat``.

    Returns:
        The names of the database images in their order, and the queries.

    Raises:
        StudyError: the file is missing or malformed.
    """
    content = read_mat(path, ("imlist", "qimlist", "gnd"))
    names, asked = strings(content, "imlist", path), strings(content, "qimlist", path)
    labels = ("easy", "hard", "junk")
    queries = tuple(
        LabelledQuery(
            image=image,
            box=box(truth["bbx"], path),
            labels={
                label: tuple(names[i] for i in indices(truth[label], len(names), path))
                for label in labels
            },
        )
        for image, truth in zip(
            asked, records(content, "gnd", ("bbx", *labels), len(asked), path), strict=True
        )
    )
    return names, queries


def queries_for(labelled: tuple[LabelledQuery, ...], setup: str) -> tuple[ParsedQuery, ...]:
    """Return the queries with positives and junk of the setup ``easy``, ``medium`` or ``hard``."""
    positive_labels, junk_labels = SETUPS[setup]
    return tuple(
        ParsedQuery(
            id=query.image,
            image=query.image,
            box=query.box,
            positives=tuple(n for label in positive_labels for n in query.labels[label]),
            junk=tuple(n for label in junk_labels for n in query.labels[label]),
        )
        for query in labelled
    )


def _groundtruth_file(root: Path, base: str) -> Path:
    path = root / f"gnd_{base}.mat"
    if not path.is_file() and path.with_suffix(".pkl").is_file():
        raise StudyError(
            f"{path.with_suffix('.pkl')}: pickles are not read because they can run code: put "
            f"the authors' {path.name} beside it"
        )
    return path
