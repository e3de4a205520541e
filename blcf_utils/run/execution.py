"""Executing one notebook: papermill in this process, a kernel of the running interpreter.

The kernel gets its own environment and working folder; what it prints to stderr outside any cell
(crash reports, the notices of ipykernel) goes to a file that is read only if the kernel dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from blcf_utils.run.notebooks import NotebookSource
from blcf_utils.run.provenance import without_paths

ENGINE = "blcf"
KERNEL = "python3"
TEXT_TYPES = ("text/", "application/json", "image/svg+xml")


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped.

    Attributes:
        cell: number of the cell in the notebook's source, from 1; None when no cell was running.
        heading: the heading above it.
        error: type of the error, or ``dead kernel``.
        message: one sentence.
    """

    cell: int | None
    heading: str
    error: str
    message: str

    def __str__(self) -> str:
        where = f"cell {self.cell}" if self.cell else "before its first cell"
        under = f" ({self.heading!r})" if self.heading else ""
        return f"{where}{under}: {self.error}: {self.message}"


@dataclass(frozen=True)
class Execution:
    """One execution: how long it took, what it needed, and why it stopped, if it did."""

    seconds: float
    peak_rss_mb: int | None
    failure: Failure | None


def execute(
    source: NotebookSource,
    target: Path,
    parameters: dict[str, Any],
    *,
    cwd: Path,
    environment: dict[str, str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Execution:
    """Run a notebook and write its executed copy to ``target``.

    The copy appears under its name only when every cell has run; a failed one is kept as
    ``<name>.failed.ipynb``. This machine's folders are replaced by names in what the cells wrote.

    Args:
        source: the notebook.
        target: where the executed copy goes.
        parameters: checked values for its parameters cell.
        cwd: the kernel's working folder.
        environment: the kernel's whole environment.
        on_progress: called about once a second with the cells begun and their number.

    Returns:
        Seconds, the kernel's peak memory and the failure, if any.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    running = target.with_name(f".{source.name}.running.ipynb")
    failed = target.with_name(f"{source.name}.failed.ipynb")
    failed.unlink(missing_ok=True)
    started = time.perf_counter()
    failure = None
    watch = _Watch(on_progress, len(source.document["cells"]))
    try:
        with watch:
            try:
                papermill.execute_notebook(
                    str(source.path),
                    str(running),
                    parameters=parameters,
                    engine_name=ENGINE,
                    kernel_name=KERNEL,
                    language="python",
                    progress_bar=False,
                    cwd=str(cwd),
                    environment=environment,
                    watch=watch,
                )
            except PapermillExecutionError as error:
                failure = _cell_failure(source, running, error)
            except RuntimeError as error:
                if watch.cell and not isinstance(error, DeadKernelError):
                    raise
                failure = _kernel_failure(source, watch)
        _clean(running, source)
        os.replace(running, failed if failure else target)
    finally:
        running.unlink(missing_ok=True)
    return Execution(round(time.perf_counter() - started, 2), watch.peak_mb, failure)


class _Watch(threading.Thread):
    """Follows a kernel from outside: its peak memory, its current cell, how it ended."""

    def __init__(self, on_progress: Callable[[int, int], None], cells: int):
        super().__init__(daemon=True)
        self.on_progress = on_progress
        self.cells = cells
        self.cell = 0
        self.cell_id: str | None = None
        self.pid: int | None = None
        self.peak_mb: int | None = None
        self.exit: int | None = None
        self.last_words = ""
        self._stop_now = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stop_now.set()
        self.join()

    def run(self):
        while not self._stop_now.wait(0.5):
            self.sample()
            self.on_progress(self.cell, self.cells)

    def sample(self) -> None:
        # VmHWM, not getrusage: a child's ru_maxrss starts at its parent's, and after the kernel's
        # death there is no one to ask.
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peak_mb = max(self.peak_mb or 0, int(line.split()[1]) // 1024)

    def begin_cell(self, cell, cell_index: int) -> None:
        self.cell, self.cell_id = cell_index + 1, cell.get("id")
        self.sample()


class _RunningInterpreter(KernelSpecManager):
    """Every kernel name means the interpreter that runs the study.

    A user's ``python3`` kernelspec may belong to another environment without the package.
    """

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3 (ipykernel)",
            language="python",
        )


class _Client(PapermillNotebookClient):
    def __init__(self, *arguments, environment: dict[str, str], watch: _Watch, **options):
        # One output per stream and cell, however many lines it was printed in.
        super().__init__(*arguments, coalesce_streams=True, **options)
        self.environment, self.watch = environment, watch
        self.on_cell_start = watch.begin_cell

    def create_kernel_manager(self):
        self.km = AsyncKernelManager(
            kernel_name=KERNEL, kernel_spec_manager=_RunningInterpreter(parent=self)
        )
        return self.km

    def start_new_kernel(self, **options):
        super().start_new_kernel(**options)
        self.watch.pid = self.km.provisioner.pid

    def papermill_execute_cells(self):
        try:
            super().papermill_execute_cells()
        except DeadKernelError:
            self.watch.exit = self.km.provisioner.process.poll()
            raise
        self.watch.sample()

    def execute(self):
        with tempfile.TemporaryFile() as stderr:
            try:
                return super().execute(env=self.environment, stderr=stderr)
            except RuntimeError:  # a dead kernel is one, too
                stderr.seek(0)
                self.watch.last_words = stderr.read().decode(errors="replace")
                raise


class _Engine(Engine):
    @classmethod
    def execute_managed_notebook(
        cls, nb_man, kernel_name, *, environment, watch, start_timeout=120, **_
    ):
        _Client(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=None,
            # A busy machine may be slow to deliver a cell's last outputs.
            iopub_timeout=60,
            environment=environment,
            watch=watch,
        ).execute()


papermill_engines.register(ENGINE, _Engine)


def _cell_failure(
    source: NotebookSource, executed: Path, error: PapermillExecutionError
) -> Failure:
    notebook = nbformat.read(executed, as_version=4)
    failed = next(
        (cell for cell in notebook.cells if cell.metadata.get("papermill", {}).get("exception")),
        {},
    )
    number, heading = _locate(source, failed.get("id"), failed.get("source", ""))
    lines = str(error.evalue).strip().splitlines()
    message = lines[0] if lines else "no message"
    return Failure(number, heading, str(error.ename), without_paths(message[:500]))


def _kernel_failure(source: NotebookSource, watch: _Watch) -> Failure:
    number, heading = _locate(source, watch.cell_id, None) if watch.cell else (None, "")
    words = [line for line in watch.last_words.splitlines() if line.strip()]
    if not watch.cell:
        last = words[-1] if words else "it wrote nothing"
        return Failure(
            None, "", "kernel", without_paths(f"the kernel did not start ({last.strip()[:300]})")
        )
    peak = f" after using {watch.peak_mb:,} MB" if watch.peak_mb else ""
    if watch.exit == -signal.SIGKILL:
        why = (
            f"the system killed the kernel{peak}, likely out of memory; lower "
            "features.batch_size, codebook.max_descriptors or features.longest_side "
            "(--set KEY=VALUE), or close other programs"
        )
    else:
        crash = next((line for line in words if line.startswith("Fatal Python error")), "")
        status = f"exit status {watch.exit}" if watch.exit is not None else "no exit status"
        why = f"the kernel died{peak} ({crash or status})"
    return Failure(number, heading, "dead kernel", without_paths(why))


def _locate(
    source: NotebookSource, cell_id: str | None, text: str | None
) -> tuple[int | None, str]:
    """Return a cell's number in the source, from 1, and the heading above it."""
    heading = ""
    for number, cell in enumerate(source.document["cells"], start=1):
        written = "".join(cell.get("source", ""))
        if cell["cell_type"] == "markdown":
            titles = [line for line in written.splitlines() if line.startswith("#")]
            heading = titles[-1].lstrip("# ").strip() if titles else heading
        same = cell.get("id") == cell_id if cell_id and cell.get("id") else written == text
        if same:
            return number, heading
    return None, ""


def _clean(path: Path, source: NotebookSource) -> None:
    """Take this machine's folders out of an executed notebook's outputs and metadata."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    metadata = notebook["metadata"]
    metadata["kernelspec"] = {
        "name": KERNEL, "display_name": "Python 3 (ipykernel)", "language": "python",
    }  # fmt: skip
    papermill_notes = metadata.setdefault("papermill", {})
    for key in ("input_path", "output_path", "environment_variables"):
        papermill_notes.pop(key, None)
    papermill_notes["notebook"] = source.path.name
    notebook["metadata"] = without_paths(metadata)
    for cell in notebook["cells"]:
        cell["metadata"] = without_paths(cell["metadata"])
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = without_paths(cell["source"])
        for output in cell.get("outputs", []):
            for key in ("text", "traceback", "evalue"):
                if key in output:
                    output[key] = without_paths(output[key])
            for kind, value in output.get("data", {}).items():
                if kind.startswith(TEXT_TYPES):
                    output["data"][kind] = without_paths(value, html=kind == "text/html")
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
