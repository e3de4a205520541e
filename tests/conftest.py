"""Shared fixtures: a small generated benchmark, and real photographs and weights where present."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import album as album_pictures
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

os.environ["BLCF_PROGRESS"] = "off"
# No test is timed: what is compiled at its first call takes longer then.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(config, items):
    """Where several processes share the tests, one begins with the longest file: the notebooks."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name != "test_notebooks.py")


def _folder(variable: str, what: str) -> Path:
    given = os.environ.get(variable)
    if not given or not Path(given).is_dir():
        pytest.skip(f"SKIPPED, NOT TESTED: {variable} does not name a folder with {what}")
    return Path(given)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with instre-mini, monuments-mini, dvd-mini and groundtruth (BLCF_TEST_DATA)."""
    return _folder("BLCF_TEST_DATA", "the real photographs and official ground truth")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder with real ImageNet-trained state dicts (BLCF_TEST_WEIGHTS)."""
    return _folder("BLCF_TEST_WEIGHTS", "real ImageNet weights")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; the tests that need it skip where none is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("BLCF_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not program:
        pytest.skip("SKIPPED, NOT TESTED: the demo and the report in a browser; install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as drivers:
        opened = drivers.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An artefact store of this test's own; BLCF_CACHE names it too."""
    from blcf_utils.ground.artefacts import ArtefactStore

    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    return ArtefactStore()


@pytest.fixture(scope="module")
def _file_s_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(_file_s_cache, monkeypatch) -> Path:
    """The cache of all tests of a file that ask for it; BLCF_CACHE names it."""
    monkeypatch.setenv("BLCF_CACHE", str(_file_s_cache))
    return _file_s_cache


@pytest.fixture(scope="session")
def smoke_cache(tmp_path_factory) -> Path:
    """A cache that starts empty, for all tests that run the profile ``smoke``, in any process."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke-cache"


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """A folder of datasets (for BLCF_DATA) that holds the small instance-search set ``toy``.

    Four patterned posters, three views each, and six distractors; landscape and portrait JPEGs.
    Each query is a poster's first view, boxed; it is a database image, hence its own junk. One
    more query is the poster 0 in a photograph outside the database.
    """
    root = tmp_path_factory.mktemp("datasets")
    rng = np.random.default_rng(7)
    folder = root / "toy" / "images"
    folder.mkdir(parents=True)
    (root / "toy" / "queries").mkdir()
    posters = [rng.integers(0, 256, (6, 6, 3), np.uint8) for _ in range(4)]

    def photograph(path: Path, poster: int | None, size: tuple[int, int]) -> list[int]:
        ground = rng.integers(60, 200, (5, 5, 3), np.uint8)
        image = Image.fromarray(ground).resize(size, Image.Resampling.BICUBIC)
        side = min(size) * 3 // 4
        x, y = int(rng.integers(0, size[0] - side)), int(rng.integers(0, size[1] - side))
        if poster is not None:
            pattern = Image.fromarray(posters[poster])
            image.paste(pattern.resize((side, side), Image.Resampling.NEAREST), (x, y))
        image.save(path, quality=92)
        return [x, y, x + side, y + side]

    names, boxes = [], {}
    for k in range(18):
        poster = k // 3 if k < 12 else None
        names.append(f"p{poster}_{k % 3}.jpg" if k < 12 else f"other_{k}.jpg")
        boxes[names[-1]] = photograph(folder / names[-1], poster, ((96, 64), (64, 96))[k % 2])
    outside = photograph(root / "toy" / "queries" / "outside.jpg", 0, (120, 90))
    queries = [
        {
            "id": f"q{p}",
            "image": f"images/p{p}_0.jpg",
            "bbox": boxes[f"p{p}_0.jpg"],
            "instance": f"poster {p}",
            "positives": [f"p{p}_1.jpg", f"p{p}_2.jpg"],
            "junk": [],
        }
        for p in range(4)
    ]
    queries.append(
        {
            "id": "outside",
            "image": "queries/outside.jpg",
            "bbox": outside,
            "instance": "poster 0",
            "positives": [f"p0_{v}.jpg" for v in range(3)],
            "junk": [],
        }
    )
    described = json.dumps({"images": names, "queries": queries})
    (root / "toy" / "groundtruth.json").write_text(described, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def toy(toy_root):
    """The dataset ``toy``: 18 database images, one query image outside, five queries."""
    from blcf_utils.datasets import load_dataset

    return load_dataset("toy", root=toy_root / "toy")


@pytest.fixture(scope="session")
def tiny_network():
    """Configuration of feature extraction with a small untrained network (128 channels)."""
    from blcf_utils.config.profile import BackboneConfig, FeatureConfig

    network = BackboneConfig(name="squeezenet1_1", layer="fire3", weights="random")
    return FeatureConfig(backbone=network, longest_side=96, batch_size=4, device="cpu")


@pytest.fixture(scope="session")
def toy_stages(toy, tiny_network, tmp_path_factory):
    """Features, whitening, codebook, assignment maps and index of ``toy``, made once."""
    from types import SimpleNamespace

    from blcf_utils.config.profile import CodebookConfig, EncodingConfig, WhiteningConfig
    from blcf_utils.features.extraction import extract_features
    from blcf_utils.ground.artefacts import ArtefactStore
    from blcf_utils.search.index.inverted_file import InvertedFile, build_index
    from blcf_utils.words.assignment_maps import assignment_maps
    from blcf_utils.words.codebook import learn_codebook
    from blcf_utils.words.histograms import database_histograms
    from blcf_utils.words.whitening import learn_whitening

    store = ArtefactStore(tmp_path_factory.mktemp("toy-cache"))
    features = extract_features(toy, tiny_network, store)
    whitening = learn_whitening(features, WhiteningConfig(dimensions=64), store)
    codebook = learn_codebook(features, whitening, CodebookConfig(words=50, iterations=5), store)
    maps = assignment_maps(features, whitening, codebook, EncodingConfig(), store)
    index = build_index(
        {"maps": maps.key},
        "toy",
        store,
        lambda: InvertedFile.from_histograms(database_histograms(maps)),
    )
    return SimpleNamespace(
        store=store,
        features=features,
        whitening=whitening,
        codebook=codebook,
        maps=maps,
        index=index,
    )


@pytest.fixture(scope="session")
def toy_searcher(toy, toy_stages, tiny_network):
    """Runs search recipes on ``toy``; its query images also mirrored, zoomed, and both."""
    from blcf_utils.config.profile import (
        AugmentationConfig,
        EncodingConfig,
        ExpansionConfig,
        RerankingConfig,
    )
    from blcf_utils.datasets.views import augmented_views
    from blcf_utils.features.extraction import extract_features
    from blcf_utils.search.query import QueryMaps, SearchBase
    from blcf_utils.search.recipes import Searcher
    from blcf_utils.words.assignment_maps import assignment_maps

    images, made = toy.of_query_images(), []
    for view in augmented_views(AugmentationConfig()):
        features = extract_features(images, tiny_network, toy_stages.store, view=view)
        learned = (toy_stages.whitening, toy_stages.codebook)
        maps = assignment_maps(features, *learned, EncodingConfig(), toy_stages.store)
        made.append(QueryMaps(view, maps, images.image_index))
    base = SearchBase(toy, toy_stages.maps, toy_stages.index, augmented=lambda: made)
    return Searcher(base, RerankingConfig(), ExpansionConfig(images=3))


@pytest.fixture
def album_profile(tmp_path) -> str:
    """The path of a profile with which a few photographs are indexed within a second."""
    return album_pictures.write_profile(tmp_path / "small.yaml")


@pytest.fixture
def album(tmp_path, store) -> Path:
    """A folder of twelve photographs: four posters, three photographs each, in two sub-folders."""
    return album_pictures.fill(tmp_path / "holiday")
