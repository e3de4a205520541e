"""Drawn bags of words, databases that grow, and the lines through their cost."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from blcf_utils import experiments, plots
from blcf_utils.experiments.drawn import bags, curves
from blcf_utils.experiments.drawn.bags import first_rows, synthetic_database
from blcf_utils.experiments.drawn.checks import likeness, likeness_table
from blcf_utils.experiments.drawn.curves import (
    DRAWN,
    MIXED,
    MODES,
    PHOTOGRAPHS,
    Sized,
    SizedDatabase,
    ranks_of,
)
from blcf_utils.experiments.drawn.law import (
    BagLaw,
    bag_counts,
    laws_by_words,
    laws_table,
    measure_law,
    photographs_law,
)
from blcf_utils.experiments.drawn.model import extrapolate, fit_costs
from blcf_utils.ground.errors import StudyError
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


def test_drawn_images_are_bags_of_distinct_words_at_unit_length():
    drawn = synthetic_database(LAW, 400, seed=4, order=np.random.default_rng(3).permutation(300))
    assert drawn.shape == (400, 300)
    assert drawn.dtype == np.float32
    for start, end in pairwise(drawn.indptr):
        assert np.all(np.diff(drawn.indices[start:end]) > 0)
        assert 1 <= end - start <= LAW.most
    squares = np.add.reduceat(drawn.data.astype(float) ** 2, drawn.indptr[:-1])
    np.testing.assert_allclose(squares, 1, rtol=1e-5)
    assert counts_of(drawn).data.max() <= LAW.positions


def test_a_seed_s_images_are_the_same_however_many_are_drawn(monkeypatch):
    monkeypatch.setattr(bags, "CHUNK", 100)
    long = synthetic_database(LAW, 350, seed=2)
    for number in (1, 99, 100, 101, 250):
        assert rows_equal(synthetic_database(LAW, number, seed=2), long[:number])
        assert rows_equal(first_rows(long, number), long[:number])
    assert not rows_equal(synthetic_database(LAW, 50, seed=3), long[:50])
    assert not np.array_equal(long[:100].indices[:40], long[100:200].indices[:40])


def test_real_images_come_first():
    real = synthetic_database(LAW, 7, seed=9)
    whole = synthetic_database(LAW, 30, seed=1, before=real)
    assert rows_equal(whole[:7], real)
    assert rows_equal(whole[7:], synthetic_database(LAW, 23, seed=1))
    assert rows_equal(synthetic_database(LAW, 5, before=real), real[:5])


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


def test_drawn_words_follow_the_law_and_give_it_back():
    order = np.random.default_rng(0).permutation(300).astype(np.int32)
    drawn = synthetic_database(LAW, 8000, seed=1, order=order)
    distinct = np.diff(drawn.indptr)
    assert distinct.mean() == pytest.approx(LAW.mean, rel=0.01)
    assert distinct.std() == pytest.approx(LAW.deviation, rel=0.05)
    shares = np.bincount(drawn.indices, minlength=300)[order] / 8000
    np.testing.assert_allclose(shares, LAW.held(), atol=0.025)
    found = measure_law(counts_of(drawn), "again")
    assert (found.words, found.images, found.source) == (300, 8000, "again")
    np.testing.assert_allclose(found.held(), LAW.held(), rtol=0.08, atol=0.004)
    assert found.mean == pytest.approx(LAW.mean, rel=0.01)
    assert found.spread == pytest.approx(LAW.spread, rel=0.15)


def test_an_image_always_gets_its_words():
    """One word has nearly all the probability: patience ends, and the image is filled up."""
    law = replace(LAW, words=40, offset=-0.99, exponent=8.0, tail=0, mean=20, most=40, deviation=3)
    drawn = synthetic_database(law, 50, seed=0)
    assert np.diff(drawn.indptr).min() >= 8
    assert all(len(set(row.indices)) == row.nnz for row in (drawn[[i]] for i in range(50)))


def test_the_law_of_photographs_comes_with_the_study(
    bench,
):
    law = photographs_law()
    assert (law.words, law.images) == (4096, 1200)
    assert law.held()[0] == pytest.approx(0.235, abs=0.01)


PROFILE = """
    name: toy
    datasets: [toy]
    features:
      backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded}
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
def bench(study):
    return study.open("toy")


@pytest.fixture
def database(bench, monkeypatch):
    monkeypatch.setattr(curves, "measure_law", lambda counts, name: TOY_LAW)
    return SizedDatabase(bench)


