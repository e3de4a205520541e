"""Maps of a stage over images: in this process, or on the workers of a Dask cluster.

A stage gives a function ``function(shared, item)`` and the items, and writes what comes back. The
process that asks is the only one that writes, each result at its place, so a worker that dies,
returns late or computes an item again can neither lose nor double anything.

A cluster's results are equal to those of one process to the bit where machines are: workers
compute with as many threads as this process does (numerical libraries round differently with
another number), and a worker with other software is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blcf_utils.ground.cluster import connected
from blcf_utils.ground.cores import threads_of_one
from blcf_utils.ground.errors import StudyError

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar("Item")
Result = TypeVar("Result")

# How long a cluster may be without any worker.
PATIENCE_SECONDS = 60
_RETRIES = 2
_AHEAD = 3  # tasks a thread of the cluster: one computed, one waiting, one on its way
# What takes part in the results: workers must have the same.
_LIBRARIES = ("torch", "numpy", "opencv-python-headless", "pillow", "faiss-cpu", "scipy")


def mapped(
    function: Callable[[Any, Item], Result],
    shared: Any,
    items: Iterable[Item],
    *,
    files: Callable[[Item], Iterable[Path]] = lambda item: (),
    threads: int = 1,
    at_once: int = 1,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``function(shared, item)``, in order, with few items under way.

    Nothing behind an item that fails is yielded. Close it (``contextlib.closing``) where the loop
    may end early: until then libraries keep the few threads of several items at once.

    Args:
        function: of a module that workers can import, too.
        shared: what every item needs, such as a network; sent to each worker once.
        items: small values, such as paths and numbers.
        files: the files that an item is read from; a worker must find them at the same place.
        threads: how many items are computed at once in this process; a cluster has its own number.
            If several, libraries compute each, here or there, with :func:`threads_of_one`.
        at_once: how many items a worker is sent at once; several where one takes few milliseconds.

    Raises:
        StudyError: what the function raises; a cluster that cannot be reached or is lost, a worker
            that does not see a file or runs other software.
    """
    client = connected()
    if client is not None:
        with threads_each(threads_of_one()) if threads > 1 else contextlib.nullcontext():
            yield from _on_workers(client, function, shared, items, files, at_once)
    elif threads == 1:
        for item in items:
            yield item, function(shared, item)
    else:
        with core_pool(threads) as pool:
            submit = partial(pool.submit, function, shared)
            for item, future in _under_way(items, submit, lambda: 2 * threads):
                yield item, future.result()


@contextlib.contextmanager
def threads_each(threads: int) -> Iterator[None]:
    """Let libraries compute with so few threads that images, not operations, run in parallel.

    Threads of one operation wait for each other many times an image; those of two images never.
    """
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        with threadpool_limits(threads, "blas"):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@contextlib.contextmanager
def core_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Return threads that share the cores; what has not begun when it is left is cancelled."""
    with threads_each(threads_of_one()):
        pool = ThreadPoolExecutor(threads, initializer=_few_openmp_threads)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _few_openmp_threads() -> None:
    """Limit what uses OpenMP itself, such as faiss, in the thread that calls this."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads_of_one(), "openmp")


def _under_way(items: Iterable, submit: Callable, most: Callable[[], int]) -> Iterator[tuple]:
    """Yield items in order with their futures, and keep ``most()`` submitted ahead."""
    remaining, ahead = iter(items), deque()
    try:
        while True:
            for item in islice(remaining, max(0, most() - len(ahead))):
                ahead.append((item, submit(item)))
            if not ahead:
                return
            yield ahead.popleft()
    finally:
        ahead.clear()  # Dask forgets a task when its last future is gone


