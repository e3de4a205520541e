"""Which weights files the backbones of a profile read, found without loading torch.

``backbones.load_backbone`` reads them; the runner, which only has to notice that one was replaced,
would wait seconds for torch at every ``blcf status``.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.ground.paths import embedded_dir, project_root, weights_path


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
        found = [embedded_dir() / f"{backbone.name}.safetensors"]
    elif backbone.weights == "torchvision":
        found = sorted((_torch_hub() / "checkpoints").glob(pattern))
    elif backbone.weights == "local":
        where = weights_path()
        found = [] if where is None else [where] if where.is_file() else sorted(where.glob(pattern))
    else:
        # Notebooks run in the project's folder.
        found = [project_root() / Path(backbone.weights).expanduser()]
    return [path for path in found if path.is_file()]


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
