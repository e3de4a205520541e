"""Benchmarks of instance search behind one face: ``load_dataset(name)``.

A new benchmark is one file with a loader ``load(root, *, name, **options) -> Dataset`` and one
line in ``REGISTRY``. A folder with a ``groundtruth.json`` or a ``queries.csv`` needs neither: its
name is the dataset's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blcf_utils.datasets.base import Box, Dataset, Protocol, Query
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.datasets.flickrlogos import load_flickrlogos
from blcf_utils.datasets.folder import FILE as QUERIES_CSV
from blcf_utils.datasets.folder import load_folder
from blcf_utils.datasets.groundtruth_json import FILE as GROUNDTRUTH_JSON
from blcf_utils.datasets.groundtruth_json import load_groundtruth_json
from blcf_utils.datasets.holidays import load_holidays
from blcf_utils.datasets.instre import load_instre
from blcf_utils.datasets.revisited import load_revisited
from blcf_utils.datasets.sculptures import load_sculptures
from blcf_utils.datasets.trecvid import load_trecvid
from blcf_utils.datasets.vgg_groundtruth import load_vgg
from blcf_utils.ground import paths
from blcf_utils.ground.errors import StudyError

__all__ = [
    "REGISTRY",
    "Box",
    "Dataset",
    "Entry",
    "Protocol",
    "Query",
    "check_dataset",
    "dataset_names",
    "load_dataset",
    "load_folder",
    "load_groundtruth_json",
    "register_dataset",
]


@dataclass(frozen=True)
class Entry:
    """A registered dataset.

    Attributes:
        loader: called as ``loader(root, name=..., **options)``.
        folder: name of its folder in ``paths.datasets_dir()``, the dataset's own when None.
        rendered: made by the study itself, so that the folder need not exist.
    """

    loader: Callable[..., Dataset]
    folder: str | None = None
    rendered: bool = False


def _load_embedded(root: Path | None, *, name: str, seed: int = 0, scale: float = 1.0) -> Dataset:
    # Rendering is needed for these two sets only.
    from blcf_utils.datasets.embedded import load_embedded

    return load_embedded(name, root, seed=seed, scale=scale)


REGISTRY: dict[str, Entry] = {
    "mini-buildings": Entry(_load_embedded, rendered=True),
    "mini-objects": Entry(_load_embedded, rendered=True),
    "oxford5k": Entry(load_vgg),
    "paris6k": Entry(load_vgg),
    "oxford105k": Entry(load_vgg, folder="oxford5k"),
    "paris106k": Entry(load_vgg, folder="paris6k"),
    "roxford5k-easy": Entry(load_revisited, folder="roxford5k"),
    "roxford5k-medium": Entry(load_revisited, folder="roxford5k"),
    "roxford5k-hard": Entry(load_revisited, folder="roxford5k"),
    "rparis6k-easy": Entry(load_revisited, folder="rparis6k"),
    "rparis6k-medium": Entry(load_revisited, folder="rparis6k"),
    "rparis6k-hard": Entry(load_revisited, folder="rparis6k"),
    "instre": Entry(load_instre),
    "oxford5k-standin": Entry(load_vgg),
    "paris6k-standin": Entry(load_vgg),
    "oxford105k-standin": Entry(load_vgg, folder="oxford5k-standin"),
    "paris106k-standin": Entry(load_vgg, folder="paris6k-standin"),
    "instre-standin": Entry(load_instre),
    "holidays": Entry(load_holidays),
    "sculptures6k": Entry(load_sculptures),
    "flickrlogos32": Entry(load_flickrlogos),
    "trecvid-ins": Entry(load_trecvid),
    "instre-mini": Entry(load_groundtruth_json),
    "monuments-mini": Entry(load_groundtruth_json),
    "dvd-mini": Entry(load_groundtruth_json),
}


def dataset_names() -> list[str]:
    """Return the names of the registered datasets, sorted."""
    return sorted(REGISTRY)


def register_dataset(name: str, loader: Callable[..., Dataset], folder: str | None = None) -> None:
    """Add a dataset, for example from a notebook.

    Args:
        name: its registry name.
        loader: ``loader(root, *, name, **options) -> Dataset``.
        folder: name of its folder in ``paths.datasets_dir()``; ``name`` when None.

    Raises:
        StudyError: the name is taken.
    """
    if name in REGISTRY:
        raise StudyError(f"dataset {name!r} is registered already: choose another name")
    REGISTRY[name] = Entry(loader, folder)


def load_dataset(name: str, *, root: Path | str | None = None, **options: Any) -> Dataset:
    """Load a dataset by name.

    Args:
        name: a registered name, or the name of a folder in ``paths.datasets_dir()`` that holds a
            ``groundtruth.json`` or a ``queries.csv``.
        root: the dataset's folder; by default the one of its name in ``paths.datasets_dir()``,
            and a folder of the cache for the rendered sets.
        **options: the loader's options, such as ``partial=True``.

    Raises:
        StudyError: unknown name or option, or whatever the loader finds missing.
    """
    entry = REGISTRY.get(name)
    if entry is None:
        folder = Path(root) if root else paths.datasets_dir() / name
        entry = Entry(_loader_for_folder(name, folder))
    _check_options(name, entry.loader, options)
    if root is None and not entry.rendered:
        root = paths.datasets_dir() / (entry.folder or name)
    return entry.loader(Path(root) if root is not None else None, name=name, **options)


def _loader_for_folder(name: str, folder: Path) -> Callable[..., Dataset]:
    # A name becomes part of file names in results.
    if Path(name).name == name:
        if (folder / GROUNDTRUTH_JSON).is_file():
            return load_groundtruth_json
        if (folder / QUERIES_CSV).is_file():
            return load_folder
    raise StudyError(
        f"unknown dataset {name!r}: expected one of {', '.join(dataset_names())}, or the name of "
        f"a folder with a {GROUNDTRUTH_JSON} or a {QUERIES_CSV} (looked in {folder})"
    )


def _check_options(name: str, loader: Callable[..., Dataset], options: dict[str, Any]) -> None:
    parameters = inspect.signature(loader).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return
    known_options = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    known_options.discard("name")
    unknown = sorted(set(options) - known_options)
    if unknown:
        raise StudyError(
            f"dataset {name}: unknown option {unknown[0]!r}: expected one of "
            f"{', '.join(sorted(known_options)) or 'none'}"
        )
