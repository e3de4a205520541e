"""Paths mean the same in every process of the study."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute, cache_dir, environment, results_dir

ROOT = Path(__file__).parents[2]
TOLD = """import json; from blcf_utils.ground import paths as p
print(json.dumps([str(f) for f in (p.cache_dir(), p.datasets_dir(), p.weights_path(),
                                   p.results_dir("mini"), p.project_root())]))"""


def test_relative_variables_are_the_same_folders_in_another_working_folder(tmp_path, monkeypatch):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(work)
    for name in ("CACHE", "DATA", "WEIGHTS", "RESULTS"):
        monkeypatch.setenv(f"BLCF_{name}", name.lower())
    monkeypatch.delenv("BLCF_HOME", raising=False)
    told = subprocess.check_output(
        [sys.executable, "-c", TOLD], cwd=elsewhere, env=environment(), text=True
    )
    expected = [work / "cache", work / "data", work / "weights", work / "results" / "mini", ROOT]
    assert [Path(path) for path in json.loads(told)] == expected
    assert cache_dir() == work / "cache"
    assert results_dir("mini") == work / "results" / "mini"


def test_only_the_tilde_itself_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute("~/photos") == Path("/home/somebody/photos")
    assert absolute("~old/p.jpg") == tmp_path / "~old" / "p.jpg"
    assert absolute("-p.jpg") == tmp_path / "-p.jpg"


def test_a_user_without_a_home_is_told_which_variable_helps(monkeypatch):
    monkeypatch.delenv("BLCF_CACHE", raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(StudyError, match="set BLCF_CACHE to a folder that can be written"):
        cache_dir()
