"""Images with the same bytes: every stage works on the first of them and stores it for each."""

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blcf_utils.config.profile import EncodingConfig, SiftConfig
from blcf_utils.datasets import base, checks
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.rows import copies_of
from blcf_utils.finetuning.descriptors import describe_dataset
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.aml import localise, localise_all
from blcf_utils.pooling.compared import vectors
from blcf_utils.pooling.sum_pooling import database_sums
from blcf_utils.saliency.base import SaliencyModel
from blcf_utils.saliency.maps import saliency_maps
from blcf_utils.saliency.weight_maps import weight_maps
from blcf_utils.saliency.weighting import by_saliency, l2_norm
from blcf_utils.search.sift import keypoints as sift
from blcf_utils.search.sift.keypoints import describe, extract_sift
from blcf_utils.search.sift.words import assign_sift_words, learn_sift_codebook
from blcf_utils.words import assignment_maps as bow
from blcf_utils.words.assignment_maps import assign_map, assignment_maps

SIFT = SiftConfig(keypoints=30, words=20, iterations=3)


@pytest.fixture
def album(toy, tmp_path):
    """Twelve database images, five distinct and one of them broken, and two queries outside.

    Images 1, 4 and 9 are one file with three names; the query image 12 is image 3 again.
    """
    names = [0, 1, 2, 3, 1, 0, 4, 2, 4, 1, 3, 0]
    paths = [tmp_path / f"{i:02d}.jpg" for i in range(14)]
    for i, kind in enumerate([*names, 3, 18]):
        if kind == 4:
            paths[i].write_bytes(b"not an image")
        elif kind == 1 and i > 1:
            os.link(paths[1], paths[i])
        else:
            shutil.copyfile(toy.all_images[kind], paths[i])
    queries = tuple(Query(path.name, path, None, (0,)) for path in paths[12:])
    return Dataset("album", tmp_path, tuple(paths[:12]), queries)


@pytest.fixture
def without_shortcut(album):
    """The same dataset, each image of it processed for itself."""
    other = replace(album)
    other.__dict__["distinct"] = np.arange(14)
    return other


def contents(artefact):
    files = sorted(p for p in artefact.folder.iterdir() if p.name != "made.json")
    return {p.name: p.read_bytes() for p in files if p.name != "artefact.json"}


def test_distinct_names_the_first_image_with_the_same_bytes(album, toy, monkeypatch):
    read, original = [], base.content_digest
    monkeypatch.setattr(base, "content_digest", lambda path: read.append(path) or original(path))
    assert album.distinct.tolist() == [0, 1, 2, 3, 1, 0, 6, 2, 6, 1, 3, 0, 3, 13]
    assert album.manifest == replace(album).manifest
    assert len(read) == 2 * 12  # a file with three names is read once
    np.testing.assert_array_equal(toy.distinct, np.arange(19))


def test_copies_are_the_numbers_of_the_same_image():
    copies = copies_of(np.array([0, 1, 0, 3, 1, 0]))
    assert {k: v.tolist() for k, v in copies.items()} == {0: [0, 2, 5], 1: [1, 4], 3: [3]}


def forwarded_images(backbone):
    forwarded = []

    def count(_module, inputs):
        if not inputs[0].is_meta:
            forwarded.append(len(inputs[0]))

    backbone.module.register_forward_pre_hook(count)
    return forwarded


def test_features_of_copies(album, without_shortcut, tiny_network, tmp_path):
    change = {"batch_size": 1, "on_corrupt": "skip"}
    config, found, counts = tiny_network.model_copy(update=change), [], []
    for name, dataset in (("once", album), ("each", without_shortcut)):
        backbone = load_backbone(config.backbone)
        forwarded = forwarded_images(backbone)
        store = ArtefactStore(tmp_path / name)
        found.append(extract_features(dataset, config, store, backbone))
        counts.append(sum(forwarded))
    assert counts == [5, 12]
    assert found[0].skipped == ("06.jpg", "08.jpg")
    assert contents(found[0].artefact) == contents(found[1].artefact)
    batched = extract_features(
        album, config.model_copy(update={"batch_size": 4}), ArtefactStore(tmp_path / "batches")
    )
    for i, first in enumerate(album.distinct):
        np.testing.assert_array_equal(batched.map(i), batched.map(int(first)))
        np.testing.assert_allclose(batched.map(i), found[0].map(i), rtol=2e-3, atol=2e-2)


