"""Weightings as stages of a study: names, caches, tables t08, t09 and x03, folders of maps."""

import textwrap
from dataclasses import replace

import cv2
import numpy as np
import pytest

from blcf_utils import experiments
from blcf_utils.config.saliency import SaliencyConfig
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.datasets.instre import misread
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import average_precision
from blcf_utils.results.published import load_published
from blcf_utils.results.tables import read_per_query
from blcf_utils.saliency.base import SaliencyModel
from blcf_utils.saliency.maps import saliency_maps
from blcf_utils.saliency.models import EMBEDDED, OFFICIAL, load_model
from blcf_utils.saliency.object_masks import object_masks
from blcf_utils.saliency.weighting import saliency_weights
from blcf_utils.search.query import Ranking
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
    expansion: {images: 2}
    seed: 1
"""
CHEAP = ("None", "Gaussian", "L2-norm", "R-MAC", "BMS")


@pytest.fixture
def open_toy(tmp_path, toy_root, shared_cache, monkeypatch):
    """Open the small profile with settings; no official weights are in reach."""
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    path = tmp_path / "toy.yaml"
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return lambda **settings: open_study(str(path), settings)


def test_every_row_of_the_thesis_is_a_weighting(open_toy):
    names = open_toy().open().weightings.names()
    for table_id in ("t08_saliency_sum_pooling", "t09_saliency_blcf"):
        assert set(load_published(table_id)["row"]) <= set(names)
    assert set(EMBEDDED) <= set(names)
    assert {name for name, why in names.items() if why} == set(OFFICIAL)
    assert "blcf weights fetch sam-vgg" in names["SAM-VGG"]


def test_without_official_weights_their_rows_say_so_and_nothing_takes_their_place(open_toy):
    study = open_toy()
    with pytest.raises(StudyError, match="SalGAN: the official weights are not here; run blcf"):
        study.open("toy").search("gs", weighting="SalGAN")
    with pytest.raises(StudyError, match=r"unknown weighting 'Salgan'.*salgan-mini"):
        study.open("toy").index("Salgan")
    with pytest.raises(StudyError, match="unknown saliency model 'x'"):
        load_model("x", SaliencyConfig())
    with pytest.raises(StudyError, match="weighs every position alike"):
        study.open("toy").weightings.attention("None")


def test_none_is_the_unweighted_search_and_a_weighting_changes_it(open_toy):
    study = open_toy()
    assert study.open("toy").weightings.weights("None") is None
    plain, none = study.open("toy").search("gs"), study.open("toy").search("gs", weighting="None")
    weighted = study.open("toy").search("gs", weighting="Gaussian")
    for query in plain:
        np.testing.assert_array_equal(plain[query].scores, none[query].scores)
    assert any(not np.array_equal(plain[q].scores, weighted[q].scores) for q in plain)
    as_setting = open_toy(**{"weighting.search": "Gaussian"}).open("toy").search("gs")
    for query in plain:
        np.testing.assert_array_equal(as_setting[query].scores, weighted[query].scores)


def test_weights_reach_reranking_and_expansion(open_toy):
    study = open_toy()
    for recipe in ("LS + R", "GS + GQE", "LS + R + LQE"):
        plain = study.open("toy").search(recipe)
        weighted = study.open("toy").search(recipe, weighting="L2-norm")
        assert any(not np.allclose(plain[q].scores, weighted[q].scores) for q in plain)
    base = study.open("toy").searcher("L2-norm").base
    np.testing.assert_array_equal(
        base.weights(3), study.open("toy").weightings.weights("L2-norm")(3)
    )


def test_weighted_histogram_by_hand(open_toy):
    study = open_toy()
    image, (words, values) = 5, study.open("toy").searcher("BMS").base.histogram(5)
    cells = study.open("toy").maps.map(image)
    weights = saliency_weights(
        study.open("toy").weightings.saliency("BMS")(image), cells.shape
    ).astype(float)
    weights /= weights.max()
    by_word = {w: weights[cells == w].sum() for w in np.unique(cells)}
    expected = np.array([by_word[w] for w in words])
    np.testing.assert_allclose(values, expected / np.linalg.norm(expected), rtol=1e-5)


def test_what_published_code_misread_is_scored_in_a_column_beside(open_toy):
    study = open_toy()
    bench = study.open("toy")
    bench.dataset = replace(bench.dataset, published_code=misread(bench.dataset))
    table = experiments.weighted_words_table(study, ("None",))
    values = table[table["status"] == "measured"].set_index("column")["measured"]
    rankings = bench.search("ls")
    assert values["toy/ls"] == bench.evaluate(rankings).mean
    shifted = [
        average_precision(rankings[query.id].images, [p + 1 for p in query.positives], query.junk)
        for query in bench.dataset.queries
    ]
    assert values["toy/ls/published code"] == pytest.approx(np.mean(shifted))
    assert values["toy/ls/published code"] != values["toy/ls"]


def test_the_saliency_work_has_a_box_rule_of_its_own(open_toy):
    alike = open_toy(**{"weighting.box": "edges"})
    assert alike.of_saliency_work is alike
    study = open_toy(**{"weighting.box": "mask"})
    words = experiments.weighted_words_table(study, ("None",)).set_index("column")
    sums = experiments.weighted_sum_pooling_table(study, ("None",)).set_index("column")
    bench, changed = study.open("toy"), open_toy(**{"encoding.box": "mask"}).open("toy")
    found, expected = study.of_saliency_work.open("toy"), changed.search("ls")
    assert words.loc["toy/ls", "config_digest"] == found.config_digest()
    assert sums.loc["toy/ls", "config_digest"] == bench.at_full_resolution().config_digest()
    for query, ranking in found.search("ls").items():
        np.testing.assert_array_equal(ranking.scores, expected[query].scores)
    edges = bench.search("ls")
    assert any(not np.array_equal(edges[q].scores, expected[q].scores) for q in edges)


def test_tables_measure_every_weighting_that_can_run(open_toy):
    study = open_toy()
    words = experiments.weighted_words_table(study)
    sums = experiments.weighted_sum_pooling_table(study)
    full = study.open("toy").at_full_resolution()
    for table, search in (
        (words, lambda mode, row: study.open("toy").search(mode, weighting=row)),
        (sums, lambda mode, row: full.sum_pooling(mode, weighting=row)),
    ):
        cells = table[table["column"].str.startswith("toy/")].set_index(["row", "column"])
        for row, why in study.open().weightings.names().items():
            for mode in ("gs", "ls"):
                cell = cells.loc[row, f"toy/{mode}"]
                if why:
                    assert cell["status"] == f"not run: {why}"
                    continue
                expected = study.open("toy").evaluate(search(mode, row)).mean
                assert float(cell["measured"]) == pytest.approx(expected, abs=1e-6)
        # Another weighting is another configuration, and says so.
        digests = cells.loc[cells["status"] == "measured", "config_digest"]
        assert digests.groupby(level="row").first().nunique() == len(CHEAP) + 1 + len(EMBEDDED)
    gains = experiments.weighting_gains(study, "t09_saliency_blcf")
    per_query = read_per_query("t09_saliency_blcf", study.results.folder)
    none, bms = (per_query[row, "toy/gs"] for row in ("None", "BMS"))
    of_query = experiments.query_gains(study, "t09_saliency_blcf", "BMS")["toy"]
    assert of_query == {q: bms[q] - none[q] for q in none}
    assert gains.loc[("toy", "BMS"), "gain"] == pytest.approx(np.mean(list(of_query.values())))
    assert ("toy", "None") not in gains.index
    with pytest.raises(StudyError, match="unknown measured weighting of t09"):
        experiments.query_gains(study, "t09_saliency_blcf", "SalGAN")


def test_t08_pools_the_last_layer_of_large_images(open_toy):
    study = open_toy(
        **{
            "features.backbone": {"name": "squeezenet1_1", "layer": "fire6", "weights": "random"},
            "sum_pooling.full_layer": "fire9",
            "sum_pooling.full_longest_side": 192,
        }
    )
    table = experiments.weighted_sum_pooling_table(study, ("None", "BMS"))
    cells = table.set_index(["row", "column"])["measured"]
    large = open_toy(
        **{
            "features.backbone": {"name": "squeezenet1_1", "layer": "fire9", "weights": "random"},
            "features.longest_side": 192,
        }
    ).open("toy")
    assert large.features.channels == 512
    weigh, sums = large.weightings.saliency("BMS"), {"None": [], "BMS": []}
    for i in range(large.features.n_database):
        cell_map = large.features.map(i)
        weights = saliency_weights(weigh(i), cell_map.shape[1:]).astype(float)
        sums["None"].append(cell_map.sum(axis=(1, 2)))
        sums["BMS"].append((cell_map * weights / weights.max()).sum(axis=(1, 2)))
    places = [large.dataset.image_index[query.image] for query in large.dataset.queries]
    queries = np.array([large.features.map(i).sum(axis=(1, 2)) for i in places])
    for row, database in sums.items():
        unit = database / np.linalg.norm(database, axis=1, keepdims=True)
        order = np.argsort(-(queries @ unit.T), axis=1, kind="stable")
        images = {q.id: Ranking(o, o) for q, o in zip(large.dataset.queries, order, strict=True)}
        expected = large.evaluate(images).mean
        assert float(cells[row, "toy/gs"]) == pytest.approx(expected, abs=1e-6)


def test_saliency_is_judged_where_boxes_are_known(open_toy):
    study = open_toy()
    dataset = study.open("toy").dataset
    dataset.boxes.update({0: (10, 5, 40, 50), 3: (0, 0, 20, 30)})
    try:
        experiments.weighted_words_table(study, CHEAP)
        experiments.weighted_sum_pooling_table(study, CHEAP)
        table = experiments.saliency_table(study)
        cells = table.set_index(["row", "column"])
        assert float(cells.loc[("BMS", "toy/seconds per image"), "measured"]) > 0
        assert cells.loc[("SalGAN", "toy/CC"), "status"].startswith("not run: the official")
        judged = read_per_query("x03_saliency_quality", study.results.folder)["Gaussian", "toy/CC"]
        # Of the two images with boxes of their own, and of the queries'.
        queries = {"p0_0.jpg", "p1_0.jpg", "p2_0.jpg", "p3_0.jpg"}
        assert set(judged) == {dataset.images[0].name, dataset.images[3].name} | queries
        mean = float(cells.loc[("Gaussian", "toy/CC"), "measured"])
        assert mean == pytest.approx(np.mean(list(judged.values())))
        quality = experiments.quality_against_map(study)
        assert list(quality.columns) == ["CC", "gain", "low", "high"]
        toy = study.open("toy")
        weighted, plain = (
            toy.evaluate(toy.search("gs", weighting=w)).mean for w in ("BMS", "None")
        )
        row = quality.loc[("words", "toy", "BMS")]
        assert row["gain"] == pytest.approx(weighted - plain, abs=1e-6)
        assert row["low"] <= row["gain"] <= row["high"]
        assert float(cells.loc[("BMS", "toy/CC"), "measured"]) == pytest.approx(row["CC"])
        assert ("sum pooling", "toy", "BMS") in quality.index
    finally:
        dataset.boxes.clear()


def test_masks_come_from_drawings_or_boxes_and_full_boxes_are_left_out(toy, tmp_path):
    from dataclasses import replace

    (tmp_path / "masks").mkdir()
    drawn = np.zeros((64, 96), np.uint8)
    drawn[10:20, 30:50] = 255
    cv2.imwrite(str(tmp_path / "masks" / f"{toy.images[0].stem}.png"), drawn)
    boxes = {0: (0, 0, 5, 5), 1: (2, 3, 10, 12), 2: (0, 0, 96, 96)}
    masks = object_masks(replace(toy, root=tmp_path, boxes=boxes))
    # Queries draw boxes in p0_0 (which has a mask), p1_0, p2_0 and p3_0; 2 is covered whole.
    drawn_by_queries = {toy.image_index[query.image] for query in toy.queries[1:4]}
    assert set(masks) == {0, 1} | drawn_by_queries
    x1, y1, x2, y2 = toy.queries[1].box
    assert masks[toy.image_index[toy.queries[1].image]]().sum() == (x2 - x1) * (y2 - y1)
    np.testing.assert_array_equal(masks[0](), drawn > 0)
    assert masks[1]().sum() == 8 * 9
    assert masks[1]()[3:12, 2:10].all()


def maps_folder(folder, dataset, level):
    """Write precomputed maps as their authors do: one PNG an image, named as the image."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(level)
    for path in dataset.images:
        cv2.imwrite(str(folder / f"{path.stem}.png"), rng.integers(0, level, (60, 90)))
    return folder


