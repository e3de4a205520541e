"""k-means and exact assignment, against slow float64 versions; interruption changes nothing."""

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
from blcf_utils.words.assignment_maps import assignment_maps
from blcf_utils.words.codebook import Codebook, learn_codebook
from blcf_utils.words.kmeans import KMeansState, fit_kmeans


def clusters(n=600, dimensions=8, centres=12, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(centres, dimensions)) * 3
    return (means[rng.integers(centres, size=n)] + rng.normal(size=(n, dimensions))).astype(
        np.float32
    )


def squared_distances(data, centroids):
    difference = data.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return (difference**2).sum(axis=2)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(40, 300), st.integers(0, 10_000), st.booleans())
def test_the_objective_is_the_assigned_distance_and_never_rises(words, n, seed, rounded):
    data = clusters(n, seed=seed)
    data = np.round(data) if rounded else data
    entering = []
    drawn = np.sort(np.random.default_rng(seed).choice(n, words, replace=False))
    entering.append(data[drawn])
    centroids, objective = fit_kmeans(
        data, words, 12, seed=seed, on_iteration=lambda state: entering.append(state.centroids)
    )
    assert 1 <= len(objective) <= 12
    assert (np.diff(objective) <= 1e-3 * objective[0]).all()
    for before, found in zip(entering, objective, strict=False):
        expected = squared_distances(data, before).min(axis=1).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(entering[-1], centroids)
    assert np.isfinite(centroids).all()


def test_one_iteration_moves_each_word_to_its_mean():
    data = clusters()
    start = data[:5].copy()
    centroids, _ = fit_kmeans(data, 5, 1, state=KMeansState(start))
    nearest = squared_distances(data, start).argmin(axis=1)
    means = np.stack([data[nearest == w].astype(np.float64).mean(axis=0) for w in range(5)])
    np.testing.assert_allclose(centroids, means, atol=1e-4)


def test_equal_seeds_agree_and_others_differ():
    data = clusters()
    first, second, other = (fit_kmeans(data, 20, 5, seed=s)[0] for s in (4, 4, 5))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_a_resumed_run_ends_with_the_same_bits(stop, seed):
    data = np.round(clusters(200, seed=seed))  # repeated descriptors: empty clusters are re-seeded
    whole, objective = fit_kmeans(data, 60, 9, seed=seed)
    part = fit_kmeans(data, 60, stop, seed=seed)
    state = KMeansState(part[0], list(part[1]))
    resumed, objective_2 = fit_kmeans(data, 60, 9, seed=seed, state=state)
    np.testing.assert_array_equal(whole, resumed)
    np.testing.assert_array_equal(objective, objective_2)


def test_iterations_stop_when_nothing_is_gained():
    data = np.repeat(clusters(30), 10, axis=0)
    _, objective = fit_kmeans(data, 4, 100)
    assert 3 <= len(objective) < 50


def test_as_many_words_as_descriptors_are_the_descriptors():
    data = clusters(30)
    centroids, objective = fit_kmeans(data, 30, 3)
    assert np.array_equal(np.sort(centroids, axis=0), np.sort(data, axis=0))
    assert objective[-1] == 0


def test_more_words_than_descriptors_is_an_error(toy_stages, store):
    with pytest.raises(StudyError, match="31 words cannot be learned from 30 descriptors"):
        fit_kmeans(clusters(30), 31, 3)
    config = CodebookConfig(words=60_000)
    with pytest.raises(StudyError, match=r"codebook\.words: 60000 words .* of toy-squeezenet1_1"):
        learn_codebook(toy_stages.features, toy_stages.whitening, config, store)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 300),
    st.integers(0, 200),
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.sampled_from([97, 32_000_000]),
)
def test_assignment_is_the_nearest_word(words, n, dimensions, seed, at_once):
    rng = np.random.default_rng(seed)
    book = Codebook(rng.normal(size=(words, dimensions)).astype(np.float32), np.zeros(1), 0)
    data = rng.normal(size=(n, dimensions)).astype(np.float32)
    whole = module._SCORES_AT_ONCE
    module._SCORES_AT_ONCE = at_once  # small: many parts
    try:
        found = book.assign(data)
    finally:
        module._SCORES_AT_ONCE = whole
    assert (found.dtype, found.shape) == (np.uint16, (n,))
    distances = squared_distances(data, book.centroids)
    chosen = distances[np.arange(n), found]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-5, atol=1e-5)


def test_the_largest_word_fits(tmp_path):
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

    def chunks(data, first):
        for start, rows in original(data, first):
            if len(read) == number:
                read.append("stop")
                raise Stopped
            read.append(start)
            yield start, rows

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
        written["rows"] = data.rows(np.arange(len(data)))
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
    assert exact.searched(EncodingConfig()) is exact
    features, whitening = toy_stages.features, toy_stages.whitening
    rows = whitening.apply(features.descriptors(0))
    keys = {exact.key}
    for method in ("hnsw", "ivf"):
        config = EncodingConfig(assignment=method, assignment_effort=3)
        found = exact.searched(config, toy_stages.store)
        assert found.key not in keys
        keys.add(found.key)
        again = exact.searched(config, toy_stages.store)
        words = found.assign(rows)
        assert words.dtype == np.uint16
        np.testing.assert_array_equal(words, again.assign(rows))
        np.testing.assert_array_equal(words, exact.searched(config).assign(rows, "cuda"))
        assert (words == exact.assign(rows)).mean() > 0.7
        quality = found.quality(rows)
        assert (quality["assignment"], quality["effort"]) == (method, 3)
    assert len(list((toy_stages.store.root / "word-graph").glob("K50-*/hnsw.faiss"))) == 1


def test_maps_keep_what_approximate_assignment_costs(toy_stages, store):
    features, whitening = toy_stages.features, toy_stages.whitening
    assert toy_stages.maps.quality is None
    config = EncodingConfig(assignment="ivf", assignment_effort=1)
    codebook = toy_stages.codebook.searched(config)
    maps = assignment_maps(features, whitening, codebook, config, store)
    assert maps.key != toy_stages.maps.key
    pairs = [(maps.map(i), toy_stages.maps.map(i)) for i in range(maps.n_database)]
    same = np.mean(np.concatenate([(a == b).ravel() for a, b in pairs]))
    assert 0.3 < same < 1
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
