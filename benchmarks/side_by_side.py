"""Side-by-side timing: candidates run in turns (A B A B), so that a busy machine slows them alike.

Nothing here imports torch: ``memory.py`` measures children of a process that must stay small.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable

from tabulate import tabulate

from blcf_utils.ground.cores import usable_cores


def interleave(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every timed call, by candidate.

    Each candidate is called once untimed (first-call compilation, caches), then all of them in
    turns ``repeats`` times.
    """
    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median(seconds: list[float]) -> float:
    """Return the median of one candidate's timings."""
    return statistics.median(seconds)


def speed_ratio(seconds: dict[str, list[float]], ours: str, other: str) -> float:
    """Return how many times faster ``ours`` is: the median over the turns of other / ours."""
    turns = zip(seconds[other], seconds[ours], strict=True)
    return statistics.median(b / a for b, a in turns)


def fastest(seconds: dict[str, list[float]], names) -> str:
    """Return which of the candidates ``names`` has the smallest median."""
    return min(names, key=lambda name: median(seconds[name]))


def machine() -> dict:
    """Return what a number depends on: processor, cores in use, and how busy they were."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line[:10] == "model name"]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def report(
    benchmark: str,
    rows: list[dict],
    agree: bool,
    start: dict,
    *,
    otherwise: str = "the compared results differ",
    **settings,
) -> None:
    """Print the table, then everything as one JSON line.

    Args:
        benchmark: name of the script.
        rows: one dict a row of the table; numbers, not yet rounded.
        agree: whether the compared results are equal, as the script defines it.
        start: :func:`machine` as it was before the first measurement.
        otherwise: what is wrong when they are not.
        settings: sizes the numbers were measured with.

    Raises:
        SystemExit: ``agree`` is False; a ratio of different results means nothing.
    """
    print(tabulate(rows, headers="keys", floatfmt=".3f", tablefmt="github"))
    print(
        json.dumps(
            {
                "benchmark": benchmark,
                "settings": settings,
                "machine": start,
                "agree": agree,
                "rows": rows,
            }
        )
    )
    if not agree:
        raise SystemExit(f"{benchmark}: {otherwise}")
