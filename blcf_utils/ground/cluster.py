"""Dask clusters: connecting to one, starting one on this machine, and becoming its workers.

BLCF_SCHEDULER    ``tcp://host:8786``, the address of a Dask scheduler; ``local`` or ``local:4``,
                  (four) worker processes of this machine; not set, or ``off``: this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.errors import StudyError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("blcf")

VARIABLE = "BLCF_SCHEDULER"
OFF = ("", "off", "none")
LOCAL = "local"
CONNECT_SECONDS = 5
_WORKER_BYTES = 1.5 * 2**30  # a worker with VGG-16 and its libraries
_INSTALL = "Dask is not installed; pip install blcf-study[cluster]"

_clients: dict[str, Client] = {}


def connected() -> Client | None:
    """Return a client of the cluster that BLCF_SCHEDULER names; None to compute in this process.

    Raises:
        StudyError: Dask is not installed, or there is no scheduler at the address.
    """
    address = os.environ.get(VARIABLE, "")
    return None if address in OFF else _client(address)


@contextlib.contextmanager
def use_scheduler(address: str | None) -> Iterator[Client | None]:
    """Let stages, and processes started within the block, compute on a cluster.

    Args:
        address: as for BLCF_SCHEDULER, which it replaces; None leaves it as it is. A connection
            that the block opens ends with it, and so does a ``local`` cluster.

    Raises:
        StudyError: as for :func:`connected`.
    """
    before = os.environ.get(VARIABLE)
    address = (before or "") if address is None else address
    open_before = _clients.get(address)
    client = None if address in OFF else _client(address)
    os.environ[VARIABLE] = client.scheduler.address if client else ""
    try:
        yield client
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        if client is not open_before:
            _close(client)


def _client(address: str) -> Client:
    client = _clients.get(address)
    if client is None or client.status != "running":
        if not find_spec("distributed"):
            raise StudyError(f"scheduler {address}: {_INSTALL}")
        client = _started(address) if address.split(":")[0] == LOCAL else _reached(address)
        _clients[address] = _clients[client.scheduler.address] = client
    return client


def _close(client: Client) -> None:
    for address in [address for address, one in _clients.items() if one is client]:
        del _clients[address]
    with contextlib.suppress(Exception):  # the scheduler may be gone
        client.close(timeout=CONNECT_SECONDS)


def _reached(address: str) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StudyError(
            f"scheduler {address}: no Dask scheduler answers there within {CONNECT_SECONDS} s "
            f"({reason}); start one with dask scheduler, or leave --scheduler and {VARIABLE} out"
        ) from None


def _started(address: str) -> Client:
    import dask
    import torch
    from distributed import Client

    threads, asked = torch.get_num_threads(), address.partition(":")[2]
    if ":" in address and not (asked.isdecimal() and int(asked)):
        raise StudyError(
            f"scheduler {address}: expected local, or local:N with a number of workers such as "
            "local:4"
        )
    number = int(asked) if asked else workers_for(usable_cores(), threads)
    before = dict(os.environ)
    with dask.config.set(settings(threads)):
        client = Client(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            set_as_default=False,
        )
    # Dask sets the workers' environment in this process, too, and leaves it there.
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
    log.info("cluster of %d workers with %d threads each on this machine", number, threads)
    return client


def settings(threads: int) -> dict[str, Any]:
    """Return Dask's settings for workers that compute with ``threads`` threads each.

    Dask's default gives memory back to the system after every picture (MALLOC_TRIM_THRESHOLD_ of
    64 KiB), which takes half as much time as the computing. Threads that wait for one another
    sleep, since more threads than cores are under way. Dask's profiler and clock, which wake every
    process up a hundred times a second, are off and slow.
    """
    environment = {
        "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "OMP_WAIT_POLICY": "passive",
        **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")},
    }
    return {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.tick.limit": "30s",
    }


def workers_for(cores: int, threads: int) -> int:
    """Return how many worker processes of ``threads`` threads keep ``cores`` cores busy.

    Twice as many threads as cores, at most: one worker computes while another waits for a picture.
    Fewer where the memory is small.
    """
    from distributed.system import MEMORY_LIMIT

    return max(1, min(cores, 2 * cores // threads, int(MEMORY_LIMIT / _WORKER_BYTES)))


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
        raise StudyError(f"blcf worker: {_INSTALL}")
    import dask
    import torch

    threads = threads or torch.get_num_threads()
    inherited = {
        "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(settings(threads)),
        VARIABLE: "",  # a worker asks no cluster itself
    }
    number = str(workers or workers_for(usable_cores(), threads))
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
    command += ["--nworkers", number, "--nthreads", "1", "--no-dashboard"]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **inherited})
