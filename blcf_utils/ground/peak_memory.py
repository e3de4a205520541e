"""The peak resident memory of a process."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_memory_mb(process: int | str = "self") -> int:
    """Return the peak resident memory of a process in MiB, pages of mapped files included.

    Args:
        process: id of a running process; this process by default.

    Returns:
        The peak since the process started; 0 where the system does not tell.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        if process != "self" or Path("/proc/self").exists():
            return 0
        # Only without /proc: on Linux a child's ru_maxrss starts at the peak of its parent.
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    found = re.search(r"^VmHWM:\s*(\d+)", status, re.M)
    return int(found[1]) // 1024 if found else 0
