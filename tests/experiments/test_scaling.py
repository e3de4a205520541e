"""Drawn bags of words, databases that grow, and the model of their cost."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from blcf_utils import experiments
from blcf_utils.datasets.base import Dataset
from blcf_utils.experiments.drawn import bags
from blcf_utils.experiments.drawn.bags import (
    CHUNK,
    first_rows,
    synthetic_bags,
    synthetic_database,
)
from blcf_utils.experiments.drawn.checks import Measured, laws_table, likeness, photographs_law
from blcf_utils.experiments.drawn.curves import MODES, Sized, SizedDatabase, ranks_of, round_size
from blcf_utils.experiments.drawn.law import BagLaw, bag_counts, by_frequency, measure_law
from blcf_utils.experiments.drawn.model import (
    Machine,
    assumptions,
    extrapolate,
    fit_costs,
    fit_line,
    fit_power,
)
from blcf_utils.ground.errors import StudyError
from blcf_utils.plots.scaling import _short
from blcf_utils.results.tables import read_per_query, read_table
from blcf_utils.study.study import open_study

LAW = BagLaw(
    words=300, offset=5.0, exponent=0.6, tail=0.5, mean=40.0, deviation=8.0, most=80,
    repeated=0.8, repeated_slope=-0.1, spread=0.9, positions=400, images=500, source="a test",
)  # fmt: skip


def counts_of(histograms: sparse.csr_array) -> sparse.csr_array:
    """How often each image repeats each word, where it holds some word once."""
    smallest = np.minimum.reduceat(histograms.data, histograms.indptr[:-1])
    data = np.rint(histograms.data / np.repeat(smallest, np.diff(histograms.indptr)))
    parts = data.astype(np.int32), histograms.indices, histograms.indptr
    return sparse.csr_array(parts, shape=histograms.shape)


def rows_equal(one: sparse.csr_array, other: sparse.csr_array) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("indptr", "indices", "data")
    )


@pytest.mark.parametrize("order", [None, np.random.default_rng(3).permutation(300)])
def test_drawn_images_are_bags_of_distinct_words_at_unit_length(order):
    (drawn,) = synthetic_bags(LAW, 400, seed=4, order=order)
    assert drawn.shape == (400, 300)
    assert drawn.dtype == np.float32
    for start, end in zip(drawn.indptr[:-1], drawn.indptr[1:], strict=True):
        assert np.all(np.diff(drawn.indices[start:end]) > 0)
        assert 1 <= end - start <= LAW.most
    squares = np.add.reduceat(drawn.data.astype(float) ** 2, drawn.indptr[:-1])
    np.testing.assert_allclose(squares, 1, rtol=1e-5)
    counts = counts_of(drawn).data
    assert counts.min() == 1
    assert counts.max() <= LAW.positions


def test_a_seed_s_images_are_the_same_however_many_are_drawn(monkeypatch):
    monkeypatch.setattr(bags, "CHUNK", 100)
    long = synthetic_database(LAW, 350, seed=2)
    parts = list(synthetic_bags(LAW, 350, seed=2))
    assert [part.shape[0] for part in parts] == [100, 100, 100, 50]
    assert rows_equal(long, sparse.csr_array(sparse.vstack(parts, format="csr")))
    for number in (1, 99, 100, 101, 250):
        assert rows_equal(synthetic_database(LAW, number, seed=2), long[:number])
        assert rows_equal(first_rows(long, number), long[:number])
    assert not rows_equal(synthetic_database(LAW, 50, seed=3), long[:50])
    assert not np.array_equal(parts[0].indices[:40], parts[1].indices[:40])


def test_real_images_come_first():
    real = synthetic_database(LAW, 7, seed=9)
    whole = synthetic_database(LAW, 30, seed=1, before=real)
    assert rows_equal(whole[:7], real)
    assert rows_equal(whole[7:], synthetic_database(LAW, 23, seed=1))
    assert rows_equal(synthetic_database(LAW, 5, before=real), real[:5])
    assert CHUNK >= 1000


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 400), st.floats(0, 50), st.floats(0, 3), st.floats(0, 3), st.floats(0.05, 0.9)
)
def test_the_alias_table_holds_the_law_s_probabilities(words, offset, exponent, tail, share):
    law = replace(
        LAW, words=words, offset=offset, exponent=exponent, tail=tail, most=words,
        mean=share * words, deviation=0.1 * min(share, 1 - share) * words,
    )  # fmt: skip
    probabilities = law.probabilities()
    assert probabilities.sum() == pytest.approx(1)
    assert np.all(np.diff(probabilities) <= 1e-15)
    keep, alias = bags._alias_table(probabilities)
    drawn = keep / words
    np.add.at(drawn, alias, (1 - keep) / words)
    np.testing.assert_allclose(drawn, probabilities, atol=1e-12)
    assert law.held().sum() == pytest.approx(law.mean, rel=1e-6)
    first, second = law.beta()
    assert first / (first + second) * law.most == pytest.approx(law.mean)


def test_words_are_held_as_often_as_the_law_says():
    order = np.random.default_rng(0).permutation(300).astype(np.int32)
    drawn = synthetic_database(LAW, 8000, seed=1, order=order)
    distinct = np.diff(drawn.indptr)
    assert distinct.mean() == pytest.approx(LAW.mean, rel=0.01)
    assert distinct.std() == pytest.approx(LAW.deviation, rel=0.05)
    shares = np.bincount(drawn.indices, minlength=300)[order] / 8000
    np.testing.assert_allclose(shares, LAW.held(), atol=0.025)


def test_a_law_that_was_drawn_from_is_found_again():
    counts = counts_of(synthetic_database(LAW, 6000, seed=5))
    found = measure_law(counts, "again")
    assert (found.words, found.images, found.source) == (300, 6000, "again")
    np.testing.assert_allclose(found.held(), LAW.held(), rtol=0.08, atol=0.004)
    assert found.mean == pytest.approx(LAW.mean, rel=0.01)
    assert found.spread == pytest.approx(LAW.spread, rel=0.15)
    np.testing.assert_array_equal(
        by_frequency(counts)[:3], np.argsort(-np.bincount(counts.indices), kind="stable")[:3]
    )


def test_an_image_always_gets_its_words():
    """One word has nearly all the probability: patience ends, and the image is filled up."""
    law = replace(LAW, words=40, offset=-0.99, exponent=8.0, tail=0, mean=20, most=40, deviation=3)
    drawn = synthetic_database(law, 50, seed=0)
    assert np.diff(drawn.indptr).min() >= 8
    assert all(len(set(row.indices)) == row.nnz for row in (drawn[[i]] for i in range(50)))


def test_a_law_is_kept_as_json_and_checked(tmp_path):
    path = tmp_path / "law.json"
    LAW.save(path)
    assert BagLaw.load(path) == LAW
    with pytest.raises(StudyError, match=r"none.json: expected a JSON file of numbers"):
        BagLaw.load(tmp_path / "none.json")
    values = json.loads(path.read_text())
    for change, said in (
        ({"words": "many"}, r"words: expected int, found 'many'"),
        ({"words": True}, r"words: expected int, found True"),
        ({"mean": 90.0}, r"law of a test: its numbers describe no bags"),
    ):
        path.write_text(json.dumps({**values, **change}))
        with pytest.raises(StudyError, match=said):
            BagLaw.load(path)
    del values["tail"]
    path.write_text(json.dumps(values))
    with pytest.raises(StudyError, match=r"law.json: expected the keys .*tail.*found"):
        BagLaw.load(path)
    path.write_text("[1]")
    with pytest.raises(StudyError, match=r"found list"):
        BagLaw.load(path)


def test_the_law_of_photographs_comes_with_the_study():
    law = photographs_law()
    assert (law.words, law.images) == (4096, 1200)
    assert law.held()[0] == pytest.approx(0.235, abs=0.01)


PROFILE = """
    name: toy
    datasets: [toy]
    features:
      backbone: {name: vgg-mini, layer: conv5_1, weights: embedded}
      longest_side: 96
      batch_size: 4
      device: cpu
    whitening: {dimensions: 64}
    codebook: {words: 60, iterations: 6}
