"""The compared methods in a study: teachers, rows, tables t10, t11, t13 and x04 to x06."""

import json
import shutil
import textwrap
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from blcf_utils import experiments
from blcf_utils.config.profile import BackboneConfig, load_profile
from blcf_utils.datasets import holidays
from blcf_utils.datasets.joining import Expected
from blcf_utils.features.forward import forward_images
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.compared.methods import METHODS
from blcf_utils.pooling.compared.online_cam import class_vectors
from blcf_utils.pooling.compared.refinement import expand_average, ranked
from blcf_utils.pooling.compared.row_kinds import (
    T10,
    T11,
    T13,
    DenseRow,
    OnlineCamRow,
    PatchSetRow,
)
from blcf_utils.pooling.compared.rows import ROWS, row, rows_of
from blcf_utils.pooling.compared.teacher import fit_wide_whitening, read_learned_whitening
from blcf_utils.pooling.compared.vectors import cells_window
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.rmac import region_maxima
from blcf_utils.results.published import load_published
from blcf_utils.study.comparison import teacher_of, teachers
from blcf_utils.study.study import open_study
from blcf_utils.words.whitening import fit_whitening

PROFILE = """
    name: toy
    datasets: [toy, other]
    features:
      backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded}
      longest_side: 96
      batch_size: 4
      device: cpu
    whitening: {dimensions: 64}
    codebook: {words: 60, iterations: 6}
    expansion: {images: 2}
    sift: {words: 40, max_descriptors: 2000, verification: {images: 5}}
    comparison:
      {dimensions: 200, vlad_words: 8, netvlad_words: 4, rerank: 6, rmac_expansion: 2, expansion: 2}
    seed: 1
"""


