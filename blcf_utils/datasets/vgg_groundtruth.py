"""Oxford5k, Paris6k and their 105k versions: the ground-truth text files of Oxford's VGG.

Layout: images anywhere below the folder (Oxford's flat, Paris' in one sub-folder per landmark or
flat), the text files ``<landmark>_<n>_{query,good,ok,junk}.txt`` in the folder itself or in one
of its sub-folders. The 100,071 distractors of the 105k versions are a folder ``oxc1_100k`` in
the folder or beside it. Stand-ins (``oxford5k-standin``) have ``oxc1_100k-standin`` beside them.

Philbin et al., Object retrieval with large vocabularies and fast spatial matching, CVPR 2007;
Philbin et al., Lost in quantization, CVPR 2008; ``compute_ap.cpp``.
"""

from __future__ import annotations

from pathlib import Path

from blcf_utils.datasets.base import STANDIN, Box, Dataset, Protocol
from blcf_utils.datasets.distractors import FOLDER as DISTRACTORS
from blcf_utils.datasets.distractors import add_distractors
from blcf_utils.datasets.files import absolute_folder, by_stem, find_images, read_lines
from blcf_utils.datasets.joining import Expected, ParsedQuery, join_files
from blcf_utils.ground.errors import StudyError, known

EXPECTED = {"oxford5k": Expected(5_063, 55), "paris6k": Expected(6_392, 55)}
EXPECTED |= {f"{name}{STANDIN}": counts for name, counts in EXPECTED.items()}

WITH_DISTRACTORS = {"oxford105k": "oxford5k", "paris106k": "paris6k"}
WITH_DISTRACTORS |= {f"{k}{STANDIN}": f"{name}{STANDIN}" for k, name in WITH_DISTRACTORS.items()}

# Oxford's query files name images with this prefix, all other files without it.
QUERY_PREFIX = "oxc1_"

# The files of Paris6k that its authors list as corrupt (corrupt.txt): 6,412 - 20 = 6,392.
PARIS_CORRUPT = frozenset(
    f"paris_{name}"
    for name in (
        "louvre_000136",
        "louvre_000146",
        "moulinrouge_000422",
        "museedorsay_001059",
        "notredame_000188",
        "pantheon_000284",
        "pantheon_000960",
        "pantheon_000974",
        "pompidou_000195",
        "pompidou_000196",
        "pompidou_000201",
        "pompidou_000467",
        "pompidou_000640",
        "sacrecoeur_000299",
        "sacrecoeur_000330",
        "sacrecoeur_000353",
        "triomphe_000662",
        "triomphe_000833",
        "triomphe_000863",
        "triomphe_000867",
    )
)


def load_vgg(
    root: Path | str,
    *,
    name: str = "oxford5k",
    distractors: Path | str | None = None,
    partial: bool = False,
) -> Dataset:
    """Load Oxford5k, Paris6k, Oxford105k or Paris106k.

    Args:
        root: the folder of the 5k or 6k photographs and the text files.
        name: ``oxford5k``, ``paris6k``, ``oxford105k`` or ``paris106k``, or one of
            these with ``-standin``.
        distractors: folder of the distractors, when not ``oxc1_100k`` in or beside ``root``.
        partial: accept an incomplete copy (see ``join_files``).

    Raises:
        StudyError: a file is missing or malformed, or a count is not the published one.
    """
    base = WITH_DISTRACTORS.get(name, name)
    if base not in EXPECTED:
        raise known("VGG benchmark", name, (*EXPECTED, *WITH_DISTRACTORS))
    root = absolute_folder(root, name)
    files = by_stem(find_images(root, skip=(DISTRACTORS,)), name)
    files = {stem: path for stem, path in files.items() if stem not in PARIS_CORRUPT}
    dataset = join_files(
        base,
        root,
        sorted(files),
        files,
        parse_vgg_groundtruth(groundtruth_folder(root, name)),
        protocol=Protocol("trapezoid", "positive", "Philbin et al. 2007, compute_ap.cpp"),
        domain="buildings",
        expected=EXPECTED[base],
        partial=partial,
    )
    if name == base:
        return dataset
    if distractors is None and name.endswith(STANDIN):
        distractors = root.parent / f"{DISTRACTORS}{STANDIN}"
    return add_distractors(dataset, name, distractors, partial=partial)


def groundtruth_folder(root: Path, name: str) -> Path:
    """Return the one folder, ``root`` or below it by one level, that holds ``*_query.txt``."""
    found = sorted({p.parent for g in ("*_query.txt", "*/*_query.txt") for p in root.glob(g)})
    if len(found) != 1:
        listed = ", ".join(str(folder) for folder in found) or "none"
        raise StudyError(
            f"{name}: expected the ground-truth files *_query.txt in {root} or in one of its "
            f"sub-folders, found {listed}: unpack the benchmark's ground truth there, and no other"
        )
    return found[0]


def parse_vgg_groundtruth(folder: Path) -> tuple[ParsedQuery, ...]:
    """Read ``<landmark>_<n>_{query,good,ok,junk}.txt``; positives are good and ok together.

    Returns:
        The queries in order of their file names; images by file name without suffix and without
        the prefix ``oxc1_``; boxes (x1, y1, x2, y2) in pixels.

    Raises:
        StudyError: a file is missing or malformed.
    """
    queries = []
    for path in sorted(folder.glob("*_query.txt")):
        query_id = path.name.removesuffix("_query.txt")
        image, box = _parse_query(path)
        good, ok, junk = (
            read_lines(folder / f"{query_id}_{kind}.txt") for kind in ("good", "ok", "junk")
        )
        queries.append(
            ParsedQuery(
                id=query_id,
                image=image,
                box=box,
                positives=tuple(good + ok),
                junk=tuple(junk),
                instance=query_id.rpartition("_")[0],
            )
        )
    return tuple(queries)


def _parse_query(path: Path) -> tuple[str, Box]:
    words = " ".join(read_lines(path)).split()
    try:
        image, x1, y1, x2, y2 = words
        return image.removeprefix(QUERY_PREFIX), (float(x1), float(y1), float(x2), float(y2))
    except ValueError:
        raise StudyError(
            f"{path}: expected an image name and x1 y1 x2 y2, found {' '.join(words)[:60]!r}: "
            "fetch the ground truth again"
        ) from None