def test_an_extraction_stopped_between_copies_ends_with_the_same_bytes(
    album, tiny_network, store, tmp_path, monkeypatch
):
    from blcf_utils.features.extraction import _Extraction

    class Stop(Exception):
        pass

    original, written = _Extraction._write, []

    def stopping(self, position, values):
        written.append(position)
        if len(written) == 6:
            raise Stop
        original(self, position, values)

    config = tiny_network.model_copy(update={"on_corrupt": "skip"})
    with monkeypatch.context() as patch:
        patch.setattr(_Extraction, "_write", stopping)
        with pytest.raises(Stop):
            extract_features(album, config, store)
    resumed = extract_features(album, config, store)
    whole = extract_features(album, config, ArtefactStore(tmp_path / "whole"))
    assert contents(resumed.artefact) == contents(whole.artefact)


@pytest.fixture
def features(album, tiny_network, store):
    config = tiny_network.model_copy(update={"on_corrupt": "skip"})
    return extract_features(album, config, store)


def test_assignment_maps_of_copies(features, toy_stages, tmp_path, monkeypatch):
    learned, found, counts = (toy_stages.whitening, toy_stages.codebook), [], []
    for name, distinct in (("once", features.distinct), ("each", np.arange(14))):
        assigned = []
        monkeypatch.setattr(bow, "assign_map", lambda *a: assigned.append(1) or assign_map(*a))  # noqa: B023
        monkeypatch.setattr(features, "distinct", distinct)
        store = ArtefactStore(tmp_path / name)
        found.append(assignment_maps(features, *learned, EncodingConfig(), store))
        counts.append(len(assigned))
    assert counts == [5, 12]
    assert contents(found[0].artefact) == contents(found[1].artefact)


def test_sift_of_copies(album, without_shortcut, tmp_path, monkeypatch):
    found, counts = [], []
    for name, dataset in (("once", album), ("each", without_shortcut)):
        described = []
        monkeypatch.setattr(sift, "describe", lambda *a: described.append(1) or describe(*a))  # noqa: B023
        store = ArtefactStore(tmp_path / name)
        features = extract_sift(dataset, SIFT, store, "skip")
        codebook = learn_sift_codebook(features, SIFT, store)
        found.append((features, assign_sift_words(features, codebook, store)))
        counts.append(len(described))
    assert counts == [5, 12]
    for one, other in zip(*found, strict=True):
        assert contents(one.artefact) == contents(other.artefact)


@pytest.mark.parametrize("done", [1, 5, 9])
def test_sift_resumed_behind_an_image_copies_from_before_it(album, store, tmp_path, done):
    whole = extract_sift(album, SIFT, ArtefactStore(tmp_path / "whole"), "skip")
    partial = store.root / "sift" / f"{whole.artefact.folder.name}.partial"
    shutil.copytree(whole.artefact.folder, partial)
    os.truncate(partial / "images.bin", 12 * done)
    resumed = extract_sift(album, SIFT, store, "skip")
    assert contents(resumed.artefact) == contents(whole.artefact)


