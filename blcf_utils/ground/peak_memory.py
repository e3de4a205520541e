"""Peak resident memory, of the process so far and of single stages of work.

Linux keeps the peak (VmHWM) and lets a process set it back to what it holds now, so that each stage
can have its own. Where it does not, a stage's peak is that of the process so far. Resident pages of
mapped files are in it, which the system takes back when it needs them; what the process itself
holds (RssAnon) has no peak in Linux and is sampled.
"""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path

_SECONDS = 0.2  # between samples
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
        own_mb: peak in MiB of what the process held without pages of mapped files, sampled five
            times a second; 0 where the system does not tell.
    """

    def __enter__(self) -> PeakMemory:
        _measure()
        self.mb, self.own_mb, self.exact = 0, 0, _set_back()
        _open.append(self)
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._sampler.join()
        _measure()
        _open.remove(self)
        _set_back()

    def _sample(self) -> None:
        while True:
            self.own_mb = max(self.own_mb, _status_mb("RssAnon"))
            if self._ended.wait(_SECONDS):
                self.own_mb = max(self.own_mb, _status_mb("RssAnon"))
                return


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
        return _status_mb("VmHWM")
    unit = 1024 if sys.platform != "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _status_mb(name: str) -> int:
    """Return a line of /proc/self/status in MiB, 0 if there is none."""
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0) // 1024
