"""The command line: what users type, what they are told, and the exit code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from blcf_utils.cli import app

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the profile ``tiny`` and one notebook that writes K into a table."""
    (tmp_path / "data" / "profiles").mkdir(parents=True)
    for name in ("published", "sources.yaml"):
        (tmp_path / "data" / name).symlink_to(ROOT / "data" / name)
    (tmp_path / "data" / "profiles" / "tiny.yaml").write_text(
        "datasets: [none]\nfeatures: {backbone: {weights: random}}\n"
    )
    parameters = 'PROFILE: str = "tiny"\nSETTINGS: dict = {}\nK: int = 1  # a number\n'
    write = (
        "from blcf_utils.config.profile import load_profile\n"
        "from blcf_utils.ground.paths import results_dir\n"
        "from blcf_utils.results.tables import Measurement, write_table\n"
        "profile = load_profile(PROFILE, SETTINGS)\n"
        "words = profile.codebook.words\n"
        'assert K < 100, "K is too large"\n'
        'cells = [Measurement("K", "set", K), Measurement("words", "set", words)]\n'
        'write_table("x01_own", cells, results_dir(profile.name))'
    )
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_markdown_cell("# Writing a table"),
            nbformat.v4.new_code_cell(write),
        ]
    )
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "01_table.ipynb")
    # The package may be edited while its tests run.
    monkeypatch.setattr("blcf_utils.run.runner.code_digest", lambda: "frozen")
    monkeypatch.setenv("BLCF_HOME", str(tmp_path))
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    for name in ("BLCF_RESULTS", "BLCF_DATA", "BLCF_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def blcf(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_help_comes_at_once():
    best = min(timed_help() for _ in range(3))
    assert best < 1.0


def timed_help() -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from blcf_utils.cli import app; app(['--help'])"],
        check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - started


def test_every_command_has_help():
    for words in (
        ["run"], ["status"], ["stages"], ["verify"], ["report"], ["data", "list"],
        ["data", "fetch"], ["data", "check"], ["profile", "show"], ["profile", "list"],
    ):  # fmt: skip
        answer = blcf(*words, "--help")
        assert answer.exit_code == 0, words
        assert "Usage" in answer.output


def test_run_status_verify_and_report(project):
    ran = blcf("run", "--profile", "tiny", "--set", "codebook.words=64", "--parameter", "K=7")
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.splitlines()[0].split()[:2] == ["01_table", "done"]
    assert ran.stdout.splitlines()[-1].endswith("results/tiny/report/index.html")
    table = (project / "results/tiny/tables/x01_own.csv").read_text()
    assert "K,set,,7,measured" in table
    assert "words,set,,64,measured" in table

    again = blcf(
        "run", "-p", "tiny", "-s", "codebook.words=64", "--parameter", "K=7", "--no-report"
    )
    assert again.stdout.split()[:2] == ["01_table", "unchanged"]
    assert "report:" not in again.stdout
    state = blcf("status", "-p", "tiny")
    assert "01_table  not run" in state.stdout
    assert "profile, parameters changed" in state.stdout

    agreed = blcf("verify", "-p", "tiny", "--against", str(project / "results/tiny"))
    assert agreed.exit_code == 0, agreed.output
    (project / "reference").mkdir()
    (project / "reference" / "x01_own.csv").write_text(table.replace(",7,", ",8,"))
    differing = blcf("verify", "-p", "tiny", "--against", str(project / "reference"))
    assert differing.exit_code == 1
    first = "x01_own: 1 of 6 cells differ, first K, set, measured: expected 8, found 7"
    assert first in differing.stdout
    assert "\n  K, set, measured: expected" not in differing.stdout
    told = blcf("verify", "-p", "tiny", "--against", str(project / "reference"), "--all")
    assert f"{first}\n  K, set, measured: expected 8, found 7" in told.stdout

    (project / "results/tiny/report/index.html").unlink()
    assert blcf("report", "-p", "tiny").exit_code == 0
    assert "Writing a table" in (project / "results/tiny/report/index.html").read_text()


def test_a_failure_exits_with_1_and_says_how_to_go_on(project):
    typed = ["run", "01", "-p", "tiny", "--parameter", "K=100", "--results", "else where"]
    failed = blcf(*typed, "--force")
    assert failed.exit_code == 1
    assert (
        "01_table failed: cell 3 ('Writing a table'): AssertionError: K is too large"
        in failed.stderr
    )
    assert (
        "to go on where it stopped: blcf run 01 -p tiny --parameter K=100 "
        "--results 'else where' (finished" in failed.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "-p", "nope"], "unknown profile 'nope': expected one of tiny"),
        (["run", "07", "-p", "tiny"], "unknown notebook '07'"),
        (["run", "-p", "tiny", "--parameter", "L=1"], "has no parameter 'L'"),
        (["run", "-p", "tiny", "--parameter", "K=many"], "K must be int, found str ('many')"),
        (["run", "-p", "tiny", "--set", "codebook.wards=1"], "codebook.wards: unknown key"),
        (["run", "-p", "tiny", "--set", "words"], "--set words: expected KEY=VALUE"),
        (["run", "-p", "tiny", "--set", "seed=[1"], "--set seed=[1: the value is not YAML"),
        (["report", "-p", "tiny"], "no executed notebook"),
        (["data", "check", "nope"], "unknown dataset 'nope'"),
        (["data", "fetch", "nope"], "nope"),
        (["profile", "show", "nope"], "unknown profile 'nope'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(project, arguments, complaint):
    answer = blcf(*arguments)
    assert answer.exit_code == 2, answer.output
    assert answer.stderr.startswith("blcf: ")
    assert complaint in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_debug_raises_what_happened(project):
    answer = blcf("--debug", "profile", "show", "nope")
    assert type(answer.exception).__name__ == "StudyError"


def test_a_profile_is_shown_whole_and_can_be_read_back(project):
    shown = blcf("profile", "show", "tiny", "--set", "codebook.words=64")
    document = yaml.safe_load(shown.stdout)
    assert document["codebook"]["words"] == 64
    assert document["features"]["backbone"]["layer"] == "conv5_1"
    (project / "again.yaml").write_text(shown.stdout)
    again = blcf("profile", "show", str(project / "again.yaml"))
    assert again.stdout == shown.stdout
    assert blcf("profile", "list").stdout.strip() == "tiny"


def test_datasets_are_listed(project):
    listed = blcf("data", "list")
    assert listed.exit_code == 0, listed.output
    assert "| oxford5k |" in listed.stdout


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), 2, "/a/b: Permission denied; mend"),
        (OSError(5, "Input/output error"), 2, "Input/output error; mend that and run again"),
        (RuntimeError("cannot cache function 'f': no locator available"), 2, "NUMBA_CACHE_DIR"),
        (ValueError("odd\nlines"), 1, "a fault of the study (ValueError: odd lines); blcf --debug"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to go on"),
    ],
)
def test_whatever_happens_is_one_line_and_with_debug_its_traceback(
    project, monkeypatch, error, code, said
):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("blcf_utils.config.profile.profile_names", broken)
    answer = blcf("profile", "list")
    assert answer.exit_code == code
    assert answer.stderr.startswith("blcf: ")
    assert said in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    if code != 130:
        assert blcf("--debug", "profile", "list").exception is error
    assert "Exit codes: 0 done" in " ".join(blcf("--help").stdout.split())
