"""The profile's datasets: are they here and whole, seen from names and sizes of files only."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import Profile
from blcf_utils.datasets import REGISTRY, load_dataset
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.fetching.sources import dataset_sources
from blcf_utils.datasets.files import some_names
from blcf_utils.datasets.images import UnreadableImage, image_size
from blcf_utils.datasets.stand_ins.marker import MARKER
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import datasets_dir
from blcf_utils.run.doctor.findings import Finding, of_error

SAMPLED = 32  # images whose headers tell the sizes of all
USUAL = (1024, 768)  # pixels, where no image is here to ask


@dataclass(frozen=True)
class Seen:
    """What the predictions need to know of a dataset.

    Attributes:
        name: of the dataset.
        database: images that are searched.
        outside: query images that are not among them.
        query_images: distinct query images.
        sizes: (s, 2) width and height in pixels of a sample of the images.
        distractors: how many of the database's images are distractors.
    """

    name: str
    database: int
    outside: int
    query_images: int
    sizes: tuple[tuple[int, int], ...] = (USUAL,)
    distractors: int = 0

    @property
    def images(self) -> int:
        """How many images are read."""
        return self.database + self.outside


def look_at_dataset(profile: Profile, name: str) -> tuple[Finding, Seen | None]:
    """Return whether a dataset is complete, and its counts (the published ones if it is not here).

    Ground truth is read and files are looked for and weighed; only a few headers are opened.
    """
    options = profile.dataset_options.get(name, {})
    topic = f"dataset {name}"
    entry = REGISTRY.get(name)
    if entry and entry.rendered:
        return _rendered(topic, name, options)
    folder = datasets_dir() / (entry.folder if entry and entry.folder else name)
    if not folder.is_dir():
        said = f"there is no folder {folder}"
        return Finding(topic, "problem", said, how_to_get(name)), _published(name)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            dataset = load_dataset(name, **options)
    except StudyError as error:
        return of_error(topic, error, _mend(name, error)), _published(name)
    finding, sizes = _weigh(topic, dataset, [str(one.message) for one in said])
    return finding, _seen(name, dataset, sizes)


def how_to_get(name: str) -> str:
    """Return what brings a dataset here."""
    folder = datasets_dir()
    if any(folder.glob(f"*/{MARKER}")):  # photographs have no place among stand-ins
        return f"blcf rehearse write {folder} --groundtruth DIR, or set BLCF_DATA to another folder"
    for source_name, source in dataset_sources().items():
        if name in (source_name, *source.also):
            if source.kind == "manual":
                return " ".join(source.instructions.split())
            return f"blcf data fetch {source_name}"
    return f"set BLCF_DATA to the folder that holds {name}"


def _mend(name: str, error: StudyError) -> str:
    """Return how to complete a dataset: what gets it, or else what its loader says."""
    fetched = any(name in (each, *one.also) for each, one in dataset_sources().items())
    return how_to_get(name) if fetched else str(error).partition("; ")[2] or how_to_get(name)


def _rendered(topic: str, name: str, options: dict) -> tuple[Finding, Seen]:
    from blcf_utils.datasets.embedded import planned_counts, rendered_folder

    images, queries = planned_counts(name, options.get("scale", 1.0))
    seen = Seen(name, images, 0, queries, ((400, 300),))
    try:
        here = rendered_folder(name, **options)
    except (StudyError, TypeError) as error:
        return of_error(topic, error), seen
    said = f"{images:,} images, {queries:,} queries, "
    said += "rendered" if here else "rendered when it is first needed (a minute or so)"
    return Finding(topic, "ok", said), seen


def _published(name: str) -> Seen | None:
    """Return the published counts of a benchmark, or None."""
    from blcf_utils.datasets import distractors, instre, vgg_groundtruth

    base = vgg_groundtruth.WITH_DISTRACTORS.get(name, name)
    more = distractors.EXPECTED if base != name else 0
    counts = {**vgg_groundtruth.EXPECTED, "instre": instre.EXPECTED}.get(base)
    if counts is None:
        return None
    outside = counts.queries if name == "instre" else 0
    return Seen(name, counts.images + more, outside, counts.queries, distractors=more)


def _seen(name: str, dataset: Dataset, sizes: tuple[tuple[int, int], ...]) -> Seen:
    queries = len({query.image for query in dataset.queries})
    database, outside = len(dataset.images), len(dataset.extra_images)
    distractors = sum(len(part.images) for part in dataset.parts[1:])
    return Seen(name, database, outside, queries, sizes or (USUAL,), distractors)


def _weigh(topic: str, dataset: Dataset, said: list[str]):
    images = dataset.all_images
    empty = [path.name for path in images if not _weighs(path)]
    chosen = np.unique(np.linspace(0, len(images) - 1, SAMPLED).round().astype(int))
    sizes, bad = [], []
    for i in chosen:
        try:
            sizes.append(image_size(images[i], exif_orientation=dataset.exif_orientation))
        except UnreadableImage:
            bad.append(images[i].name)
    told = f"{len(dataset.images):,} images, {len(dataset.queries):,} queries"
    if dataset.extra_images:
        outside = len(dataset.extra_images)
        told += f", {outside:,} query image{'s' * (outside != 1)} outside the database"
    if dataset.stand_in:
        said = ["stand-in pictures of a rehearsal, whose results are marked as not run", *said]
    broken = dict.fromkeys([*empty, *bad])
    if broken:
        names = some_names(list(broken))
        told += f"; empty or no image: {names}"
        mend = f"{how_to_get(dataset.name)} again, or set features.on_corrupt: skip"
        finding = Finding(topic, "problem", told, mend)
    elif not dataset.queries:
        finding = Finding(topic, "problem", f"{told}: nothing to measure", "give it queries")
    elif said:
        finding = Finding(topic, "warning", "; ".join([told, *said]), how_to_get(dataset.name))
    else:
        finding = Finding(topic, "ok", told)
    return finding, tuple(sizes)


def _weighs(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
