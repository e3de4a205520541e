"""The table of a run's stages, as its record has them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from blcf_utils.cli import app
from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.run.stages import stages_table


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The results of a run of mini whose stages are what an artefact store logs."""
    monkeypatch.setenv("BLCF_STAGE_LOG", str(tmp_path / "log"))
    store = ArtefactStore(tmp_path / "cache")
    for label in ("one", "two", "one"):
        store.get_or_make(
            Stage("features"), label, {"of": label}, lambda f: (f / "x").write_bytes(b"0")
        )
    one, two, again = map(json.loads, (tmp_path / "log").read_text().splitlines())
    entries = {
        "02_features": {"stages": [{**one, "made_in_seconds": 2.0}]},
        "04_search": {"stages": [again, {**two, "made_in_seconds": 30.0, "bytes": 5_000_000}]},
        "10_tables": {},
    }
    (tmp_path / "mini" / "notebooks").mkdir(parents=True)
    (tmp_path / "mini" / "notebooks" / "02_features.ipynb").touch()
    (tmp_path / "mini" / "run.json").write_text(json.dumps({"notebooks": entries}))
    return tmp_path


def test_every_stage_stands_once_with_what_it_took(run):
    table = stages_table("mini", run)
    assert table["of"].tolist() == ["one", "two"]
    assert table["notebook"].tolist() == ["02_features", "04_search"]
    assert table["seconds"].tolist() == [2.0, 30.0]
    assert table["MB on disk"].tolist() == [0.0, 5.0]
    assert (table["in this run"] == "made").all()
    assert (table["peak MB so far"] > 1).all()
    assert stages_table("mini", run, slowest_first=True)["of"].tolist() == ["two", "one"]


def test_the_command_prints_the_table(run):
    done = CliRunner().invoke(app, ["stages", "--results", str(run), "--slowest"])
    assert done.exit_code == 0, done.output
    _, _, first, _ = done.output.splitlines()
    assert first.startswith("| 04_search | features | two | 30.0 |")


def test_without_a_run_of_this_machine_there_is_nothing_to_tell(run):
    with pytest.raises(StudyError, match="no run to tell of"):
        stages_table("smoke", run)
    (run / "mini" / "notebooks" / "02_features.ipynb").unlink()
    with pytest.raises(StudyError, match="committed reference only"):
        stages_table("mini", run)


def test_the_peak_of_a_process_is_told_while_it_runs():
    before = peak_memory_mb()
    np.ones(before * 2**20 + 100 * 2**20, np.uint8)
    assert peak_memory_mb() > before + 90
    assert peak_memory_mb(2**31 - 1) == 0
