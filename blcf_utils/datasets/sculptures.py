"""Sculptures6k: 6,340 photographs of sculptures by Henry Moore and Auguste Rodin, 70 queries.

Layout: photographs in ``train`` and ``test`` (3,170 each) or anywhere else below the folder; the
ground truth as text files in the style of Oxford5k, ``<sculpture>_<n>_{query,good,ok,junk}.txt``,
in the folder or in one of its sub-folders: ten sculptures with seven queries each.

Arandjelovic and Zisserman, Smooth Object Retrieval using a Bag of Boundaries, ICCV 2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from blcf_utils.datasets.base import Dataset, Protocol
from blcf_utils.datasets.files import absolute_folder, by_stem, find_images
from blcf_utils.datasets.joining import Expected, join_files
from blcf_utils.datasets.vgg_groundtruth import groundtruth_folder, parse_vgg_groundtruth
from blcf_utils.ground.errors import known

EXPECTED = {"all": Expected(6_340, 70), "train": Expected(3_170, 70), "test": Expected(3_170, 70)}


def load_sculptures(
    root: Path | str,
    *,
    name: str = "sculptures6k",
    split: Literal["all", "train", "test"] = "all",
    partial: bool = False,
) -> Dataset:
    """Load Sculptures6k; a query's image is in the database and counts as positive.

    Args:
        root: the folder of photographs and ground truth.
        name: registry name.
        split: search all photographs, or those in the sub-folder ``train`` or ``test``; the
            ground truth must then be that half's.
        partial: accept an incomplete copy (see ``join_files``).

    Raises:
        StudyError: a file is missing or malformed, or a count is not the published one.
    """
    if split not in EXPECTED:
        raise known("split of Sculptures6k", split, EXPECTED)
    root = absolute_folder(root, name)
    images = root if split == "all" else absolute_folder(root / split, name)
    files = by_stem(find_images(images), name)
    return join_files(
        name,
        root,
        sorted(files),
        files,
        parse_vgg_groundtruth(groundtruth_folder(root, name)),
        protocol=Protocol("trapezoid", "positive", "Arandjelovic and Zisserman 2011"),
        domain="sculptures",
        expected=EXPECTED[split],
        partial=partial,
    )
