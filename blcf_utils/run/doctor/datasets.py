"""The profile's datasets: are they here and whole, seen from names and sizes of files only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from blcf_utils.config.profile import Profile
from blcf_utils.datasets import (
    REGISTRY,
    distractors,
    holidays,
    instre,
    load_dataset,
    vgg_groundtruth,
)
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.embedded import planned_counts, rendered_folder
from blcf_utils.datasets.fetching.sources import dataset_sources
from blcf_utils.datasets.files import some_names
from blcf_utils.datasets.images import UnreadableImage, image_size
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import datasets_dir
from blcf_utils.run.doctor.findings import Finding, of_error

SAMPLED = 32  # images whose headers tell the usual size
USUAL, RENDERED = (1024, 768), (400, 300)  # pixels, where no image is here to ask


@dataclass(frozen=True)
class Counts:
    """How many images a dataset has, and how large they are.

    Attributes:
        name: of the dataset.
        parts: name to number of images, query images outside the database included, of the sets it
            consists of. Sets of the same name in two datasets are the same images.
        size: width and height in pixels: the mean longer side and the mean shorter side.
    """

    name: str
    parts: dict[str, int]
    size: tuple[int, int] = USUAL

    @property
    def images(self) -> int:
        """How many images there are in all parts."""
        return sum(self.parts.values())


def look_at_dataset(profile: Profile, name: str) -> tuple[Finding, Counts | None]:
    """Return whether a dataset is complete, and its counts.

    Ground truth is read and files are looked for; only a few headers are opened. The counts are the
    published ones when the dataset is not here, and None when it has none.
    """
    options = profile.dataset_options.get(name, {})
    topic = f"dataset {name}"
    entry = REGISTRY.get(name)
    if entry and entry.rendered:
        return _look_at_rendered(topic, name, options)
    folder = datasets_dir() / (entry.folder if entry and entry.folder else name)
    if not folder.is_dir():
        said = f"there is no folder {folder}"
        return Finding(topic, "problem", said, how_to_get(name)), _published(name)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            dataset = load_dataset(name, **options)
    except StudyError as error:
        advice = str(error).partition("; ")[2]
        return of_error(topic, error, how_to_get(name, advice)), _published(name)
    size, broken = _sample(dataset)
    finding = _tell(topic, dataset, broken, [str(one.message) for one in said])
    parts = {part.name: len(part.all_images) for part in dataset.parts or (dataset,)}
    return finding, Counts(name, parts, size)


def how_to_get(name: str, otherwise: str = "") -> str:
    """Return what brings a dataset here; ``otherwise`` if there is no source that is known."""
    for source_name, source in dataset_sources().items():
        if name in (source_name, *source.also):
            if source.kind == "manual":
                return " ".join(source.instructions.split())
            return f"blcf data fetch {source_name}"
    return otherwise or f"set BLCF_DATA to the folder that holds {name}"


def _look_at_rendered(topic: str, name: str, options: dict) -> tuple[Finding, Counts]:
    images, queries = planned_counts(name, options.get("scale", 1.0))
    counts = Counts(name, {name: images}, RENDERED)
    try:
        here = rendered_folder(name, **options)
    except (StudyError, TypeError) as error:
        return of_error(topic, error), counts
    state = "rendered" if here else "rendered when it is first needed (a minute or so)"
    return Finding(topic, "ok", f"{images:,} images, {queries:,} queries, {state}"), counts


def _published(name: str) -> Counts | None:
    """Return the published counts of a benchmark, or None."""
    base = vgg_groundtruth.WITH_DISTRACTORS.get(name, name)
    others = {"instre": instre.EXPECTED, "holidays": holidays.EXPECTED}
    found = {**vgg_groundtruth.EXPECTED, **others}.get(base)
    if found is None:
        return None
    outside = found.queries if name == "instre" else 0
    parts = {base: found.images + outside}
    if base != name:
        parts[distractors.FOLDER] = distractors.EXPECTED
    return Counts(name, parts)


def _sample(dataset: Dataset) -> tuple[tuple[int, int], list[str]]:
    """Return the usual size of the images, and the names of files that are empty or no image."""
    images = dataset.all_images
    broken = [path.name for path in images if not path.stat().st_size]
    sizes = []
    for i in np.unique(np.linspace(0, len(images) - 1, SAMPLED).round().astype(int)):
        try:
            sizes.append(image_size(images[i], exif_orientation=dataset.exif_orientation))
        except UnreadableImage:
            broken.append(images[i].name)
    longer, shorter = np.sort(sizes or [USUAL], axis=1)[:, ::-1].mean(axis=0).round()
    return (int(longer), int(shorter)), list(dict.fromkeys(broken))


def _tell(topic: str, dataset: Dataset, broken: list[str], said: list[str]) -> Finding:
    told = f"{len(dataset.images):,} images, {len(dataset.queries):,} queries"
    if dataset.extra_images:
        outside = len(dataset.extra_images)
        told += f", {outside:,} query image{'s' * (outside != 1)} outside the database"
    if broken:
        mend = f"{how_to_get(dataset.name)} again, or set features.on_corrupt: skip"
        return Finding(topic, "problem", f"{told}; empty or no image: {some_names(broken)}", mend)
    if not dataset.queries:
        return Finding(topic, "problem", f"{told}: nothing to measure", "give it queries")
    if said:
        return Finding(topic, "warning", "; ".join([told, *said]), how_to_get(dataset.name))
    return Finding(topic, "ok", told)
