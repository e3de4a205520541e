"""The weights that other people publish: addresses, download, finding.

Which files there are is said in ``data/weights.yaml``. Those of saliency networks lie in the folder
BLCF_WEIGHTS, or in ``data/weights`` of the project; torchvision's where torch keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from blcf_utils.datasets.fetching.downloads import check_size, fetch_file
from blcf_utils.datasets.fetching.sources import FileSource, read_sources
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import in_project, project_root, weights_path
from blcf_utils.ground.settings import Config

TOLERANCE = 0.2  # how far a size may be off an approximate one


class WeightFile(FileSource):
    """One file of weights.

    Attributes:
        about_bytes: its approximate size; unlike a dataset's this one is enforced, because a web
            page or a cut file under the right name is what failing servers leave behind.
        about_bytes_with_optimiser: its approximate size should it also hold the state of the
            training, where that is not known.
    """

    about_bytes: int = Field(gt=0)
    about_bytes_with_optimiser: int | None = Field(None, gt=0)

    @property
    def sizes(self) -> tuple[int, int]:
        """Smallest and largest size in bytes that the file may have."""
        if self.bytes is not None:
            return self.bytes, self.bytes
        largest = self.about_bytes_with_optimiser or self.about_bytes
        return round(self.about_bytes * (1 - TOLERANCE)), round(largest * (1 + TOLERANCE))


class WeightSource(Config):
    """The published weights of one network.

    Attributes:
        title: the network, and the framework whose format the file has.
        page: its home page.
        terms: what its authors allow, in short.
        citation: the paper to cite.
        kind: of a ``saliency`` network, or torchvision's of a ``backbone``.
        normalisation: of the pixels that a backbone's weights expect.
        file: the one file.
    """

    title: str
    page: str
    terms: str
    citation: str
    kind: Literal["saliency", "backbone"] = "saliency"
    normalisation: Literal["imagenet", "caffe"] = "imagenet"
    file: WeightFile


def published_weights(path: Path | None = None) -> dict[str, WeightSource]:
    """Read ``data/weights.yaml``: name of the weights to source.

    Raises:
        StudyError: the file is missing or an entry is not valid.
    """
    return read_sources(path or project_root() / "data" / "weights.yaml", WeightSource)


def torch_checkpoints() -> Path:
    """Return where torch keeps what it downloads unless a program has set another folder."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache_home, "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def weights_dir(kind: str = "saliency") -> Path:
    """Return where weights of a kind are downloaded to.

    Torch's own folder for backbones; else BLCF_WEIGHTS unless it is a file, or ``data/weights``.
    """
    if kind == "backbone":
        return torch_checkpoints()
    given = weights_path()
    return _project_weights() if given is None or given.is_file() else given


def fetch_weights(name: str, folder: Path | None = None, *, mirrors: Sequence[str] = ()) -> Path:
    """Return the published weights of a network, downloading what is missing of them.

    Args:
        name: a name in ``data/weights.yaml``, such as ``salgan``.
        folder: where the file goes; default ``weights_dir``, or where it lies already.
        mirrors: base addresses tried before the official one.

    Returns:
        The path of the file; its size is plausible, its content not looked at.

    Raises:
        StudyError: unknown name, every address failed (each with its reason, and where to put the
            file by hand), or a file of an impossible size in its place.
    """
    source = _source(name)
    file = source.file
    if folder is None:
        here = _lying_about(source)
        folder = here.parent if here else weights_dir(source.kind)
    variable = "TORCH_HOME" if source.kind == "backbone" else "BLCF_WEIGHTS"
    return fetch_file(file, folder, mirrors=mirrors, page=source.page, variable=variable)


def find_weights(name: str, override: str = "") -> Path | None:
    """Return the file of a network's weights without downloading anything.

    Args:
        name: a name in ``data/weights.yaml``.
        override: path of the file to use instead, relative to the project; any size is accepted.

    Returns:
        ``override``, or the published file in ``weights_dir`` or ``data/weights``; None when it
        is in neither.

    Raises:
        StudyError: unknown name, no file at ``override``, or a file of an impossible size.
    """
    source = _source(name)
    if override:
        path = in_project(override)
        if not path.is_file():
            raise StudyError(
                f"{path}: no such file, expected the weights of {name}; correct the path, or leave "
                f"it out and run `blcf weights fetch {name}`"
            )
        return path
    path = _lying_about(source)
    if path is not None:
        check_size(source.file, path)
    return path


def describe_weights() -> list[dict[str, str]]:
    """Return one row per file for ``blcf weights list``.

    Returns:
        Rows with weights (the name), title, file, size, state (where it is, missing, or what is
        wrong with it), terms and page.
    """
    rows = []
    for name, source in published_weights().items():
        file = source.file
        try:
            path = find_weights(name)
            state = f"here, {path}" if path else "missing"
        except StudyError as error:
            state = f"not usable, {error}"
        sizes = [file.bytes or file.about_bytes, file.about_bytes_with_optimiser]
        size = " or ".join(f"{number / 1e6:,.0f}" for number in sizes if number)
        rows.append(
            {
                "weights": name,
                "title": source.title,
                "file": file.name,
                "size": f"{size} MB" if file.bytes else f"about {size} MB",
                "state": state,
                "terms": source.terms,
                "page": source.page,
            }
        )
    return rows


def _project_weights() -> Path:
    return project_root() / "data" / "weights"


def _source(name: str) -> WeightSource:
    sources = published_weights()
    if name not in sources:
        raise known("published weights", name, sources)
    return sources[name]


def _lying_about(source: WeightSource) -> Path | None:
    folders = (weights_dir(source.kind), _project_weights())
    places = (folder / source.file.name for folder in folders)
    return next((path for path in places if path.is_file()), None)
