"""The 100,071 Flickr photographs (``oxc1_100k``) that turn Oxford5k into Oxford105k."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.files import absolute_folder, find_images, some_names
from blcf_utils.datasets.images import UnreadableImage, image_size
from blcf_utils.datasets.joining import check_count
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.progress import progress

FOLDER = "oxc1_100k"
EXPECTED = 100_071
SHARD = 10_000  # images whose maps and words are stored together


def add_distractors(
    dataset: Dataset, name: str, folder: Path | str | None = None, *, partial: bool = False
) -> Dataset:
    """Return ``dataset`` under another name with the distractors after its own images.

    The benchmark and every shard of distractors stay its ``parts``: the features of the first are
    those of the benchmark without distractors, and two benchmarks share the distractors'.

    Args:
        dataset: the benchmark; its indices stay valid.
        name: registry name of the larger benchmark.
        folder: the distractors; ``oxc1_100k`` in the dataset's folder or beside it when None.
        partial: accept another number of files than the published 100,071.

    Files that are not readable as images are left out, as the published protocol does, and said
    in a warning.

    Raises:
        StudyError: the folder is missing or holds another number of files.
    """
    if folder is None:
        inside, beside = dataset.root / FOLDER, dataset.root.parent / FOLDER
        folder = inside if inside.is_dir() else beside
    found = find_images(absolute_folder(folder, name))
    check_count(name, "distractors", len(found), EXPECTED, partial)
    with ThreadPoolExecutor(pool_threads()) as pool:
        readable = list(
            progress(
                pool.map(_is_image, found), label="distractors", total=len(found), unit="image"
            )
        )
    unreadable = [path.name for path, good in zip(found, readable, strict=True) if not good]
    notes = dataset.notes
    if unreadable:
        sentence = f"{len(unreadable):,} unreadable distractors left out: {some_names(unreadable)}"
        warnings.warn(f"{name}: {sentence}", stacklevel=2)
        notes = f"{notes}; {sentence}".removeprefix("; ")
    good_ones = tuple(path for path, good in zip(found, readable, strict=True) if good)
    root = absolute_folder(folder, name)
    shards = [
        Dataset(f"{FOLDER}.{k}", root, good_ones[start : start + SHARD], queries=())
        for k, start in enumerate(range(0, len(good_ones), SHARD))
    ]
    return replace(
        dataset,
        name=name,
        images=dataset.images + good_ones,
        notes=notes,
        parts=(dataset, *shards),
    )


def _is_image(path: Path) -> bool:
    """Tell whether the file starts as an image does; decoding 100,000 files takes too long here."""
    try:
        image_size(path)
    except UnreadableImage:
        return False
    return True