def test_a_folder_of_precomputed_maps_is_a_row_of_its_own(open_toy, tmp_path):
    dataset = open_toy().open("toy").dataset
    maps_folder(tmp_path / "maps" / "toy", dataset, 200)
    given = {"weighting.folders": {"mine": str(tmp_path / "maps" / "{dataset}")}}
    study = open_toy(**given)
    assert "mine" in study.open().weightings.names()
    seen = cv2.imread(str(tmp_path / "maps" / "toy" / f"{dataset.images[4].stem}.png"), 0)
    words = study.open("toy").maps.map(4)
    shown = study.open("toy").weightings.saliency("mine")(4)
    size = cv2.imread(str(dataset.images[4])).shape[:2]
    assert shown.shape == size
    expected = saliency_weights(shown, words.shape)
    np.testing.assert_allclose(
        study.open("toy").weightings.weights("mine")(4), expected / expected.max(), rtol=1e-6
    )
    assert abs(int(shown.max()) - int(seen.max())) <= 20
    assert not np.array_equal(
        study.open("toy").search("gs", weighting="mine")["q0"].scores,
        study.open("toy").search("gs")["q0"].scores,
    )
    key = study.open("toy").weightings.weights("mine").key
    changed = tmp_path / "maps" / "toy" / f"{dataset.images[0].stem}.png"
    cv2.imwrite(str(changed), np.full((60, 90), 7))
    assert open_toy(**given).open("toy").weightings.weights("mine").key != key


