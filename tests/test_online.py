"""The launch files of Binder and Colab: the commands that they run exist here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import typer
import yaml

from blcf_utils.cli import app
from blcf_utils.run.notebooks import find_notebooks

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def checked(words: list[str]) -> str:
    """Fail unless a command of a launch file can be carried out here; return its program."""
    if words[:3] == ["python", "-m", "pip"]:
        words = words[2:]
    program, *rest = words
    if program == "blcf":
        command = typer.main.get_command(app)
        context = command.make_context("blcf", list(rest))
        name, run, arguments = command.resolve_command(context, rest)
        given = run.make_context(name, arguments, parent=context).params
        assert find_notebooks(given["notebooks"])
        assert (ROOT / "data/profiles" / f"{given['profile']}.yaml").is_file()
    elif program == "pip":
        assert rest[0] == "install"
        folder, extras = re.fullmatch(r"(\.)(?:\[(.+)\])?", rest[rest.index("-e") + 1]).groups()
        assert folder == "."
        assert {*(extras or "").split(",")} - {""} <= set(PROJECT["optional-dependencies"])
    else:
        assert program in ("git", "cd", "set"), program
    return program


def test_binder_brings_a_python_that_the_study_runs_on():
    brought = yaml.safe_load((BINDER / "environment.yml").read_text())["dependencies"]
    version = tuple(map(int, brought[0].removeprefix("python=").split(".")))
    assert version >= tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert "pip" in brought


def test_binder_runs_commands_that_exist_and_stops_at_one_that_fails(tmp_path):
    assert os.access(BINDER / "postBuild", os.X_OK)
    for program in ("python", "blcf"):  # record what they are asked; the second fails
        path = tmp_path / program
        status = int(program == "blcf")
        path.write_text(
            f'#!/bin/bash\nprintf "%q " {program} "$@" >> "$LOG"\necho >> "$LOG"\nexit {status}\n'
        )
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
    }
    done = subprocess.run([BINDER / "postBuild"], env=environment, cwd=ROOT, check=False)
    assert done.returncode == 1
    asked = [shlex.split(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [checked(words) for words in asked] == ["pip", "blcf"]


def test_colab_runs_commands_that_exist_and_shows_what_they_leave():
    notebook = nbformat.read(BINDER / "colab.ipynb", as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    asked = [shlex.split(line[1:]) for line in source.splitlines() if line[:1] in "!%" and line]
    assert [checked(words) for words in asked] == ["git", "cd", "pip", "blcf"]
    profile, figure = re.search(r'"results/(\w+)/figures/(\w+)\.png"', source).groups()
    assert profile == asked[-1][asked[-1].index("--profile") + 1]
    (notebook,) = find_notebooks([asked[-1][2]])
    assert f'"{figure}"' in notebook.path.read_text().replace('\\"', '"')


def test_a_command_that_does_not_exist_is_found():
    with pytest.raises(Exception, match="no-such"):
        checked(["blcf", "run", "00_overview", "--no-such"])
    with pytest.raises(AssertionError):
        checked(["pip", "install", "-e", ".[no-such]"])
