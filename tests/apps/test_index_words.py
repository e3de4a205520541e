"""The words of a folder: those it starts with, when they are old, and what --anew keeps."""

import json
import shutil
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from album import lock, paint
from safetensors import safe_open
from typer.testing import CliRunner

from blcf_utils.apps.photographs import encoding
from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.manifest import Manifest, home_of
from blcf_utils.apps.photographs.querying import query_folder
from blcf_utils.apps.photographs.words import (
    are_enough,
    is_own,
    open_encoder,
    shipped_words,
    stored_words,
)
from blcf_utils.cli import app
from blcf_utils.config.profile import load_profile
from blcf_utils.datasets.rendering.photographs import photograph
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.networks.weight_files import EMBEDDED
from blcf_utils.ground.paths import embedded_dir
from workshop import words_learning

FILE = f"words-{EMBEDDED.name}.safetensors"
EMBEDDED_PROFILE = """
    name: embedded
    datasets: [none]
    features:
      backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded}
      longest_side: 96
      device: cpu
    whitening: {dimensions: 16}
    codebook: {words: 40, iterations: 3}
"""


@pytest.fixture
def embedded_profile(tmp_path):
    path = tmp_path / "embedded.yaml"
    path.write_text(textwrap.dedent(EMBEDDED_PROFILE), encoding="utf-8")
    return str(path)


def test_the_shipped_words_are_small_and_fit_a_photograph():
    path = embedded_dir() / FILE
    assert path.stat().st_size < 1_000_000
    backbone = load_backbone(EMBEDDED)
    whitening, codebook = shipped_words(backbone)
    assert (whitening.projection.shape, codebook.centroids.shape) == ((672, 128), (3000, 128))
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert told["descriptors"] == codebook.n_descriptors == whitening.n_vectors
    assert round(float(codebook.objective[-1]) / codebook.n_descriptors, 4) == told["objective"]
    # A photograph that taught none of them is as near to them as those that did, which it is not
    # to words of the same length and other directions.
    shuffled = np.random.default_rng(0).permuted(codebook.centroids, axis=1)
    pixels = photograph("sklearn/flower.jpg")[::2, ::2]
    distances = []
    for centroids in (codebook.centroids, shuffled):
        words = replace(codebook, centroids=centroids)
        encoder = Encoder(backbone, whitening, words, load_profile("mini").features)
        distances.append(encoder.words_and_distance(encoder.feature_maps([pixels])[0])[1])
    assert distances[0] < 0.85 < 0.95 < distances[1]


def test_words_of_another_layer_are_not_taken():
    other = EMBEDDED.model_copy(update={"layer": "block10_expand"})
    assert shipped_words(load_backbone(other)) is None


def test_shipped_words_that_are_lost_cost_a_locked_folder_nothing(
    store, tmp_path, embedded_profile, monkeypatch
):
    album = tmp_path / "few"
    for name in ("a.jpg", "locked/b.jpg"):
        paint(album / name, len(name), 0)
    index_folder(album, embedded_profile, [])
    shutil.rmtree(home_of(album) / "words")
    lock(monkeypatch, "locked")
    done = index_folder(album)
    assert (done.photographs, done.removed) == (2, 0)
    assert done.unlisted["locked"].endswith("photographs of it that are kept: 1")
    assert [one.photograph for one in query_folder(album, "a.jpg")] == ["locked/b.jpg"]


def test_a_folder_has_own_words_from_256_on_or_half_of_its_profile_s(embedded_profile):
    for profile, descriptors in (("mini", 256 * 8), (embedded_profile, 40 * 8 / 2)):
        profile = load_profile(profile)
        assert are_enough(descriptors, profile)
        assert not are_enough(descriptors - 1, profile)


def test_one_photograph_is_searchable_and_so_are_those_that_follow(
    store, tmp_path, embedded_profile
):
    album = tmp_path / "growing"
    paint(album / "first.jpg", 1, 0)
    first = index_folder(album, embedded_profile, [])
    assert (first.photographs, first.advice) == (1, "")
    words = stored_words(home_of(album))
    assert not is_own(words)
    assert len(np.load(words / "centroids.npy")) == 3000
    paint(album / "same.jpg", 2, 0)
    for i in range(2, 12):
        paint(album / f"other-{i}.jpg", 10 + i, i)
    grown = index_folder(album)
    assert (grown.photographs, grown.added) == (12, 11)
    assert query_folder(album, "first.jpg", (30, 20, 78, 68), top=1)[0].photograph == "same.jpg"
    # 6 x 5 positions a photograph teach 8 descriptors a word: 40 words of eleven photographs.
    assert "learned elsewhere; 12 photographs can teach some; run blcf index" in grown.advice
    assert grown.advice.endswith(f"{album} --anew to learn words again")
    again = index_folder(album, anew=True)
    assert (again.photographs, again.advice) == (12, "")
    words = stored_words(home_of(album))
    assert is_own(words)
    assert len(np.load(words / "centroids.npy")) == 40


