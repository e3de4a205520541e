"""Peak resident memory, of the process so far and of single stages of work.

Linux keeps the peak (VmHWM) and lets a process set it back to what it holds now, so that each stage
can have its own. Where it does not, a stage's peak is that of the process so far.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory_mb() -> int:
    """Return the process' own peak resident memory in MiB, since it started."""
    _measure()
    return _so_far[0]


class PeakMemory:
    """Watches the peak resident memory of what runs in its ``with`` block; blocks may nest.

    Attributes:
        mb: the peak in MiB, after the block has ended. It counts all that the process held
            meanwhile, not only what the block itself asked for.
        exact: whether it is the block's own, not the peak of the process so far.
    """

    def __enter__(self) -> PeakMemory:
        _measure()
        self.mb, self.exact = 0, _set_back()
        _open.append(self)
        return self

    def __exit__(self, *_) -> None:
        _measure()
        _open.remove(self)
        _set_back()


_so_far = [0]
_open: list[PeakMemory] = []


def _measure() -> None:
    """Let every open block, and the process, know the peak since it was last set back."""
    now = _high_water_mb()
    _so_far[0] = max(_so_far[0], now)
    for block in _open:
        block.mb = max(block.mb, now)


def _set_back() -> bool:
    """Set the peak back to what the process holds now; tell whether the system did."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _high_water_mb() -> int:
    if _STATUS.exists():  # ru_maxrss would start at the peak of the parent that forked us
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
    unit = 1024 if sys.platform != "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
