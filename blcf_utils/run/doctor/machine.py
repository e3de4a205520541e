"""The machine: Python, packages, torch and torchvision, GPU, cores and threads."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from blcf_utils.ground.paths import project_root
from blcf_utils.run.doctor.findings import Finding, bytes_text

PYTHON = (3, 11)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Return whether this Python is one the study runs on."""
    said = f"Python {'.'.join(map(str, version))}"
    if tuple(version[:2]) >= PYTHON:
        return Finding("python", "ok", said)
    wanted = ".".join(map(str, PYTHON))
    mend = f"make an environment with Python {wanted} or later (environment.yml)"
    return Finding("python", "problem", f"{said}, and the study needs {wanted} or later", mend)


def check_packages(installed: Mapping[str, str] | None = None) -> Finding:
    """Return whether every dependency is installed in a version that was tested.

    Args:
        installed: name to version, in place of what is installed here.
    """
    path = project_root() / "pyproject.toml"
    if not path.is_file():
        return Finding("packages", "ok", "declared in the installed package")
    lines = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    missing, untested = [], []
    for line in lines:
        name, limits = re.match(r"([\w.-]+)(.*)", line).groups()
        version = _installed(name) if installed is None else installed.get(name)
        if version is None:
            missing.append(name)
        elif not _within(version, limits):
            untested.append(f"{name} {version} (expected {limits})")
    if missing:
        said = f"not installed: {', '.join(missing)}"
        return Finding("packages", "problem", said, "pip install -e . in the checkout")
    if untested:
        said = f"outside the tested versions: {', '.join(untested)}"
        return Finding("packages", "warning", said, "pip install -e . in the checkout")
    return Finding("packages", "ok", f"all {len(lines)} dependencies in tested versions")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _within(version: str, limits: str) -> bool:
    """Return whether a version meets limits such as ``>=2.11,<2.14``."""
    found = _numbers(version)
    for sign, limit in re.findall(r"(>=|<=|<|>|==)\s*([\w.]+)", limits):
        size = max(len(found), len(_numbers(limit)))
        a, b = (part + (0,) * (size - len(part)) for part in (found, _numbers(limit)))
        if not {">=": a >= b, "<=": a <= b, "<": a < b, ">": a > b, "==": a == b}[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def check_torch() -> Finding:
    """Return whether torch and torchvision belong together and which operators they have."""
    try:
        import torch

        from blcf_utils.ground import torchvision_compat

        operators = torchvision_compat.ensure_torchvision()
        import torchvision
    except Exception as error:  # whatever an import that does not work raises
        said = f"torch and torchvision cannot be imported: {' '.join(str(error).split())[:200]}"
        mend = "install a pair that belongs together: torchvision 0.N with torch 2.(N-15)"
        return Finding("torch", "problem", said, mend)
    said = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    vision, own = _numbers(torchvision.__version__), _numbers(torch.__version__)
    if vision[0] == 0 and own[0] == 2 and vision[1] - 15 != own[1]:
        mend = f"install torchvision 0.{own[1] + 15}"
        return Finding("torch", "warning", f"{said}, which do not belong together", mend)
    if operators == "native":
        return Finding("torch", "ok", f"{said}, native operators")
    if torch.version.cuda or torch.version.hip:
        mend = "install both from the same index of pytorch.org, for the same version of CUDA"
        said += ", whose native operators do not load beside this torch"
        return Finding("torch", "warning", said, mend)
    return Finding("torch", "ok", f"{said} (without its native operators, which are not needed)")


def gpu_memory() -> list[tuple[str, int]]:
    """Return name and memory in bytes of every GPU that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [(one.name, one.total_memory) for one in found]


def check_device(device: str, gpus: list[tuple[str, int]], slow: bool) -> Finding:
    """Return whether the device that the profile asks for is there.

    Args:
        device: ``features.device``.
        gpus: as :func:`gpu_memory` gives them.
        slow: the profile takes days without a GPU.
    """
    told = ", ".join(f"{name} ({bytes_text(size)})" for name, size in gpus)
    if device.startswith("cuda") and not gpus:
        mend = "set features.device: auto, or install a torch built for this machine's GPU"
        return Finding("gpu", "problem", f"features.device: {device} and no GPU in sight", mend)
    if gpus:
        used = "used" if device != "cpu" else "not used (features.device: cpu)"
        return Finding("gpu", "ok", f"{told}, {used}")
    if slow:
        mend = "see the times below; a machine with a GPU does the networks' part in a fraction"
        return Finding("gpu", "warning", "none; the networks run on the processor", mend)
    return Finding("gpu", "ok", "none, and this profile needs none")


def check_processor(
    usable: int, installed: int, environment: Mapping[str, str] = os.environ
) -> Finding:
    """Return how many cores the run can use, and whether a variable keeps it from using them."""
    said = f"{usable} cores"
    if usable < installed:
        said += f" of {installed} (the others are not for this process)"
    limits = {name: environment[name] for name in THREAD_VARIABLES if environment.get(name)}
    too_few = {k: v for k, v in limits.items() if v.isdigit() and int(v) < usable}
    if too_few:
        told = ", ".join(f"{name}={value}" for name, value in too_few.items())
        return Finding(
            "cores", "warning", f"{said}, limited by {told}", f"unset {' '.join(too_few)}"
        )
    return Finding("cores", "ok", said)


def memory() -> tuple[int, int]:
    """Return the bytes of memory that this process may have, and how many are free now."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    told = Path("/proc/meminfo")
    if told.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", told.read_text(encoding="ascii"), re.M)
        free = int(found.group(1)) * 1024 if found else total
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()))
        if used.is_file():
            free = min(free, total - int(used.read_text()))
    return total, max(free, 0)