"""
TOY_LAW = replace(LAW, words=60, mean=12.0, deviation=4.0, most=30)


@pytest.fixture
def study(tmp_path, toy_root, store, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    path = tmp_path / "toy.yaml"
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return open_study(str(path))


@pytest.fixture
def database(study):
    return SizedDatabase(study, "toy", TOY_LAW)


def test_the_dataset_s_own_size_scores_as_the_study_does(study, database):
    assert len(database.wanted) == 12  # three views of four posters
    assert len(database.others) == 6
    for around in ("photographs", "photographs, then synthetic"):
        (own,) = database.measure([18], around)
        assert (own.images, own.real) == (18, 18)
        assert own.entries == study.index("toy").entries
        for mode in MODES:
            expected = study.evaluate("toy", study.search("toy", mode.upper())).per_query
            assert own.aps[mode] == pytest.approx(expected)
            assert own.map(mode) == pytest.approx(np.mean(list(expected.values())))
            held = study.searcher("toy").base
            assert own.touched[mode] > 0
            assert own.milliseconds[mode] > 0
            assert held.index.n_images == 18


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_ranks_are_those_of_the_sorted_ranking(scores, random):
    scores = np.array(scores, np.float32) / 3
    order = np.argsort(-scores, kind="stable")
    wanted = np.array(random.sample(range(len(scores)), random.randint(1, len(scores))))
    np.testing.assert_array_equal(order[ranks_of(scores, wanted)], wanted)


@pytest.mark.parametrize("around", ["synthetic", "photographs, then synthetic"])
def test_more_distractors_never_lift_a_relevant_image(database, around):
    found = database.measure([12, 40, 18, 300], around)
    assert [one.images for one in found] == [12, 18, 40, 300]
    assert [one.real for one in found] == ([12] * 4 if around == "synthetic" else [12, 18, 18, 18])
    for mode in MODES:
        for small, large in pairwise(found):
            assert all(large.aps[mode][q] <= ap + 1e-12 for q, ap in small.aps[mode].items())
    assert found[-1].bytes > found[0].bytes
    assert found[-1].map("ls") < found[0].map("ls")


def test_sizes_hold_what_is_looked_for_and_the_dataset_s_own(database):
    assert database.sizes(18, 12) == [12, 18]
    sizes = database.sizes(10_000)
    assert (sizes[0], sizes[-1]) == (18, 10_000)
    assert sizes == sorted(set(sizes))
    assert database.sizes(10, 1) == []
    assert [round_size(x) for x in (31622.8, 999.9, 12.3)] == [32000, 1000, 12]


def test_impossible_databases_are_refused(study, database, monkeypatch):
    with pytest.raises(StudyError, match=r"5 images cannot hold the 12 that queries look for"):
        database.histograms(5, "synthetic")
    with pytest.raises(StudyError, match=r"there are 18 photographs, 19 are asked for"):
        database.histograms(19, "photographs")
    with pytest.raises(StudyError, match=r"unknown surroundings 'noise'"):
        database.histograms(19, "noise")
    with pytest.raises(StudyError, match=r"the law has 300 words and toy 60"):
        SizedDatabase(study, "toy", LAW)
    with pytest.raises(StudyError, match=r"at least 20 images .* found 18"):
        SizedDatabase(study, "toy")
    dataset = study.dataset("toy")
    shots = replace(dataset, units=tuple(str(i // 2) for i in range(18)))
    monkeypatch.setattr(study, "dataset", lambda name: shots)
    with pytest.raises(StudyError, match=r"toy ranks shots"):
        SizedDatabase(study, "toy", TOY_LAW)


def test_likeness_compares_as_many_drawn_images_as_there_are(study, database):
    found = likeness(study, "toy", database)
    counts = bag_counts(study.maps("toy"))
    assert found.distinct[0].tolist() == np.diff(counts.indptr).tolist()
    assert len(found.distinct[1]) == 18
    assert found.repeats[0].sum() == pytest.approx(1)
    index = study.index("toy")
    for mode in MODES:
        words = [q[0] for q in database.queries[mode].values()]
        assert found.touched[mode][0].tolist() == [index.touched(w) for w in words]
        assert np.all(found.nearest[mode][0] <= 1 + 1e-5)
    table = found.table()
    assert table.loc["words an image", "real"] == np.diff(counts.indptr).mean()
    assert table["ratio"].notna().all()


def test_the_table_holds_what_was_measured_and_nothing_else(study, database):
    found = experiments.measure_scaling(database, 400)
    assert not database._drawn  # a million images are not kept
    table = experiments.scaling_table(study, "toy", database, found)
    ran = table[table["status"] == "measured"].set_index(["row", "column"])
    mixed = {one.images: one for one in found["photographs, then synthetic"]}
    assert max(mixed) == 400
    assert {int(row.split()[0]) for row, _ in ran.index} == {
        one.images for sizes in found.values() for one in sizes
    }
    for size, one in mixed.items():
        cell = ran.loc[f"{size} images"]["measured"]
        assert cell["toy/index (bytes)"] == one.bytes
        assert cell["toy/ls"] == one.map("ls")
        assert cell["toy/gs, ms per query"] == pytest.approx(one.milliseconds["gs"], abs=1e-6)
    assert ran.loc[("400 images", "toy/gs"), "seconds"] > 0
    aps = read_per_query("x09_scaling", study.results)["400 images", "toy/ls"]
    assert np.mean(list(aps.values())) == pytest.approx(mixed[400].map("ls"))
    assert "extrapolated" not in (study.results / "tables" / "x09_scaling.md").read_text()
    assert len(read_table("x09_scaling", study.results)) == len(table)
    beside = experiments.among_own(found)
    assert beside.index.tolist() == [one.images for one in found["photographs"]]
    assert beside.loc[12, "gs, photographs"] == beside.loc[12, "gs, synthetic"]


def costing(images: int, exponent: float = 1.0, factor: float = 1e-6) -> Sized:
    """A database whose costs follow the model exactly."""
    touched = {"gs": 10.0 * images, "ls": 2.0 * images}
    return Sized(
        images, 0, 180 * images, 1000 + 500 * images, 0.01 + 2e-6 * images,
        {mode: 0.02 + factor * entries**exponent for mode, entries in touched.items()},
        touched, {mode: {"q": 0.5} for mode in MODES}, dict.fromkeys(MODES, 1.0),
    )  # fmt: skip


def test_the_model_finds_the_costs_it_is_made_of():
    found = [costing(n) for n in (1000, 10_000, 100_000, 1_000_000)]
    model = fit_costs(found)
    assert model.measured == 1_000_000
    assert model.size.slope == pytest.approx(500)
    assert model.size.fixed == pytest.approx(1000, rel=1e-3)
    assert model.build.slope == pytest.approx(2e-6)
    assert model.linear["gs"].slope == pytest.approx(1e-6)
    assert model.sublinear["gs"].exponent == 1
    assert model.size.worst([one.images for one in found], [one.bytes for one in found]) < 1e-6
    table = extrapolate(model, [10**9], Machine(memory=50e9, round_trip=0.4, bandwidth=1e9))
    line = table.loc[10**9]
    assert line["index (GB)"] == pytest.approx(500)
    assert line["shards"] == 11  # 500.000001 GB
    assert line["network (ms)"] == pytest.approx(0.4 + 1e3 * 11 * 1200 / 1e9)
    assert line["gs (ms)"] == pytest.approx(
        0.02 + 1e-6 * 10 * 1e9 / 11 + line["network (ms)"], rel=1e-3
    )
    assert line["gs (ms)"] > line["ls (ms)"]
    text = assumptions(model)
    assert "measured up to    1,000,000 images; everything beyond is extrapolated" in text
    assert "500 bytes an image" in text
    assert "none was measured" in text
    assert "gs, skipping (ms)" not in table
    assert max(model.errors.values()) < 1e-6
    # A measured size that lies off the line is said.
    off = fit_costs([*found[:-1], replace(found[-1], bytes=2 * found[-1].bytes)])
    assert off.errors["size"] > 0.2


def test_a_search_that_skips_is_fitted_with_its_own_exponent():
    found = [costing(n, 0.7, 1e-4) for n in (1000, 3000, 10**4, 10**5, 10**6, 10**7)]
    model = fit_costs(found)
    assert model.sublinear["gs"].exponent == pytest.approx(0.7, abs=0.02)
    far = extrapolate(model, [10**9], Machine(memory=1e15)).loc[10**9]
    assert far["gs, skipping (ms)"] == pytest.approx(0.5 + 1e-4 * 1e10**0.7, rel=0.05)
    assert far["gs, skipping (ms)"] < far["gs (ms)"]
    assert "gs: entries to the power 0.7" in assumptions(model)
    assert (
        fit_costs([costing(10**k, 0.98, 1e-4) for k in range(3, 8)]).sublinear["gs"].exponent == 1
    )
    # Times that hardly move tell no exponent: then the curve is the line.
    assert fit_power([1, 2, 3, 4, 5], [1, 1.01, 1.02, 1.03, 1.04]).exponent == 1


def test_one_size_is_no_line():
    with pytest.raises(StudyError, match=r"at least two measured sizes"):
        fit_line([1000, 1000], [1.0, 2.0])
    assert fit_line([1, 2, 3], [3.0, 2.0, 1.0]).slope == 0


def test_pictures_of_growing_databases(study, database):
    from blcf_utils import plots

    found = experiments.measure_scaling(database, 100)
    mixed = found["photographs, then synthetic"]
    model = fit_costs([costing(n) for n in (100, 1000)])
    figure = plots.plot_costs_by_size(mixed, model)
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "index (MB)",
        "build (s)",
        "query, first 100 (ms)",
    ]
    sizes = figure.axes[0].lines[0].get_xdata()
    assert sizes.tolist() == [one.images for one in mixed]
    styles = [line.get_linestyle() for line in figure.axes[0].lines]
    assert styles == ["None", "-", "--"]  # measured points, the fit, beyond it
    assert figure.axes[0].lines[2].get_xdata().min() == pytest.approx(model.measured)
    assert len(plots.plot_costs_by_size(mixed).axes[0].lines) == 1
    curve = plots.plot_map_by_size(found, 18).axes[1]
    np.testing.assert_allclose(curve.lines[2].get_ydata(), [one.map("ls") for one in mixed])
    plots.plot_likeness(likeness(study, "toy", database))
    law = photographs_law()
    points, line = plots.plot_laws({law.words: Measured(law, law.held() / 2)}).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), law.held())
    np.testing.assert_allclose(points.get_ydata()[0], law.held()[0] / 2)
    assert [_short(x) for x in (10, 1000, 1e6, 1e9)] == ["10", "1k", "1M", "1G"]
    assert laws_table({}).columns.tolist() == ["4,096, photographs"]


def test_a_dataset_without_other_photographs_grows_too(study, database):
    """Every image is looked for: there is nothing to compare drawn distractors with."""
    everyone = Dataset(
        "toy",
        study.dataset("toy").root,
        study.dataset("toy").images,
        tuple(
            replace(q, positives=tuple(range(18)), junk=())
            for q in study.dataset("toy").queries[:2]
        ),
    )
    study.dataset = lambda name: everyone
    study.searcher = type(study).searcher.__get__(study)
    full = SizedDatabase(study, "toy", TOY_LAW)
    assert len(full.others) == 0
    assert [one.images for one in full.measure([18, 50])] == [18, 50]
    assert all(not len(found[0]) for found in likeness(study, "toy", full).nearest.values())
