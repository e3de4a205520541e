"""Executing one notebook, with papermill's parameters, in a kernel of the running interpreter.

The kernel is a fork of the run's warm process. It gets its own environment and working folder; what
it prints to stderr outside any cell (crash reports, the notices of ipykernel) goes to a file that
is read only if the kernel dies.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.ground.progress import progress
from blcf_utils.run.kernels import ForkingProvisioner, WarmKernels
from blcf_utils.run.notebooks import NotebookSource
from blcf_utils.run.provenance import without_paths

KERNEL = "python3"
TEXT_TYPES = ("text/", "application/json", "image/svg+xml")


def execute(
    source: NotebookSource,
    target: Path,
    parameters: dict[str, Any],
    *,
    cwd: Path,
    environment: dict[str, str],
    warm: WarmKernels,
) -> tuple[int | None, str]:
    """Run a notebook and write its executed copy to ``target``.

    The copy appears under its name only when every cell has run; a failed one is kept as
    ``<name>.failed.ipynb``. This machine's folders are replaced by names in what the cells wrote.

    Args:
        source: the notebook.
        target: where the executed copy goes.
        parameters: checked values for its parameters cell.
        cwd: the kernel's working folder.
        environment: the kernel's whole environment.
        warm: starts the kernel.

    Returns:
        The kernel's peak resident memory in MiB where the system tells, and in which cell it
        stopped and why; an empty text when every cell has run.
    """
    failed = target.with_name(f"{source.name}.failed.ipynb")
    failed.unlink(missing_ok=True)
    notebook = parameterize_notebook(
        load_notebook_node(str(source.path)), parameters, kernel_name=KERNEL, language="python"
    )
    with tempfile.TemporaryFile() as stderr, _Memory() as memory:
        cells = progress(notebook.cells, label=source.name, unit="cell")
        failure = _run_cells(notebook, cells, memory, cwd, warm, env=environment, stderr=stderr)
    _clean(notebook, source.path.name)
    write_text(failed if failure else target, nbformat.writes(notebook) + "\n")
    return memory.peak_mb or None, failure


def _run_cells(
    notebook: nbformat.NotebookNode,
    cells: Iterable[nbformat.NotebookNode],
    memory: _Memory,
    cwd: Path,
    warm: WarmKernels,
    *,
    env: dict[str, str],
    stderr: BinaryIO,
) -> str:
    """Run a notebook's cells; say in which one it stopped and why, or nothing."""
    # Without folders to look in only the interpreter that runs the study is known: a user's own
    # python3 kernel may belong to an environment without the package.
    kernels = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_name=KERNEL, kernel_spec_manager=kernels)
    manager.provisioner = ForkingProvisioner(
        kernel_id=manager.kernel_id, kernel_spec=manager.kernel_spec, parent=manager
    )
    manager.provisioner.warm = warm
    client = NotebookClient(
        notebook,
        km=manager,
        resources={"metadata": {"path": str(cwd)}},
        startup_timeout=120,
        timeout=None,
        # A busy machine may be slow to deliver a cell's last outputs.
        iopub_timeout=60,
        raise_on_iopub_timeout=True,
        # One output per stream and cell, however many lines it was printed in.
        coalesce_streams=True,
    )
    where = exit_status = None
    try:
        with client.setup_kernel(cleanup_kc=True, env=env, stderr=stderr):
            memory.kernel = manager.provisioner.pid
            try:
                for index, cell in enumerate(cells):
                    where = _place(notebook.cells[: index + 1])
                    client.execute_cell(cell, index)
            except DeadKernelError:
                exit_status = manager.provisioner.process.poll()
                raise
            client.set_widgets_metadata()
            memory.sample()
    except CellExecutionError as error:
        lines = str(error.evalue).strip().splitlines() or ["no message"]
        return without_paths(f"{where}: {error.ename}: {lines[0][:500]}")
    except RuntimeError as error:
        stderr.seek(0)
        words = [w for w in stderr.read().decode(errors="replace").splitlines() if w.strip()]
        if where is None:
            last = words[-1].strip()[:300] if words else "it wrote nothing"
            return without_paths(f"before its first cell: the kernel did not start ({last})")
        if not isinstance(error, DeadKernelError):
            raise
        why = _why_dead(exit_status, memory.peak_mb, words)
        return without_paths(f"{where}: dead kernel: {why}")
    return ""


class _Memory(threading.Thread):
    """Follows a kernel's peak memory: once it is killed, the system tells nothing more of it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.kernel: int | None = None
        self.peak_mb = 0
        self._ended = threading.Event()

    def __enter__(self) -> _Memory:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self.sample()

    def sample(self) -> None:
        if self.kernel:
            self.peak_mb = max(self.peak_mb, peak_memory_mb(self.kernel))


def _why_dead(exit_status: int | None, peak_mb: int, words: list[str]) -> str:
    """Say why a kernel died, from its exit status and its last lines on stderr."""
    peak = f" after using {peak_mb:,} MB" if peak_mb else ""
    if exit_status == -signal.SIGKILL:
        return (
            f"the system killed the kernel{peak}, likely out of memory; lower "
            "features.batch_size, codebook.max_descriptors or features.longest_side "
            "(--set KEY=VALUE), or close other programs"
        )
    status = f"exit status {exit_status}" if exit_status is not None else "no exit status"
    crash = next((line for line in words if line.startswith("Fatal Python error")), status)
    return f"the kernel died{peak} ({crash})"


def _place(cells: list[nbformat.NotebookNode]) -> str:
    """Name the last of some cells: its number in the notebook's source, the heading above it."""
    # papermill has added one.
    number = sum("injected-parameters" not in cell.metadata.tags for cell in cells)
    markdown = "\n".join(cell.source for cell in cells[:-1] if cell.cell_type == "markdown")
    titles = [line for line in markdown.splitlines() if line.startswith("#")]
    return f"cell {number}" + (f" ({titles[-1].lstrip('# ').strip()!r})" if titles else "")


def _clean(notebook: nbformat.NotebookNode, name: str) -> None:
    """Take this machine's folders out of an executed notebook's outputs and metadata."""
    parameters = notebook.metadata.papermill.parameters
    notebook.metadata.papermill = {"notebook": name, "parameters": parameters}
    notebook.metadata.kernelspec = {
        "name": KERNEL, "display_name": "Python 3 (ipykernel)", "language": "python",
    }  # fmt: skip
    notebook.metadata.setdefault("language_info", {"name": "python"})
    notebook.metadata = without_paths(notebook.metadata)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata = without_paths(cell.metadata)
        if "injected-parameters" in cell.metadata["tags"]:
            cell.source = without_paths(cell.source)
        for output in cell.get("outputs", []):
            for key in ("text", "traceback", "evalue"):
                if key in output:
                    output[key] = without_paths(output[key])
            for kind, value in output.get("data", {}).items():
                if kind.startswith(TEXT_TYPES):
                    output.data[kind] = without_paths(value, html=kind == "text/html")
