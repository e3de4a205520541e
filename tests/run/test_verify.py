"""Comparing a run's tables with the reference run's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.results.claims import CLAIMS as REGISTRY
from blcf_utils.results.comparisons import Claim
from blcf_utils.run.verify import verify

ROOT = Path(__file__).parents[2]

HEADER = "row,column,published,measured,status,seconds,config_digest\n"
TABLE = HEADER + (
    "Ours GS,set/gs,0.653,0.512345,measured,1.5,abc\n"
    "Ours LS,set/gs,0.738,,not run: no data,,\n"
    "images,set,,1200,measured,0.1,abc\n"
    "query/time (s),set,0.002,0.0125,measured,3.0,abc\n"
    "BLCF LS,set/ms per query,,3.8647,measured,0.0,abc\n"
    "BLCF LS,set/images per s,,911.25,measured,0.0,abc\n"
)
CLAIMS = (
    "id,table,published_holds,measured_evidence,measured,interval\n"
    "one,t02_x,holds,set: LS 0.551 GS 0.370 (+0.181),holds,set: +0.181\n"
    "two,t02_x,holds,,undecided,\n"
    "fast,t02_x,holds,set: query/time (s) 0.1,holds,\n"
)


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
    """Return all differences after a replacement in the fresh tables."""
    fresh, reference = folders
    assert old in TABLE + CLAIMS
    write(fresh, TABLE.replace(old, new), CLAIMS.replace(old, new))
    return told(verify("tiny", None, reference, **options))


def told(tables) -> list[str]:
    return [f"{one.table}: {text}" for one in tables for text in one.differences]


def lines(tables) -> list[str]:
    return [str(one) for one in tables]


def test_equal_tables_agree(folders):
    # 6 rows with published, measured and status, but for three times; a claim about time is none.
    expected = ["t02_x: 15 cells agree", "claims: 2 cells agree"]
    assert lines(verify("tiny", None, folders[1])) == expected
    for folder in folders:  # tables without a row, and with the same row twice
        write(folder, HEADER, CLAIMS + CLAIMS.splitlines()[1])
    assert told(verify("tiny", None, folders[1])) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.512345", "0.522345"),  # an mAP within the tolerance
        ("0.0125", "0.9"),  # a time
        ("3.8647", "1.2"),  # another
        ("911.25", "2000.5"),  # a speed
        (",1.5,abc", ",9.5,other"),  # seconds and digest
        ("LS 0.551 GS 0.370 (+0.181)", "LS 0.5 GS 0.4 (+0.1)"),  # numbers of other tables
        ("0.1,holds", "0.1,does not hold"),  # a claim about time
        ("two,t02_x,holds,,undecided", "two,t02_x,holds,,holds"),
        ("two,t02_x,holds,,undecided", "two,t02_x,holds,,does not hold"),
        ("(+0.181),holds", "(+0.181),undecided"),
    ],
)
def test_what_may_differ(folders, old, new):
    assert difference(folders, old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.512345", "0.5224", "t02_x: Ours GS, set/gs, measured: expected 0.512345, found 0.5224"),
        ("1200", "1201", "t02_x: images, set, measured: expected 1200, found 1201"),
        ("no data", "too slow", "status: expected not run: no data, found not run: too slow"),
        ("0.653", "0.654", "published: expected 0.653, found 0.654"),
        ("+0.181),holds", "+0.181),does not hold", "claims: one, measured: expected holds, found"),
        ("one,t02_x,holds", "one,t02_x,undecided", "published_holds: expected holds, found"),
        ("two,t02_x,holds,,undecided", "two,t02_x,holds,,not run: no", "expected undecided, found"),
        ("0.512345", "", "expected 0.512345, found blank"),
        ("Ours LS,set/gs", "Ours LS,set/ls", "t02_x: Ours LS, set/gs: this run lacks it"),
    ],
)
def test_what_must_not_differ(folders, old, new, says):
    assert says in difference(folders, old, new)[0]


def test_one_line_a_table_tells_how_much(folders):
    fresh, reference = folders
    write(fresh, TABLE.replace("0.512345", "0.516345"))
    assert lines(verify("tiny", None, reference))[0] == (
        "t02_x: 15 cells agree, largest difference 0.0040"
    )
    write(fresh, TABLE.replace("0.512345", "0.6").replace("1200", "7"))
    assert lines(verify("tiny", None, reference))[0] == (
        "t02_x: 2 of 15 cells differ, first Ours GS, set/gs, measured: expected 0.512345, found 0.6"
    )


def test_a_new_row_and_the_tolerance_are_reported(folders):
    found = difference(folders, "images,set,", "more,set,,1,measured,0.1,abc\nimages,set,")
    assert found == ["t02_x: more, set: only this run has it"]
    assert difference(folders, "0.512345", "0.53", tolerance=0.02) == []


def test_missing_and_additional_tables_are_reported(folders):
    fresh, reference = folders
    (fresh / "tables" / "claims.csv").rename(fresh / "tables" / "t99_new.csv")
    assert lines(verify("tiny", None, reference))[1:] == [
        "claims: this run has no such table",
        "t99_new: only this run has it",
    ]


@pytest.mark.parametrize(("size", "agrees"), [("504", True), ("630.5", False), ("455", False)])
def test_sizes_may_differ_by_a_share(folders, size, agrees):
    rows = ["BLCF,set/bytes per image,,{},measured,,", "memory (MB),set,,{},measured,,"]
    for row in rows:
        for folder, value in zip(folders, (size, "490"), strict=True):
            write(folder, HEADER + row.format(value) + "\n")
        assert bool(told(verify("tiny", None, folders[1]))) != agrees


@pytest.mark.parametrize(
    ("row", "agrees"), [("BLCF LS", True), ("Off / BLCF", True), ("R-MAC", False)]
)
def test_words_an_image_are_a_size_and_a_vector_s_length_is_exact(folders, row, agrees):
    for folder, value in zip(folders, (312, 311), strict=True):
        write(folder, HEADER + f"{row},dim,,{value},measured,,\n")
    assert bool(told(verify("tiny", None, folders[1]))) != agrees


def seeds(values: dict[str, tuple[float, ...]]) -> str:
    cells = [
        f"t02_x,Ours GS,{column},{seed},{value}\n"
        for column, of in values.items()
        for seed, value in enumerate(of)
    ]
    return "table,row,column,seed,value\n" + "".join(cells)


def test_trained_cells_may_differ_as_seeds_do(folders):
    fresh, reference = folders
    (reference / "tables" / "seeds.csv").write_text(seeds({"set/gs": (0.50, 0.51, 0.55)}))
    (fresh / "tables" / "seeds.csv").write_text(seeds({"set/gs": (0.52, 0.58, 0.54)}))
    # The seeds of one run differ by 0.05 and 0.06; those of both together would by 0.08.
    assert difference(folders, "0.512345", "0.572") == []
    found = difference(folders, "0.512345", "0.573")
    assert found == ["t02_x: Ours GS, set/gs, measured: expected 0.512345, found 0.573"]
    # Seeds of another cell say nothing of this one, and a seed that is missing is told.
    for folder in folders:
        (folder / "tables" / "seeds.csv").write_text(seeds({"set/ls": (0.1, 0.5)}))
    assert len(difference(folders, "0.512345", "0.572")) == 1
    (fresh / "tables" / "seeds.csv").write_text(seeds({"set/ls": (0.1,)}))
    assert told(verify("tiny", None, reference))[0] == (
        "seeds: t02_x, Ours GS, set/ls, 1: this run lacks it"
    )


def test_drawn_images_may_score_as_another_draw_does(folders):
    fresh, reference = (folder / "tables" / "x09_scaling.csv" for folder in folders)
    row = "row,column,published,measured,status\nimages,set/ls,,{},measured\n"
    reference.write_text(row.format(0.56))
    for score, differing in ((0.52, 0), (0.5, 1)):
        fresh.write_text(row.format(score))
        assert len(told(verify("tiny", None, folders[1]))) == differing


def test_undecided_does_not_excuse_numbers_that_differ(folders, monkeypatch):
    monkeypatch.setitem(REGISTRY, "two", Claim("t02_x", "Ours LS", "Ours GS"))
    fresh, reference = folders
    claims = CLAIMS.replace("two,t02_x,holds,,undecided", "two,t02_x,holds,,holds")
    write(fresh, TABLE, claims)
    assert told(verify("tiny", None, reference)) == []
    write(fresh, TABLE.replace("0.512345", "0.6"), claims)
    assert told(verify("tiny", None, reference))[1:] == [
        "claims: two, measured: expected undecided, found holds"
    ]


@pytest.fixture
def real(folders):
    """The committed tables of ``mini`` as reference and as fresh run."""
    for folder in folders:
        shutil.rmtree(folder / "tables")
        shutil.copytree(ROOT / "results" / "mini" / "tables", folder / "tables")
    return folders


def shift(folder: Path, table: str, amount: float, row: str = "") -> None:
    """Add to every mAP of a table, or of one of its rows."""
    path = folder / "tables" / f"{table}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in ("measured", "mean", "low", "high"):
        if name in frame:
            moved = frame[name].str.fullmatch(r"0\.\d+") & (frame["row"].str.contains(row))
            frame.loc[moved, name] = (frame[name][moved].astype(float) + amount).map(repr)
    frame.to_csv(path, index=False)


def test_real_tables_with_other_roundings_agree(real):
    fresh, reference = real
    assert told(verify("tiny", None, reference)) == []
    for table in ("t02_blcf_search", "t06_finetune_oxford", "t09_saliency_blcf", "x04_compactness"):
        shift(fresh, table, 0.009)
    shift(fresh, "intervals", 0.019)
    found = verify("tiny", None, reference)
    assert told(found) == []
    assert {one.table: round(one.largest, 3) for one in found}["t02_blcf_search"] == 0.009
    shift(fresh, "intervals", 0.002)
    assert {text.split(":")[0] for text in told(verify("tiny", None, reference))} == {"intervals"}


def test_a_training_on_another_processor_needs_its_seeds(real):
    """(F)Network B was seen to differ by 0.09 between processors."""
    fresh, reference = real
    shift(fresh, "t07_finetune_instre", 0.09, r"\(F\)Network B")
    found = told(verify("tiny", None, reference))
    assert len(found) == 4
    assert all(text.startswith("t07_finetune_instre: (F)Network B, mini-") for text in found)
    for folder in real:
        (folder / "tables" / "seeds.csv").write_text(
            "table,row,column,seed,value\n"
            + "".join(
                f"t07_finetune_instre,(F)Network B,{name}{mode},{seed},{value}\n"
                for name in ("mini-buildings", "mini-objects")
                for mode in ("", "/ls")
                for seed, value in enumerate((0.10, 0.15, 0.21))
            )
        )
    assert told(verify("tiny", None, reference)) == []


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
    assert told(verify("tiny")) == []
    write(folders[0], TABLE.replace("1200", "7"))
    assert told(verify("tiny")) == ["t02_x: images, set, measured: expected 1200, found 7"]
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
    assert len(told(verify("tiny", None, reference))) == 1  # tables alone: nothing is known of them
    # A setting that only one of them has says nothing.
    record(reference, codebook={"words": 64}, younger=True)
    assert len(told(verify("tiny", None, reference))) == 1
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