def test_the_dataset_s_own_size_scores_as_the_study_does(bench, database):
    assert len(database.wanted) == 12  # three views of four posters
    assert len(database.others) == 6
    for around in (PHOTOGRAPHS, MIXED):
        (own,) = database.measure([18], around)
        assert (own.images, own.real) == (18, 18)
        assert own.entries == bench.index().entries
        for mode in MODES:
            expected = bench.evaluate(bench.search(mode.upper())).per_query
            assert own.aps[mode] == pytest.approx(expected)
            assert own.map(mode) == pytest.approx(np.mean(list(expected.values())))
            assert own.touched[mode] > 0
            assert own.milliseconds[mode] > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_ranks_are_those_of_the_sorted_ranking(scores, random):
    scores = np.array(scores, np.float32) / 3
    order = np.argsort(-scores, kind="stable")
    wanted = np.array(random.sample(range(len(scores)), random.randint(1, len(scores))))
    np.testing.assert_array_equal(order[ranks_of(scores, wanted)], wanted)


@pytest.mark.parametrize("around", [DRAWN, MIXED])
def test_more_distractors_never_lift_a_relevant_image(database, around):
    found = database.measure([12, 40, 18, 300], around)
    assert [one.images for one in found] == [12, 18, 40, 300]
    assert [one.real for one in found] == ([12] * 4 if around == DRAWN else [12, 18, 18, 18])
    for mode in MODES:
        for small, large in pairwise(found):
            assert all(large.aps[mode][q] <= ap + 1e-12 for q, ap in small.aps[mode].items())
    assert found[-1].bytes > found[0].bytes
    assert found[-1].map("ls") < found[0].map("ls")


def test_sizes_hold_what_is_looked_for_and_the_dataset_s_own(database):
    assert database.sizes(18, 12) == [12, 18]
    assert database.sizes(100) == [18, 100]
    assert database.sizes(10_000) == [18, 1_000, 3_200, 10_000]
    with pytest.raises(StudyError, match=r"10 images cannot hold the 12 that queries look for"):
        database.sizes(10)


