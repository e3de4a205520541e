"""Dask clusters: connecting to one, starting one on this machine, and maps on its workers.

BLCF_SCHEDULER    ``tcp://host:8786``, the address of a Dask scheduler; ``local`` or ``local:4``,
                  (four) worker processes of this machine; not set, or ``off``: this process.

Results are equal to those of one process to the bit where machines and libraries are: batches are
the same, workers compute with as many threads as this process does (numerical libraries round
differently with another number), and a worker with other software is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import socket
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.errors import StudyError

log = logging.getLogger("blcf")

VARIABLE = "BLCF_SCHEDULER"
OFF = ("", "off", "none")
LOCAL = "local"
CONNECT_SECONDS = 5
RESULT_SECONDS = 60
# How long a cluster may be without any worker.
PATIENCE_SECONDS = 60
_POLL_SECONDS = 0.5
_RETRIES = 3
_AHEAD = 3  # items per thread of the cluster: one computed, one waiting, one on its way
_WORKER_BYTES = 1.5 * 2**30  # a worker with VGG-16 and its libraries
_KEPT = 3  # shared objects that a worker keeps opened
# What takes part in the results: workers must have the same.
_LIBRARIES = ("torch", "numpy", "opencv-python-headless", "pillow", "faiss-cpu", "scipy")


def environment(threads: int) -> dict[str, str]:
    """Return the environment in which a worker process computes fastest.

    Dask's default gives memory back to the system after every picture (MALLOC_TRIM_THRESHOLD_ of
    64 KiB), which takes half as much time as the computing. Threads that wait for one another
    sleep, since more threads than cores are under way.
    """
    return {
        "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "OMP_WAIT_POLICY": "passive",
        **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")},
    }


def settings(threads: int) -> dict[str, Any]:
    """Return Dask's settings for workers: their environment, and less looking at themselves.

    Its profiler and clock wake every process up a hundred times a second.
    """
    return {
        "distributed.nanny.pre-spawn-environ": environment(threads),
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.tick.limit": "30s",
    }


def workers_for(cores: int, threads: int) -> int:
    """Return how many worker processes of ``threads`` threads keep ``cores`` cores busy.

    Twice as many threads as cores, at most: one worker computes while another waits for a picture.
    Fewer where they had no memory.
    """
    from distributed.system import MEMORY_LIMIT

    return max(1, min(cores, 2 * cores // threads, int(MEMORY_LIMIT / _WORKER_BYTES)))


@contextlib.contextmanager
def use_scheduler(address: str | None) -> Iterator[Cluster | None]:
    """Let stages, and processes started within the block, compute on a cluster.

    Args:
        address: as for BLCF_SCHEDULER, which it replaces; None leaves it as it is. A ``local``
            cluster or a connection that the block opens ends with it.

    Raises:
        StudyError: Dask is not installed, or there is no scheduler at the address.
    """
    before = os.environ.get(VARIABLE)
    address = (before or "") if address is None else address
    known = {id(cluster) for cluster in _open.values()}
    cluster = None if address in OFF else _connect(address)
    os.environ[VARIABLE] = cluster.address if cluster else ""
    try:
        yield cluster
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        if cluster and id(cluster) not in known:
            cluster.close()


def connected() -> Cluster | None:
    """Return the cluster that BLCF_SCHEDULER names; None when work stays in this process."""
    address = os.environ.get(VARIABLE, "")
    return None if address in OFF else _connect(address)


_open: dict[str, Cluster] = {}


def _connect(address: str) -> Cluster:
    cluster = _open.get(address)
    if cluster is None or not cluster.alive:
        cluster = _open[address] = _new(address)
        _open[cluster.address] = cluster
    return cluster


def _new(address: str) -> Cluster:
    try:
        from distributed import Client
    except ImportError:
        raise StudyError(
            f"scheduler {address}: Dask is not installed; pip install blcf-study[cluster]"
        ) from None
    if address.split(":")[0] == LOCAL:
        return _start_here(address)
    try:
        return Cluster(address, Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(
            f"scheduler {address}: no Dask scheduler answers there within {CONNECT_SECONDS} s "
            f"({_first_line(error)}); start one with dask scheduler, or leave --scheduler and "
            f"{VARIABLE} out"
        ) from None


def _start_here(address: str) -> Cluster:
    import dask
    from distributed import Client, LocalCluster

    threads, asked = _Threads.of_this_process().torch, address.partition(":")[2]
    if ":" in address and not (asked.isdecimal() and int(asked)):
        raise StudyError(
            f"scheduler {address}: expected local, or local:N with a number of workers such as "
            "local:4"
        )
    # A worker that is killed is a machine's affair, seldom the picture's.
    ours = {**settings(threads), "distributed.scheduler.allowed-failures": 10}
    number = int(asked) if asked else workers_for(usable_cores(), threads)
    before = dict(os.environ)
    with dask.config.set(ours):
        workers = LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )
        client = Client(workers, set_as_default=False)
    # Dask sets the workers' environment in this process and leaves it there.
    os.environ.update(before)
    for name in set(os.environ) - set(before):
        del os.environ[name]
    log.info("cluster of %d workers with %d threads each on this machine", number, threads)
    return Cluster(workers.scheduler_address, client, workers)


def run_workers(address: str, workers: int | None = None, threads: int | None = None) -> None:
    """Become the workers of a Dask cluster on this machine; returns never.

    They wait for the scheduler where it is not there yet, and start again when they die.

    Args:
        address: of the scheduler.
        workers: processes; as many as keep the cores busy when None.
        threads: of each, as many as the process that asks computes with; as torch has here when
            None.

    Raises:
        StudyError: Dask is not installed.
    """
    if not find_spec("distributed"):
        raise StudyError("blcf worker: Dask is not installed; pip install blcf-study[cluster]")
    threads = threads or _Threads.of_this_process().torch
    # Dask reads settings from the environment, too.
    ours = {
        "DASK_" + name.upper().replace(".", "__").replace("-", "_"): repr(value)
        for name, value in settings(threads).items()
    }
    ours[VARIABLE] = ""  # they ask no stage of the study themselves
    number = str(workers or workers_for(usable_cores(), threads))
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
    command += ["--nworkers", number, "--nthreads", "1", "--no-dashboard"]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **ours})


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Cluster:
    """A Dask cluster in use.

    Attributes:
        address: of its scheduler.
        client: Dask's client.
    """

    def __init__(self, address: str, client, workers=None):
        self.address, self.client, self._workers = address, client, workers

    @property
    def alive(self) -> bool:
        """Whether the scheduler answers."""
        return self.client.status == "running"

    def close(self) -> None:
        """Leave the cluster; one of this machine ends."""
        for address in [address for address, cluster in _open.items() if cluster is self]:
            del _open[address]
        with contextlib.suppress(Exception):  # it may have ended by itself
            self.client.close(timeout=CONNECT_SECONDS)
        if self._workers is not None:
            with contextlib.suppress(Exception):
                self._workers.close(timeout=CONNECT_SECONDS)

    def map(
        self,
        function: Callable[[Any, Any], Any],
        shared: Any,
        items: Iterable,
        files: Callable[[Any], Iterable[Path]] = lambda item: (),
        ordered: bool = False,
        at_once: int = 1,
    ) -> Iterator[tuple]:
        """Yield items with results, as :func:`blcf_utils.ground.mapping.mapped` says."""
        run = _Run(self, function, shared, files, ordered, at_once)
        try:
            yield from run.results(enumerate(items))
        finally:
            run.cancel()

    def threads(self) -> int:
        """Return the number of items that the cluster computes at once."""
        return sum(self.client.nthreads().values())

    def lost(self) -> StudyError:
        """Return the error for a cluster that does not answer any more."""
        return StudyError(
            f"scheduler {self.address}: the connection was lost; what came back is kept: run "
            "again, with a scheduler or without"
        )


class _Run:
    """One map on a cluster."""

    def __init__(self, cluster: Cluster, function, shared, files, ordered, at_once):
        import cloudpickle

        self.cluster, self.function, self.files = cluster, function, files
        self.ordered, self.at_once = ordered, at_once
        content = cloudpickle.dumps(shared)
        self.name = f"blcf-{uuid.uuid4().hex[:12]}"
        held = _Shared(
            hashlib.blake2b(content, digest_size=16).hexdigest(),
            content,
            _Threads.of_this_process(),
            software(),
        )
        self.pending: dict[str, tuple[list[tuple[int, Any]], Any]] = {}
        self.ready: queue.SimpleQueue = queue.SimpleQueue()
        self.early: dict[int, tuple] = {}
        self.window, self.looked, self.worked = 0, 0.0, time.monotonic()
        with self._scheduler_answers():
            # A task, not scattered data: the scheduler can make it again when its worker dies.
            self.shared = self._submit(_hold, held, key=f"{self.name}-shared")

    def results(self, items: Iterator[tuple[int, Any]]) -> Iterator[tuple]:
        following, more = 0, True
        while True:
            self._look_at_cluster()
            while more and self._tasks_under_way() < max(self.window, 1):
                part = list(islice(items, self.at_once))
                more = bool(part)
                if part:
                    self._start(part)
            if not self.pending:
                if more:
                    continue
                return
            try:
                done = self._next_finished()
            except StudyError:
                yield from self._returned()
                raise
            if self.ordered:
                self.early.update((number, (item, value)) for number, item, value in done)
                done = []
                while following in self.early:
                    done.append((following, *self.early.pop(following)))
                    following += 1
            for _, item, value in done:
                if isinstance(value, _Refusal):
                    yield from self._returned()
                    raise value.error
                yield item, value

    def _tasks_under_way(self) -> int:
        return len(self.pending) + len(self.early) // self.at_once

    def _start(self, part: list[tuple[int, Any]]) -> None:
        items = [item for _, item in part]
        sizes = _sizes(dict.fromkeys(path for item in items for path in self.files(item)))
        with self._scheduler_answers():
            future = self._submit(
                _compute, self.function, self.shared, items, sizes, key=f"{self.name}-{part[0][0]}"
            )
        self.pending[future.key] = part, future
        future.add_done_callback(self.ready.put)

    def _submit(self, function, *arguments, key: str):
        import dask

        # Weights of a network are tens of megabytes and travel once.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "4GiB"}):
            return self.cluster.client.submit(
                function, *arguments, key=key, retries=_RETRIES, pure=False
            )

    def _next_finished(self) -> list[tuple]:
        """Return the results of a task as (number, item, value); the last may be a refusal."""
        try:
            future = self.ready.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return []
        values = self._values(future)
        if values is None:
            return []
        part, _ = self.pending.pop(future.key)
        future.release()
        self.worked = time.monotonic()
        return [(*one, value) for one, value in zip(part, values, strict=False)]

    def _returned(self) -> Iterator[tuple]:
        """Yield what came back beside an error, which would be lost; not out of order, though."""
        for part, future in [] if self.ordered else list(self.pending.values()):
            with contextlib.suppress(Exception):  # the first error is the one that is said
                if future.status == "finished":
                    values = future.result(timeout=CONNECT_SECONDS)
                    for (_, item), value in zip(part, values, strict=False):
                        if not isinstance(value, _Refusal):
                            yield item, value

    def _values(self, future) -> list | None:
        """Return what a worker returned; None when it is being computed again."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        with self._scheduler_answers():
            try:
                return future.result(timeout=RESULT_SECONDS)
            except TimeoutError:
                if future.status == "error":  # the worker's own
                    raise
                # Its worker died with the result: the scheduler has it computed again.
                future.add_done_callback(self.ready.put)
                return None
            except FutureCancelledError:
                raise self.cluster.lost() from None
            except KilledWorker as error:
                raise StudyError(
                    f"scheduler {self.cluster.address}: several workers died one after another "
                    f"on the same task ({_first_line(error)[:200]}); give them more memory, or "
                    "lower features.batch_size or features.longest_side"
                ) from None
            except ModuleNotFoundError as error:
                raise StudyError(
                    f"scheduler {self.cluster.address}: a worker cannot import {error.name}; "
                    "install blcf-study[cluster] in the environment of every worker"
                ) from None

    def _look_at_cluster(self) -> None:
        """See every few seconds how many workers there are; they may come and go."""
        now = time.monotonic()
        if not self.cluster.alive:
            raise self.cluster.lost()
        if now - self.looked < 2:
            return
        with self._scheduler_answers():
            threads = self.cluster.threads()
        self.looked, self.window = now, _AHEAD * threads
        if threads:
            self.worked = now
        elif now - self.worked > PATIENCE_SECONDS:
            raise StudyError(
                f"scheduler {self.cluster.address}: it has had no worker for "
                f"{PATIENCE_SECONDS} s; start some with blcf worker {self.cluster.address}"
            )

    @contextlib.contextmanager
    def _scheduler_answers(self) -> Iterator[None]:
        from distributed.comm import CommClosedError

        try:
            yield
        except StudyError:
            raise
        except CommClosedError:  # of the scheduler, before the client has noticed
            raise self.cluster.lost() from None
        except Exception:
            if self.cluster.alive:
                raise
            raise self.cluster.lost() from None

    def cancel(self) -> None:
        with contextlib.suppress(Exception):
            if self.cluster.alive:
                left = [future for _, future in self.pending.values()]
                self.cluster.client.cancel([*left, self.shared])
        self.pending.clear()