def test_the_authors_maps_stand_in_their_models_row(open_toy, tmp_path):
    maps_folder(tmp_path / "theirs", open_toy().open("toy").dataset, 90)
    study = open_toy(**{"weighting.folders": {"SalGAN": str(tmp_path / "theirs")}})
    assert study.open().weightings.names()["SalGAN"] == ""
    assert study.open("toy").weightings.weights("SalGAN")(0).max() == 1


def test_missing_precomputed_maps_are_named(open_toy, tmp_path):
    folder = maps_folder(tmp_path / "maps", open_toy().open("toy").dataset, 50)
    missing = sorted(folder.glob("*.png"))[3]
    missing.unlink()
    study = open_toy(**{"weighting.folders": {"mine": str(folder)}})
    with pytest.raises(StudyError, match=rf"{missing.stem}"):
        study.open("toy").search("gs", weighting="mine")
    gone = open_toy(**{"weighting.folders": {"mine": str(tmp_path / "nowhere")}})
    with pytest.raises(StudyError, match="nowhere"):
        gone.open("toy").search("gs", weighting="mine")


def test_maps_are_made_once_and_go_on_where_they_stopped(toy, store, monkeypatch):
    # Two threads have four images under way.
    monkeypatch.setattr("blcf_utils.saliency.maps.pool_threads", lambda: 2)
    seen = []

    def count(image):
        seen.append(image.shape)
        if len(seen) >= 9 and stop:
            raise RuntimeError("killed")
        return np.full(image.shape[:2], len(seen), np.uint8)

    stop, model = True, SaliencyModel("counting", count, {"version": 1})
    with pytest.raises(RuntimeError, match="killed"):
        saliency_maps(toy, model, store)
    stop = False
    maps = saliency_maps(toy, model, store)
    assert 18 < len(seen) <= 18 + 4  # only images that were under way are looked at again
    made = len(seen)
    again = saliency_maps(toy, model, store)
    assert len(seen) == made
    assert again.key == maps.key
    assert maps(1).shape == cv2.imread(str(toy.images[1])).shape[:2]
    other = SaliencyModel("counting", count, {"version": 2})
    assert saliency_maps(toy, other, store).key != maps.key


