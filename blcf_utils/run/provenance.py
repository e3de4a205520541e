"""Where a result came from: revision, versions, machine, seeds and time, but no one's paths."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir, datasets_dir, project_root, weights_path

DISTRIBUTION = "blcf-study"


def describe_run(seeds: dict[str, int] | None = None, **facts: Any) -> dict:
    """Return what is needed to judge and repeat a run, as JSON values.

    No absolute path, host name or user name is among them.

    Args:
        seeds: the run's seeds by what they seed.
        **facts: anything else to record.

    Returns:
        ``git`` (revision, dirty), ``packages``, ``python``, ``platform``, ``hardware`` (cpu,
        cores, memory_gb, gpus), ``torchvision_ops``, ``seeds``, ``time`` and ``facts``' keys.
    """
    accelerator = _accelerator()
    return {
        "study": _version(DISTRIBUTION),
        "git": git_state(project_root()),
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": {
            "cpu": _cpu_model(),
            "cores": usable_cores(),
            "memory_gb": _memory_gb(),
            "gpus": accelerator["gpus"],
            "cuda": accelerator["cuda"],
        },
        "torchvision_ops": accelerator["torchvision_ops"],
        "seeds": dict(seeds or {}),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def git_state(folder: Path) -> dict | str:
    """Return the checkout's revision and whether its files were changed.

    Changes under ``results`` do not count: writing there is what a run does.

    Returns:
        ``{"revision": str | None, "dirty": bool}``, or ``"not a git checkout"``.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return "not a git checkout"
    changes = _git(folder, "status", "--porcelain", "--", ".", ":(exclude)results")
    return {"revision": _git(folder, "rev-parse", "--verify", "HEAD"), "dirty": bool(changes)}


def package_versions() -> dict[str, str]:
    """Return the installed version of every dependency that ``pyproject.toml`` declares."""
    return {name: _version(name) for name in sorted(declared_dependencies())}


def declared_dependencies() -> list[str]:
    """Return the names of the study's dependencies, from pyproject.toml or the installation."""
    pyproject = project_root() / "pyproject.toml"
    if pyproject.is_file():
        lines = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        try:
            lines = importlib.metadata.requires(DISTRIBUTION) or []
        except importlib.metadata.PackageNotFoundError:
            return []
        lines = [line for line in lines if "extra ==" not in line]
    return [re.match(r"[\w.-]+", line).group() for line in lines]


def private_places() -> dict[str, str]:
    """Return this machine's folders by path, each with what to show instead, longest first."""
    named = [
        (cache_dir(), "<cache>"),
        (Path.home(), "~"),
        (weights_path(), "<weights>"),
    ]
    # Not a system Python: its prefix is /usr, where much else lives.
    if sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix:
        named.append((Path(sys.prefix), "<python>"))
    for locate, label in ((project_root, "<project>"), (datasets_dir, "<data>")):
        try:
            named.append((locate(), label))
        except StudyError:
            continue
    places = {}
    for path, label in named:
        if path is not None:
            for form in (path.absolute(), path.resolve()):
                if len(form.parts) > 1:
                    places.setdefault(str(form), label)
    # Inside the project its own folders keep their place in it.
    project = next((p for p, label in places.items() if label == "<project>"), None)
    if project:
        inside = f"{project}{os.sep}"
        places = {
            p: label
            for p, label in places.items()
            if not p.startswith(inside) or label == "<python>"
        }
    return dict(sorted(places.items(), key=lambda item: -len(item[0])))


def without_paths(value: Any, *, html: bool = False) -> Any:
    """Return JSON values with this machine's folders replaced by names such as ``<project>``.

    Args:
        value: text, or lists and dicts of it.
        html: the text is HTML, so the names' angle brackets are escaped.
    """
    places = private_places()
    if html:
        places = {p: x.replace("<", "&lt;").replace(">", "&gt;") for p, x in places.items()}
    pattern = re.compile("|".join(rf"{re.escape(p)}(?![\w.-])" for p in places) or r"(?!)")
    kernel_cell = "&lt;cell&gt;" if html else "<cell>"

    def clean(item: Any) -> Any:
        if isinstance(item, str):
            item = pattern.sub(lambda m: places[m.group()], item)
            return re.sub(r"/[\w/.-]*ipykernel_\d+/\d+\.py", kernel_cell, item)
        if isinstance(item, dict):
            return {clean(k): clean(v) for k, v in item.items()}
        if isinstance(item, list | tuple):
            return [clean(v) for v in item]
        return item

    return clean(value)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerator() -> dict:
    if "torch" in sys.modules:
        return _torch_facts()
    # In a process of its own: torch takes seconds and hundreds of megabytes that the process
    # asking (the runner, which lives as long as the study) has no use for.
    code = (
        "import json; from blcf_utils.run.provenance import _torch_facts; "
        "print('FACTS' + json.dumps(_torch_facts()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    for line in done.stdout.splitlines():
        if line.startswith("FACTS"):
            return json.loads(line.removeprefix("FACTS"))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {
        "gpus": [],
        "cuda": None,
        "torchvision_ops": without_paths(f"torch cannot be imported: {last}"),
    }


def _torch_facts() -> dict:
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            gpus.append({"name": found.name, "memory_gb": round(found.total_memory / 2**30, 1)})
    from blcf_utils.ground import torchvision_compat

    ops = {"mode": torchvision_compat.ensure_torchvision(), "reason": torchvision_compat.REASON}
    return {
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "torchvision_ops": without_paths(ops),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.M)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()))
    return round(total / 2**30, 1)
