"""The whole pipeline on a generated benchmark: tables, seeds, kills, options; then real photos."""

import logging
import shutil
import signal
import textwrap
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest

from blcf_utils import experiments
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import average_precision, evaluate
from blcf_utils.search.looking import queries_by_gain
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import open_study

PROFILE = """
    name: toy
    datasets: [toy]
    features:
      backbone: {name: squeezenet1_1, layer: fire3, weights: random}
      longest_side: 96
      batch_size: 4
      device: cpu
    whitening: {dimensions: 64}
    codebook: {words: 60, iterations: 6}
    sift: {words: 16, keypoints: 80, iterations: 4, verification: {images: 6, least: 4}}
    expansion: {images: 2}
    sum_pooling: {full_layer: conv1, full_longest_side: 128}
    compare_backbones:
      - {name: squeezenet1_1, layer: conv1, weights: random}
    seed: 1
"""


@pytest.fixture
def profile(tmp_path, toy_root, store, monkeypatch):
    """The path of a small profile; datasets, cache and results are the test's own."""
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    path = tmp_path / "toy.yaml"
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return str(path)


def measured(folder):
    """What a run must reproduce: the measured cells and the AP of every query, as text."""
    tables = {
        path.name: pd.read_csv(path, dtype=str)[["row", "column", "measured", "status"]].to_csv()
        for path in sorted((folder / "tables").glob("t0*.csv"))
    }
    per_query = {p.name: p.read_bytes() for p in sorted((folder / "per_query").glob("*"))}
    assert tables
    assert per_query
    return tables, per_query


def test_a_study_measures_its_tables(profile):
    study = open_study(profile)
    assert study.datasets == ("toy",)
    described = study.describe().loc["toy"]
    assert (described["images"], described["queries"], described["K"]) == (18, 5, 60)
    table = experiments.search_table(study)
    for mode in ("gs", "ls"):
        rankings = study.open("toy").search(mode)
        expected = study.open("toy").evaluate(rankings).mean
        cell = table[(table["row"] == mode.upper()) & (table["column"] == "toy")]
        assert cell["status"].tolist() == ["measured"]
        assert float(cell["measured"].iloc[0]) == pytest.approx(expected, abs=1e-4)
        assert expected > 0.3
    assert (table.loc[table["column"] == "oxford5k", "measured"].isna()).all()
    pooled = experiments.pooling_table(study)
    rows = set(pooled.loc[(pooled["column"] == "toy") & (pooled["status"] == "measured"), "row"])
    pools = ("as ours", "plain", "as in [20]", "as in [20], plain")
    methods = ("Ours", *(f"Sum pool ({how})" for how in pools))
    assert rows == {f"{method} {mode}" for method in methods for mode in ("GS", "LS")}
    counted = experiments.datasets_table(study)
    toy_rows = counted[counted["row"] == "toy"].set_index("column")["measured"]
    assert float(toy_rows["images"]) == 18
    assert float(toy_rows["queries"]) == 5
    assert float(toy_rows["instances"]) == 4
    efficiency = experiments.efficiency_table(study)
    values = efficiency[efficiency["column"] == "toy"].set_index("row")["measured"]
    index = study.open("toy").index()
    assert float(values["memory (MB)"]) == pytest.approx(index.nbytes / 1e6, rel=0.05)
    assert float(values["words/image"]) == pytest.approx(index.entries / 18, rel=0.05)
    assert values["re-ranking (s)"] > values["query/time (s)"] > 0
    maps = study.open("toy").maps
    held = sum(len(np.unique(maps.map(i))) for i in range(18))
    assert index.entries == held
    localised = experiments.localisation_table(study).set_index(["row", "column"])["measured"]
    found = {row: float(localised[row, "toy"]) for row in localised.index.get_level_values(0)}
    assert 0 < found["re-ranking's window"] <= found["the best of all windows"] <= 1
    fused = experiments.fusion_table(study)
    assert (fused.loc[fused["column"] == "toy", "status"] == "measured").sum() == 8
    seconds = fused[fused["column"] == "toy"].set_index("row")["seconds"].astype(float)
    assert (seconds > 0).all()
    assert seconds["merged"] >= seconds["BLCF"] + seconds["SIFT-BoW"] - 1e-3
    merged = fused.set_index(["row", "column"]).loc[("merged", "toy"), "measured"]
    assert float(merged) == pytest.approx(
        study.open("toy").evaluate(study.open("toy").fused()).mean, abs=1e-4
    )
    curve = experiments.fusion_curve(study.open("toy"), steps=3)
    assert curve.loc[0.5, "verified matches"] == pytest.approx(float(merged), abs=1e-4)
    networks = experiments.backbones_table(study)
    assert set(networks["row"]) == {
        "squeezenet1_1 fire3 (random)",
        "squeezenet1_1 conv1 (random)",
    }
    measured_cells = networks[networks["status"] == "measured"]
    assert set(measured_cells["column"]) == {"toy/gs", "toy/ls", "toy/sum-gs", "toy/sum-ls"}
    # Without another dataset to learn on nothing is compared.
    waiting = networks[networks["column"].isin(["toy/whitened-ls", "toy/rmac-ls", "toy/crow-ls"])]
    assert len(waiting) == 2 * 3
    assert waiting["status"].str.contains("has no other dataset").all()
    ids = experiments.complete_tables(study)
    assert {path.stem for path in (study.results / "tables").glob("t*.csv")} <= set(ids)
    assert experiments.summary_table(study, ids).loc["t02_blcf_search", "measured cells"] == 20


