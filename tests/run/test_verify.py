"""Comparing a run's tables with the reference run's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.run.verify import verify

HEADER = "row,column,published,measured,status,seconds,config_digest\n"
TABLE = HEADER + (
    "Ours GS,set/gs,0.653,0.512345,measured,1.5,abc\n"
    "Ours LS,set/gs,0.738,,not run: no data,,\n"
    "images,set,,1200,measured,0.1,abc\n"
    "query/time (s),set,0.002,0.0125,measured,3.0,abc\n"
    "BLCF LS,set/ms per query,,3.8647,measured,0.0,abc\n"
    "BLCF LS,set/images per s,,911.25,measured,0.0,abc\n"
)
CLAIMS = "id,measured_evidence,measured\nc1,set: LS 0.551 GS 0.370 (+0.181) of 12,holds\n"


def write(folder: Path, table: str = TABLE, claims: str = CLAIMS) -> Path:
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "t02_x.csv").write_text(table)
    (tables / "claims.csv").write_text(claims)
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A project, its fresh results of profile ``tiny`` and a reference elsewhere."""
    (tmp_path / "data" / "profiles").mkdir(parents=True)
    monkeypatch.setenv("BLCF_HOME", str(tmp_path))
    monkeypatch.delenv("BLCF_RESULTS", raising=False)
    return write(tmp_path / "results" / "tiny"), write(tmp_path / "reference")


def difference(folders, old: str, new: str, **options) -> list[str]:
    fresh, reference = folders
    write(fresh, TABLE.replace(old, new), CLAIMS.replace(old, new))
    return verify("tiny", None, reference, **options)


def test_equal_tables_agree(folders):
    assert verify("tiny", None, folders[1]) == []
    for folder in folders:  # tables without a row, and with the same row twice
        write(folder, HEADER, CLAIMS + CLAIMS.splitlines()[1])
    assert verify("tiny", None, folders[1]) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.512345", "0.517345"),  # an mAP within the tolerance
        ("0.0125", "0.9"),  # a time
        ("3.8647", "1.2"),  # another
        ("911.25", "2000.5"),  # a speed
        (",1.5,abc", ",9.5,other"),  # seconds and digest
        ("0.370 (+0.181)", "0.372 (+0.179)"),  # numbers inside a claim's evidence
    ],
)
def test_what_may_differ(folders, old, new):
    assert difference(folders, old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.512345", "0.5174", "t02_x: Ours GS, set/gs, measured: expected 0.512345, found 0.5174"),
        ("1200", "1201", "t02_x: images, set, measured: expected 1200, found 1201"),
        ("no data", "too slow", "status: expected not run: no data, found not run: too slow"),
        ("0.653", "0.655x", "published: expected 0.653, found 0.655x"),
        ("holds", "fails", "claims: c1, measured: expected holds, found fails"),
        ("of 12", "of 13", "found set: LS 0.551 GS 0.370 (+0.181) of 13"),
        ("0.512345", "", "expected 0.512345, found blank"),
        ("Ours LS,set/gs", "Ours LS,set/ls", "Ours LS, set/gs: expected the row, found missing"),
    ],
)
def test_what_must_not_differ(folders, old, new, says):
    assert says in difference(folders, old, new)[0]


def test_a_new_row_and_the_tolerance_are_reported(folders):
    found = difference(folders, "images,set,", "more,set,,1,measured,0.1,abc\nimages,set,")
    assert found == ["t02_x: more, set: expected missing, found the row"]
    assert difference(folders, "0.512345", "0.53", tolerance=0.02) == []


def test_missing_and_additional_tables_are_reported(folders):
    fresh, reference = folders
    (fresh / "tables" / "claims.csv").rename(fresh / "tables" / "t99_new.csv")
    assert verify("tiny", None, reference) == [
        "claims: expected the table, found missing",
        "t99_new: expected missing, found the table",
    ]


def test_the_committed_reference_is_the_default(folders, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True
        )

    with pytest.raises(StudyError, match="holds the committed reference only"):
        verify("tiny")  # nothing was executed: the reference would be compared with itself
    (folders[0] / "notebooks").mkdir()
    (folders[0] / "notebooks" / "01_one.ipynb").write_text("{}")
    with pytest.raises(StudyError, match=r"git has no results/tiny/tables/\*\.csv committed"):
        verify("tiny")
    git("init")
    git("add", "results")
    git("commit", "-m", "reference")
    assert verify("tiny") == []
    write(folders[0], TABLE.replace("1200", "7"))
    assert verify("tiny") == ["t02_x: images, set, measured: expected 1200, found 7"]
    record(folders[0], codebook={"words": 64, "iterations": 20})
    git("add", "results")
    git("commit", "-m", "with its record")
    record(folders[0], codebook={"words": 32, "iterations": 20})
    with pytest.raises(
        StudyError, match=r"other settings than .* \(codebook.words 32 instead of 64"
    ):
        verify("tiny")


def record(folder: Path, **settings) -> None:
    document = {"name": "tiny", "description": "a run", "datasets": ["set"], **settings}
    run = {"profile": {"document": document}, "notebooks": {}}
    (folder / "run.json").write_text(json.dumps(run))


def test_a_run_with_other_settings_is_not_compared(folders):
    fresh, reference = folders
    write(fresh, TABLE.replace("1200", "7"))
    record(fresh, seed=1, codebook={"words": 64})
    assert len(verify("tiny", None, reference)) == 1  # tables alone: nothing is known of them
    # A setting that only one of them has says nothing.
    record(reference, codebook={"words": 64}, younger=True)
    assert len(verify("tiny", None, reference)) == 1
    record(reference, seed=0, codebook={"words": 32}, datasets=["set", "other"])
    says = (
        r"tiny: run with other settings than the reference "
        r"\(datasets \['set'\] instead of \['set', 'other'\], seed 1 instead of 0, "
        r"codebook.words 64 instead of 32\), so their tables are not compared; run with"
    )
    with pytest.raises(StudyError, match=says):
        verify("tiny", None, reference)


def test_nothing_to_compare_is_an_error(folders, tmp_path):
    with pytest.raises(StudyError, match="expected a reference run"):
        verify("tiny", None, tmp_path / "nowhere")
    with pytest.raises(StudyError, match="run blcf run --profile other first"):
        verify("other")
