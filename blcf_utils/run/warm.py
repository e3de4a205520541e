"""A process that has imported what a run's notebooks share, and forks a kernel for each of them.

It is the program ``python -m blcf_utils.run.warm FD MODULE...``; :mod:`blcf_utils.run.kernels`
starts and asks it. It imports and does nothing else: a fork takes along neither threads at work nor
a GPU in use, and every kernel begins with the same modules and an empty namespace. Requests and
answers are JSON, one a message of the socket ``FD``:

    {"start": {"arguments": [...], "cwd": ..., "environment": {...}}}  with the kernel's stderr
        -> {"pid": N}, or {"refused": why}
    {"poll": N}  -> {"exit": status}, None while it runs
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys

MESSAGE_BYTES = 1 << 20


def main(descriptor: str, *modules: str) -> None:
    """Import ``modules``, then fork kernels until the process that asks has gone."""
    for name in ("ipykernel.kernelapp", *modules):
        with contextlib.suppress(Exception):  # the notebook that needs it will say so
            importlib.import_module(name)
    with socket.socket(fileno=int(descriptor)) as control:
        request = _serve(control)
    if request:  # in a kernel
        _become_kernel(**request)


def _serve(control: socket.socket) -> dict | None:
    """Answer requests; return the request itself in each forked process, None at the end."""
    running: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        if not message:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return None
        request = json.loads(message)
        if "poll" in request:
            ended, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(ended)
            answer = {"exit": os.waitstatus_to_exitcode(status) if ended else None}
        elif _uses_gpu():
            answer = {"refused": "an import has started the GPU, which no fork survives"}
        else:
            pid = os.fork()
            if not pid:
                os.setpgid(0, 0)
                os.dup2(descriptors[0], sys.stderr.fileno())
                os.close(descriptors[0])
                return request["start"]
            # In both: whoever signals its group must not meet ours.
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            running.add(pid)
            answer = {"pid": pid}
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps(answer).encode())


def _uses_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _become_kernel(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Go on as the kernel that ``python -m ipykernel_launcher ARGUMENTS`` would be."""
    from ipykernel.kernelapp import launch_new_instance

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # The kernel ends when this parent does, which ends when the run does. The variable that tells
    # an ordinary kernel, JPY_PARENT_PID, was read when ipykernel was imported.
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"
    sys.argv = ["ipykernel_launcher", parent, *arguments]
    launch_new_instance()


if __name__ == "__main__":
    main(*sys.argv[1:])
