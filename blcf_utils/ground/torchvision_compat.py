"""Making torchvision importable beside a torch that cannot load its native operators.

The torchvision wheels of PyPI for Linux hold operators built for CUDA. Beside a CPU build of torch
these do not load, and ``import torchvision`` then fails with "operator torchvision::nms does not
exist", because it describes two operators that nobody declared. The study needs none of them
(models, weights and transforms are Python), so where they cannot be loaded their two schemas are
declared here. Calling such an operator (``torchvision.ops.nms``, ``torchvision.io.decode_image``)
still raises torchvision's own error.

Call ``ensure_torchvision()`` before every ``import torchvision``; nothing else in the study deals
with this.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Literal

import torch

from blcf_utils.ground.errors import StudyError

# The operators that torchvision/_meta_registrations.py describes without checking that they exist.
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

REASON = ""
"""Why the native operators are not used, for ``run.json``; empty when they are (or unasked)."""

# A Library takes its declarations back when it is collected.
_library: torch.library.Library | None = None
_state: Literal["native", "schemas"] | None = None


def _native_library(package: Path) -> Path | None:
    found = sorted(package.glob("_C*.so")) + sorted(package.glob("_C*.pyd"))
    return found[0] if found else None


def _load_native() -> str:
    """Load torchvision's operators; return why that failed, or nothing."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError(
            "torchvision is not installed: expected the version that belongs to torch "
            f"{torch.__version__}; install the project again (pip install -e .)"
        )
    library = _native_library(Path(spec.submodule_search_locations[0]))
    if library is None:
        return "this torchvision has no native operators (_C.so)"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"torchvision's native operators do not load: {' '.join(str(error).split())}"
    return ""


def ensure_torchvision() -> Literal["native", "schemas"]:
    """Make ``import torchvision`` work, with native operators where they load.

    Safe to call any number of times, also after an ``import torchvision`` that failed.

    Returns:
        ``native`` when torchvision's operators are loaded, ``schemas`` when only the two
        declarations stand in for them; the reason is then in ``REASON`` and logged once. On a
        machine with a GPU that is a warning: it means that torch and torchvision were built for
        different versions of CUDA or of each other.

    Raises:
        StudyError: torchvision is not installed.
    """
    global REASON, _library, _state
    if _state is not None:
        return _state
    REASON = _load_native()
    if not REASON:
        _state = "native"
        return _state
    level = logging.WARNING if torch.version.cuda or torch.version.hip else logging.INFO
    logging.getLogger(__name__).log(level, "%s; declared their schemas instead", REASON)
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            _library.define(schema)
    _state = "schemas"
    return _state
