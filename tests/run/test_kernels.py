"""Kernels forked from a warm process: clean, apart from one another, and ended with the run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from blcf_utils.run.execution import execute
from blcf_utils.run.kernels import WarmKernels, shared_imports
from blcf_utils.run.notebooks import NotebookSource, list_notebooks

PARAMETERS = 'PROFILE: str = "tiny"  # a profile'

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")


def notebook(path: Path, *cells: str) -> NotebookSource:
    tagged = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    made = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    nbformat.write(made, path)
    return NotebookSource(path.stem, path)


@pytest.fixture
def ran(tmp_path):
    """Function that runs cells in a new kernel of one warm process: what they print, why failed."""
    with WarmedUp(("colorsys",), tmp_path) as warmed:
        yield warmed


class WarmedUp:
    def __init__(self, modules, folder):
        self.warm, self.folder, self.count = WarmKernels(modules), folder, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.warm.close()

    def __call__(self, *cells: str, **environment: str) -> tuple[str, str]:
        self.count += 1
        source = notebook(self.folder / f"0{self.count}_n.ipynb", *cells)
        target = self.folder / f"done{self.count}.ipynb"
        _, failure = execute(
            source,
            target,
            {},
            cwd=self.folder,
            environment=os.environ | environment,
            warm=self.warm,
        )
        if failure:
            return "", failure
        cells = nbformat.read(target, as_version=4).cells
        outputs = [out for cell in cells for out in cell.get("outputs", [])]
        return "".join(out.get("text", "") for out in outputs), ""


def test_every_kernel_begins_with_the_modules_and_nothing_else(ran):
    look = (
        "import sys, os; print('colorsys' in sys.modules, 'wave' in sys.modules, os.getppid(),"
        "'mine' in globals(), os.environ.get('MINE'), os.getcwd(), sys.argv[0])"
    )
    leave = "import wave, colorsys; mine = 1; os.environ['MINE'] = 'left'; os.chdir('/')"
    first, second = ran(look, leave), ran(look, MINE="given")
    parent = first[0].split()[2]
    assert first[0].split()[:5] == ["True", "False", parent, "False", "None"]
    assert second[0].split()[:5] == ["True", "False", parent, "False", "given"]
    assert first[0].split()[5:] == second[0].split()[5:]  # the folder, the program
    assert int(parent) not in (os.getpid(), 1)


def test_a_kernel_that_dies_takes_no_other_along(ran):
    parent, _ = ran("import os; print(os.getppid())")
    for death, said in (
        ("os.kill(os.getpid(), 9)", "the system killed the kernel"),
        ("import ctypes; ctypes.string_at(0)", "exit status -11"),
        ("os._exit(3)", "exit status 3"),
    ):
        assert said in ran(f"import os; {death}")[1]
        assert ran("import os; print(os.getppid())") == (parent, "")


def test_without_a_warm_process_kernels_are_ordinary_ones(ran):
    assert ran("print(1)") == ("1\n", "")
    ran.warm._process.kill()
    ran.warm._process.wait()
    assert ran("import os; print(os.getppid())") == (f"{os.getpid()}\n", "")


@pytest.mark.parametrize("killed", [False, True])
def test_its_end_is_that_of_its_kernels(ran, killed, capfd):
    with open(ran.folder / "stderr", "wb") as stderr:
        kernel = ran.warm.start(["-f", str(ran.folder / "c.json")], "/", dict(os.environ), stderr)
    assert kernel.poll() is None
    if killed:
        wait_for((ran.folder / "c.json").exists)  # it runs, and watches its parent
        ran.warm._process.kill()
    else:
        ran.warm.close()
    stat = Path(f"/proc/{kernel.pid}/stat")
    wait_for(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
    assert capfd.readouterr().out == ""  # what it says of itself is no line of the run's


def test_nothing_is_forked_once_a_gpu_is_in_use(tmp_path, monkeypatch):
    (tmp_path / "on_a_gpu.py").write_text(
        "import sys, types\n"
        "cuda = types.SimpleNamespace(is_initialized=lambda: True)\n"
        "sys.modules['torch'] = types.SimpleNamespace(cuda=cuda)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with WarmedUp(("on_a_gpu",), tmp_path) as ran:
        assert ran("import os; print(os.getppid())") == (f"{os.getpid()}\n", "")


def test_what_two_notebooks_import_is_shared(tmp_path):
    first = notebook(tmp_path / "01_a.ipynb", "from json import tool\nimport wave", "%matplotlib")
    second = notebook(tmp_path / "02_b.ipynb", "if True:\n    from json import decoder")
    assert shared_imports([first, second]) == ["json"]
    assert shared_imports([first]) == []


def test_importing_the_study_starts_no_thread_that_a_fork_would_lose():
    modules = shared_imports(list_notebooks())
    assert "blcf_utils.study.study" in modules
    program = (
        "import contextlib, importlib, json, os, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    with contextlib.suppress(ImportError): importlib.import_module(name)\n"
        "import torch\n"
        "tasks = [f'/proc/self/task/{task}/comm' for task in os.listdir('/proc/self/task')]\n"
        "print(torch.cuda.is_initialized(), *sorted(open(task).read().strip() for task in tasks))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(modules)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its own threads survive a fork
        capture_output=True,
        text=True,
        check=True,
    )
    # The memory allocator of pyarrow starts its thread anew in a fork.
    gpu, *threads = (word for word in done.stdout.split() if word != "jemalloc_bg_thd")
    assert (gpu, len(threads)) == ("False", 1)


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