def test_an_unreadable_image_stops_or_is_skipped(toy, store, tmp_path):
    from dataclasses import replace

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(toy.images[0].read_bytes()[:200])
    images = replace(toy, images=(*toy.images[:2], broken), queries=(), boxes={})
    model = SaliencyModel("flat", lambda image: np.full(image.shape[:2], 9, np.uint8), {"v": 1})
    with pytest.raises(UnreadableImage, match=r"broken\.jpg"):
        saliency_maps(images, model, store)
    maps = saliency_maps(images, model, store, "skip")
    assert not maps(2).any()
    assert maps(0).all()


def test_a_damaged_map_says_what_to_do(toy, store):
    model = SaliencyModel("flat", lambda image: np.full(image.shape[:2], 9, np.uint8), {"v": 1})
    maps = saliency_maps(toy, model, store)
    (maps.artefact.folder / "000003.png").write_bytes(b"no png")
    with pytest.raises(StudyError, match=r"000003\.png.*delete"):
        maps(3)


def test_crow_is_weighted_like_sums(open_toy):
    study = open_toy()
    plain = study.open("toy").pooled("gs", pooling="crow")[0]
    weighted = study.open("toy").pooled("gs", weighting="Gaussian", pooling="crow")[0]
    assert not np.allclose(plain, weighted)
    assert not np.allclose(plain, study.open("toy").pooled("gs")[0])
    with pytest.raises(StudyError, match="unknown pooling 'max'"):
        study.open("toy").pooled("gs", pooling="max")


