"""Where things live: the project's folders and the three environment variables that move them.

BLCF_CACHE    artefacts (features, codebooks, indexes), default ``~/.cache/blcf``
BLCF_DATA     datasets, default ``data/datasets`` in the project
BLCF_WEIGHTS  a folder (or one file) of local state dicts, no default
"""

from __future__ import annotations

import os
from pathlib import Path

from blcf_utils.ground.errors import StudyError


def project_root() -> Path:
    """Return the folder that holds ``data/profiles``: BLCF_HOME, or the checkout in use."""
    if os.environ.get("BLCF_HOME"):
        candidates = [Path(os.environ["BLCF_HOME"]).expanduser().resolve()]
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
    return Path(os.environ.get("BLCF_CACHE") or Path.home() / ".cache" / "blcf").expanduser()


def datasets_dir() -> Path:
    """Return the folder that holds one sub-folder per dataset (BLCF_DATA)."""
    given = os.environ.get("BLCF_DATA")
    return Path(given).expanduser() if given else project_root() / "data" / "datasets"


def weights_path() -> Path | None:
    """Return the folder or file of local weights (BLCF_WEIGHTS), or None when it is not set."""
    given = os.environ.get("BLCF_WEIGHTS")
    return Path(given).expanduser() if given else None


def embedded_dir() -> Path:
    """Return ``data/embedded``: the small weights and recipes the offline default needs."""
    return project_root() / "data" / "embedded"


def published_dir() -> Path:
    """Return ``data/published``: the thesis' tables as CSV."""
    return project_root() / "data" / "published"


def results_dir(profile: str) -> Path:
    """Return ``results/<profile>`` (under BLCF_RESULTS when that is set)."""
    given = os.environ.get("BLCF_RESULTS")
    return (Path(given).expanduser() if given else project_root() / "results") / profile