def _sizes(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    # Of a file that is not here either, whatever reads it says so.
    return [(path, path.stat().st_size) for path in paths if path.is_file()]


# What follows runs on workers.


@dataclass(frozen=True)
class _Threads:
    """Threads of numerical libraries; results are rounded differently with other numbers."""

    torch: int
    blas: int

    @staticmethod
    def of_this_process() -> _Threads:
        import torch
        from threadpoolctl import threadpool_info

        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return _Threads(torch.get_num_threads(), max(blas, default=1))


@dataclass(frozen=True)
class _Shared:
    """What the items of a map share, as it travels."""

    digest: str
    content: bytes
    threads: _Threads
    software: dict[str, str]


@dataclass(frozen=True)
class _Refusal:
    """In place of a value: what a user must mend. It ends the values of a task."""

    error: StudyError


def _hold(shared: _Shared) -> _Shared:
    return shared


def _compute(function, shared: _Shared, items: list, files: list[tuple[Path, int]]) -> list:
    # A refusal is a result: Dask would compute anew what cannot succeed.
    values: list = []
    try:
        _check_software(shared.software)
        for path, size in files:
            _check_seen(path, size)
        _set_threads(shared.threads)
        opened = _opened(shared)
        for item in items:
            values.append(function(opened, item))
    except StudyError as error:
        values.append(_Refusal(error))
    return values


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


_state = threading.local()


def _set_threads(threads: _Threads) -> None:
    if getattr(_state, "threads", None) == threads:
        return
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    torch.set_num_threads(threads.torch)
    threadpool_limits({"blas": threads.blas, "openmp": threads.torch})
    _state.threads = threads


_objects: OrderedDict[str, Any] = OrderedDict()
_opening = threading.Lock()


def _opened(shared: _Shared):
    """Return the shared object, unpacked once a process."""
    import cloudpickle

    from blcf_utils.ground.torchvision_compat import ensure_torchvision

    with _opening:
        if shared.digest not in _objects:
            ensure_torchvision()  # parts of its networks may be inside
            while len(_objects) >= _KEPT:
                _objects.popitem(last=False)
            try:
                _objects[shared.digest] = cloudpickle.loads(shared.content)
            except RuntimeError as error:
                if "CUDA" not in str(error):
                    raise
                raise StudyError(
                    f"worker on {socket.gethostname()}: it has no GPU, and the process that asks "
                    "computes on one; set features.device: cpu or use workers with GPUs"
                ) from None
        _objects.move_to_end(shared.digest)
        return _objects[shared.digest]
