"""Approximate assignment against exact: what is found, how good it is, and that it repeats."""

import faiss
import numpy as np
import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.words import assignment as module
from blcf_utils.words.assignment import (
    DEFAULT_EFFORT,
    ExactSearcher,
    IvfSearcher,
    TorchSearcher,
    assignment_quality,
    make_searcher,
)

METHODS = tuple(DEFAULT_EFFORT)


def words_and_rows(words=2_000, rows=3_000, dimensions=24, seed=0):
    """Clustered words, and rows near them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(60, dimensions))
    made = centres[rng.integers(0, 60, words)] + 0.6 * rng.normal(size=(words, dimensions))
    near = made[rng.integers(0, words, rows)] + 0.3 * rng.normal(size=(rows, dimensions))
    return made.astype(np.float32), near.astype(np.float32)


def all_distances(rows, centroids):
    difference = rows.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return (difference**2).sum(2)


@pytest.mark.parametrize("method", METHODS)
def test_most_nearest_words_are_found_with_their_distances(method):
    centroids, rows = words_and_rows(rows=400)
    words, distances = make_searcher(centroids, method).search(rows)
    truth = all_distances(rows, centroids)
    assert (words == truth.argmin(1)).mean() > 0.97
    np.testing.assert_allclose(distances, truth[np.arange(len(rows)), words], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_more_effort_finds_more(method):
    rng = np.random.default_rng(0)  # without any clusters, which is hardest
    centroids, rows = rng.normal(size=(2, 2_000, 24)).astype(np.float32)
    found = [
        assignment_quality(centroids, make_searcher(centroids, method, effort), rows)
        for effort in (1, 4, 64)
    ]
    recalls = [quality["recall"] for quality in found]
    assert recalls[0] < recalls[1] < recalls[2]
    assert found[0]["distortion"] > found[1]["distortion"] > found[2]["distortion"] >= 1
    assert recalls[2] > 0.99
    assert found[0]["descriptors"] == 2_000


def test_looking_into_every_cell_is_exact():
    centroids, rows = words_and_rows(words=300)
    searcher = IvfSearcher(centroids, 10_000)
    assert searcher.effort <= round(300**0.5)
    quality = assignment_quality(centroids, searcher, rows)
    assert (quality["recall"], quality["distortion"]) == (1.0, 1.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2])
def test_two_builds_find_the_same_words_whatever_the_threads(method, threads):
    centroids, rows = words_and_rows()
    expected = make_searcher(centroids, method).search(rows)[0]
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        found = make_searcher(centroids, method).search(rows)[0]
    finally:
        faiss.omp_set_num_threads(before)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_assigned_alike_alone_and_together(method):
    centroids, rows = words_and_rows(rows=500)
    searcher = make_searcher(centroids, method)
    whole = searcher.search(rows)[0]
    parts = [searcher.search(rows[k : k + 37])[0] for k in range(0, 500, 37)]
    assert (np.concatenate(parts) == whole).mean() > 0.998
    words, distances = searcher.search(rows[:0])
    assert (words.shape, distances.shape) == ((0,), (0,))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("words", [2, 3, 40])
def test_few_and_repeated_words(method, words):
    centroids = np.repeat(np.eye(words, 8, dtype=np.float32)[: (words + 1) // 2], 2, 0)[:words]
    rows = centroids[np.arange(100) % words] + np.float32(0.01)
    quality = assignment_quality(centroids, make_searcher(centroids, method), rows)
    assert quality["recall"] == 1.0


@pytest.mark.parametrize("at_once", [7_000, 32_000_000])  # parts of 23 rows, or all in one
def test_torch_finds_the_nearest_words(monkeypatch, at_once):
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    centroids, rows = words_and_rows(words=300, rows=500)
    words, distances = TorchSearcher(centroids, "cpu").search(rows)
    expected, nearest = ExactSearcher(centroids).search(rows)
    assert (words == expected).mean() > 0.99
    np.testing.assert_allclose(distances, nearest, rtol=1e-3, atol=1e-3)


def test_a_gpu_is_used_where_one_is_asked_for_and_only_for_exact_assignment(monkeypatch):
    monkeypatch.setattr(module, "TorchSearcher", lambda centroids, device: device)
    centroids, _ = words_and_rows(words=20)
    assert make_searcher(centroids, "exact", 0, "cuda") == "cuda"
    assert isinstance(make_searcher(centroids, "exact", 0, "cpu"), ExactSearcher)
    assert isinstance(make_searcher(centroids, "ivf", 0, "cuda"), IvfSearcher)


def test_quality_is_counted_from_distances():
    centroids = np.array([[0, 0], [1, 0], [0, 2]], np.float32)
    rows = np.array([[0, 0.5], [1, 0], [0, 1.5], [0.5, 0]], np.float32)

    class Wrong:
        def search(self, rows):
            words = np.array([1, 1, 2, 1])  # the first is wrong; the last is as near as word 0
            return words, ((rows - centroids[words]) ** 2).sum(1)

    quality = assignment_quality(centroids, Wrong(), rows)
    nearest, found = 0.25 + 0 + 0.25 + 0.25, 1.25 + 0 + 0.25 + 0.25
    assert quality == {
        "descriptors": 4, "recall": 0.75, "distortion": pytest.approx(found / nearest, abs=1e-5)
    }  # fmt: skip
    exact = assignment_quality(centroids, ExactSearcher(centroids), rows)
    assert (exact["recall"], exact["distortion"]) == (1.0, 1.0)


def test_an_unknown_method_is_an_error():
    with pytest.raises(StudyError, match=r"annoy.*exact, hnsw, ivf"):
        make_searcher(np.zeros((3, 2), np.float32), "annoy")
