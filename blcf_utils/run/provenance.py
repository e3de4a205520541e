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

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.paths import cache_dir, datasets_dir, project_root, weights_path

DISTRIBUTION = "blcf-study"


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
        "study": _version(DISTRIBUTION),
        "git": git_state(project_root()),
        "packages": _packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": {
            "cpu": _cpu_model(),
            "cores": usable_cores(),
            "memory_gb": _memory_gb(),
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


def _packages() -> dict[str, str]:
    """Return the installed version of every dependency of the study."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = [re.match(r"[\w.-]+", line).group() for line in lines if "extra ==" not in line]
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_facts() -> dict:
    import torch

    from blcf_utils.ground import torchvision_compat

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        gpus.append({"name": found.name, "memory_gb": round(found.total_memory / 2**30, 1)})
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


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()))
    return round(total / 2**30, 1)
