"""What every training of the study shares: device, precision, threads and the learning rate."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from blcf_utils.features.forward import multiplies_bfloat16
from blcf_utils.ground.errors import StudyError


def training_device(name: str) -> torch.device:
    """Return the device of ``auto`` (a GPU when present), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        StudyError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError):
        raise StudyError(
            f"device: expected auto, cpu, cuda or cuda:N that this machine has, found {name!r}"
        ) from None


def training_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of ``auto``, ``float32`` or ``bfloat16`` on a device."""
    if name != "auto":
        return getattr(torch, name)
    # bfloat16 pays off only where the hardware multiplies it natively.
    if device.type == "cuda":
        native = multiplies_bfloat16(device)
    else:
        native = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def cosine_rate(step: int, steps: int, warmup: int, highest: float) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return highest * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * share))


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with at most ``count`` torch threads; 0 leaves their number as it is.

    Never with more than before: so many cores are free (``ground.cores``).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(count or before, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_checkpoint(path: Path, settings: str) -> dict:
    """Return the state of an interrupted training, on the CPU, where an optimiser counts its steps.

    Raises:
        StudyError: it does not load, or was made with other settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        made_with = state["config"]
    except (MemoryError, torch.OutOfMemoryError):
        raise  # nothing is wrong with the file
    except Exception as error:  # a file cut short fails in many ways
        raise StudyError(
            f"{path}: expected the checkpoint of an interrupted training, found a file that does "
            f"not load as one ({type(error).__name__}); delete it to start anew"
        ) from None
    if made_with != settings:
        raise StudyError(
            f"{path}: the interrupted training had other settings; repeat them to continue "
            "it, or delete the file to start anew"
        )
    return state