def test_both_ways_of_resizing_are_searched(profile):
    side = {"features.longest_side": 40}  # smaller than the images
    study = open_study(profile, side)
    table = experiments.resizing_table(study, study.datasets).set_index(["row", "column"])
    for resize in ("antialias", "plain"):
        bench = open_study(profile, {**side, "features.resize": resize}).open("toy")
        for mode in ("gs", "ls"):
            cell = table.loc[resize, f"toy/{mode}"]
            assert cell["measured"] == bench.evaluate(bench.search(mode)).mean
            assert cell["config_digest"] == bench.config_digest()


def test_the_same_seed_gives_the_same_table_and_another_other_words(profile, tmp_path, monkeypatch):
    runs = []
    for number in (1, 2):
        monkeypatch.setenv("BLCF_CACHE", str(tmp_path / f"cache{number}"))
        monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / f"results{number}"))
        study = open_study(profile)
        experiments.search_table(study)
        experiments.pooling_table(study)
        runs.append((measured(study.results.folder), study.open("toy").codebook))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1].centroids, runs[1][1].centroids)
    other = open_study(profile, {"seed": 2}).open("toy").codebook
    assert other.key != runs[0][1].key
    assert not np.allclose(other.centroids, runs[0][1].centroids)
    sampled = {"whitening.max_descriptors": 300}
    first, second = (
        open_study(profile, {**sampled, "seed": s}).open("toy").whitening for s in (1, 2)
    )
    assert not np.allclose(first.mean, second.mean, atol=1e-6)


RUN = """
    import sys
    from blcf_utils import experiments
    from blcf_utils.study.study import open_study
    study = open_study(sys.argv[1])
    experiments.search_table(study)
    experiments.pooling_table(study)
"""


def test_a_study_killed_at_any_time_ends_with_the_same_tables(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "uninterrupted"))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "expected"))
    study = open_study(profile)
    started = time.perf_counter()
    experiments.search_table(study)
    experiments.pooling_table(study)
    whole = time.perf_counter() - started
    expected = measured(study.results.folder)

    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "interrupted"))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "found"))
    rng, kills = np.random.default_rng(), 0
    for _ in range(3):
        child = processes.start(RUN, profile)
        time.sleep(rng.uniform(0, whole))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
    assert kills
    study = open_study(profile)
    experiments.search_table(study)
    experiments.pooling_table(study)
    assert measured(study.results.folder) == expected
    leftovers = [p for p in (tmp_path / "interrupted").rglob("*") if ".partial" in p.name]
    assert leftovers == []


def test_results_are_made_once_and_shared(profile, caplog):
    study = open_study(profile)
    assert study.open("toy").index() is study.open("toy").index()
    other = study.changed({"features.backbone.layer": "conv1"})
    assert other.open("toy").dataset is study.open("toy").dataset
    more = study.open("toy").changed({"codebook.words": 30})
    assert more.features is study.open("toy").features
    assert more.maps is not study.open("toy").maps
    assert other.open("toy").features.channels == 64 != study.open("toy").features.channels
    # conv1 has 64 channels: as many as the profile's whitening keeps; a wider wish is cut down.
    wide = open_study(profile, {"whitening.dimensions": 512})
    assert wide.open("toy").whitening.dimensions <= 128
    with caplog.at_level(logging.INFO, "blcf"):
        open_study(profile).open("toy").index()
    lines = [r.getMessage() for r in caplog.records if "reused" in r.getMessage()]
    assert {line.split()[0] for line in lines} >= {"features", "whitening", "codebook", "index"}


