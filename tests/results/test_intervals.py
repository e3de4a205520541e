"""Intervals of measured means: those of the evaluation, and gains over the first row."""

import pytest

from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.intervals import paired_bootstrap, show_intervals, write_intervals
from blcf_utils.results.tables import Measurement, write_table

GS = {"q1": 0.2, "q2": 0.4, "q3": 0.9}
LS = {"q1": 0.5, "q2": 0.3, "q3": 1.0}


@pytest.fixture
def table(tmp_path):
    cells = [
        Measurement(row, "toy", sum(aps.values()) / 3, per_query=aps)
        for row, aps in (("GS", GS), ("LS", LS))
    ]
    write_table("t02_blcf_search", cells, tmp_path)
    write_table("x09_counts", [Measurement("images", "toy", 3)], tmp_path, title="Counts")
    return tmp_path, write_intervals(tmp_path, ["t02_blcf_search", "x09_counts"])


def test_means_and_gains_have_the_intervals_of_their_queries(table):
    folder, intervals = table
    assert list(intervals.index) == [
        ("t02_blcf_search", "GS", "toy"),
        ("t02_blcf_search", "LS", "toy"),
    ]
    local = intervals.iloc[1]
    assert (local["mean"], local["queries"]) == (pytest.approx(0.6), 3)
    assert (local["low"], local["high"]) == pytest.approx(Evaluation(LS).interval())
    gain = paired_bootstrap(LS, GS)
    assert tuple(local[["gain", "gain_low", "gain_high"]]) == pytest.approx(gain)
    assert tuple(intervals.iloc[0][["gain", "gain_low", "gain_high"]]) == (0, 0, 0)
    written = (folder / "tables" / "intervals.csv").read_text(encoding="utf-8").splitlines()
    assert written[0] == "table,row,column,mean,low,high,queries,gain,gain_low,gain_high"
    assert len(written) == 3


def test_intervals_are_shown_with_gains_over_the_first_row(table):
    shown = show_intervals(table[1], "t02_blcf_search")
    assert shown.loc["GS", "toy"] == "0.500 [0.200, 0.900]"
    assert shown.loc["LS", "toy"].startswith("0.600 [0.300, 1.000], +0.100 [-0.100, +0.300]")
