"""How many cores a process may use, and how its threads wait: decided here and nowhere else.

Importing the package calls :func:`settle_threads`, before any library that starts threads is
loaded. A run of the study also looks at what other programs leave free (:func:`free_cores`) and
gives its kernels as many threads (:func:`thread_variables`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import MutableMapping
from pathlib import Path

# Threads that wait for one another by spinning burn the cores that the others lack: on a busy
# machine a step of two threads then takes several times as long as one of a single thread.
PASSIVE = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_THREAD_TIMEOUT": "4",
}
# What the libraries read: OpenMP and BLAS, OpenCV.
_COUNTS = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
_MOST_POOLED = 8  # more images at once than that only take memory


def usable_cores() -> int:
    """Return the number of cores this process may use, by its affinity and its cgroup's quota."""
    return max(1, min(len(_own_cores()), math.floor(min(cgroup_quota(), 1e6))))


def pool_threads() -> int:
    """Return how many threads share the images of a stage."""
    return min(_MOST_POOLED, usable_cores())


def threads_of_one() -> int:
    """Return how many threads compute one of the images that share a stage; mostly 1."""
    return usable_cores() // pool_threads()


def free_cores(seconds: float = 0.5, told: Path = Path("/proc/stat")) -> int:
    """Return how many of the usable cores other programs leave free now; at least 1.

    Args:
        seconds: how long they are watched.
        told: where the system tells the ticks of each core.
    """
    usable = usable_cores()
    before = _ticks(told)
    if usable == 1 or not before:
        return usable
    time.sleep(seconds)
    idle = 0.0
    for core, (rest, whole) in _ticks(told).items():
        was_rest, was_whole = before[core]
        idle += (rest - was_rest) / max(1, whole - was_whole)
    return max(1, min(usable, round(idle)))


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment in which libraries start ``threads`` threads."""
    return dict.fromkeys(_COUNTS, str(threads))


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads wait without spinning, and no library start more than the quota allows.

    What is set already stays. Libraries read this when they are loaded, and know the affinity
    themselves.
    """
    wanted = dict(PASSIVE)
    if usable_cores() < len(_own_cores()):
        wanted |= thread_variables(usable_cores())
    for name, value in wanted.items():
        environment.setdefault(name, value)


def cgroup_quota(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float:
    """Return how many cores' time a container or a service may take; infinity without a limit.

    Args:
        own: names the groups of this process.
        root: where the groups' folders are.
    """
    least = math.inf
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        # A limit of a group holds for those inside it.
        for part in (Path(path), *Path(path).parents):
            least = min(least, _limit(base / part.as_posix().lstrip("/")))
    return least


def _limit(group: Path) -> float:
    """Return the quota over the period of a group, of version 2 or 1."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text().split()
    elif (group / "cpu.cfs_quota_us").is_file():
        quota = (group / "cpu.cfs_quota_us").read_text().strip()
        period = (group / "cpu.cfs_period_us").read_text()
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def _own_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _ticks(told: Path) -> dict[int, tuple[int, int]]:
    """Return (idle, all) ticks so far of each core that this process may use."""
    found = {}
    for line in told.read_text().splitlines() if told.is_file() else ():
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in _own_cores():
            # user, nice, system, idle, iowait, irq, softirq, steal
            values = [int(value) for value in ticks[:8]]
            found[int(name[3:])] = values[3] + values[4], sum(values)
    return found