def test_words_can_be_learned_on_another_set(profile, toy_root, tmp_path, monkeypatch):
    both = tmp_path / "both"
    for name in ("toy", "teacher"):
        shutil.copytree(toy_root / "toy", both / name)
    for path in (both / "teacher" / "images").glob("other_*"):
        path.write_bytes((both / "teacher" / "images" / "p0_0.jpg").read_bytes())
    monkeypatch.setenv("BLCF_DATA", str(both))
    own = open_study(profile)
    taught = open_study(profile, {"learn_on.toy": "teacher"})
    assert own.open("toy").features.key == taught.open("toy").features.key
    assert (
        own.open("toy").codebook.key
        != taught.open("toy").codebook.key
        == taught.open("toy").teacher.codebook.key
    )
    assert not np.array_equal(own.open("toy").index().offsets, taught.open("toy").index().offsets)
    assert own.open("toy").config_digest() != taught.open("toy").config_digest()


def test_idf_weighs_words_on_both_sides(profile):
    plain, weighted = open_study(profile), open_study(profile, {"encoding.idf": True})
    index = weighted.open("toy").index()
    assert plain.open("toy").index().factors is None
    holders = plain.open("toy").index().holders
    expected = np.where(holders > 0, np.log(18 / np.maximum(holders, 1)), 0)
    np.testing.assert_allclose(index.factors, expected, rtol=1e-5)
    query = weighted.open("toy").dataset.queries[0]
    first = weighted.open("toy").search("gs")[query.id]
    assert first.scores[0] == pytest.approx(1, abs=1e-5)
    assert not np.allclose(first.scores, plain.open("toy").search("gs")[query.id].scores)


@pytest.mark.parametrize(
    "setting",
    [
        {"features.longest_side": 64},
        {"codebook.words": 30},
        {"encoding.interpolate": 1},
        {"encoding.box": "mask"},
        {"features.backbone.layer": "fire2"},
        {"sum_pooling.whiten": True, "sum_pooling.dimensions": 5},
        {"reranking.images": 3},
        {"sift.keypoints": 50},
    ],
)
def test_settings_change_the_digest_and_still_measure(profile, setting):
    base, changed = open_study(profile), open_study(profile, setting)
    assert changed.open("toy").config_digest() != base.open("toy").config_digest()
    bench = changed.open("toy")
    for rank in (bench.search, bench.sum_pooling):
        assert 0 < bench.evaluate(rank("ls")).mean <= 1


def test_queries_are_ordered_by_what_they_gain(profile):
    study = open_study(profile)
    better, than = (study.open("toy").evaluate(study.open("toy").search(m)) for m in ("ls", "gs"))
    gains = [
        better.per_query[q.id] - than.per_query[q.id]
        for q in queries_by_gain(study.open("toy").dataset, better, than)
    ]
    assert gains == sorted(gains, reverse=True)
    aps = [better.per_query[q.id] for q in queries_by_gain(study.open("toy").dataset, better)]
    assert aps == sorted(aps, reverse=True)


def test_names_are_checked(profile):
    study = open_study(profile)
    assert study.open() is study.open("toy")
    with pytest.raises(StudyError, match="dataset of profile toy 'tom': expected one of toy"):
        study.open("tom")
    with pytest.raises(
        StudyError, match="recipe 'global': unknown step 'global': expected one of GQE"
    ):
        study.open("toy").search("global")


def test_a_wrong_recipe_of_the_fusion_is_said_at_once(profile):
    with pytest.raises(StudyError, match="recipe 'LS \\+ X': unknown step 'X'"):
        open_study(profile, {"fusion.recipe": "LS + X"})


def test_encoding_augmented_queries_is_not_timed(profile, monkeypatch):
    study = open_study(profile)
    encode, slow = Pipeline.augmented_maps.func, []

    def slowly(bench):
        slow.append(time.sleep(0.5))
        return encode(bench)

    late = cached_property(slowly)
    late.__set_name__(Pipeline, "augmented_maps")
    monkeypatch.setattr(Pipeline, "augmented_maps", late)
    table = experiments.search_table(study, ("GS",))
    assert slow
    assert float(table.loc[table["column"] == "toy+qaug", "seconds"].iloc[0]) < 0.5


@pytest.fixture
def damaged(toy_root, tmp_path, monkeypatch, profile):
    """The toy set with one distractor that does not decode."""
    shutil.copytree(toy_root / "toy", tmp_path / "damaged" / "toy")
    (tmp_path / "damaged" / "toy" / "images" / "other_13.jpg").write_bytes(b"gone")
    monkeypatch.setenv("BLCF_DATA", str(tmp_path / "damaged"))
    return profile


def test_a_damaged_set_is_refused_before_computing(damaged, store):
    with pytest.raises(StudyError, match=r"images/other_13\.jpg"):
        open_study(damaged).open("toy").index()
    assert not list(store.root.glob("features/*"))


