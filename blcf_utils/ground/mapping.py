"""Maps of a stage over images: in this process, or on the workers of a Dask cluster.

A stage gives a function ``function(shared, item)`` and the items, and writes what comes back. The
process that asks is the only one that writes, each result at its place, so a worker that dies,
returns late or computes an item again can neither lose nor double anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from blcf_utils.ground.cluster import connected

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(
    function: Callable[[Any, Item], Result],
    shared: Any,
    items: Iterable[Item],
    *,
    files: Callable[[Item], Iterable[Path]] = lambda item: (),
    ordered: bool = False,
    threads: int = 1,
    at_once: int = 1,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``function(shared, item)``, with few items under way at a time.

    Args:
        function: of a module that workers can import, too.
        shared: what every item needs, such as a network; sent to each worker once.
        items: small values, such as paths and numbers.
        files: the files that an item is read from; a worker must find them at the same place.
        ordered: yield in the order of the items; else a cluster's results come as they are ready.
        threads: how many items are computed at once in this process; a cluster has its own number.
        at_once: how many items a worker is sent at once; several where one takes few milliseconds.

    Raises:
        StudyError: what the function raises; a cluster that cannot be reached or is lost, a worker
            that does not see a file or runs other software.
    """
    cluster = connected()
    if cluster is not None:
        yield from cluster.map(function, shared, items, files, ordered, at_once)
    elif threads == 1:
        for item in items:
            yield item, function(shared, item)
    else:
        yield from _in_threads(function, shared, items, threads, ordered)


def _in_threads(function, shared, items, threads: int, ordered: bool) -> Iterator[tuple]:
    remaining, ahead, failed = iter(items), deque(), None
    with ThreadPoolExecutor(threads) as pool:
        try:
            while failed is None:
                for item in islice(remaining, 2 * threads - len(ahead)):
                    ahead.append((item, pool.submit(function, shared, item)))
                if not ahead:
                    return
                item, future = ahead.popleft()
                try:
                    result = future.result()
                except BaseException as error:
                    failed = error
                else:
                    yield item, result
        finally:
            for _, future in ahead:
                future.cancel()
        if not ordered:  # what was computed beside it is not lost
            for item, future in ahead:
                if not future.cancelled() and future.exception() is None:
                    yield item, future.result()
    raise failed
