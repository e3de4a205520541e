"""What a run records about itself, and what it must not give away."""

from __future__ import annotations

import getpass
import json
import platform
import re
import socket
import subprocess
from pathlib import Path

import pytest

from blcf_utils.run import provenance
from blcf_utils.run.provenance import describe_run, git_state, without_paths


def test_a_run_is_described_without_saying_whose_machine_it_was():
    record = describe_run({"kmeans": 3})
    text = json.dumps(record)
    assert record["seeds"] == {"kmeans": 3}
    assert record["python"] == platform.python_version()
    assert record["packages"]["numpy"] == __import__("numpy").__version__
    assert "not installed" not in record["packages"].values()
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["cpu"]
    assert record["torchvision_ops"]["mode"] in ("native", "schemas")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", record["time"])
    for private in (str(Path.home()) + "/", socket.gethostname(), str(Path.cwd())):
        assert private not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text


def test_a_study_that_is_not_installed_is_what_is_missing(monkeypatch):
    monkeypatch.setattr(provenance, "DISTRIBUTION", "blcf-nowhere")
    assert [one.name for one in provenance.requirements()] == ["blcf-nowhere"]


def test_torch_is_asked_in_another_process_and_says_the_same():
    here = provenance._torch_facts()
    assert provenance._torch_facts_of_another_process() == here


def test_a_broken_torch_is_recorded_not_raised(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no torch here\n")
    monkeypatch.setattr(provenance.subprocess, "run", lambda *a, **k: failed)
    found = provenance._torch_facts_of_another_process()
    assert found["torchvision_ops"] == "torch cannot be imported: ImportError: no torch here"


def test_git_state_ignores_results_and_sees_other_changes(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True
        )

    assert git_state(tmp_path) == "not a git checkout"
    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "one")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("x")
    clean = git_state(tmp_path)
    assert clean["dirty"] is False
    assert re.fullmatch("[0-9a-f]{40}", clean["revision"])
    (tmp_path / "a.txt").write_text("2")
    assert git_state(tmp_path) == {**clean, "dirty": True}
    # A folder inside somebody else's checkout is no checkout of the study.
    assert git_state(tmp_path / "results") == "not a git checkout"


@pytest.fixture
def places(tmp_path, monkeypatch):
    root = tmp_path / "home" / "study"
    (root / "data" / "profiles").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BLCF_HOME", str(root))
    monkeypatch.setenv("BLCF_DATA", str(tmp_path / "photos"))
    monkeypatch.setenv("BLCF_CACHE", str(root / "cache"))
    return tmp_path


def test_folders_of_this_machine_are_replaced_by_names(places):
    text = f"{places}/home/study/x.py {places}/home/notes {places}/photos/a.jpg {places}/photos2"
    assert without_paths(text) == f"<project>/x.py ~/notes <data>/a.jpg {places}/photos2"
    nested = {"a": [f"{places}/home/study", 3, None], f"{places}/photos": True}
    assert without_paths(nested) == {"a": ["<project>", 3, None], "<data>": True}
    assert without_paths("/tmp/ipykernel_12/345.py:3: Warning") == "<cell>:3: Warning"


def test_in_html_the_names_do_not_become_tags(places):
    assert without_paths(f"<td>{places}/photos</td>", html=True) == "<td>&lt;data&gt;</td>"


def test_folders_inside_the_project_keep_their_place(places):
    assert without_paths(f"{places}/home/study/cache/f.h5") == "<project>/cache/f.h5"
