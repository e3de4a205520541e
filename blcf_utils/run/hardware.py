"""What the machine has: processor, memory, GPUs."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cpu_model() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def memory() -> tuple[int, int]:
    """Return the bytes of memory that this process may have, and how many are free now."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = Path("/proc/meminfo")
    text = told.read_text(encoding="ascii") if told.is_file() else ""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)
    free = int(found[1]) * 1024 if found else total
    # A container's own limit.
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()))
        free = min(free, max(0, total - int(used.read_text())))
    return total, free


def gpu_memory() -> list[tuple[str, int]]:
    """Return name and memory in bytes of every GPU that torch can use."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = map(torch.cuda.get_device_properties, range(count))
    return [(one.name, one.total_memory) for one in found]