def _on_workers(client: Client, function, shared, items, files, at_once: int) -> Iterator[tuple]:
    import cloudpickle
    import dask

    content = cloudpickle.dumps((function, shared))
    wanted = software(), _threads()
    remaining = iter(items)

    def submit(part: list) -> Future:
        sizes = _sizes(path for item in part for path in files(item))
        return client.submit(_compute, held, part, sizes, *wanted, pure=False, retries=_RETRIES)

    def most() -> int:  # workers may come and go
        return max(1, _AHEAD * sum(client.nthreads().values()))

    with _in_one_sentence(client):
        # A task and not scattered data: it is made again if every worker that holds it dies.
        # Weights of a network are large for a task, but travel once.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "4GiB"}):
            held = client.submit(bytes, content, pure=False)
        parts = iter(lambda: list(islice(remaining, at_once)), [])
        for part, future in _under_way(parts, submit, most):
            yield from zip(part, _result(client, future), strict=True)


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    # Of a file that is missing here, too, the function says so.
    return {path: path.stat().st_size for path in paths if path.is_file()}


def _result(client: Client, future: Future) -> list:
    while True:
        try:
            return future.result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            if future.status == "error":  # the function's own
                raise
            if not client.nthreads():
                address = client.scheduler.address
                raise StudyError(
                    f"scheduler {address}: it has had no worker for {PATIENCE_SECONDS} s; start "
                    f"some with blcf worker {address}"
                ) from None


@contextlib.contextmanager
def _in_one_sentence(client: Client) -> Iterator[None]:
    """Turn what Dask raises into a StudyError; other errors of the function stay what they are."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    scheduler = f"scheduler {client.scheduler.address}"
    try:
        yield
    except StudyError:
        raise
    except KilledWorker as error:
        raise StudyError(
            f"{scheduler}: several workers died one after another on the same task "
            f"({str(error)[:200]}); give them more memory, or lower features.batch_size or "
            "features.longest_side"
        ) from None
    except ModuleNotFoundError as error:
        raise StudyError(
            f"{scheduler}: a worker cannot import {error.name}; install blcf-study[cluster] in "
            "the environment of every worker"
        ) from None
    except Exception as error:
        lost = isinstance(error, CommClosedError | CancelledError) or client.status != "running"
        if not lost:
            raise
        raise StudyError(
            f"{scheduler}: the connection was lost; what came back is kept: run again, with a "
            "scheduler or without"
        ) from None


@cache
def software() -> dict[str, str]:
    """Return the digest of this package's source and the versions of what computes with it."""
    package = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    versions = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name).split("+")[0]  # the build may differ
    return {"blcf_utils": whole.hexdigest()[:12], **versions}


def _threads() -> tuple[int, int]:
    """Return the number of threads of torch and of BLAS."""
    import torch
    from threadpoolctl import threadpool_info

    blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return torch.get_num_threads(), max(blas, default=1)


# What follows runs on workers.


def _compute(
    content: bytes,
    items: list,
    sizes: dict[Path, int],
    wanted: dict[str, str],
    threads: tuple[int, int],
) -> list:
    _check_software(wanted)
    for path, size in sizes.items():
        _check_seen(path, size)
    function, shared = _opened(content)
    _set_threads(threads)  # each time: a function may have loaded another library
    return [function(shared, item) for item in items]


def _check_software(wanted: dict[str, str]) -> None:
    own = software()
    for name, version in wanted.items():
        if own.get(name) != version:
            raise StudyError(
                f"worker on {socket.gethostname()}: it has {name} {own.get(name, 'not at all')}, "
                f"expected {version} as in the process that asks, or results would differ; "
                "install the same there and restart the worker"
            )


def _check_seen(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "does not see it" if found is None else f"sees {found} bytes, expected {size}"
        raise StudyError(
            f"{path}: the worker on {socket.gethostname()} {state}; images and artefacts must lie "
            "on a file system that all machines share, under the same path (BLCF_DATA, BLCF_CACHE)"
        )


def _set_threads(threads: tuple[int, int]) -> None:
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    torch.set_num_threads(threads[0])
    threadpool_limits({"blas": threads[1], "openmp": threads[0]})


@lru_cache(maxsize=2)
def _opened(content: bytes) -> tuple[Callable, Any]:
    """Return the function and what its items share, unpacked once a process."""
    import cloudpickle

    from blcf_utils.ground.torchvision_compat import ensure_torchvision

    ensure_torchvision()  # parts of its networks may be inside
    try:
        return cloudpickle.loads(content)
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        raise StudyError(
            f"worker on {socket.gethostname()}: it has no GPU, and the process that asks computes "
            "on one; set features.device: cpu or use workers with GPUs"
        ) from None
