"""k-means and exact assignment, against slow float64 versions; interruption changes nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils import codebook as module
from blcf_utils.codebook import Codebook, fit_kmeans, learn_codebook
from blcf_utils.config import CodebookConfig
from blcf_utils.errors import StudyError


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
        data, words, 12, seed=seed, on_iteration=lambda c, _: entering.append(c)
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
    centroids, _ = fit_kmeans(data, 5, 1, start=(start, []))
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
    resumed, objective_2 = fit_kmeans(data, 60, 9, seed=seed, start=(part[0], list(part[1])))
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


def test_a_stopped_learning_goes_on_from_its_last_iteration(toy_stages, store, monkeypatch):
    features, whitening = toy_stages.features, toy_stages.whitening
    config = CodebookConfig(words=50, iterations=5)

    class Stop(Exception):
        pass

    original, trained = module.faiss.Kmeans.train, []

    def train(self, *arguments, **options):
        if len(trained) == 3:
            trained.append("stop")
            raise Stop
        trained.append("iteration")
        return original(self, *arguments, **options)

    monkeypatch.setattr(module.faiss.Kmeans, "train", train)
    with pytest.raises(Stop):
        learn_codebook(features, whitening, config, store)
    resumed = learn_codebook(features, whitening, config, store)
    uninterrupted = toy_stages.codebook
    assert trained.count("iteration") == len(uninterrupted.objective)
    assert resumed.key == uninterrupted.key
    np.testing.assert_array_equal(resumed.centroids, uninterrupted.centroids)
    np.testing.assert_array_equal(resumed.objective, uninterrupted.objective)
    names = sorted(p.name for p in (store.root / "codebook").glob("*/*"))
    assert "iterations.npz" not in names
