"""Programs in processes of their own, forked from one that has imported the study already.

A new interpreter imports torch and the study for four seconds, which is not what tests of killed
programs are about.
"""

import multiprocessing
import os
import runpy
import sys
import textwrap
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["blcf_utils.experiments", "blcf_utils.apps.photographs.indexing", "blcf_utils.plots"]
)


def start(program: str | Path, *arguments: object, output: Path | None = None) -> BaseProcess:
    """Run Python code, or a file, with arguments and this environment, and return at once.

    Args:
        program: the code, or the path of a file.
        arguments: its command line.
        output: a folder for the files ``stdout`` and ``stderr``.
    """
    if isinstance(program, str):
        program = textwrap.dedent(program)
    command = [str(one) for one in arguments]
    process = _SERVER.Process(target=_run, args=(program, command, dict(os.environ), output))
    process.start()
    return process


def run(program: str | Path, *arguments: object, output: Path | None = None) -> int:
    """Run it to its end and return its exit status: minus a signal's number, if that ended it."""
    process = start(program, *arguments, output=output)
    process.join(300)
    assert process.exitcode is not None, f"still running after 300 s: {program}"
    return process.exitcode


def _run(program: str | Path, arguments: list[str], environment: dict, output: Path | None):
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdout", "stderr"), 1):
        if output:
            os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = [str(program), *arguments]
    if isinstance(program, Path):
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        exec(program, {"__name__": "__main__"})
