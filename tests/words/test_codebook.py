"""The codebook's stage and assignment to its words; interruption changes nothing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils.config.profile import CodebookConfig, EncodingConfig
from blcf_utils.ground import artefacts
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import StudyError
from blcf_utils.words import codebook as module
from blcf_utils.words import kmeans
from blcf_utils.words.assignment import TorchSearcher
from blcf_utils.words.assignment_maps import assignment_maps
from blcf_utils.words.codebook import Codebook, learn_codebook


def test_more_words_than_descriptors_is_an_error(toy_stages, store):
    config = CodebookConfig(words=60_000)
    with pytest.raises(StudyError, match=r"codebook\.words: 60000 words .* of toy-squeezenet1_1"):
        learn_codebook(toy_stages.features, toy_stages.whitening, config, store)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(0, 200), st.integers(1, 40), st.integers(0, 10_000))
def test_assignment_is_the_nearest_word(words, n, dimensions, seed):
    rng = np.random.default_rng(seed)
    book = Codebook(rng.normal(size=(words, dimensions)).astype(np.float32), np.zeros(1), 0)
    data = rng.normal(size=(n, dimensions)).astype(np.float32)
    found = book.assign(data)
    assert (found.dtype, found.shape) == (np.uint16, (n,))
    difference = data.astype(np.float64)[:, None] - book.centroids.astype(np.float64)[None]
    distances = (difference**2).sum(axis=2)
    chosen = distances[np.arange(n), found]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-5, atol=1e-5)


def test_a_gpu_is_used_where_one_is_asked_for_and_only_for_exact_assignment(monkeypatch):
    devices = []

    def on_cpu(centroids, device):
        devices.append(device)
        return TorchSearcher(centroids, "cpu")

    monkeypatch.setattr(module, "TorchSearcher", on_cpu)
    rng = np.random.default_rng(0)
    centroids, rows = rng.normal(size=(2, 30, 8)).astype(np.float32)
    book = Codebook(centroids, np.zeros(1), 0)
    expected = book.assign(rows)
    cells = book.with_assignment(EncodingConfig(assignment="ivf", assignment_effort=30))
    np.testing.assert_array_equal(cells.assign(rows, "cuda"), expected)
    assert not devices
    np.testing.assert_array_equal(book.assign(rows, "cuda"), expected)
    assert devices == ["cuda"]
    for _ in range(2):  # what a GPU holds is made once for each
        np.testing.assert_array_equal(book.assign(rows, "cuda:1"), expected)
    assert devices == ["cuda", "cuda:1"]


def test_the_largest_word_fits():
    centroids = np.arange(65_535, dtype=np.float32)[:, None]
    book = Codebook(centroids, np.zeros(1), 0)
    assert book.assign(np.array([[65_600.0], [0.2]], np.float32)).tolist() == [65_534, 0]


def test_descriptors_of_another_whitening_are_refused():
    book = Codebook(np.zeros((3, 4), np.float32), np.zeros(1), 0)
    with pytest.raises(StudyError, match="5 dimensions and the codebook 4"):
        book.assign(np.zeros((2, 5), np.float32))


def test_learning_is_found_again_and_follows_the_seed(toy_stages):
    features, whitening, store = toy_stages.features, toy_stages.whitening, toy_stages.store
    config = CodebookConfig(words=50, iterations=5)
    again = learn_codebook(features, whitening, config, store)
    assert again.key == toy_stages.codebook.key
    np.testing.assert_array_equal(again.centroids, toy_stages.codebook.centroids)
    assert again.words == 50
    assert again.n_descriptors == len(features.database_rows())
    assert len(again.objective) <= 5
    other = learn_codebook(features, whitening, config, store, seed=1)
    assert other.key != again.key
    assert not np.allclose(other.centroids, again.centroids)


class Stopped(Exception):
    """Stands for a killed process."""


def stop_after_chunks(monkeypatch, number):
    """Let k-means stop when it has read ``number`` chunks; return how many were read."""
    original, read = kmeans._chunks, []

    def chunks(data):
        for place, rows in original(data):
            if len(read) == number:
                read.append("stop")
                raise Stopped
            read.append(place)
            yield place, rows

    monkeypatch.setattr(kmeans, "_chunks", chunks)
    return read


def test_a_stopped_learning_goes_on_from_its_last_iteration(toy_stages, store, monkeypatch):
    features, whitening = toy_stages.features, toy_stages.whitening
    config = CodebookConfig(words=50, iterations=5)
    read = stop_after_chunks(monkeypatch, 3)  # one chunk an iteration
    with pytest.raises(Stopped):
        learn_codebook(features, whitening, config, store)
    names = {p.name for p in (store.root / "codebook").glob("*.partial/*")}
    assert names == {"descriptors.f32", "iterations.npz"}
    resumed = learn_codebook(features, whitening, config, store)
    uninterrupted = toy_stages.codebook
    assert len(read) - 1 == len(uninterrupted.objective)
    assert resumed.key == uninterrupted.key
    np.testing.assert_array_equal(resumed.centroids, uninterrupted.centroids)
    np.testing.assert_array_equal(resumed.objective, uninterrupted.objective)
    names = {p.name for p in (store.root / "codebook").glob("*/*")}
    assert names == {
        "artefact.json", "made.json", "centroids.npy", "objective.npy", "n_descriptors.npy"
    }  # fmt: skip


def test_whitened_descriptors_are_those_of_the_maps_and_written_once(
    toy_stages, store, monkeypatch
):
    features, whitening = toy_stages.features, toy_stages.whitening
    monkeypatch.setattr(kmeans, "CHUNK", 100)
    stream, streamed = type(features).stream, []

    def chunks(self, rows, chunk=100):
        for k, part in enumerate(stream(self, rows, 100)):
            if len(streamed) == 3:
                streamed.append("stop")
                raise Stopped
            streamed.append(int(rows[100 * k]))
            yield part

    monkeypatch.setattr(type(features), "stream", chunks)
    written = {}
    train = module.train_words

    def keep(folder, descriptors, *arguments, **settings):
        data = descriptors(folder)
        written["rows"] = data[:]
        train(folder, lambda folder: data, *arguments, **settings)

    monkeypatch.setattr(module, "train_words", keep)
    config = CodebookConfig(words=50, iterations=2)
    with pytest.raises(Stopped):
        learn_codebook(features, whitening, config, store)
    learn_codebook(features, whitening, config, store)
    every = features.database_rows()
    assert streamed[:5] == [0, 100, 200, "stop", 300]
    assert len(streamed) - 1 == -(-len(every) // 100)
    expected = np.concatenate([whitening.apply(c) for c in stream(features, every, 100)])
    np.testing.assert_array_equal(written["rows"], expected)


@pytest.mark.parametrize("where", ["before the count", "in removing", "after all"])
def test_killed_when_the_words_are_there_it_learns_nothing_again(
    toy_stages, tmp_path, monkeypatch, where
):
    features, whitening = toy_stages.features, toy_stages.whitening
    config = CodebookConfig(words=40, iterations=4)
    expected = learn_codebook(features, whitening, config, ArtefactStore(tmp_path / "whole"))
    store = ArtefactStore(tmp_path / "cut")

    def killed(*arguments, **settings):
        raise Stopped

    with monkeypatch.context() as patch:
        if where == "before the count":
            patch.setattr(module, "atomic_path", killed)
        elif where == "in removing":
            unlink = Path.unlink
            patch.setattr(
                Path,
                "unlink",
                lambda p, **how: killed() if p.name == "descriptors.f32" else unlink(p, **how),
            )
        else:
            patch.setattr(artefacts, "write_json", killed)
        with pytest.raises(Stopped):
            learn_codebook(features, whitening, config, store)
    monkeypatch.setattr(kmeans, "_iterate", killed)
    learned = learn_codebook(features, whitening, config, store)
    np.testing.assert_array_equal(learned.centroids, expected.centroids)
    np.testing.assert_array_equal(learned.objective, expected.objective)
    (folder,) = (store.root / "codebook").glob("[!.]*")
    names = {path.name for path in folder.iterdir()}
    assert not names & {"descriptors.f32", "iterations.npz"}


def test_an_approximate_codebook_has_a_key_of_its_own_and_words_nearly_as_near(toy_stages):
    exact = toy_stages.codebook
    assert exact.with_assignment(EncodingConfig()) is exact
    rows = toy_stages.whitening.apply(toy_stages.features.descriptors(0))
    keys = {exact.key}
    for method in ("hnsw", "ivf"):
        found = exact.with_assignment(EncodingConfig(assignment=method, assignment_effort=3))
        assert found.key not in keys
        keys.add(found.key)
        words = found.assign(rows)
        assert words.dtype == np.uint16
        assert (words == exact.assign(rows)).mean() > 0.7


def test_maps_keep_what_approximate_assignment_costs(toy_stages, store):
    features, whitening = toy_stages.features, toy_stages.whitening
    assert toy_stages.maps.quality is None
    config = EncodingConfig(assignment="ivf", assignment_effort=1)
    codebook = toy_stages.codebook.with_assignment(config)
    maps = assignment_maps(features, whitening, codebook, config, store)
    assert maps.key != toy_stages.maps.key
    pairs = [(maps.map(i), toy_stages.maps.map(i)) for i in range(maps.n_database)]
    same = np.mean(np.concatenate([(a == b).ravel() for a, b in pairs]))
    assert 0.3 < same < 1
    assert (maps.quality["assignment"], maps.quality["effort"]) == ("ivf", 1)
    assert maps.quality["recall"] == pytest.approx(same, abs=0.002)  # 18 images: all are looked at
    assert maps.quality["distortion"] > 1
    assert maps.quality["descriptors"] == sum(a.size for a, _ in pairs)


def test_approximate_learning_has_a_key_of_its_own(toy_stages, store):
    features, whitening = toy_stages.features, toy_stages.whitening
    learn = CodebookConfig(words=50, iterations=5, assignment="ivf", assignment_effort=2)
    found = learn_codebook(features, whitening, learn, store)
    assert found.key != toy_stages.codebook.key
    last, exact = found.objective[-1], toy_stages.codebook.objective[-1]
    assert exact * 0.9 < last < exact * 1.1
    assert (np.diff(found.objective) < 0).all()
