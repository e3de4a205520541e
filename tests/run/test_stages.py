"""The table of stages: what was measured, what is extrapolated, what is only predicted."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from blcf_utils.config.profile import load_profile
from blcf_utils.ground.artefacts import ArtefactStore, note_work
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.peak_memory import PeakMemory, peak_memory_mb
from blcf_utils.run.stages import COLUMNS, TABLE, stage_rows, write_stages
from blcf_utils.run.stages_forecast import Assumptions, read_assumptions

MB = 1024**2


def event(stage, label, key, seconds, **more):
    return {"stage": stage, "label": label, "key": key, "seconds": 0.01, "reused": True,
            "made_in_seconds": seconds, "bytes": 100, "settings": {}, **more}  # fmt: skip


def record(profile="rehearsal", **changes):
    datasets = [
        {"dataset": "oxford5k", "images": 5000, "all_images": 5000, "distinct": 50,
         "query_images": 55, "distinct_query_images": 20, "stand_in": True},
        {"dataset": "instre", "images": 2000, "all_images": 3000, "distinct": 30,
         "query_images": 1000},
    ]  # fmt: skip
    descriptors = 400_000
    features = {"longest_side": 340, "name": "vgg16", "layer": "conv5_1"}
    stages = [
        event("features", "oxford5k-vgg16-conv5_1", "f", 10.0, peak_rss_mb=900, reused=False,
              bytes=descriptors * 1024, settings=features),
        event("features", "oxford5k-vgg16-conv5_1", "f", 10.0),
        event("codebook", "oxford5k-vgg16-conv5_1-K25000", "c", 20.0, resumed=True),
        event("features", "oxford5k-queries-vgg16-conv5_1-mirrored", "q", 1.0, settings=features),
        event("saliency", "instre-BMS", "s", 6.0),
        event("verification", "instre-sift2000-K25000", "v", 5.0,
              work={"pairs": 1000, "pairs_matched": 10}),
        event("triplets", "oxford5k-fold0-fused", "t", 2.0),
    ]  # fmt: skip
    entry = {"status": "done", "seconds": 100.0, "peak_rss_mb": 1000, "datasets": datasets,
             "stages": stages}  # fmt: skip
    return {
        "profile": {"document": load_profile(profile).document()},
        "provenance": {"hardware": {"cpu": "a CPU", "cores": 2, "memory_gb": 8}},
        "rehearsal": "REHEARSAL: stand-in pictures.",
        "notebooks": {"04_search": {**entry, **changes}},
    }


def rows_of(found, **options):
    return {(row.stage, row.of): row for row in stage_rows(found, **options)}


def test_every_stage_stands_once_with_its_making_and_its_images():
    rows = rows_of(record())
    assert len(rows) == 7
    features = rows["features", "oxford5k-vgg16-conv5_1"]
    assert (features.images, features.computed, features.seconds) == (5000, 50, 10.0)
    assert features.extrapolated == 10.0 * 100
    assert features.peak_rss_mb == 900
    saliency = rows["saliency", "instre-BMS"]
    assert (saliency.images, saliency.computed) == (2000, 30)
    queries = rows["features", "oxford5k-queries-vgg16-conv5_1-mirrored"]
    assert (queries.images, queries.computed) == (55, 20)
    assert rows["verification", "instre-sift2000-K25000"].extrapolated == 500
    assert rows["codebook", "oxford5k-vgg16-conv5_1-K25000"].resumed
    rest = rows["notebook", "04_search: searching, scoring, plotting"]
    assert rest.seconds == pytest.approx(100 - 7 * 0.01)
    triplets = rows["triplets", "oxford5k-fold0-fused"]
    assert (triplets.images, triplets.factor) == (0, 1)


def test_distractors_are_counted_as_the_part_of_a_dataset_that_they_are():
    found = record()
    entry = found["notebooks"]["04_search"]
    distractors = {"dataset": "oxc1_100k", "images": 100_071, "all_images": 100_071,
                   "distinct": 96, "query_images": 0}  # fmt: skip
    whole = {"dataset": "oxford105k", "images": 105_071, "all_images": 105_071, "distinct": 146,
             "query_images": 55}  # fmt: skip
    entry["datasets"].append({**whole, "parts": [entry["datasets"][0], distractors]})
    entry["stages"].append(event("assignment", "oxc1_100k-vgg16-conv5_1-K25000", "a", 9.0))
    row = rows_of(found)["assignment", "oxc1_100k-vgg16-conv5_1-K25000"]
    assert (row.images, row.computed) == (100_071, 96)
    assert row.extrapolated == pytest.approx(9 * 100_071 / 96)


def test_cheaper_settings_are_extrapolated_to_the_full_ones():
    ran, full = load_profile("rehearsal"), load_profile("paper")
    row = rows_of(record(), full=full)["codebook", "oxford5k-vgg16-conv5_1-K25000"]
    # No more than there are: 400,000 descriptors.
    ratio = 400_000 / ran.codebook.max_descriptors
    times = full.codebook.iterations / ran.codebook.iterations
    assert row.extrapolated == pytest.approx(20 * times * ratio)
    assert "iterations" in row.why
    assert "descriptors" in row.why
    same = rows_of(record(), full=ran)["codebook", "oxford5k-vgg16-conv5_1-K25000"]
    assert same.extrapolated == 20


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "rehearsal"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record()), encoding="utf-8")
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "01_datasets.ipynb").touch()
    return tmp_path


def test_a_committed_reference_is_no_run_of_this_machine(run):
    (run / "rehearsal" / "notebooks" / "01_datasets.ipynb").unlink()
    with pytest.raises(StudyError, match="committed reference only"):
        write_stages("rehearsal", run)


def test_measured_extrapolated_and_predicted_are_columns_of_their_own(run):
    table = write_stages("rehearsal", run, full="paper")
    assert tuple(table.columns) == COLUMNS
    line = table[table["of"] == "oxford5k-vgg16-conv5_1"].iloc[0]
    assert line["seconds"] == 10
    assert line["seconds_extrapolated"] == 1000
    megapixels = 5000 * 340 * 255 / 1e6
    assert line["seconds_predicted"] == pytest.approx(megapixels / 90, rel=1e-3)
    by_hand = table[table["of"] == "instre-BMS"].iloc[0]
    assert by_hand["runs_on"] == "CPU"
    assert by_hand["seconds_predicted"] == pytest.approx(6 * 2000 / 30 / (0.7 * 8), abs=0.01)
    page = (run / "rehearsal" / "tables" / f"{TABLE}.md").read_text(encoding="utf-8")
    for words in ("REHEARSAL", "Assumed", "90 megapixels/s", "profile paper", "(resumed)"):
        assert words in page
    slower = write_stages("rehearsal", run, assumptions=Assumptions(vgg_megapixels_per_s=9))
    first = slower[slower["of"] == "oxford5k-vgg16-conv5_1"].iloc[0]
    assert first["seconds_predicted"] == pytest.approx(10 * line["seconds_predicted"], rel=1e-3)


def test_the_command_and_its_mistakes(run):
    from blcf_utils.cli import app

    done = CliRunner().invoke(
        app,
        ["stages", "--profile", "rehearsal", "--results", str(run), "--assume", "cores=4"],
    )
    assert done.exit_code == 0, done.output
    assert "7 stages" in done.output
    with pytest.raises(StudyError, match="no run to tell of"):
        write_stages("mini", run)
    with pytest.raises(StudyError, match=r"assumption horses: .* expected some of"):
        read_assumptions({"horses": 3})


def test_a_stages_peak_is_its_own(tmp_path):
    store = ArtefactStore(tmp_path)

    def hold(megabytes):
        def make(folder):
            block = np.ones(megabytes * MB, np.uint8)
            (folder / "sum.txt").write_text(str(int(block[::4096].sum())))
            note_work(pairs=megabytes)

        return make

    made = {}
    for megabytes in (300, 5):
        artefact = store.get_or_make("held", "x", {"megabytes": megabytes}, hold(megabytes))
        made[megabytes] = json.loads((artefact / "made.json").read_text())
        assert made[megabytes]["work"] == {"pairs": megabytes}
    with PeakMemory() as block:
        pass
    if not block.exact:
        pytest.skip("SKIPPED, NOT TESTED: this system does not set the peak back")
    assert made[300]["peak_rss_mb"] - made[5]["peak_rss_mb"] > 250
    # The process as a whole does not forget.
    assert peak_memory_mb() >= made[300]["peak_rss_mb"]


def test_pages_of_mapped_files_are_not_a_process_own(tmp_path):
    np.ones(200 * MB, np.uint8).tofile(tmp_path / "ones.bin")
    with PeakMemory() as block:
        mapped = np.memmap(tmp_path / "ones.bin", np.uint8, "r")
        assert mapped[::512].sum(dtype=np.int64) == len(mapped) // 512
    with PeakMemory() as held:
        copied = np.array(mapped)
    if not (block.exact and block.own_mb):
        pytest.skip("SKIPPED, NOT TESTED: this system does not tell what a process itself holds")
    assert block.mb - block.own_mb > 150
    assert held.own_mb - block.own_mb > 150
    del copied


def test_nested_blocks_count_what_the_inner_ones_held():
    with PeakMemory() as outer:
        before = peak_memory_mb()
        with PeakMemory() as inner:
            np.ones(200 * MB, np.uint8)
        with PeakMemory() as later:
            pass
    if not outer.exact:
        pytest.skip("SKIPPED, NOT TESTED: this system does not set the peak back")
    assert outer.mb >= inner.mb > later.mb + 150
    assert peak_memory_mb() >= max(before, inner.mb)


def test_a_stage_that_went_on_after_a_kill_says_so(tmp_path):
    store = ArtefactStore(tmp_path)

    def make(folder):
        if not (folder / "half").exists():
            (folder / "half").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make("stage", "x", {}, make)
    artefact = store.get_or_make("stage", "x", {}, make)
    assert json.loads((artefact / "made.json").read_text())["resumed"] is True
    other = store.get_or_make("stage", "y", {"n": 1}, lambda folder: None)
    assert "resumed" not in json.loads((other / "made.json").read_text())
