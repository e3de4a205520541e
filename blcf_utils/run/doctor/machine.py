"""The machine: Python, packages, GPU, cores, memory, and folders that can be written."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from blcf_utils.run.doctor.findings import Finding, bytes_text
from blcf_utils.run.provenance import NOT_INSTALLED, installed_version, requirements

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def check_packages() -> Finding:
    """Return whether every dependency is installed in a version that was tested."""
    wanted = [(one, installed_version(one.name)) for one in requirements()]
    missing = [one.name for one, version in wanted if version == NOT_INSTALLED]
    untested = [
        f"{one.name} {version} (expected {one.specifier})"
        for one, version in wanted
        if one.name not in missing and not one.specifier.contains(version, prereleases=True)
    ]
    mend = "pip install -e . in the checkout"
    if missing:
        return Finding("packages", "problem", f"not installed: {', '.join(missing)}", mend)
    if untested:
        said = f"outside the tested versions: {', '.join(untested)}"
        return Finding("packages", "warning", said, mend)
    said = f"Python {platform.python_version()}, all {len(wanted)} dependencies in tested versions"
    return Finding("packages", "ok", said)


def check_torch() -> Finding:
    """Return whether torch and torchvision can be imported."""
    try:
        import torch

        from blcf_utils.ground import torchvision_compat

        torchvision_compat.ensure_torchvision()
        import torchvision
    except Exception as error:  # whatever an import that does not work raises
        said = f"torch and torchvision cannot be imported: {' '.join(str(error).split())[:200]}"
        mend = "install a pair that belongs together: torchvision 0.N with torch 2.(N-15)"
        return Finding("torch", "problem", said, mend)
    return Finding(
        "torch", "ok", f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )


def check_device(device: str, gpus: list[tuple[str, int]], slow: bool) -> Finding:
    """Return whether the device that the profile asks for is there.

    Args:
        device: ``features.device``.
        gpus: name and memory in bytes of each.
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