def test_copies_teach_no_words(store, tmp_path, embedded_profile):
    for i in range(12):
        paint(tmp_path / "same" / f"{i}.jpg", 1, 0)
    index_folder(tmp_path / "same", embedded_profile, [])
    assert not is_own(stored_words(home_of(tmp_path / "same")))


def test_the_distance_to_words_is_that_to_the_nearest_centroid(album, album_profile):
    index_folder(album, album_profile, [])
    home, profile = home_of(album), Manifest.read(home_of(album)).profile
    encoder, found = open_encoder(home, profile), []
    for name in Collection(album).names:
        (feature_map,) = encoder.feature_maps([encoder.read(album / name)[0]])
        rows = encoder.whitening.apply(_doubled(feature_map).reshape(len(feature_map), -1).T)
        away = np.linalg.norm(rows[:, None] - encoder.codebook.centroids, axis=2) ** 2
        found.append(away.min(axis=1).mean())
    photographs, distance = Manifest.read(home).learned
    assert photographs == 12
    assert distance == pytest.approx(np.mean(found), rel=1e-4)


def _doubled(feature_map):
    from scipy.ndimage import zoom

    return zoom(feature_map, (1, 2, 2), order=1)


def test_old_words_are_said_with_the_command(album, album_profile):
    for path in sorted(album.rglob("*.jpg"))[2:]:
        path.rename(path.with_suffix(".aside"))
    first = index_folder(album, album_profile, [])
    assert (first.photographs, first.advice) == (2, "")
    for path in album.rglob("*.aside"):
        path.rename(path.with_suffix(".jpg"))
    for i in range(7):
        paint(album / f"more-{i}.jpg", 100 + i)
    assert index_folder(album).photographs == 19
    assert "photographs when" not in index_folder(album).advice
    paint(album / "one-more.jpg", 120)
    said = CliRunner().invoke(app, ["index", str(album)]).output
    told = "it had 2 photographs when it taught its words, and has 20 now; run blcf index"
    assert told in said
    assert f"{album} --anew to learn words again" in said
    assert index_folder(album, anew=True).advice == ""


def test_photographs_far_from_their_words_are_said(album, album_profile):
    index_folder(album, album_profile, [])
    manifest = Manifest.read(home_of(album))
    count, distance = manifest.learned
    for share, told in ((1.24, False), (1.26, True)):
        manifest.learned = [count, distance / share]
        manifest.save(home_of(album))
        advice = index_folder(album).advice
        assert (f"{distance:.2f} away on average, {distance / share:.2f} when" in advice) == told


def test_anew_keeps_what_still_holds(album, album_profile, monkeypatch):
    index_folder(album, album_profile, ["Gaussian", "salgan-mini"])

    def answers():
        return query_folder(album, "day0/00.jpg", (30, 20, 78, 68), weighting="salgan-mini")

    before = answers()
    thumbnails, make = [], encoding.thumbnail_of
    monkeypatch.setattr(
        encoding, "thumbnail_of", lambda pixels: thumbnails.append(1) or make(pixels)
    )
    # The same photographs teach the same words: nothing is encoded, settings are kept.
    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "feature_maps", None)
        assert index_folder(album, anew=True).photographs == 12
        assert Collection(album).weightings == ("None", "Gaussian", "salgan-mini")
        assert answers() == before
        # Another weighting that reads no feature map needs no network either.
        index_folder(album, weightings=["Gaussian", "R-MAC"], anew=True)
    assert thumbnails == []
    # New words: thumbnails and saliency of the photographs that were there are kept.
    for i in range(3):
        paint(album / f"new-{i}.jpg", 300 + i, i)
    done = index_folder(album, weightings=["R-MAC"], anew=True)
    assert (done.photographs, len(thumbnails)) == (15, 3)
    assert len(list((home_of(album) / "shards").iterdir())) == 1


def test_the_workshop_learns_words_on_free_photographs(store, tmp_path, monkeypatch):
    monkeypatch.setattr(words_learning, "COLLECTIONS", ())
    config = words_learning.WordsConfig(words=20, dimensions=8, crops=3, iterations=2)
    path = words_learning.learn_words(config, tmp_path)
    assert path.name == FILE
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    # Maps of 22 x 16 positions, upright or not.
    assert (facts["photographs"], facts["descriptors"]) == (3, 3 * 22 * 16)
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["about"])["backbone"] == facts["backbone"]
        assert file.get_tensor("projection").shape == (672, 8)
        assert file.get_tensor("centroids").dtype == np.float16
    monkeypatch.setattr("blcf_utils.apps.photographs.words.embedded_dir", lambda: tmp_path)
    whitening, codebook = shipped_words(load_backbone(EMBEDDED))
    assert (whitening.dimensions, codebook.words) == (8, 20)
