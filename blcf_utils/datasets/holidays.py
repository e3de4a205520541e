"""INRIA Holidays: 1,491 holiday photographs of 500 scenes; the query's own image is ignored.

Layout: photographs named by number (``100000.jpg``) anywhere below the folder. With
``gnd_holidays.mat`` in the folder, queries come from it; without, from the naming rule: images
of one hundred show one scene, and the one whose number ends in 00 is the query.

Jegou et al., Hamming Embedding and Weak Geometric Consistency, ECCV 2008; ``holidays_map.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from blcf_utils.datasets.base import Dataset, Protocol
from blcf_utils.datasets.files import absolute_folder, by_stem, find_images, some_names
from blcf_utils.datasets.joining import Expected, ParsedQuery, join_files
from blcf_utils.datasets.matlab import indices, read_mat, records, strings
from blcf_utils.ground.errors import StudyError

EXPECTED = Expected(1_491, 500)


def load_holidays(root: Path | str, *, name: str = "holidays", partial: bool = False) -> Dataset:
    """Load Holidays; queries are whole images.

    Args:
        root: the folder of the photographs.
        name: registry name.
        partial: accept an incomplete copy (see ``join_files``).

    Raises:
        StudyError: a file is missing or malformed, or a count is not the published one.
    """
    root = absolute_folder(root, name)
    files = by_stem(find_images(root), name)
    official = root / "gnd_holidays.mat"
    names, queries = parse_holidays(official) if official.is_file() else name_holidays(files)
    return join_files(
        name,
        root,
        names,
        files,
        queries,
        protocol=Protocol("trapezoid", "junk", "Jegou et al. 2008, holidays_map.py"),
        domain="landmarks and objects",
        expected=EXPECTED,
        partial=partial,
    )


def parse_holidays(path: Path) -> tuple[tuple[str, ...], tuple[ParsedQuery, ...]]:
    """Read ``gnd_holidays.mat``.

    Returns:
        The images' names without suffix in their order, and the queries, each its own junk.

    Raises:
        StudyError: the file is missing or malformed.
    """
    content = read_mat(path, ("imlist", "qidx", "gnd"))
    names, queries = strings(content, "imlist", path), []
    asked = np.ravel(content["qidx"])
    for number, truth in zip(
        asked, records(content, "gnd", ("ok", "junk"), len(asked), path), strict=True
    ):
        (at,) = indices(number, len(names), path)
        image = names[at]
        positives, junk = (
            tuple(names[i] for i in indices(truth[label], len(names), path))
            for label in ("ok", "junk")
        )
        queries.append(ParsedQuery(image, image, None, positives, junk, instance=image[:-2]))
    return names, tuple(queries)


def name_holidays(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[ParsedQuery, ...]]:
    """Return images and queries by the naming rule; the same as ``parse_holidays`` returns.

    Raises:
        StudyError: a name is not a number.
    """
    names = tuple(sorted(names))
    odd = [n for n in names if not (n.isascii() and n.isdigit() and len(n) > 2)]
    if odd:
        raise StudyError(
            f"holidays: expected photographs named by number such as 100000.jpg, found "
            f"{some_names(odd)}: remove what is not the benchmark's"
        )
    scenes: dict[str, list[str]] = {}
    for name in names:
        scenes.setdefault(name[:-2], []).append(name)
    queries = tuple(
        ParsedQuery(
            id=f"{scene}00",
            image=f"{scene}00",
            box=None,
            positives=tuple(n for n in members if n != f"{scene}00"),
            junk=(f"{scene}00",),
            instance=scene,
        )
        for scene, members in scenes.items()
    )
    return names, queries
