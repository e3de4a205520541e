"""Tables on disk: order, bytes, published beside measured, verdicts, paired bootstrap."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.results.folder import Results
from blcf_utils.results.intervals import paired_bootstrap
from blcf_utils.results.published import load_published, number
from blcf_utils.results.shown import beside, markdown, shown_number
from blcf_utils.results.tables import (
    Measurement,
    read_per_query,
    read_table,
    wide,
    write_table,
)
from blcf_utils.results.verdicts import verdicts

VGG = {"backbone": "vgg16 conv5_1 (torchvision)"}


def sample() -> list[Measurement]:
    return [
        Measurement("LS", "instre-mini", 0.1 + 0.2, "measured", 1.5, "abc", {"q1": 0.5, "q2": 0.1}),
        Measurement("GS", "instre-mini", np.float32(0.25), "measured", 1.0, "abc"),
        Measurement("GS", "oxford5k", 0.6529, "measured", 2.0, "abc"),
        Measurement("sum pooling GS", "instre-mini", 0.31, "measured", 0.5, "def"),
        Measurement("LS + R", "instre-mini", None, "not run: no re-ranking in this profile"),
    ]


def test_rows_and_columns_keep_the_published_order_and_new_ones_follow(tmp_path):
    table = write_table("t02_blcf_search", sample(), tmp_path)
    published = load_published("t02_blcf_search")
    rows, columns = list(table["row"].unique()), list(table["column"].unique())
    assert rows == [*published["row"].unique(), "sum pooling GS"]
    assert columns == [*published["column"].unique(), "instre-mini"]
    assert len(table) == len(published) + 4  # LS, GS, LS + R and sum pooling on instre-mini


def test_same_input_same_bytes_and_full_precision(tmp_path):
    for name in ("a", "b"):
        write_table("t02_blcf_search", sample(), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert [str(f) for f in files] == [
        "per_query/t02_blcf_search.csv",
        "tables/t02_blcf_search.csv",
        "tables/t02_blcf_search.md",
    ]
    for file in files:
        content = (tmp_path / "a" / file).read_bytes()
        assert content == (tmp_path / "b" / file).read_bytes()
        assert b"\r" not in content
    text = (tmp_path / "a/tables/t02_blcf_search.csv").read_text(encoding="utf-8")
    assert "LS,instre-mini,,0.30000000000000004,measured,1.5,abc\n" in text
    assert "GS,oxford5k,0.653,0.6529,measured,2.0,abc\n" in text
    table = read_table("t02_blcf_search", tmp_path / "a").set_index(["row", "column"])
    assert table.loc[("LS", "instre-mini"), "measured"] == 0.1 + 0.2


def test_published_values_are_exactly_the_transcribed_ones(tmp_path):
    for table_id in ("t01_datasets", "t10_comparison", "t13_state_of_the_art"):
        table = write_table(table_id, [], tmp_path)
        for cell, original in zip(
            table.itertuples(), load_published(table_id).itertuples(), strict=True
        ):
            assert (cell.row, cell.column) == (original.row, original.column)
            if original.value == "":
                assert math.isnan(cell.published)
            else:
                assert cell.published == (number(original.value) or original.value)


def test_published_only_cells_say_why_they_were_not_run(tmp_path):
    why = {
        ("LS", "paris6k"): "the pair",
        "paris6k": "the column",
        "GS + R": "the row",
        "oxford5k": "the data set",
    }
    table = write_table("t02_blcf_search", sample(), tmp_path, not_run=why)
    status = table.set_index(["row", "column"])["status"]
    assert status["LS", "paris6k"] == "not run: the pair"
    assert status["LS + R", "paris6k"] == "not run: the column"
    assert status["GS + R", "paris6k+qaug"] == "not run: the row"
    assert status["LS", "oxford5k+qaug"] == "not run: the data set"
    assert status["LS", "paris6k+qaug"] == "not run: the column"
    assert status["GS", "oxford5k"] == "measured"
    bare = write_table("t02_blcf_search", sample(), tmp_path)
    assert bare.set_index(["row", "column"])["status"]["LS", "paris6k"] == (
        "not run: not in this profile"
    )


def test_the_page_never_shows_a_number_under_another_dataset(tmp_path):
    table = write_table("t02_blcf_search", sample(), tmp_path)
    cells = beside(table).cells
    theirs = ["oxford5k", "oxford5k+qaug", "paris6k", "paris6k+qaug"]
    assert list(cells.columns) == [
        ("Measured", "oxford5k"),
        ("Measured", "instre-mini"),
        *(("Published", name) for name in theirs),
    ]
    assert cells.loc["GS", ("Measured", "oxford5k")] == "0.653"
    assert cells.loc["LS", ("Measured", "oxford5k")] == "*"
    assert cells.loc["LS", ("Measured", "instre-mini")] == "0.300"
    assert cells.loc["sum pooling GS", ("Published", "paris6k")] == "–"
    page = (tmp_path / "tables/t02_blcf_search.md").read_text(encoding="utf-8")
    assert "| LS | \\* | 0.300 (+0.050) | 0.738 (+0.085) | 0.758 (+0.061) |" in page
    write_table("t02_blcf_search", sample(), tmp_path, decimals=1)
    page = (tmp_path / "tables/t02_blcf_search.md").read_text(encoding="utf-8")
    assert "| LS | \\* | **0.3** (+0.050) | 0.738 (+0.085) |" in page


def test_the_best_of_a_column_is_marked_and_differences_are_to_the_first_row(tmp_path):
    shown = beside(write_table("t02_blcf_search", sample(), tmp_path))
    best = {column: row for row, column in shown.best}
    assert best["Measured", "instre-mini"] == "sum pooling GS"
    # Slide "Quantitative Evaluation": the highest of the four columns.
    assert best["Published", "oxford5k"] == "LS + R + LQE"
    assert best["Published", "oxford5k+qaug"] == "LS + R + GQE"
    assert ("Measured", "oxford5k") not in best  # one value is no best
    assert shown.first == "GS"
    assert shown.gains["LS + R", ("Published", "paris6k")] == f"{0.815 - 0.699:+.3f}"
    assert ("GS", ("Published", "paris6k")) not in shown.gains
    assert "<b>0.310</b><br><small>+0.060</small>" in shown._repr_html_()
    # Of a table of more than mAP, its columns of mAP have a best one.
    cells = [
        Measurement(row, f"set/{column}", value)
        for row, value in (("a", 0.5), ("b", 0.25))
        for column in ("ls", "bytes per image")
    ]
    of_size = beside(write_table("x04_compactness", cells, tmp_path))
    assert of_size.best == {("a", ("Measured", "set/ls"))}
    assert not of_size.gains
    # Rows that are a list of methods, and values that are no mAP, have neither.
    for table_id in ("t13_state_of_the_art", "t04_efficiency"):
        assert not beside(write_table(table_id, [], tmp_path)).gains
    assert not beside(write_table("t04_efficiency", [], tmp_path)).best


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (0.00012, "0.00012"), (12.3456, "12.35"), (3.0, "3"), (14670.4, "14670")],
)
def test_a_number_has_the_digits_that_say_something(value, text):
    assert shown_number(value, 3) == text


def test_a_sentence_says_whose_images_and_which_network(tmp_path):
    cells = [Measurement("GS", "mini-objects", 0.1), Measurement("GS", "holiday", 0.2)]
    table = write_table("t02_blcf_search", cells, tmp_path, network="squeezenet1_1 fire9 (local)")
    said = (
        "Measured on mini-objects (rendered by this study) and holiday (photographs) with "
        "squeezenet1_1 fire9 (local). Published on oxford5k and paris6k (photographs) with "
        "vgg16 conv5_1."
    )
    assert beside(table).said == said
    assert f"\n{said}\n" in (tmp_path / "tables/t02_blcf_search.md").read_text(encoding="utf-8")
    about = write_table("t01_datasets", [Measurement("mini-objects", "images", 9)], tmp_path)
    assert beside(about).said.startswith("Measured on mini-objects (rendered by this study). Publ")
    cells = [Measurement("fire9", "mini-objects/gs", 0.1)]
    of_networks = write_table("x01_backbones", cells, tmp_path, network="fire8")
    assert beside(of_networks).said == "Measured on mini-objects (rendered by this study)."


def test_rows_without_any_value_are_folded_into_one_footnote(tmp_path):
    cells = [
        Measurement("GS", "set", 0.5),
        Measurement("LS", "set", 0.6),
        Measurement("LS", "other", 0.1),
        *(Measurement(row, "other", None, "not run: no box") for row in ("LS + R", "GS")),
        Measurement("LS + R", "set", 0.4),
        *(Measurement("mine", name, None, "not run: no package") for name in ("set", "other")),
    ]
    absent = {name: f"{name} is not in profile tiny" for name in ("oxford5k", "paris6k")}
    shown = beside(write_table("t02_blcf_search", cells, tmp_path, not_run=absent))
    assert "mine" not in shown.cells.index
    assert shown.not_run == {
        "not in profile tiny": "oxford5k, paris6k",
        "no box": "GS, LS + R (other)",
        "no package": "mine",
    }
    assert shown._repr_html_().count("<details>") == 1
    page = (tmp_path / "tables/t02_blcf_search.md").read_text(encoding="utf-8")
    assert "\\* *Not run.* not in profile tiny: oxford5k, paris6k; no box: GS, LS + R (o" in page


def test_rows_of_a_group_stand_together_under_its_name(tmp_path):
    cells = [Measurement("Off-the-shelf Convolutional / mine", "set", 0.5)]
    shown = beside(write_table("t13_state_of_the_art", cells, tmp_path))
    group = shown.groups()["Off-the-shelf Convolutional"]
    assert group[-1] == "Off-the-shelf Convolutional / mine"
    text = shown._repr_html_()
    assert text.count('<tr class="group">') == 4
    assert '<th scope="row">mine</th>' in text
    page = (tmp_path / "tables/t13_state_of_the_art.md").read_text(encoding="utf-8")
    assert "| mine |" in page
    assert page.index("| CroW [20] |") < page.index("| mine |") < page.index("| Wan [103] |")


def test_a_dataset_stands_once_above_its_columns(tmp_path):
    cells = [Measurement("None", f"set/{mode}", 0.5) for mode in ("gs", "ls")]
    text = beside(write_table("t09_saliency_blcf", cells, tmp_path))._repr_html_()
    heads = [re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row) for row in text.split("<tr>")[1:4]]
    assert heads == [
        ["", "Measured", "Published"],
        ["", "set", "oxford5k", "paris6k", "instre"],
        ["row", *("gs", "ls") * 4],
    ]
    spans = re.findall(r'colspan="(\d)" class="\w+">(\w+)<', text)
    assert [int(span) for span, _ in spans] == [2, 6, 2, 2, 2, 2]


def test_a_table_without_any_value_is_only_why_it_was_not_run(tmp_path):
    cells = [Measurement("a", "set/gs", None, "not run: no time")]
    text = beside(write_table("x10_resize", cells, tmp_path))._repr_html_()
    assert "<table" not in text
    assert "<li>no time: set/gs</li>" in text


def test_text_cells_survive_and_pipes_do_not_break_the_page(tmp_path):
    measured = [
        Measurement("oxford5k", "images", 5063),
        Measurement("oxford5k", "relevant_per_instance", "6-221"),
    ]
    table = write_table("t01_datasets", measured, tmp_path)
    cells = table.set_index(["row", "column"])
    assert cells.loc[("oxford5k", "images"), "measured"] == 5063
    assert cells.loc[("oxford5k", "relevant_per_instance"), "measured"] == "6-221"
    assert cells.loc[("oxford5k", "relevant_per_instance"), "published"] == "7-220"
    page = (tmp_path / "tables/t01_datasets.md").read_text("utf-8")
    assert "| oxford5k | 5063 | 6-221 | 5063 |" in page
    frame = pd.DataFrame({"a|b": ["c|d"]}, index=pd.Index(["e"], name="row"))
    assert markdown(frame) == "| row | a\\|b |\n| --- | --- |\n| e | c\\|d |\n"


def test_wide_has_the_measured_cells_only(tmp_path):
    table = write_table("t02_blcf_search", sample(), tmp_path)
    measured = wide(table)
    assert list(measured.index) == ["GS", "LS", "sum pooling GS"]
    assert list(measured.columns) == ["oxford5k", "instre-mini"]
    assert measured.loc["LS", "instre-mini"] == 0.1 + 0.2
    assert math.isnan(measured.loc["LS", "oxford5k"])
    assert measured.dtypes.eq(float).all()
    assert wide(table, "published").shape == (10, 4)
    with pytest.raises(StudyError, match="expected one of published"):
        wide(table, "colour")


def test_per_query_aps_are_written_and_a_stale_file_goes(tmp_path):
    write_table("t02_blcf_search", sample(), tmp_path)
    assert read_per_query("t02_blcf_search", tmp_path) == {
        ("LS", "instre-mini"): {"q1": 0.5, "q2": 0.1}
    }
    text = (tmp_path / "per_query/t02_blcf_search.csv").read_text(encoding="utf-8")
    assert text == "row,column,query,ap\nLS,instre-mini,q1,0.5\nLS,instre-mini,q2,0.1\n"
    write_table("t02_blcf_search", sample()[1:], tmp_path)
    assert not (tmp_path / "per_query/t02_blcf_search.csv").exists()
    assert read_per_query("t02_blcf_search", tmp_path) == {}


def test_a_table_of_ones_own_has_no_published_values(tmp_path):
    rows = [Measurement("squeezenet1_1", "instre-mini/gs", 0.5)]
    table = write_table("x01_backbones", rows, tmp_path, title="Backbones on the same photographs")
    assert list(table["row"]) == ["squeezenet1_1"]
    assert table["published"].isna().all()
    page = (tmp_path / "tables/x01_backbones.md").read_text(encoding="utf-8")
    assert page.startswith("# x01_backbones: Backbones on the same photographs\n")
    assert "published |" not in page
    assert "Published" not in page


def test_bad_measurements_are_refused(tmp_path):
    with pytest.raises(StudyError, match="finite"):
        Measurement("GS", "oxford5k", float("nan"))
    with pytest.raises(StudyError, match="finite"):
        Measurement("GS", "oxford5k", 0.5, per_query={"q": float("inf")})
    with pytest.raises(StudyError, match="not run: <why>"):
        Measurement("GS", "oxford5k", None)
    with pytest.raises(StudyError, match="found 'skipped'"):
        Measurement("GS", "oxford5k", None, "skipped")
    with pytest.raises(StudyError, match=r"found 'not run: x' and 0\.5"):
        Measurement("GS", "oxford5k", 0.5, "not run: x")
    with pytest.raises(StudyError, match="blank name"):
        Measurement("", "oxford5k", 0.5)
    with pytest.raises(StudyError, match="two measurements of row 'GS', column 'oxford5k'"):
        write_table("t02_blcf_search", [sample()[2]] * 2, tmp_path)
    with pytest.raises(StudyError, match="unknown table"):
        write_table("t14_more", [], tmp_path)
    with pytest.raises(StudyError, match="found True"):
        write_table("x01_backbones", [Measurement("a", "b", True)], tmp_path)
    with pytest.raises(StudyError, match=r"no such file; run the notebook"):
        read_table("t02_blcf_search", tmp_path / "nowhere")
    (tmp_path / "tables").mkdir(exist_ok=True)
    (tmp_path / "tables/t03_trecvid.csv").write_text("row,value\n", encoding="utf-8")
    with pytest.raises(StudyError, match="found row,value"):
        read_table("t03_trecvid", tmp_path)


def test_a_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    write_table("t02_blcf_search", sample(), tmp_path)
    before = (tmp_path / "tables/t02_blcf_search.csv").read_bytes()

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(StudyError, match="disk full"):
        write_table("t02_blcf_search", sample()[:2], tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "tables/t02_blcf_search.csv").read_bytes() == before
    assert [p.name for p in (tmp_path / "tables").iterdir() if p.name.startswith(".")] == []


def verdict_of(tmp_path, value, *, context=None, row="GS", column="oxford5k", table=None):
    table = table or "t02_blcf_search"
    write_table(table, [Measurement(row, column, value)], tmp_path)
    cells = verdicts(table, tmp_path, VGG if context is None else context)
    return cells.set_index(["row", "column"]).loc[(row, column)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.653, "reproduced"),
        (0.663, "reproduced"),
        (0.6631, "close"),
        (0.623, "close"),
        (0.6229, "differs"),
        (0.9, "differs"),
    ],
)
def test_verdict_on_the_same_dataset_and_backbone(tmp_path, value, expected):
    cell = verdict_of(tmp_path, value)
    assert cell["verdict"] == expected
    assert cell["difference"] == pytest.approx(value - 0.653)
    assert cell["tolerance"] == 0.01
    assert "drift" in cell["reason"]


def test_verdicts_compare_like_with_like_only(tmp_path):
    def why(**given):
        return verdict_of(tmp_path, 0.653, **given)["verdict"]

    assert why(column="instre-mini") == ("not comparable: the slides have no value for this cell")
    assert why(context={"backbone": "squeezenet1_1 features.12 (local)"}) == (
        "not comparable: measured with squeezenet1_1 features.12 (local), "
        "published with vgg16 conv5_1"
    )
    assert why(context={"backbone": "vgg16 conv5_2 (torchvision)"}).startswith("not comparable")
    assert why(context={"backbone": "vgg16 conv5_1 (random)"}).startswith(
        "not comparable: measured with random weights"
    )
    assert why(context={}) == "not comparable: the run's backbone was not given"
    assert why(table="t03_trecvid", row="Sum pool (as in [20]) GS") == (
        "not comparable: measured with vgg16 conv5_1 (torchvision), published with vgg16 pool5"
    )
    assert why(table="t10_comparison", row="R-MAC [35]").startswith(
        "not comparable: the slides do not name the network"
    )
    assert why(table="t04_efficiency", row="query/time (s)") == (
        "not comparable: the slides' hardware is not stated"
    )
    # SIFT involves no network, so the backbone of the run does not matter.
    assert why(table="t05_sift_fusion", row="SIFT-BoW", context={}) == "differs"
    cells = verdicts("t05_sift_fusion", tmp_path, VGG).set_index(["row", "column"])
    assert cells.loc[("BLCF", "instre"), "verdict"] == "not run: not in this profile"


def test_what_pools_large_images_is_judged_by_its_own_layer(tmp_path):
    full = {**VGG, "full resolution": "vgg16 pool5 (torchvision)"}
    sums = {"table": "t08_saliency_sum_pooling", "row": "None", "column": "oxford5k/gs"}
    assert verdict_of(tmp_path, 0.680, context=full, **sums)["verdict"] == "reproduced"
    assert verdict_of(tmp_path, 0.680, **sums)["verdict"] == (
        "not comparable: measured with vgg16 conv5_1 (torchvision), published with vgg16 pool5"
    )
    row = {"table": "t03_trecvid", "row": "Sum pool (as in [20]) GS"}
    assert verdict_of(tmp_path, 0.672, context=full, **row)["verdict"] == "reproduced"
    assert verdict_of(tmp_path, 0.653, context=full)["verdict"] == "reproduced"  # conv5_1, t02
    results = Results(tmp_path, *full.values())
    results.table(sums["table"], [Measurement("None", "instre-mini/gs", 0.5)])
    told = (tmp_path / f"tables/{sums['table']}.md").read_text(encoding="utf-8")
    assert "with vgg16 pool5 (torchvision)." in told
    results.table("t02_blcf_search", [Measurement("GS", "instre-mini", 0.5)])
    told = (tmp_path / "tables/t02_blcf_search.md").read_text(encoding="utf-8")
    assert "with vgg16 conv5_1 (torchvision)." in told


def test_relative_tolerance_and_text(tmp_path):
    words = {"table": "t04_efficiency", "row": "words/image"}
    assert verdict_of(tmp_path, 179, **words)["verdict"] == "reproduced"  # 5 % of 171 is 8.55
    assert verdict_of(tmp_path, 181, **words)["verdict"] == "close"
    counts = {"table": "t01_datasets", "row": "oxford5k", "context": {}}
    assert verdict_of(tmp_path, 5063, column="images", **counts)["verdict"] == "reproduced"
    assert verdict_of(tmp_path, 5062, column="images", **counts)["verdict"] == "differs"
    span = "relevant_per_instance"
    assert verdict_of(tmp_path, "7-220", column=span, **counts)["verdict"] == "reproduced"
    assert verdict_of(tmp_path, "6-221", column=span, **counts)["verdict"] == "differs"


def test_paired_bootstrap_covers_a_known_difference():
    generator = np.random.default_rng(3)
    hard = generator.normal(0.5, 0.2, 400)
    a = {f"q{i}": hard[i] + 0.05 + generator.normal(0, 0.02) for i in range(400)}
    b = {f"q{i}": hard[i] for i in reversed(range(400))}
    mean, low, high = paired_bootstrap(a, b)
    assert low < mean < high
    # Pairing removes the spread between queries: the standard error is 0.02 / sqrt(400) = 0.001.
    assert 0.003 < high - low < 0.005
    assert low < 0.05 < high
    assert paired_bootstrap(a, b) == (mean, low, high)
    assert paired_bootstrap(a, b, seed=1) != (mean, low, high)
    assert paired_bootstrap(b, a)[0] == pytest.approx(-mean)
    narrow = paired_bootstrap(a, b, level=0.5)
    assert narrow[2] - narrow[1] < high - low


def test_paired_bootstrap_has_its_nominal_coverage():
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        d = generator.normal(0.1, 0.3, 40)
        a, b = dict(enumerate(d)), dict.fromkeys(range(40), 0.0)
        _, low, high = paired_bootstrap(a, b, samples=400, seed=trial)
        inside += low <= 0.1 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_paired_bootstrap_uses_shared_queries_only():
    a, b = {"a": 0.5, "b": 0.9, "c": 0.2}, {"c": 0.1, "a": 0.4, "d": 0.0}
    assert paired_bootstrap(a, b) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(StudyError, match="found none among 1 and 2"):
        paired_bootstrap({"a": 1.0}, {"b": 1.0, "c": 0.5})
