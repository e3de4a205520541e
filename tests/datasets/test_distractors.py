"""Oxford105k and Paris106k: parts kept apart, maps of distractors computed as they are read."""

from __future__ import annotations

import json
import shutil
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blcf_utils import experiments
from blcf_utils.config.profile import CodebookConfig, EncodingConfig, WhiteningConfig, load_profile
from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features import extraction as features_module
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.stored import batches
from blcf_utils.features.streamed import StreamedFeatures
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.compared.rows import row
from blcf_utils.results.tables import read_table
from blcf_utils.study.study import open_study
from blcf_utils.words import assignment_maps as bow
from blcf_utils.words.assignment_maps import assignment_maps
from blcf_utils.words.codebook import learn_codebook
from blcf_utils.words.whitening import learn_whitening

PROFILE = """
    name: tiny
    datasets: [oxford5k, paris6k]
    distractors: {datasets: [oxford105k, paris106k]}
    dataset_options:
      oxford5k: {partial: true}
      paris6k: {partial: true}
      oxford105k: {partial: true}
      paris106k: {partial: true}
    learn_on: {oxford105k: oxford5k, paris106k: paris6k}
    features:
      backbone: {name: vgg-mini, layer: conv5_1, weights: embedded}
      longest_side: 96
      batch_size: 3
      device: cpu
    whitening: {dimensions: 32}
    codebook: {words: 40, iterations: 4}
    expansion: {images: 2}
    sift: {words: 30, max_descriptors: 2000, verification: {images: 3}}
    comparison:
      {dimensions: 50, rerank: 6, rmac_expansion: 2, expansion: 2,
       learn_on: {oxford5k: paris6k, paris6k: oxford5k, oxford105k: paris6k, paris106k: oxford5k}}
"""