def test_what_cannot_be_drawn_is_refused(bench, monkeypatch):
    with pytest.raises(StudyError, match=r"at least 20 images .* found 18"):
        SizedDatabase(bench)
    everywhere = sparse.csr_array(np.ones((30, 8), np.int32))
    with pytest.raises(StudyError, match=r"fit between 0 and 8, found 8 and 0.5; take more words"):
        measure_law(everywhere)
    shots = replace(bench.dataset, units=tuple(str(i // 2) for i in range(18)))
    monkeypatch.setattr(bench, "dataset", shots)
    with pytest.raises(StudyError, match=r"toy ranks shots"):
        SizedDatabase(bench)


def test_likeness_compares_as_many_drawn_images_as_there_are(bench, database):
    alike = likeness(bench, database)
    counts, index = bag_counts(bench.maps), bench.index()
    table = likeness_table(alike)
    assert table.loc["words an image", "real"] == np.diff(counts.indptr).mean()
    assert table.loc["words once in an image", "real"] == (counts.data == 1).mean()
    assert len(alike["drawn"]["words an image"]) == 18
    for mode in MODES:
        touched = [index.touched(words) for words, _ in database.queries[mode].values()]
        assert alike["real"][f"postings of a query, {mode}"].tolist() == touched
        assert np.all(alike["real"][f"best wrong score, {mode}"] <= 1 + 1e-5)
    assert table["ratio"].notna().all()
    assert len(plots.plot_likeness(alike).axes) == 4


def test_the_table_holds_what_was_measured_and_nothing_else(study, bench, database):
    found = experiments.measure_scaling(database, 400)
    table = experiments.scaling_table(study, bench, database, found)
    cells = table.set_index(["row", "column"])["measured"]
    mixed = {one.images: one for one in found[MIXED]}
    assert max(mixed) == 400
    assert list(dict.fromkeys(int(row.split()[0]) for row in table["row"])) == sorted(
        {one.images for sizes in found.values() for one in sizes}
    )
    for size, one in mixed.items():
        assert cells[f"{size} images", "toy/index (bytes)"] == one.bytes
        assert cells[f"{size} images", "toy/ls"] == one.map("ls")
        milliseconds = cells[f"{size} images", "toy/gs, ms per query"]
        assert milliseconds == pytest.approx(one.milliseconds["gs"], abs=1e-6)
    aps = study.results.per_query("x09_scaling")["400 images", "toy/ls"]
    assert np.mean(list(aps.values())) == pytest.approx(mixed[400].map("ls"))
    beside = experiments.among_own(found)
    assert beside.index.tolist() == [one.images for one in found[PHOTOGRAPHS]]
    assert beside.loc[12, "gs, photographs"] == beside.loc[12, "gs, synthetic"]
    curve = plots.plot_map_by_size(found, 18).axes[1].lines[2]
    np.testing.assert_allclose(curve.get_ydata(), [one.map("ls") for one in found[MIXED]])


def costing(images: int) -> Sized:
    """A database whose costs lie on lines."""
    return Sized(
        images, 0, 180 * images, 1000 + 500 * images, 0.01 + 2e-6 * images,
        {"gs": 0.02 + 1e-5 * images, "ls": 0.02 + 2e-6 * images},
        {"gs": 10.0 * images, "ls": 2.0 * images},
        {mode: {"q": 0.5} for mode in MODES}, dict.fromkeys(MODES, 1.0),
    )  # fmt: skip


def test_the_lines_are_those_the_costs_are_made_of():
    found = [costing(n) for n in (1000, 10_000, 100_000, 1_000_000)]
    costs = fit_costs(found)
    assert costs["slope"].tolist() == pytest.approx([500, 2e-6, 1e-5, 2e-6])
    assert costs["fixed"].tolist() == pytest.approx([1000, 0.01, 0.02, 0.02], rel=1e-3)
    assert costs["worst"].max() < 1e-6
    line = extrapolate(costs, [10**9], memory=50e9).loc[10**9]
    assert line["index (GB)"] == pytest.approx(500)
    assert line["shards"] == 11  # 500.000001 GB
    assert line["gs (ms)"] == pytest.approx(0.02 + 1e-5 * 1e9 / 11, rel=1e-3)
    assert line["build (min)"] == pytest.approx((0.01 + 2e-6 * 1e9 / 11) / 60, rel=1e-3)
    # A measured size that lies off the line is told.
    off = fit_costs([*found[:-1], replace(found[-1], bytes=2 * found[-1].bytes)])
    assert off.loc["index (bytes)", "worst"] > 0.2
    with pytest.raises(StudyError, match=r"at least two measured sizes"):
        fit_costs(found[:1])
    # Costs that fall with the size are no line: the slope is never below 0.
    falling = [replace(costing(n), build_seconds=1 / n) for n in (1, 2, 3)]
    assert fit_costs(falling).loc["build (s)", "slope"] == 0


def test_costs_are_plotted_measured_fitted_and_extrapolated():
    found = [costing(n) for n in (100, 1000)]
    size = plots.plot_costs_by_size(found, fit_costs(found)).axes[0]
    assert [line.get_linestyle() for line in size.lines] == ["None", "-", "--"]
    assert size.lines[0].get_xdata().tolist() == [100, 1000]
    assert size.lines[2].get_xdata().min() == pytest.approx(1000)
    assert len(plots.plot_costs_by_size(found).axes[0].lines) == 1


def test_laws_of_several_codebooks_are_told_and_plotted(bench, monkeypatch):
    laws = {300: (LAW, LAW.held() / 2)}
    assert laws_table(laws).columns.tolist() == ["300", "4,096, photographs"]
    points, line = plots.plot_laws(laws).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), LAW.held())
    np.testing.assert_allclose(points.get_ydata()[0], LAW.held()[0] / 2)
    monkeypatch.setattr("blcf_utils.experiments.drawn.law.measure_law", lambda *_: TOY_LAW)
    measured = laws_by_words(bench, [30])
    assert {k: len(held) for k, (_, held) in measured.items()} == {30: 30, 60: 60}


def test_a_dataset_without_other_photographs_grows_too(bench, database, monkeypatch):
    """Every image is looked for: there is nothing to compare drawn distractors with."""
    whole = bench.dataset
    queries = [replace(q, positives=tuple(range(18)), junk=()) for q in whole.queries[:2]]
    everyone = replace(whole, queries=tuple(queries))
    monkeypatch.setattr(bench, "dataset", everyone)
    full = SizedDatabase(bench)
    assert len(full.others) == 0
    assert [one.images for one in full.measure([18, 50])] == [18, 50]
    table = likeness_table(likeness(bench, full))
    assert not any("wrong" in what for what in table.index)
