"""Where things live: the project's folders and the environment variables that move them.

BLCF_CACHE    artefacts (features, codebooks, indexes), default ``~/.cache/blcf``
BLCF_DATA     datasets, default ``data/datasets`` in the project
BLCF_WEIGHTS  a folder (or one file) of local state dicts, no default
BLCF_RESULTS  results, default ``results`` in the project
BLCF_HOME     the project, default the checkout in use

A relative path in one of them is relative to the working folder. A process with another one gets
them as ``environment`` writes them.
"""

from __future__ import annotations

import os
from pathlib import Path

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import typed_path

VARIABLES = ("BLCF_CACHE", "BLCF_DATA", "BLCF_WEIGHTS", "BLCF_RESULTS", "BLCF_HOME")


def absolute(given: Path | str) -> Path:
    """Return the absolute path that a person means who typed one (``names.typed_path``).

    Links are kept.
    """
    return typed_path(given).absolute()


def environment() -> dict[str, str]:
    """Return this process' environment for one with another working folder."""
    given = {name: os.environ.get(name) for name in VARIABLES}
    moved = {name: str(absolute(value)) for name, value in given.items() if value}
    return {**os.environ, "BLCF_HOME": str(project_root()), **moved}


def in_project(given: Path | str) -> Path:
    """Return a path that a profile gives; a relative one is relative to the project."""
    return project_root() / typed_path(given)


def project_root() -> Path:
    """Return the folder that holds ``data/profiles``: BLCF_HOME, or the checkout in use."""
    if os.environ.get("BLCF_HOME"):
        candidates = [absolute(os.environ["BLCF_HOME"]).resolve()]
    else:
        here = Path.cwd()
        candidates = [here, *here.parents, Path(__file__).resolve().parents[2]]
    for folder in candidates:
        if (folder / "data" / "profiles").is_dir():
            return folder
    raise StudyError(
        f"no project folder found from {candidates[0]}: expected a folder with data/profiles; "
        "run from a checkout of the study or set BLCF_HOME to it"
    )


def cache_dir() -> Path:
    """Return the artefact store's folder (BLCF_CACHE or ``~/.cache/blcf``)."""
    try:
        return absolute(os.environ.get("BLCF_CACHE") or Path.home() / ".cache" / "blcf")
    except RuntimeError:  # a user without a home, as in a container
        raise StudyError(
            "there is no home folder for the cache: set BLCF_CACHE to a folder that can be written"
        ) from None


def datasets_dir() -> Path:
    """Return the folder that holds one sub-folder per dataset (BLCF_DATA)."""
    given = os.environ.get("BLCF_DATA")
    return absolute(given) if given else project_root() / "data" / "datasets"


def weights_path() -> Path | None:
    """Return the folder or file of local weights (BLCF_WEIGHTS), or None when it is not set."""
    given = os.environ.get("BLCF_WEIGHTS")
    return absolute(given) if given else None


def embedded_dir() -> Path:
    """Return ``data/embedded``: the small weights and recipes the offline default needs."""
    return project_root() / "data" / "embedded"


def published_dir() -> Path:
    """Return ``data/published``: the thesis' tables as CSV."""
    return project_root() / "data" / "published"


def results_dir(profile: str) -> Path:
    """Return ``results/<profile>`` (under BLCF_RESULTS when that is set)."""
    given = os.environ.get("BLCF_RESULTS")
    return (absolute(given) if given else project_root() / "results") / profile