def test_a_damaged_set_can_be_searched_without_its_broken_image(damaged):
    study = open_study(damaged, {"features.on_corrupt": "skip"})
    assert study.open("toy").features.skipped == ("other_13.jpg",)
    table = experiments.search_table(study)
    assert (table.loc[table["column"] == "toy", "status"] == "measured").sum() == 10
    fused = experiments.fusion_table(study)
    assert (fused.loc[fused["column"] == "toy", "status"] == "measured").all()
    for query, ranking in study.open("toy").search("gs").items():
        assert sorted(ranking.images) == list(range(18)), query
        assert ranking.scores[ranking.images == 13] == 0
    assert 0 < study.open("toy").evaluate(study.open("toy").sum_pooling("gs")).mean <= 1


@pytest.mark.photos
@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "expected"), [("monuments-mini", (0.53, 0.53)), ("dvd-mini", (0.13, 0.13))]
)
def test_sum_pooling_of_real_photographs(
    shared_data, shared_weights, store, tmp_path, monkeypatch, name, expected
):
    """The mAP that an independent implementation measured with the same weights."""
    monkeypatch.setenv("BLCF_DATA", str(shared_data))
    monkeypatch.setenv("BLCF_WEIGHTS", str(shared_weights))
    path = Path(tmp_path / "real.yaml")
    path.write_text(
        f"datasets: [{name}]\n"
        "features: {backbone: {name: squeezenet1_1, layer: fire9, weights: local}}\n"
    )
    study = open_study(str(path))
    for mode, value in zip(("gs", "ls"), expected, strict=True):
        found = study.open(name).evaluate(study.open(name).sum_pooling(mode)).mean
        assert found == pytest.approx(value, abs=0.03), mode


def test_weights_of_one_byte_make_a_smaller_index_and_almost_the_same_rankings(profile):
    study = open_study(profile)
    found = experiments.index_weights(study, ["Gaussian", "L2-norm"])
    assert found.index.tolist() == [("toy", "Gaussian"), ("toy", "L2-norm")]
    assert (found["uint8: bytes"] < found["exact: bytes"]).all()
    for recipe in ("GS", "LS"):
        np.testing.assert_allclose(found[f"uint8: {recipe}"], found[f"exact: {recipe}"], atol=0.05)
    # The exact one is the study's own.
    for recipe in ("GS", "LS"):
        rankings = study.open("toy").search(recipe, weighting="Gaussian")
        whole = study.open("toy").evaluate(rankings).mean
        assert found.loc[("toy", "Gaussian"), f"exact: {recipe}"] == whole
    coarse = (
        study.changed({"encoding.index_weights": "uint8"})
        .open("toy")
        .search("GS", weighting="Gaussian")
    )
    exact = study.open("toy").search("GS", weighting="Gaussian")
    assert any((coarse[q].scores != exact[q].scores).any() for q in exact)


def test_burstiness_weighs_words_by_root_and_rarity(profile):
    study = open_study(profile)
    bench = study.open("toy")
    x12 = experiments.burstiness_table(study).set_index(["row", "column"])["measured"]
    for mode in ("gs", "ls"):
        assert x12["counts", f"toy/{mode}"] == bench.evaluate(bench.search(mode.upper())).mean

    def counts(words):
        return np.bincount(words.ravel(), minlength=bench.maps.words).astype(float)

    images = np.stack([counts(bench.maps.map(i)) for i in range(18)])
    idf = np.log(18 / np.maximum((images > 0).sum(axis=0), 1))
    rankings = {}
    for query in bench.dataset.queries:
        words, cells = bench.searcher().base.regions(query, "ls")[0]
        sides = [np.sqrt(side) * idf for side in (images, counts(words[cells]))]
        scores = sides[0] @ sides[1] / np.linalg.norm(sides[0], axis=1)
        rankings[query.id] = np.argsort(-scores.astype(np.float32), kind="stable")
    expected = evaluate(bench.dataset, rankings).mean
    assert x12["square root and idf", "toy/ls"] == pytest.approx(expected, abs=1e-9)


def test_distractors_lower_a_curve_that_ends_at_the_map(profile):
    bench = open_study(profile).open("toy")
    curve = experiments.distractor_curve(bench, counts=(2, 4))
    assert curve.index.tolist() == [2, 4, 15]  # 18 images without two positives and the query's own
    assert curve.loc[15, "LS"] == bench.evaluate(bench.search("LS")).mean
    order, found = np.random.default_rng(0).permutation(18), []
    for query in bench.dataset.queries:
        wrong = [i for i in order if i not in (*query.positives, *query.junk)][:2]
        ranking = bench.search("GS")[query.id].images
        kept = [i for i in ranking if i in wrong or i in query.positives]
        found.append(average_precision(kept, query.positives))
    assert curve.loc[2, "GS"] == pytest.approx(np.mean(found), abs=1e-12)
