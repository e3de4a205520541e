"""The values of every seed beside the tables that are their means."""

import statistics

import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.results.folder import Results
from blcf_utils.results.seeds import show_seeds
from blcf_utils.results.tables import Measurement

VALUES = {("trained", "a/gs"): (0.25, 0.5, 0.375), ("trained", "b/gs"): (0.1, 0.1, 0.4)}


def cells(values):
    yield Measurement("plain", "a/gs", 0.3)
    for (row, column), seeds in values.items():
        yield Measurement(row, column, statistics.mean(seeds), seeds=seeds)


def test_every_seed_is_kept_and_a_table_written_again_replaces_its_own(tmp_path):
    results, path = Results(tmp_path), tmp_path / "tables/seeds.csv"
    results.table("x08_seen_instances", cells({("trained", "a/gs"): (0.125, 0.75)}))
    results.table("x07_projections", cells(VALUES))
    first = [
        "table,row,column,seed,value",
        "x07_projections,trained,a/gs,0,0.25",
        "x07_projections,trained,a/gs,1,0.5",
        "x07_projections,trained,a/gs,2,0.375",
        "x07_projections,trained,b/gs,0,0.1",
        "x07_projections,trained,b/gs,1,0.1",
        "x07_projections,trained,b/gs,2,0.4",
    ]
    other = [f"x08_seen_instances,trained,a/gs,{k},{value}" for k, value in enumerate((0.125, 0.75))]
    assert path.read_text().splitlines() == [*first, *other]
    results.table("x07_projections", cells({}))
    assert path.read_text().splitlines() == [first[0], *other]
    results.table("x08_seen_instances", cells({}))
    assert not path.exists()


def test_mean_and_deviation_are_shown(tmp_path):
    results = Results(tmp_path)
    results.table("x07_projections", cells(VALUES))
    shown = show_seeds(tmp_path, "x07_projections")
    assert shown.index.tolist() == ["trained"]
    for (row, column), seeds in VALUES.items():
        expected = f"{statistics.mean(seeds):.3f} ± {statistics.stdev(seeds):.3f}"
        assert shown.loc[row, column] == expected
        assert expected in (tmp_path / "tables/x07_projections.md").read_text()
    results.table("x08_seen_instances", cells({}))
    assert show_seeds(tmp_path, "x08_seen_instances").empty
    values = results.seeds("x07_projections").groupby(["row", "column"], sort=False)["value"]
    assert {cell: tuple(part) for cell, part in values} == VALUES


def test_a_seed_without_a_finite_value_is_refused():
    with pytest.raises(StudyError, match="expected finite numbers, found nan"):
        Measurement("trained", "a/gs", 0.5, seeds=(0.5, float("nan")))