@pytest.mark.parametrize("links", [True, False])
def test_saliency_maps_of_copies(album, without_shortcut, tmp_path, monkeypatch, links):
    found, counts = [], []
    if not links:

        def link(*_):
            raise OSError("no links here")

        monkeypatch.setattr(os, "link", link)
    for name, dataset in (("once", album), ("each", without_shortcut)):
        looked = []
        model = SaliencyModel("red", lambda i: looked.append(1) or i[..., 0].copy())  # noqa: B023
        found.append(saliency_maps(dataset, model, ArtefactStore(tmp_path / name), "skip"))
        counts.append(len(looked))
    assert counts == [4, 10]
    assert contents(found[0].artefact) == contents(found[1].artefact)
    assert (found[0].artefact / "000009.png").stat().st_nlink == (3 if links else 1)


def test_weights_of_copies(features, tmp_path):
    seen, found = [], {}

    def saliency(image):
        seen.append(image)
        return np.full((4, 4), 10 + image, np.uint8) // np.array([[1, 2, 3, 4]], np.uint8)

    for by_content in (True, False):
        weighting = by_saliency("made up", saliency, {}, by_content)
        store = ArtefactStore(tmp_path / str(by_content))
        found[by_content] = weight_maps(weighting, features, 2, store)
    # Image 6 has no positions. Maps of a folder belong to names: each image has its own.
    assert sorted(seen) == sorted([0, 1, 2, 3, *(i for i in range(12) if i not in (6, 8))])
    np.testing.assert_array_equal(found[True](4), found[False](1))
    assert not np.array_equal(found[False](4), found[False](1))

    once = weight_maps(l2_norm(), features, 2, ArtefactStore(tmp_path / "once"))
    features.distinct = np.arange(14)
    each = weight_maps(l2_norm(), features, 2, ArtefactStore(tmp_path / "each"))
    assert contents_of_weights(once, tmp_path / "once") == contents_of_weights(
        each, tmp_path / "each"
    )


def contents_of_weights(weights, root):
    (path,) = root.glob(f"weights/*{weights.key}/weights.npy")
    return path.read_bytes()


def of_each(features):
    return np.stack([features.map(i).sum(axis=(1, 2)) for i in range(features.n_database)])


def test_sums_and_windows_of_copies(features):
    np.testing.assert_array_equal(database_sums(features), of_each(features))
    query = np.ones(features.channels, np.float32)
    windows, scores = localise_all(features, range(6), query, 1.3)
    for i in range(6):
        window, score = localise(features.map(i), query, 1.3)
        assert (tuple(windows[i]), scores[i]) == (window, np.float32(score))


def test_vectors_of_compared_methods_of_copies(album, features, tmp_path):
    described = []

    def describe(maps):
        described.extend(maps)
        return maps.sum(axis=(2, 3))

    method = SimpleNamespace(
        name="sum", dataset=album, features=features, fitted=SimpleNamespace(describe=describe)
    )
    vectors._describe([(method, tmp_path)])
    assert len(described) == 4
    found = np.load(tmp_path / "vectors.npy")
    np.testing.assert_allclose(found, of_each(features), rtol=1e-5)


class Sums(torch.nn.Module):
    """A network of no layers."""

    trunk = torch.nn.Identity()

    def pool(self, maps):
        return maps.sum(dim=(2, 3))


def test_descriptors_of_networks_of_copies(album, features):
    network, forwarded = Sums(), []
    network.dimensions = features.channels
    network.trunk.register_forward_pre_hook(lambda _module, inputs: forwarded.extend(inputs[0]))
    found = describe_dataset(network, album, features, "edges", torch.device("cpu"))
    assert len(forwarded) == 5  # four of the database and a query image beside it, each once
    np.testing.assert_allclose(found.database, of_each(features), rtol=1e-5)


def test_checking_decodes_copies_once_and_names_every_broken_one(album, monkeypatch):
    read, original = [], checks._read_size
    monkeypatch.setattr(checks, "_read_size", lambda *a: read.append(a[0]) or original(*a))
    with pytest.raises(StudyError, match=r"2 files cannot be decoded .*06\.jpg .*08\.jpg"):
        check_dataset(album)
    assert len(read) == 6
