"""How many cores a process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the number of cores this process may use, which can be fewer than are installed."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
