"""Kernels of a run: forks of one warm process, which has imported the package for all of them."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, BinaryIO

from jupyter_client.provisioning import LocalProvisioner

from blcf_utils.run import warm
from blcf_utils.run.notebooks import NotebookSource

_GONE = -signal.SIGKILL
# The arguments of a kernel's command behind the program: python -m ipykernel_launcher -f FILE.
_PROGRAM = 3


class WarmKernels:
    """Starts kernels as forks of a process that has imported some modules.

    The process starts with the first kernel and ends with :meth:`close`, or when this process
    dies; its kernels end with it. Where it cannot start one, the kernel is an ordinary process.

    Args:
        modules: what the kernels will import.
    """

    def __init__(self, modules: Iterable[str] = ()):
        self.modules = tuple(modules)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen | None = None

    def start(
        self, arguments: list[str], cwd: str, environment: dict[str, str], stderr: BinaryIO
    ) -> ForkedKernel | None:
        """Return a running kernel, or None where none can be forked.

        Args:
            arguments: of ``python -m ipykernel_launcher``.
            cwd: its working folder.
            environment: its whole environment. What libraries read while they are imported is
                taken from that of the first kernel.
            stderr: a file with a descriptor.
        """
        if not sys.platform.startswith("linux"):
            return None  # elsewhere system libraries do not survive a fork
        if self._process is None:
            self._launch(environment)
        start = {"arguments": arguments, "cwd": cwd, "environment": environment}
        answer = self.ask({"start": start}, stderr.fileno())
        return ForkedKernel(self, answer["pid"]) if answer and "pid" in answer else None

    def ask(self, request: dict, *descriptors: int) -> dict | None:
        """Return the warm process' answer; None when it has died."""
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            return json.loads(self._control.recv(warm.MESSAGE_BYTES) or "null")
        except OSError:
            return None

    def close(self) -> None:
        """End the warm process, and kernels that still run."""
        if self._process is not None:
            self._control.close()
            self._process.wait()
            self._process = None

    def _launch(self, environment: dict[str, str]) -> None:
        # Each message whole, however long.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = str(theirs.fileno())
        # -P: the folder it starts in is no place to import from, as for an ordinary kernel.
        command = [sys.executable, "-P", "-m", warm.__name__, number, *self.modules]
        backend = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        with theirs:
            self._process = subprocess.Popen(
                command,
                env=backend | environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interrupt from the keyboard is the run's to handle
            )


class ForkedKernel:
    """A kernel's process as ``subprocess.Popen`` shows its own children."""

    stdin = stdout = stderr = None

    def __init__(self, kernels: WarmKernels, pid: int):
        self.pid, self.returncode, self._kernels = pid, None, kernels

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            answer = self._kernels.ask({"poll": self.pid})
            if answer is None:  # without its parent it ends
                self.send_signal(signal.SIGKILL)
            self.returncode = _GONE if answer is None else answer["exit"]
        return self.returncode

    def wait(self) -> int | None:
        """Return the exit status of a kernel that was found to have ended."""
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel and the processes that it started."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class ForkingProvisioner(LocalProvisioner):
    """Launches a manager's kernel from a warm process; an ordinary one where that fails."""

    warm: WarmKernels

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict:
        """Launch a kernel with a command."""
        process = self.warm.start(cmd[_PROGRAM:], kwargs["cwd"], kwargs["env"], kwargs["stderr"])
        if process is None:
            return await super().launch_kernel(cmd, **kwargs)
        self.process, self.cwd = process, kwargs["cwd"]
        self.pid = self.pgid = process.pid
        return self.connection_info


def shared_imports(sources: Iterable[NotebookSource]) -> list[str]:
    """Return the modules that at least two notebooks import, those of most notebooks first."""
    counts = Counter(name for source in sources for name in _imports(source))
    return [name for name, count in counts.most_common() if count > 1]


def _imports(source: NotebookSource) -> set[str]:
    found = set()
    for kind, text, _ in source.cells:
        with contextlib.suppress(SyntaxError):  # magics
            for node in ast.walk(ast.parse(text if kind == "code" else "")):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    # A name may be a module of the package; what is none fails there, unseen.
                    found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found