def photograph(path: Path, seed: int, size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def benchmark(root: Path, names: list[str], prefix: str, seed: int) -> None:
    """A partial copy of Oxford5k or Paris6k: two queries with their text files."""
    for i, name in enumerate(names):
        photograph(root / f"{name}.jpg", seed + i // 2, ((96, 64), (64, 96))[i % 3 == 0])
    for q in (0, 2):
        lines = {"query": f"{prefix}{names[q]} 4 4 60 60", "good": names[q], "ok": names[q + 1]}
        for kind in ("query", "good", "ok", "junk"):
            path = root / "gt" / f"place{q}_1_{kind}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(lines.get(kind, "") + "\n")


@pytest.fixture(scope="module")
def cities(tmp_path_factory) -> Path:
    """Two small cities and 17 distractors of three sizes, one of them twice."""
    root = tmp_path_factory.mktemp("cities")
    benchmark(root / "oxford5k", [f"keble_{i:06d}" for i in range(6)], "oxc1_", 10)
    benchmark(root / "paris6k", [f"paris_eiffel_{i:06d}" for i in range(7)], "", 50)
    sizes = ((96, 64), (64, 96), (100, 60))
    for i in range(16):
        photograph(root / "oxc1_100k" / "sky" / f"{i:03d}.jpg", 100 + i, sizes[i * 7 % 3])
    shutil.copy(root / "oxc1_100k/sky/003.jpg", root / "oxc1_100k/sky/copy.jpg")
    return root


@pytest.fixture
def open_tiny(cities, tmp_path, store, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(cities))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    path = tmp_path / "tiny.yaml"
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return lambda **settings: open_study(str(path), settings)


@pytest.fixture
def distractors(cities) -> Dataset:
    paths = tuple(sorted((cities / "oxc1_100k" / "sky").iterdir()))
    return Dataset("oxc1_100k", cities, paths, queries=())


@pytest.fixture
def both(distractors, tiny_network, store):
    """The distractors' features, stored and streamed."""
    config = tiny_network.model_copy(update={"batch_size": 3})
    return (
        extract_features(distractors, config, store),
        StreamedFeatures(distractors, config, store),
    )


def test_streamed_maps_are_the_stored_ones_to_the_last_bit(both):
    stored, streamed = both
    assert streamed.key == stored.key
    assert (len(streamed), streamed.channels) == (len(stored), stored.channels)
    np.testing.assert_array_equal(streamed.shapes, stored.shapes)
    np.testing.assert_array_equal(streamed.sizes, stored.sizes)
    for image in np.random.default_rng(0).permutation(len(stored)):
        np.testing.assert_array_equal(streamed.map(image), stored.map(image))
    seen = {}
    for copies, feature_map in streamed.passing(np.arange(len(stored))):
        seen.update(dict.fromkeys(copies.tolist(), feature_map))
    assert sorted(seen) == list(range(len(stored)))
    for image, feature_map in seen.items():
        np.testing.assert_array_equal(feature_map, stored.map(image))


@pytest.mark.parametrize("images", [np.arange(17), np.array([16, 3, 5, 2, 11]), np.array([], int)])
@pytest.mark.parametrize("at_once", [2, 32])
def test_streamed_batches_are_those_of_stored_maps(both, monkeypatch, images, at_once):
    stored, streamed = both
    monkeypatch.setattr("blcf_utils.features.extraction._AT_ONCE", at_once)
    pairs = zip(batches(stored, images), batches(streamed, images), strict=True)
    for (numbers, maps), (others, again) in pairs:
        np.testing.assert_array_equal(others, numbers)
        np.testing.assert_array_equal(again, maps)


def test_one_pass_forwards_every_image_once(both, monkeypatch):
    _, streamed = both
    counts = []
    original = features_module.forward_images
    monkeypatch.setattr(
        features_module, "forward_images", lambda *a: counts.append(len(a[1])) or original(*a)
    )
    list(batches(streamed, np.arange(17)))
    # Grouped by map shape, a batch of one size is forwarded for its own shape only.
    assert sum(counts) == 16
    counts.clear()
    for image in (0, 3, 0, 16):  # 3 and 16 are one picture
        streamed.map(image)
    assert len(counts) <= 2


def words_of(features, distractors, tiny_network, store, teacher):
    whitening = learn_whitening(teacher, WhiteningConfig(dimensions=16), store)
    codebook = learn_codebook(teacher, whitening, CodebookConfig(words=20, iterations=3), store)
    return assignment_maps(features, whitening, codebook, EncodingConfig(), store)


@pytest.fixture
def teacher(cities, tiny_network, store):
    dataset = load_dataset("oxford5k", root=cities / "oxford5k", partial=True)
    return extract_features(dataset, tiny_network.model_copy(update={"batch_size": 3}), store)


def files_of(maps):
    names = ("words.npy", "done.npy")
    return [(maps.artefact / name).read_bytes() for name in names]


def test_encoding_without_storing_gives_the_artefact_of_the_two_stages(
    both, distractors, tiny_network, store, teacher, tmp_path, monkeypatch
):
    stored, streamed = both
    one = words_of(streamed, distractors, tiny_network, store, teacher)
    elsewhere = ArtefactStore(tmp_path / "elsewhere")
    two = words_of(stored, distractors, tiny_network, elsewhere, teacher)
    assert one.key == two.key
    assert files_of(one) == files_of(two)
    assert words_of(stored, distractors, tiny_network, store, teacher).artefact.reused


def test_encoding_goes_on_where_it_was_killed(
    both, distractors, tiny_network, store, teacher, tmp_path, monkeypatch
):
    stored, streamed = both
    expected = words_of(stored, distractors, tiny_network, ArtefactStore(tmp_path / "e"), teacher)
    assign, left = bow.assign_map, [7]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return assign(*arguments)

    monkeypatch.setattr(bow, "assign_map", killed)
    with pytest.raises(KeyboardInterrupt):
        words_of(streamed, distractors, tiny_network, store, teacher)
    assert threading.active_count() < 20
    counted = []
    monkeypatch.setattr(bow, "assign_map", lambda *a: counted.append(1) or assign(*a))
    again = words_of(streamed, distractors, tiny_network, store, teacher)
    assert len(counted) == 16 - 7
    assert files_of(again) == files_of(expected)


def test_a_broken_distractor_is_named_or_left_out(distractors, tiny_network, store, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(distractors.images[2].read_bytes()[:-300])
    dataset = replace(distractors, images=(*distractors.images[:5], broken))
    streamed = StreamedFeatures(dataset, tiny_network, store)
    with pytest.raises(UnreadableImage, match=r"broken.jpg"):
        list(streamed.passing(np.arange(6)))
    skipping = tiny_network.model_copy(update={"on_corrupt": "skip"})
    streamed = StreamedFeatures(dataset, skipping, store)
    stored = extract_features(dataset, skipping, store)
    assert streamed.skipped == stored.skipped == ("broken.jpg",)
    assert streamed.key == stored.key
    np.testing.assert_array_equal(streamed.shapes, stored.shapes)
    for image in range(6):
        np.testing.assert_array_equal(streamed.descriptors(image), stored.descriptors(image))


def test_held_maps_are_read_without_the_network(both, monkeypatch):
    stored, streamed = both
    images = np.array([1, 4, 16, 9])
    with streamed.holding(images):
        monkeypatch.setattr(features_module, "forward_images", None)
        for image in images:
            np.testing.assert_array_equal(streamed.map(image), stored.map(image))
    assert not streamed._held


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
def test_a_benchmark_shares_its_features_with_itself_among_distractors(open_tiny, monkeypatch):
    study = open_tiny()
    log = study.store.root / "log"
    monkeypatch.setenv("BLCF_STAGE_LOG", str(log))
    dataset = study.dataset("oxford105k")
    (told,) = (e for e in map(json.loads, log.read_text().splitlines()) if "dataset" in e)
    parts = {part["dataset"]: (part["images"], part["distinct"]) for part in told["parts"]}
    assert parts == {"oxford5k": (6, 5), "oxc1_100k": (17, 16)}
    monkeypatch.delenv("BLCF_STAGE_LOG")
    assert [part.name for part in dataset.parts] == ["oxford5k", "oxc1_100k"]
    maps = study.maps("oxford105k")
    assert (len(maps), maps.n_database) == (23, 23)
    own = study.maps("oxford5k")
    assert maps.parts[0].key == own.key
    assert maps.words == own.words
    for image in range(len(own)):
        np.testing.assert_array_equal(maps.map(image), own.map(image))
    features = study.features("paris106k")
    assert features.parts[1].key == study.features("oxford105k").parts[1].key
    stored = open_tiny(**{"distractors.features": "stored"})
    assert stored.maps("oxford105k").key == maps.key
    assert not (study.store.root / "index").exists()
    names = [path.name for path in (study.store.root / "features").iterdir()]
    assert len([n for n in names if n.startswith("oxford5k-")]) == 1
    assert not [n for n in names if n.startswith("oxford105k-")]
    with pytest.raises(StudyError, match=r"oxford105k: words and whitenings .* learn_on: "):
        open_tiny(**{"learn_on.oxford105k": "oxford105k"}).whitening("oxford105k")


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
def test_benchmarks_share_the_saliency_maps_of_their_distractors(open_tiny):
    study = open_tiny()
    own = {name: study.saliency(name, "BMS") for name in ("oxford5k", "paris6k")}
    joined = {name: study.saliency(name, "BMS") for name in ("oxford105k", "paris106k")}
    made = sorted(path.name.split("-")[0] for path in (study.store.root / "saliency").glob("[!.]*"))
    assert made == ["oxc1_100k", "oxford5k", "paris6k"]
    distractors = joined["oxford105k"].parts[1]
    for (small, maps), (large, among) in zip(own.items(), joined.items(), strict=True):
        dataset, count = study.dataset(large), len(study.dataset(small).images)
        assert among.key not in (maps.key, distractors.key)
        for i, path in enumerate(dataset.images):
            expected = maps(i) if i < count else distractors(i - count)
            np.testing.assert_array_equal(among(i), expected)
            assert among(i).shape == Image.open(path).size[::-1]
        weights = study.weights(large, "BMS")
        np.testing.assert_array_equal(weights(count - 1), study.weights(small, "BMS")(count - 1))
    assert joined["oxford105k"].key != joined["paris106k"].key


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
def test_the_columns_of_the_slides_are_measured(open_tiny):
    rows = [row(i) for i in ("blcf", "rmac", "crow", "sift", "cam-online")]
    tables = {}
    for kept in ("streamed", "stored"):
        study = open_tiny(**{"distractors.features": kept})
        found = experiments.compare_methods(study, rows)
        table = experiments.state_of_the_art_table(study, found)
        tables[kept] = table.drop(columns="seconds")
        assert not study.results.joinpath("tables/t02_blcf_search.csv").exists()
    assert tables["streamed"].equals(tables["stored"])
    table = read_table("t13_state_of_the_art", study.results).set_index(["row", "column"])
    rmac = "Off-the-shelf Convolutional / R-MAC [19]"
    for column, published in (("oxford105k", 0.616), ("oxford105k+expansion", 0.732)):
        cell = table.loc[rmac, column]
        assert cell["published"] == published
        assert cell["status"] == "measured"
        assert 0 < cell["measured"] <= 1
    ours = table.loc["Off-the-shelf Convolutional / BLCF LS"]
    assert (
        ours.loc[["oxford5k", "oxford105k", "paris6k", "paris106k"], "status"] == "measured"
    ).all()
    # Distractors can only push relevant images down.
    for small, large in (("oxford5k", "oxford105k"), ("paris6k", "paris106k")):
        assert ours.loc[large, "measured"] <= ours.loc[small, "measured"]
    sift = table.loc["Hand-crafted methods / SIFT-BoW, verified"]
    assert sift.loc["oxford5k", "status"] == "measured"
    assert sift.loc["oxford105k", "status"].startswith("not run: keeps every keypoint")


def test_paper100k_is_paper_with_distractors():
    profile, paper = load_profile("paper100k"), load_profile("paper")
    assert profile.datasets == paper.datasets
    assert profile.distractors.datasets == ("oxford105k", "paris106k")
    assert profile.teacher_of("oxford105k") == "oxford5k"
    assert profile.teacher_of("paris106k") == "paris6k"
    assert profile.comparison.learn_on["oxford105k"] == "paris6k"
    same = ("features", "whitening", "codebook", "encoding", "sum_pooling")
    assert all(getattr(profile, name) == getattr(paper, name) for name in same)
    with pytest.raises(StudyError, match=r"learn_on names oxford105k"):
        load_profile("paper", {"learn_on.oxford105k": "oxford5k"})


def test_a_profile_without_distractors_is_the_document_it_was():
    assert "distractors" not in load_profile("paper").document()
    assert "distractors" in load_profile("paper100k").document()
