"""Whether what a profile takes fits this machine: disk, memory, and roughly how long it takes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from blcf_utils.features.forward import forward_images
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.run.doctor.findings import Finding, bytes_text, seconds_text
from blcf_utils.run.doctor.needs import STREAMED, Need

SHOWN = 4  # the largest parts, in words
TIGHT = 1.1  # predictions are that good; less room than this is a warning
MEASURED_SECONDS = 0.7


def check_disk(needs: Sequence[Need], folder: Path, free: int, there: int = 0) -> Finding:
    """Return whether the cache's disk has room for what a run keeps.

    Args:
        needs: of the workload.
        folder: the cache.
        free: bytes on its disk.
        there: bytes of artefacts of these datasets in the cache, which may be reused.
    """
    needed = sum(need.amount for need in needs)
    parts = [f"{need.what} {bytes_text(need.amount)}" for need in needs[:SHOWN]]
    said = (
        f"{folder} has {bytes_text(free)} free, predicted {bytes_text(needed)}: "
        f"{', '.join(parts)}{', ...' if len(needs) > SHOWN else ''}"
    )
    mend = "free some space, or set BLCF_CACHE to a larger disk"
    if there:
        said += f" ({bytes_text(there)} of these datasets are there already)"
    if needed <= free / TIGHT:
        return Finding("disk", "ok", said)
    if needed - there > free:
        return Finding("disk", "problem", said, mend)
    return Finding("disk", "warning", said, mend)


def check_writable(folder: Path, topic: str) -> Finding:
    """Return whether files can be made in a folder, or in what of it exists."""
    here = existing(folder)
    try:
        tempfile.TemporaryFile(dir=here).close()
        return Finding(topic, "ok", f"{folder} can be written")
    except OSError:
        pass
    variable = {"cache": "BLCF_CACHE", "results": "BLCF_RESULTS"}[topic]
    return Finding(
        topic, "problem", f"{here} cannot be written", f"set {variable} to another folder"
    )


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def free_bytes(folder: Path) -> int:
    """Return how many bytes can be written to the disk of a folder that may not exist yet."""
    return shutil.disk_usage(existing(folder)).free


def bytes_there(cache: Path, datasets: Sequence[str]) -> int:
    """Return the bytes of finished and begun artefacts of some datasets in the cache."""
    total = 0
    begins = tuple(f"{name}-" for name in datasets)
    for artefact in cache.glob("*/*"):
        if artefact.name.startswith(begins) and artefact.parent.name != "rendered":
            total += sum(_size(path) for path in artefact.rglob("*"))
    return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # a run that is under way has moved it
        return 0


def check_memory(needs: Sequence[Need], total: int, free: int) -> Finding:
    """Return whether the largest step fits the memory.

    Args:
        needs: of the workload, largest first.
        total: bytes this process may have.
        free: bytes that are not in use now.
    """
    largest = needs[0]
    said = (
        f"{bytes_text(total)}, {bytes_text(free)} free; the largest step is the {largest.what}, "
        f"predicted {bytes_text(largest.amount)}"
    )
    mend = (
        "lower codebook.max_descriptors"
        if largest.what.startswith("k-means of") and "SIFT" not in largest.what
        else "lower sift.max_descriptors"
        if "SIFT" in largest.what
        else "lower features.batch_size"
        if largest.what.startswith("forward")
        else "take a machine with more memory"
    )
    if largest.amount > total:
        return Finding("memory", "problem", said, mend)
    if largest.amount > free / TIGHT:
        return Finding("memory", "warning", said, f"end other programs, or {mend}")
    return Finding("memory", "ok", said)


def check_gpu_memory(forward: float, size: int) -> Finding:
    """Return whether a forward pass fits the GPU's memory."""
    said = f"{bytes_text(size)}; a forward pass is predicted to take {bytes_text(forward)}"
    if forward > size:
        return Finding("gpu memory", "problem", said, "lower features.batch_size")
    return Finding("gpu memory", "ok", said)


def measure_network(backbone: Backbone, size: tuple[int, int], device: torch.device) -> float:
    """Return the seconds that a network takes for a million pixels, measured for a second.

    Args:
        backbone: whose weights do not matter.
        size: (width, height) of the images.
        device: where it runs.
    """
    rng = np.random.default_rng(0)
    batch = 8 if device.type == "cuda" else 1
    images = rng.integers(0, 256, (batch, size[1], size[0], 3), np.uint8)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    module = backbone.module.to(device)
    try:
        pace = _seconds_of(lambda: forward_images(backbone, images, device, dtype), device)
    finally:
        module.to("cpu")
    return pace / (batch * size[0] * size[1] / 1e6)


def measure_products(device: torch.device) -> float:
    """Return how many operations of float32 a second a matrix product does."""
    rows, words = torch.rand(2048, 512, device=device), torch.rand(512, 2048, device=device)
    # Reading a value waits for the GPU.
    return 2 * 2048 * 512 * 2048 / _seconds_of(lambda: float((rows @ words)[0, 0]), device)


def _seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one step, as they would be without other programs on the processor."""
    step()  # warm up
    steps, started, used = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - started) < MEASURED_SECONDS or not steps:
        step()
        steps += 1
    if device.type == "cpu":
        # Others' turns are not counted.
        spent = min(spent, (time.process_time() - used) / torch.get_num_threads())
    return spent / steps


def tell_time(needs: Sequence[Need], days: float = 2.0) -> Finding:
    """Return the estimate of the longest stages' times, a warning where it is more than ``days``.

    Args:
        needs: of the workload, in seconds.
        days: from so many on it is a warning.
    """
    total = sum(need.amount for need in needs)
    parts = ", ".join(f"{need.what} {seconds_text(need.amount)}" for need in needs[:SHOWN])
    said = (
        f"coarse estimate on an idle machine {seconds_text(total)} ({parts}); without saliency, "
        "SIFT, training and evaluation"
    )
    if total > days * 86_400:
        mend = "use a machine with a GPU, or fewer images, a smaller size or fewer words"
        if needs[0].what == STREAMED:
            mend += "; with the disk for it, distractors.features: stored reads each image once"
        return Finding("time", "warning", said, mend)
    return Finding("time", "ok", said)
