"""The machine: Python, packages, GPU, cores, memory, and folders that can be written."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

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


def installed_versions() -> dict[str, str]:
    """Return the version of every installed package; names in lower case with hyphens."""
    found = importlib.metadata.distributions()
    return {one.name.lower().replace("_", "-"): one.version for one in found if one.name}


def check_packages(installed: Mapping[str, str]) -> Finding:
    """Return whether every dependency is installed in a version that was tested.

    Args:
        installed: name to version, as :func:`installed_versions` gives them.
    """
    path = project_root() / "pyproject.toml"
    if not path.is_file():
        return Finding("packages", "ok", "declared in the installed package")
    lines = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = [Requirement(line) for line in lines]
    missing = [one.name for one in wanted if one.name not in installed]
    untested = [
        f"{one.name} {installed[one.name]} (expected {one.specifier})"
        for one in wanted
        if one.name in installed
        and not one.specifier.contains(installed[one.name], prereleases=True)
    ]
    mend = "pip install -e . in the checkout"
    if missing:
        return Finding("packages", "problem", f"not installed: {', '.join(missing)}", mend)
    if untested:
        said = f"outside the tested versions: {', '.join(untested)}"
        return Finding("packages", "warning", said, mend)
    return Finding("packages", "ok", f"all {len(lines)} dependencies in tested versions")


def check_torch() -> Finding:
    """Return whether torch and torchvision can be imported and belong together."""
    try:
        import torch

        from blcf_utils.ground import torchvision_compat

        torchvision_compat.ensure_torchvision()
        import torchvision
    except Exception as error:  # whatever an import that does not work raises
        said = f"torch and torchvision cannot be imported: {' '.join(str(error).split())[:200]}"
        mend = "install a pair that belongs together: torchvision 0.N with torch 2.(N-15)"
        return Finding("torch", "problem", said, mend)
    said = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    own, vision = Version(torch.__version__), Version(torchvision.__version__)
    if (own.major, vision.major) == (2, 0) and vision.minor - 15 != own.minor:
        mend = f"install torchvision 0.{own.minor + 15}"
        return Finding("torch", "warning", f"{said}, which do not belong together", mend)
    return Finding("torch", "ok", said)


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
        slow: the profile has so many images that a run without a GPU is slow.
    """
    if device.startswith("cuda") and not gpus:
        mend = "set features.device: auto, or install a torch built for this machine's GPU"
        said = f"features.device is {device}, and torch finds no GPU"
        return Finding("gpu", "problem", said, mend)
    if gpus:
        told = ", ".join(f"{name} ({bytes_text(size)})" for name, size in gpus)
        used = "used" if device != "cpu" else "not used (features.device: cpu)"
        return Finding("gpu", "ok", f"{told}, {used}")
    if slow:
        mend = "take a machine with a GPU for a profile of so many images"
        return Finding("gpu", "warning", "none; the networks run on the processor", mend)
    return Finding("gpu", "ok", "none, and this profile needs none")


def check_processor(
    usable: int, installed: int, environment: Mapping[str, str] = os.environ
) -> Finding:
    """Return how many cores the run can use, and whether a variable keeps it from using them."""
    said = f"{usable} cores"
    if usable < installed:
        said += f" of {installed} (the others are not for this process)"
    limits = {name: environment.get(name, "") for name in THREAD_VARIABLES}
    few = {name: n for name, n in limits.items() if n.isdigit() and int(n) < usable}
    if few:
        said += f", limited by {', '.join(f'{name}={value}' for name, value in few.items())}"
        return Finding("cores", "warning", said, f"unset {' '.join(few)}")
    return Finding("cores", "ok", said)


def memory() -> tuple[int, int]:
    """Return the bytes of memory that this process may have, and how many are free now."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    told = Path("/proc/meminfo")
    if told.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", told.read_text(encoding="ascii"), re.M)
        free = int(found.group(1)) * 1024 if found else total
    # A container's own limit.
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()))
        if used.is_file():
            free = min(free, total - int(used.read_text()))
    return total, max(free, 0)


def check_writable(folder: Path, topic: str, variable: str) -> Finding:
    """Return whether files can be made in a folder, or in what of it exists.

    Args:
        folder: which may not exist yet.
        topic: of the finding.
        variable: the environment variable that names another folder.
    """
    here = _existing(folder)
    try:
        tempfile.TemporaryFile(dir=here).close()
    except OSError:
        mend = f"set {variable} to another folder"
        return Finding(topic, "problem", f"{here} cannot be written", mend)
    return Finding(topic, "ok", f"{folder} can be written")


def free_bytes(folder: Path) -> int:
    """Return how many bytes can be written to the disk of a folder that may not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def bytes_there(cache: Path, datasets: Sequence[str]) -> int:
    """Return the bytes of finished and begun artefacts of some datasets in the cache."""
    found = (path for name in datasets for path in cache.glob(f"*/{name}-*/**/*"))
    total = 0
    for path in found:
        with contextlib.suppress(OSError):  # a run that is under way has moved it
            total += path.stat().st_size * path.is_file()
    return total
