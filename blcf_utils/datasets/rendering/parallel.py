"""Running independent renderings in processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence

import cv2

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.progress import progress


def _start_worker() -> None:
    cv2.setNumThreads(1)


def run_all(
    function: Callable, tasks: Sequence, *, workers: int | None, label: str, unit: str
) -> None:
    """Call ``function`` once for each task, in ``workers`` processes (all cores when None).

    The function and the tasks must be picklable; results are written by the function itself.
    """
    workers = min(workers or usable_cores(), len(tasks))
    for _ in progress(
        _finished(function, tasks, workers), label=label, total=len(tasks), unit=unit
    ):
        pass


def _finished(function: Callable, tasks: Sequence, workers: int) -> Iterator:
    if workers <= 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield from map(function, tasks)
        finally:
            cv2.setNumThreads(threads)
        return
    # spawn: a forked child of a process that already ran torch or OpenCV threads can hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap_unordered(function, tasks)