def test_one_bad_weight_file_stops_its_own_row_only(open_toy, tmp_path):
    (tmp_path / "gen_modelWeights0090.npz").write_bytes(b"cut short")
    study = open_toy()
    assert "gen_modelWeights0090.npz" in study.open().weightings.names()["SalGAN"]
    assert study.open("toy").search("gs", weighting="BMS")
    with pytest.raises(StudyError, match="gen_modelWeights0090"):
        study.open("toy").search("gs", weighting="SalGAN")
    wrong = open_toy(**{"saliency.weights": {"SalNet": str(tmp_path / "nowhere.caffemodel")}})
    assert "nowhere" in wrong.open().weightings.names()["SalNet"]
    assert wrong.open("toy").search("gs")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting.search": "bms"}, "unknown weighting 'bms'"),
        ({"weighting.search": "SalGAN"}, "blcf weights fetch salgan"),
        ({"saliency.weights": {"salgan": "x.npz"}}, "saliency.weights"),
        ({"weighting.folders": {"Gaussian": "maps"}}, "'Gaussian' cannot be the name"),
        ({"weighting.folders": {"": "maps"}}, "'' cannot be the name"),
        ({"weighting.folders": {"a|b": "maps"}}, "cannot be the name"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_the_study_opens(open_toy, settings, message):
    with pytest.raises(StudyError, match=message):
        open_toy(**settings)


def test_masks_that_say_nothing_are_left_out(open_toy, tmp_path):
    study = open_toy()
    dataset = study.open("toy").dataset
    dataset.boxes.update({0: (40, 30, 41, 31), 5: (0, 0, 0, 0)})
    try:
        table = experiments.saliency_table(study)
        judged = read_per_query("x03_saliency_quality", study.results.folder)["Gaussian", "toy/CC"]
        assert dataset.images[0].name in judged  # one pixel is still somewhere
        assert dataset.images[5].name not in judged
        assert (table["status"] == "measured").any()
    finally:
        dataset.boxes.clear()


def test_maps_missing_for_a_dataset_leave_its_cells_not_run(open_toy, tmp_path):
    study = open_toy(**{"weighting.folders": {"mine": str(tmp_path / "nowhere")}})
    table = experiments.weighted_words_table(study, ("None", "mine"))
    cell = table[(table["row"] == "mine") & (table["column"] == "toy/gs")].iloc[0]
    assert cell["status"].startswith("not run: ")
    assert "nowhere" in cell["status"]
    assert "mine" not in study.open("toy").weightings.saliency_names()
    assert "BMS" in study.open("toy").weightings.saliency_names()
