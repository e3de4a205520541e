"""Intervals of measured means: by query, by instance, and gains over the first row."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from blcf_utils.results.intervals import (
    bootstrap,
    deciding,
    paired_bootstrap,
    read_instances,
    show_intervals,
    write_instances,
    write_intervals,
)
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
    own = bootstrap([LS])
    assert (local["low"], local["high"]) == pytest.approx((own.low, own.high))
    assert pd.isna(local["instances"])  # nobody said which query shows what
    gain = paired_bootstrap(LS, GS)
    assert tuple(local[["gain", "gain_low", "gain_high"]]) == pytest.approx(gain)
    assert tuple(intervals.iloc[0][["gain", "gain_low", "gain_high"]]) == (0, 0, 0)
    written = (folder / "tables" / "intervals.csv").read_text(encoding="utf-8").splitlines()
    assert written[0] == (
        "table,row,column,mean,low,high,queries,gain,gain_low,gain_high,instances,instance_low,"
        "instance_high,gain_instance_low,gain_instance_high"
    )
    assert len(written) == 3


def test_intervals_are_shown_with_gains_over_the_first_row(table):
    shown = show_intervals(table[1], "t02_blcf_search")
    assert shown.loc["GS", "toy"] == "0.500 [0.200, 0.900]"
    assert shown.loc["LS", "toy"].startswith("0.600 [0.300, 1.000], +0.100 [-0.100, +0.300]")


def test_an_interval_is_as_wide_as_student_says():
    rng = np.random.default_rng(0)
    for n, share in ((12, 0.1), (400, 0.05)):
        values = rng.normal(0.5, 0.1, n)
        found = bootstrap([{str(i): v for i, v in enumerate(values)}])
        assert found.low < found.mean < found.high
        error = np.std(values, ddof=1) / np.sqrt(n)
        expected = 2 * stats.t.ppf(0.975, n - 1) * error
        assert found.high - found.low == pytest.approx(expected, rel=share)


def test_few_values_are_covered_as_often_as_promised():
    """The plain percentiles of 6 values cover their mean in 85 % of all samples, not in 95 %."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        found = bootstrap([{str(i): v for i, v in enumerate(rng.normal(0, 1, 6))}])
        inside += found.low <= 0 <= found.high
    assert 0.91 <= inside / 400 <= 0.98


def test_queries_of_one_instance_are_drawn_together():
    """With equal values within an instance, nine queries of three tell what three would."""
    values = {
        f"{name}{i}": ap for name, ap in (("a", 0.2), ("b", 0.5), ("c", 0.9)) for i in range(3)
    }
    of = {query: query[0] for query in values}
    found = bootstrap([values], [of])
    three = bootstrap([{"a": 0.2, "b": 0.5, "c": 0.9}])
    assert (found.mean, found.low, found.high) == pytest.approx((three.mean, three.low, three.high))
    assert (found.units, found.unit) == (3, "instances")
    by_query = bootstrap([values])
    assert by_query.high - by_query.low < found.high - found.low
    assert deciding([values], [of]) == found
    # An instance of two queries counts twice in the mean: (3 * .2 + 3 * .5 + 1 * .9) / 7.
    del values["c1"], values["c2"]
    assert bootstrap([values], [of]).mean == pytest.approx(3 / 7)


def test_spread_within_instances_only_is_told_by_the_queries():
    values = {f"{name}{i}": ap for name in "abc" for i, ap in enumerate((0.1, 0.5, 0.9))}
    of = {query: query[0] for query in values}
    assert deciding([values], [of]) == bootstrap([values])


def test_one_unit_tells_nothing():
    found = bootstrap([{"a1": 0.4, "a2": 0.6}], [{"a1": "a", "a2": "a"}])
    assert (found.mean, found.low, found.high) == (pytest.approx(0.5), -np.inf, np.inf)


def test_sets_are_drawn_by_themselves_and_weighted():
    rng = np.random.default_rng(1)
    sets = [{str(i): v for i, v in enumerate(rng.normal(m, 0.1, 200))} for m in (0.2, 0.8)]
    found = bootstrap(sets, shares=(0.25, 0.75))
    means = [np.mean(list(values.values())) for values in sets]
    assert found.mean == pytest.approx(0.25 * means[0] + 0.75 * means[1])
    # Independent errors of 0.1 / sqrt(200) each add up in squares.
    error = 0.1 / np.sqrt(200) * np.hypot(0.25, 0.75)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_intervals_by_instance_are_written_where_instances_are_known(table):
    folder, plain = table
    write_instances(folder, {"toy": {"q1": "x", "q2": "x", "q3": "y"}})
    assert read_instances(folder) == {"toy": {"q1": "x", "q2": "x", "q3": "y"}}
    found = write_intervals(folder, ["t02_blcf_search"])
    local = found.loc["t02_blcf_search", "LS", "toy"]
    assert local["instances"] == 2
    # Two instances: (.5 + .3) / 2 and 1; the interval goes from drawing one only to the other.
    assert (local["instance_low"], local["instance_high"]) == pytest.approx((0.4, 1.0))
    pd.testing.assert_frame_equal(found.iloc[:, :7], plain.iloc[:, :7])
    assert show_intervals(found, "t02_blcf_search").loc["LS", "toy"].startswith("0.600 [0.300, 1")
