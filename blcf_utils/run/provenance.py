"""Where a result came from: revision, versions, machine, seeds and time, but no one's paths."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.paths import cache_dir, datasets_dir, project_root, weights_path
from blcf_utils.run.hardware import cpu_model, gpu_memory, memory

DISTRIBUTION = "blcf-study"
NOT_INSTALLED = "not installed"


def describe_run(seeds: dict[str, int]) -> dict:
    """Return what is needed to judge and repeat a run, as JSON values.

    No absolute path, host name or user name is among them.

    Args:
        seeds: the run's seeds by what they seed.

    Returns:
        ``study`` (version), ``git`` (revision, dirty), ``packages``, ``python``, ``platform``,
        ``hardware`` (cpu, cores, memory_gb, gpus, cuda), ``torchvision_ops``, ``seeds``, ``time``.
    """
    torch = _torch_facts() if "torch" in sys.modules else _torch_facts_of_another_process()
    return {
        "study": installed_version(DISTRIBUTION),
        "git": git_state(project_root()),
        "packages": {one.name: installed_version(one.name) for one in requirements()},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": {
            "cpu": cpu_model(),
            "cores": usable_cores(),
            "memory_gb": round(memory()[0] / 2**30, 1),
            "gpus": torch["gpus"],
            "cuda": torch["cuda"],
        },
        "torchvision_ops": torch["torchvision_ops"],
        "seeds": seeds,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints about a folder, or None when it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_state(folder: Path) -> dict | str:
    """Return the checkout's revision and whether its files were changed.

    Changes under ``results`` do not count: writing there is what a run does.

    Returns:
        ``{"revision": str | None, "dirty": bool}``, or ``"not a git checkout"``.
    """
    top = git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return "not a git checkout"
    changes = git(folder, "status", "--porcelain", "--", ".", ":(exclude)results")
    return {"revision": git(folder, "rev-parse", "--verify", "HEAD"), "dirty": bool(changes)}


def without_paths(value: Any, *, html: bool = False) -> Any:
    """Return JSON values with this machine's folders replaced by names such as ``<project>``.

    Args:
        value: text, or lists and dicts of it.
        html: the text is HTML, so the names' angle brackets are escaped.
    """
    places = _private_places()
    pattern = re.compile(
        "|".join(rf"{re.escape(place)}(?![\w.-])" for place in places)
        + r"|(?P<cell>/[\w/.-]*ipykernel_\d+/\d+\.py)"
    )

    def name(match: re.Match) -> str:
        label = "<cell>" if match["cell"] else places[match.group()]
        return label.replace("<", "&lt;").replace(">", "&gt;") if html else label

    def clean(item: Any) -> Any:
        if isinstance(item, str):
            return pattern.sub(name, item)
        if isinstance(item, dict):
            return {clean(k): clean(v) for k, v in item.items()}
        if isinstance(item, list | tuple):
            return [clean(v) for v in item]
        return item

    return clean(value)


def _private_places() -> dict[str, str]:
    """Return this machine's folders by path, each with what to show instead, best match first.

    Inside the project its own folders keep their place in it, all but an environment there.
    """
    named = [(cache_dir(), "<cache>"), (weights_path(), "<weights>"), (datasets_dir(), "<data>"),
             (Path.home(), "~")]  # fmt: skip
    named.sort(key=lambda one: len(str(one[0])), reverse=True)
    named.insert(0, (project_root(), "<project>"))
    # Not a system Python: its prefix is /usr, where much else lives.
    if sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix:
        named.insert(0, (Path(sys.prefix), "<python>"))
    places: dict[str, str] = {}
    for path, label in named:
        for form in (path.absolute(), path.resolve()) if path else ():
            if len(form.parts) > 1:
                places.setdefault(str(form), label)
    return places


def requirements() -> list[Requirement]:
    """Return the dependencies of the study without its extras; itself where it is not installed."""
    if installed_version(DISTRIBUTION) == NOT_INSTALLED:
        return [Requirement(DISTRIBUTION)]
    found = map(Requirement, importlib.metadata.requires(DISTRIBUTION))
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def installed_version(name: str) -> str:
    """Return the version of an installed package, or ``not installed``."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _torch_facts() -> dict:
    import torch

    from blcf_utils.ground import torchvision_compat

    gpus = [{"name": name, "memory_gb": round(size / 2**30, 1)} for name, size in gpu_memory()]
    ops = {"mode": torchvision_compat.ensure_torchvision(), "reason": torchvision_compat.REASON}
    cuda = torch.version.cuda if gpus else None
    return {"gpus": gpus, "cuda": cuda, "torchvision_ops": without_paths(ops)}


def _torch_facts_of_another_process() -> dict:
    # torch takes seconds and hundreds of megabytes, which the runner, who lives as long as the
    # study, has no other use for.
    code = (
        "import json; from blcf_utils.run import provenance; "
        "print('', json.dumps(provenance._torch_facts()), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    why = without_paths(f"torch cannot be imported: {last}")
    return {"gpus": [], "cuda": None, "torchvision_ops": why}
