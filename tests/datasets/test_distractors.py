"""Oxford105k and Paris106k: parts kept apart, maps of distractors computed as they are read."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blcf_utils import experiments
from blcf_utils.config.profile import load_profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.stored import Features
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.compared.rows import row
from blcf_utils.pooling.compared.vectors import describe_together
from blcf_utils.study.study import open_study

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
      backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded}
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
def small_shards(monkeypatch):
    """Shards of at most nine distractors: two of them."""
    monkeypatch.setattr("blcf_utils.datasets.distractors.SHARD", 9)


PARTS = ["oxford5k", "oxc1_100k.0", "oxc1_100k.1"]


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
@pytest.mark.usefixtures("small_shards")
def test_a_benchmark_shares_its_features_with_itself_among_distractors(open_tiny):
    study = open_tiny()
    bench, alone = study.open("oxford105k"), study.open("oxford5k")
    assert [part.name for part in bench.dataset.parts] == PARTS
    assert [len(part.images) for part in bench.dataset.parts] == [6, 9, 8]
    maps, own = bench.maps, alone.maps
    assert (len(maps), maps.n_database) == (23, 23)
    assert maps.parts[0] is own
    assert maps.words == own.words
    for image in range(len(own)):
        np.testing.assert_array_equal(maps.map(image), own.map(image))
    other = study.open("paris106k").features
    assert [part.key for part in other.parts[1:]] == [p.key for p in bench.features.parts[1:]]
    assert not (study.shelf.store.root / "index").exists()
    names = [path.name for path in (study.shelf.store.root / "features").iterdir()]
    assert len([n for n in names if n.startswith("oxford5k-")]) == 1
    assert not [n for n in names if n.startswith("oxford105k-")]
    with pytest.raises(StudyError, match=r"oxford105k: words and whitenings .* learn_on: "):
        _ = open_tiny(**{"learn_on.oxford105k": "oxford105k"}).open("oxford105k").whitening


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
@pytest.mark.usefixtures("small_shards")
def test_maps_of_several_shards_are_read_as_one(open_tiny):
    bench = open_tiny().open("oxford105k")
    features, dataset = bench.features, bench.dataset
    assert len(features) == len(dataset.all_images)
    whole = extract_features(
        replace(dataset, parts=()), bench.profile.features, bench.store, bench.backbone
    )
    np.testing.assert_array_equal(features.shapes, whole.shapes)
    np.testing.assert_array_equal(features.sizes, whole.sizes)
    for image in (0, 5, 6, 14, 15, 22):
        np.testing.assert_allclose(features.map(image), whole.map(image), atol=0.02, rtol=0.01)
        np.testing.assert_array_equal(
            features.descriptors(image).reshape(*features.shapes[image], -1).transpose(2, 0, 1),
            features.map(image),
        )
    wanted, read = np.array([3, 21, 8, 15, 0, 17]), {}
    for numbers, maps in features.batches(wanted):
        read |= dict(zip(numbers.tolist(), maps, strict=True))
    assert sorted(read) == sorted(wanted.tolist())
    for image, feature_map in read.items():
        np.testing.assert_array_equal(feature_map, features.map(image))
    # The copy lies in another shard than the first one, so it is computed there.
    assert [i for i in range(23) if features.distinct[i] != i] == [5]
    assert features.distinct[5] == 4


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
def test_each_map_is_read_once_for_all_methods(open_tiny, monkeypatch):
    study, reads = open_tiny(), []
    read = Features.batches

    def counting(self, images):
        reads.append(len(images))
        return read(self, images)

    rows = [row(i) for i in ("rmac", "crow", "spoc", "gem")]
    comparison = study.comparison("oxford5k")
    for each in rows:  # what they learn on the other city
        each.vectors(comparison).fitted  # noqa: B018
    monkeypatch.setattr(Features, "batches", counting)
    describe_together([each.vectors(comparison) for each in rows])
    assert reads == [len(np.unique(comparison.bench.features.distinct))]
    together = [each.vectors(comparison).database() for each in rows]
    apart = open_tiny()
    apart.shelf.store.root = study.shelf.store.root.with_name("another")
    for each, vectors in zip(rows, together, strict=True):
        alone = each.vectors(apart.comparison("oxford5k")).database()
        np.testing.assert_allclose(alone, vectors, atol=1e-4)


def test_a_broken_distractor_is_named_or_left_out(distractors, tiny_network, store, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(distractors.images[2].read_bytes()[:-300])
    dataset = replace(distractors, images=(*distractors.images[:5], broken))
    with pytest.raises(UnreadableImage, match=r"broken.jpg"):
        extract_features(dataset, tiny_network, store)
    skipping = tiny_network.model_copy(update={"on_corrupt": "skip"})
    assert extract_features(dataset, skipping, store).skipped == ("broken.jpg",)


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
@pytest.mark.usefixtures("small_shards")
def test_benchmarks_share_the_saliency_maps_of_their_distractors(open_tiny):
    study = open_tiny()
    own = {n: study.open(n).weightings.saliency("BMS") for n in ("oxford5k", "paris6k")}
    joined = {n: study.open(n).weightings.saliency("BMS") for n in ("oxford105k", "paris106k")}
    root = study.shelf.store.root
    made = sorted(path.name.split("-")[0] for path in (root / "saliency").glob("[!.]*"))
    assert made == [*PARTS[1:], "oxford5k", "paris6k"]
    shards = joined["oxford105k"].parts[1:]
    for (small, maps), (large, among) in zip(own.items(), joined.items(), strict=True):
        dataset, count = study.open(large).dataset, len(study.open(small).dataset.images)
        assert among.key not in (maps.key, *(shard.key for shard in shards))
        for i, path in enumerate(dataset.images):
            of_shard = i - count
            expected = maps(i) if i < count else shards[of_shard // 9](of_shard % 9)
            np.testing.assert_array_equal(among(i), expected)
            assert among(i).shape == Image.open(path).size[::-1]
        weights, without = (study.open(n).weightings.weights("BMS") for n in (large, small))
        np.testing.assert_array_equal(weights(count - 1), without(count - 1))
    assert joined["oxford105k"].key != joined["paris106k"].key


@pytest.mark.filterwarnings("ignore:.*found .* expected the published")
def test_the_columns_of_the_slides_are_measured(open_tiny):
    rows = [row(i) for i in ("blcf", "rmac", "crow", "sift", "cam-online")]
    study = open_tiny()
    experiments.state_of_the_art_table(study, experiments.compare_methods(study, rows))
    assert not (study.results / "tables/t02_blcf_search.csv").exists()
    table = study.results.read("t13_state_of_the_art").set_index(["row", "column"])
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