@pytest.fixture(scope="module")
def two_sets(toy_root, tmp_path_factory):
    """The small set, and a second one of other images: the same in a new order, mirrored."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(toy_root / "toy", root / "toy")
    shutil.copytree(toy_root / "toy", root / "other")
    described = json.loads((root / "other" / "groundtruth.json").read_text())
    described["images"].reverse()
    (root / "other" / "groundtruth.json").write_text(json.dumps(described))
    return root


@pytest.fixture
def open_toy(tmp_path, two_sets, shared_cache, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(two_sets))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    path = tmp_path / "toy.yaml"
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return lambda **settings: open_study(str(path), settings)


def test_every_row_of_the_thesis_is_declared_once():
    for table_id in (T10, T11, T13):
        labels = [each.labels[table_id] for each in rows_of(table_id)]
        assert len(labels) == len(set(labels))
        assert set(load_published(table_id)["row"]) <= set(labels)
    ids = [each.id for each in ROWS]
    assert len(ids) == len(set(ids))
    assert all(each.method in METHODS for each in ROWS if isinstance(each, DenseRow))
    with pytest.raises(StudyError, match=r"unknown row of the comparison 'rmca'.*rmac"):
        row("rmca")


def test_nobody_learns_on_his_own_test_images(open_toy):
    study = open_toy()
    assert teachers(study.profile).to_dict() == {"toy": "other", "other": "toy"}
    with pytest.raises(StudyError, match=r"comparison.*toy would be its own teacher"):
        open_toy(**{"comparison.learn_on": {"toy": "toy"}})
    alone = open_toy(datasets=["toy"])
    assert "comparison.same_dataset: true" in row("rmac").unavailable_because(
        alone.comparison("toy")
    )
    with pytest.raises(StudyError, match="no other dataset to learn whitening on"):
        alone.comparison("toy").vectors("rmac")
    allowed = open_toy(datasets=["toy"], **{"comparison.same_dataset": True})
    assert teacher_of(allowed.profile, "toy") == "toy"
    outside = open_toy(datasets=["toy"], **{"comparison.learn_on": {"toy": "other"}})
    assert teacher_of(outside.profile, "toy") == "other"


def test_rmac_of_the_study_step_by_step(open_toy):
    study = open_toy()
    teacher, features = study.open("other").features, study.open("toy").features
    regions = [region_maxima(teacher.map(i)) for i in range(teacher.n_database)]
    whitening = fit_whitening([np.concatenate(regions)], 200)

    def describe(found):
        return normalise_rows(whitening.apply(found).sum(axis=0)[None])[0]

    database = np.stack([describe(region_maxima(features.map(i))) for i in range(18)])
    np.testing.assert_allclose(
        study.comparison("toy").vectors("rmac").database(), database, atol=2e-3
    )
    query = study.open("toy").dataset.queries[1]
    i = study.open("toy").dataset.image_index[query.image]
    _, _, box = study.comparison("toy").vectors("rmac").region(query, "ls")
    vector = describe(region_maxima(features.map(i), box=box))
    found = study.comparison("toy").vectors("rmac").rank()[query.id]
    np.testing.assert_allclose(found.scores, (database @ vector)[found.images], atol=5e-3)


def test_fewer_dimensions_are_the_first_ones(open_toy):
    study = open_toy()
    full, few = (study.comparison("toy").vectors("sum", d).fitted for d in (None, 5))
    vectors = normalise_rows(np.random.default_rng(0).random((4, 672), np.float32))
    np.testing.assert_allclose(
        few.finish(vectors), normalise_rows(full.finish(vectors)[:, :5]), atol=1e-5
    )
    assert study.comparison("toy").vectors("sum", 5).database().shape == (18, 5)


def test_every_method_runs_and_finds_something(open_toy):
    study = open_toy()
    comparison, dataset = study.comparison("toy"), study.open("toy").dataset
    own = {q.id: dataset.image_index[q.image] for q in dataset.queries if q.id != "outside"}
    kinds = {"razavian": PatchSetRow, "astounding": PatchSetRow, "cam-online": OnlineCamRow}
    for name, method in METHODS.items():
        if method.given:
            continue
        one = kinds.get(name, DenseRow)(name, method=name)
        whole = one.rank(comparison, "gs", expanded=False)
        assert {q: whole[q].images[0] for q in own} == own, name  # a database image finds itself
        rank = partial(one.rank, comparison, "ls")
        found = rank(expanded=False)
        assert all(sorted(r.images) == list(range(18)) for r in found.values()), name
        wide = rank(expanded=True)
        assert all(sorted(r.images) == list(range(18)) for r in wide.values()), name
        for ranking in (*found.values(), *wide.values()):
            assert (np.diff(ranking.scores) <= 1e-6).all(), name
    with pytest.raises(StudyError, match="unknown compared method 'rmca'"):
        comparison.vectors("rmca")


def test_online_cam_describes_images_by_the_classes_of_the_query(open_toy):
    study = open_toy(**{"comparison.cam_classes": 7})
    comparison = study.comparison("toy")
    vectors = class_vectors(comparison.vectors("cam-online"))
    assert vectors.shape[:2] == (18, len(comparison.head.linear))
    online = row("cam-online").rank(comparison, "ls", False)
    offline = comparison.vectors("cam").rank()
    assert any((online[q].images != offline[q].images).any() for q in online)
    # A query that is a database image has that image's classes: it finds itself exactly.
    query = study.open("toy").dataset.queries[0]
    i = study.open("toy").dataset.image_index[query.image]
    whole = row("cam-online").rank(comparison, "gs", False)[query.id]
    assert whole.images[0] == i
    assert whole.scores[0] == pytest.approx(1, abs=2e-3)


def test_refinements(open_toy):
    study = open_toy()
    vectors = normalise_rows(np.random.default_rng(0).random((6, 4), np.float32))
    ranking = ranked(vectors @ vectors[2])
    expected = vectors[2] + vectors[ranking.images[:3]].sum(axis=0)
    np.testing.assert_allclose(
        expand_average(vectors[2], vectors, ranking, 3), expected / np.linalg.norm(expected)
    )
    rmac = study.comparison("toy").vectors("rmac")
    plain, again = rmac.rank(), rmac.rank(expanded=True)
    for query in plain:  # the first six are ordered again, the rest keeps its place
        assert set(again[query].images[:6]) == set(plain[query].images[:6])
        np.testing.assert_array_equal(again[query].images[6:], plain[query].images[6:])
    assert any((again[q].images != plain[q].images).any() for q in plain)
    assert not row("razavian").expands


def test_a_window_holds_all_cells():
    cells = np.zeros((5, 6), bool)
    cells[1:3, 2:5] = True
    assert cells_window(cells) == (1, 3, 2, 5)
    cells[4, 0] = True
    assert cells_window(cells) == (1, 5, 0, 5)


def test_a_drawn_mask_leaves_positions_out(open_toy, monkeypatch):
    study = open_toy()
    features, query = study.open("toy").features, study.open("toy").dataset.queries[0]
    cells = np.zeros(features.shapes[study.open("toy").dataset.image_index[query.image]], bool)
    cells[0, 0] = cells[2, 2] = True
    monkeypatch.setattr("blcf_utils.pooling.compared.vectors.query_cells", lambda *_: cells)
    maps, weights, box = study.comparison("toy").vectors("mac").region(query, "ls")
    np.testing.assert_allclose(mac_pool(maps, weights, box), maps[:, cells].max(axis=1))


def test_rows_that_need_weights_say_which_and_how(open_toy, tmp_path):
    study = open_toy()
    why = row("rmac-siamac").unavailable_because(study.comparison("toy"))
    assert "vgg16 trained for retrieval" in why
    assert "--set comparison.weights.rmac-siamac=FILE" in why
    assert "one million" in row("bow-1m").unavailable_because(study.comparison("toy"))
    assert "blcf weights fetch salgan" in row("blcf-salgan").unavailable_because(
        study.comparison("toy")
    )
    assert "BLCF_WEIGHTS" in row("rmac-resnet18").unavailable_because(study.comparison("toy"))
    random = {"name": "squeezenet1_1", "layer": "fire3", "weights": "random"}
    other = open_toy(**{"features.backbone": random})
    assert "random weights have none" in row("cam").unavailable_because(other.comparison("toy"))


def test_a_row_with_given_weights_runs(open_toy, tmp_path):
    random = BackboneConfig(name="vgg16", layer="conv5_3", weights="random", seed=3)
    path, learned = tmp_path / "trained.safetensors", tmp_path / "learned.pth"
    said = json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3})
    save_file(load_backbone(random).module.state_dict(), path, metadata={"normalisation": said})
    m, p = torch.rand(512, 1) / 20, torch.randn(30, 512)
    torch.save({"m": m, "P": p}, learned)
    given = {"comparison.weights": {"rmac-siamac": str(path)}}
    without = row("rmac-siamac").unavailable_because(open_toy(**given).comparison("toy"))
    assert "--set comparison.whitening.rmac-siamac=FILE" in without
    study = open_toy(**given, **{"comparison.whitening": {"rmac-siamac": str(learned)}})
    assert row("rmac-siamac").unavailable_because(study.comparison("toy")) == ""
    # Each region's maxima of conv5_3, L2, P (x - m), L2, and their sum.
    at = row("rmac-siamac").on(study.comparison("toy"))
    regions = normalise_rows(region_maxima(at.bench.features.map(4)))
    rows = normalise_rows((regions - m.numpy().T) @ p.numpy().T).sum(axis=0)
    vectors = row("rmac-siamac").vectors(at).database()
    np.testing.assert_allclose(vectors[4], rows / np.linalg.norm(rows), atol=1e-5)
    torch.save({"m": m[:9], "P": p}, learned)
    with pytest.raises(StudyError, match=r"learned.pth: expected a whitening.*found m \(9, 1\)"):
        read_learned_whitening(learned)
    torch.save({"m": m[:9], "P": p[:, :9]}, learned)
    narrow = row("rmac-siamac").vectors(
        row("rmac-siamac").on(
            open_toy(**given, **{"comparison.whitening": {"rmac-siamac": str(learned)}}).comparison(
                "toy"
            )
        )
    )
    with pytest.raises(StudyError, match=r"expected m of 512 values for rmac, found 9"):
        narrow.database()
    torch.save({"m": m, "P": p}, learned)
    found = experiments.compare_methods(study, [row("rmac-siamac")])[0]
    assert found.scores["ls", False][0].mean > 0
    t10 = experiments.comparison_table(study, [found]).set_index(["row", "column"])
    assert t10.loc[("R-MAC [35]", "toy"), "status"] == "measured"
    assert t10.loc[("R-MAC [35]", "off_the_shelf"), "measured"] == "No"
    assert t10.loc[("CroW [22]", "instre"), "status"] == "not run: instre is not in profile toy"


def test_words_learned_elsewhere_are_the_teachers(open_toy):
    study = open_toy()
    elsewhere = open_toy(**{"learn_on": {"toy": "other"}}).open("toy")
    there = row("blcf-elsewhere").on(study.comparison("toy"))
    assert there.bench.codebook.key == study.open("other").codebook.key
    assert there.bench.config_digest() == elsewhere.config_digest()
    assert there.bench.config_digest() != study.open("toy").config_digest()
    found = row("blcf-elsewhere").rank(there, "ls", False)
    for query, expected in elsewhere.search("LS").items():
        np.testing.assert_array_equal(found[query].images, expected.images)
        np.testing.assert_array_equal(found[query].scores, expected.scores)
    alone = open_toy(datasets=["toy"]).comparison("toy")
    assert "no other dataset" in row("blcf-elsewhere").unavailable_because(alone)


def test_the_fields_later_rows_start_from_the_same_vectors(open_toy):
    study = open_toy()
    ids = ("rmac", "rmac-dba", "rmac-reciprocal")
    plain, dba, reciprocal = experiments.compare_methods(study, [row(i) for i in ids])[:3]
    vectors = study.comparison("toy").vectors("rmac", 512, "")
    database, queries = vectors.database(), vectors.queries("ls")
    added = []
    for i, vector in enumerate(database):
        others = [j for j in np.argsort(-(database @ vector), kind="stable") if j != i][:2]
        added.append(vector + 2 / 3 * database[others[0]] + 1 / 3 * database[others[1]])
    added = normalise_rows(np.array(added))
    found = row("rmac-dba").rank(study.comparison("toy"), "ls", False)
    for query, vector in zip(vectors.dataset.queries, queries, strict=True):
        scores = found[query.id].scores
        np.testing.assert_allclose(scores, (added @ vector)[found[query.id].images], atol=1e-5)
    assert set(dba.scores) == {("gs", False), ("ls", False), ("ls", True)}
    assert set(reciprocal.scores) == {("gs", False), ("ls", False)}
    assert dba.bytes == plain.bytes < reciprocal.bytes
    assert len({each.digest for each in (plain, dba, reciprocal)}) == 3


def test_trained_rows_read_what_their_papers_read():
    netvlad = row("netvlad-trained")
    assert (netvlad.network, netvlad.layer, netvlad.relu) == ("vgg16", "conv5_3", "pre")
    for each in map(row, ("mac-trained", "rmac-trained", "rmac-siamac")):
        assert (each.network, each.layer, each.relu) == ("vgg16", "conv5_3", "post")
        assert each.learned_whitening


def test_boxes_can_be_cut_out_of_the_image(open_toy):
    settings = {"comparison.query": "pixels", "features.longest_side": 200}
    study, by_map = open_toy(**settings), open_toy(**{**settings, "comparison.query": "map"})
    bench = study.open("toy")
    for k, query in enumerate(bench.dataset.queries):
        pixels = Image.open(query.image).convert("RGB")
        scale = 200 / max(pixels.size)
        crop = pixels.crop(query.box) if query.box else pixels
        least = max(1, 64 / (scale * min(crop.size)))
        size = tuple(round(side * scale * least) for side in crop.size)
        seen = np.array(crop.resize(size, Image.Resampling.BILINEAR))
        rows = forward_images(bench.backbone, seen[None], torch.device("cpu"))[0]
        expected = rows.astype(np.float32).max(axis=0)
        found = study.comparison("toy").vectors("mac-plain").queries("ls")[k]
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=0.02)
    crow = study.comparison("toy").vectors("crow"), by_map.comparison("toy").vectors("crow")
    np.testing.assert_array_equal(*(vectors.queries("gs") for vectors in crow))
    assert np.abs(np.subtract(*(vectors.queries("ls") for vectors in crow))).max() > 0.01
    np.testing.assert_array_equal(*(vectors.database() for vectors in crow))
    # CAM's paper crops the feature map.
    cam = study.comparison("toy").vectors("cam"), by_map.comparison("toy").vectors("cam")
    np.testing.assert_array_equal(*(vectors.queries("ls") for vectors in cam))
    assert load_profile("paper").comparison.query == "pixels"


def test_the_tables(open_toy):
    study = open_toy()
    ids = ("rmac", "crow", "razavian", "blcf", "blcf-rerank", "sift", "bow-1m", "mac-trained")
    rows = [row(i) for i in ids]
    found = experiments.compare_methods(study, rows)
    t13 = experiments.state_of_the_art_table(study, found).set_index(["row", "column"])
    rmac = "Off-the-shelf Convolutional / R-MAC [19]"
    assert t13.loc[(rmac, "toy"), "measured"] == pytest.approx(
        study.open("toy").evaluate(study.comparison("toy").vectors("rmac").rank()).mean
    )
    assert t13.loc[(rmac, "dim"), "measured"] == 200
    assert t13.loc[(rmac, "toy+expansion"), "status"] == "measured"
    assert t13.loc[(rmac, "oxford5k"), "status"].startswith("not run: oxford5k is not in")
    patches = "Off-the-shelf Convolutional / Razavian [78]"
    assert t13.loc[(patches, "toy+expansion"), "status"] == "not run: its paper has no expansion"
    million = "Hand-crafted methods / BoW(1M)+QE [73]"
    assert "one million" in t13.loc[(million, "other"), "status"]
    t11 = experiments.expansion_table(study, found).set_index(["row", "column"])
    assert t11.loc[("CroW [22]", "toy"), "measured"] == pytest.approx(
        study.open("toy").evaluate(study.comparison("toy").vectors("crow").rank("ls", True)).mean
    )
    x04 = experiments.compactness_table(study, found).set_index(["row", "column"])
    assert x04.loc[("R-MAC [19]", "toy/bytes per image"), "measured"] == 4 * 200
    assert x04.loc[("R-MAC [19]", "toy/images per s"), "measured"] > 0
    index = study.open("toy").index()
    words = x04.loc[("BLCF LS", "toy/bytes per image"), "measured"]
    assert words == pytest.approx(index.nbytes / index.n_images)
    maps = study.open("toy").maps.shapes[:18].prod(axis=1).sum() * 2 / 18
    assert x04.loc[("BLCF LS + R", "toy/bytes per image"), "measured"] == pytest.approx(
        words + maps
    )
    reranked = study.open("toy").evaluate(study.open("toy").search("LS + R")).mean
    assert x04.loc[("BLCF LS + R", "toy/ls"), "measured"] == pytest.approx(reranked)
    assert set(study.results.per_query("x04_compactness")[("R-MAC [19]", "toy/ls")]) == {
        query.id for query in study.open("toy").dataset.queries
    }
    gains = experiments.method_gains(study)
    ours = x04.loc[("R-MAC [19]", "toy/ls"), "measured"]
    assert gains.loc[("toy", "R-MAC [19]"), "gain"] == pytest.approx(
        ours - x04.loc[("BLCF LS", "toy/ls"), "measured"]
    )
    assert len(study.results.read(T13)) > 100


def test_holidays_fill_their_columns_of_t13(open_toy, two_sets, tmp_path, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(two_sets / "toy", root / "toy")
    (root / "holidays").mkdir()
    for k, path in enumerate(sorted((root / "toy" / "images").glob("p*.jpg"))):
        scene, number = divmod(k, 3)  # three photographs of each poster
        shutil.copy(path, root / "holidays" / f"{1000 + scene}0{number}.jpg")
    monkeypatch.setenv("BLCF_DATA", str(root))
    monkeypatch.setattr(holidays, "EXPECTED", Expected(12, 4))
    study = open_toy(
        **{
            "datasets": ["holidays", "toy"],
            "comparison.learn_on": {"holidays": "toy"},
        }
    )
    table = experiments.state_of_the_art_table(
        study, experiments.compare_methods(study, [row("crow")])
    )
    label = row("crow").labels[T13]
    cells = table[table["row"] == label].set_index("column")
    assert cells.loc["holidays", "published"] == 0.851
    assert (cells.loc[["holidays", "holidays+expansion"], "status"] == "measured").all()
    bench, ranked = study.open("holidays"), study.comparison("holidays").vectors("crow").rank()
    assert cells.loc["holidays", "measured"] == pytest.approx(bench.evaluate(ranked).mean)


def test_dimensions_and_codes(open_toy):
    study = open_toy()
    x05 = experiments.dimension_table(study, ("sum", "rmac"), (8, 64, 4096))
    assert set(x05["column"]) == {"toy/8", "toy/64", "other/8", "other/64"}
    x06 = experiments.quantisation_table(study, parts=(8, 7)).set_index(["row", "column"])
    names = set(x06.index.get_level_values(0))
    assert names == {"R-MAC, float32", "R-MAC, PQ 8 x 2 bits", "BLCF LS"}
    assert x06.loc[("R-MAC, PQ 8 x 2 bits", "toy/bytes per image"), "measured"] == 2


def test_a_decomposition_in_numbers(open_toy):
    table = open_toy().comparison("toy").rmac_decomposition((1, 2))
    assert table.index.tolist() == [1, 2]
    assert table["regions"].tolist()[0] in (1, 2)
    assert (table.iloc[:, 1:].to_numpy() <= 1 + 1e-6).all()
    assert (table.iloc[:, 1:].to_numpy() > 0.3).all()


def test_wide_vectors_are_whitened_through_their_products():
    vectors = np.random.default_rng(0).normal(size=(60, 300)).astype(np.float32)
    whitening = fit_wide_whitening(vectors, 8)
    unit = normalise_rows(vectors)
    white = (unit - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(white.T @ white / 60, np.eye(8), atol=1e-3)
    exact = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)[:8] ** 2 / 60
    np.testing.assert_allclose(whitening.variances, exact, rtol=1e-3)
    assert fit_wide_whitening(vectors, 100).dimensions == 15


def test_maps_at_full_resolution(open_toy):
    study = open_toy(**{"comparison.maps": "full", "sum_pooling.full_longest_side": 160})
    shapes = study.comparison("toy").vectors("sum").features.shapes
    assert (shapes[:18] > study.open("toy").features.shapes[:18]).any()
    assert study.comparison("toy").vectors("sum").rank()["q0"].images.shape == (18,)


@pytest.mark.parametrize("method", ["rmac", "rmac-plain"])
def test_windows_are_described_as_boxes_are(open_toy, method):
    study = open_toy()
    ready, features = study.comparison("toy").vectors(method).fitted, study.open("toy").features
    windows = {4: (0, 4, 1, 3), 9: (1, 3, 0, 4), 2: (0, 1, 0, 1)}
    expected = [ready.describe(features.map(i)[None], box=box)[0] for i, box in windows.items()]
    np.testing.assert_allclose(ready.describe_windows(features, windows), expected, atol=1e-5)
