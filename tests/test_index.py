"""The inverted file against a dense matrix product and a brute-force ranking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from blcf_utils.errors import StudyError
from blcf_utils.index import InvertedFile, build_index


@st.composite
def searches(draw):
    """(matrix (n, K), query words, query values); few distinct values, so many ties."""
    n, k = draw(st.integers(1, 60)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    share = draw(st.sampled_from([0.02, 0.2, 0.7]))
    matrix = rng.choice([0.25, 0.5, 1.0], (n, k)) * (rng.random((n, k)) < share)
    words = np.sort(rng.choice(k, rng.integers(0, k + 1), replace=False))
    return matrix.astype(np.float32), words, rng.choice([0.5, 1, 2], len(words)).astype(np.float32)


def brute_force(scores, top):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top]


@settings(max_examples=200, deadline=None)
@given(searches(), st.integers(1, 70))
def test_rankings_are_those_of_the_dense_product_with_ties_by_number(search, top):
    matrix, words, values = search
    index = InvertedFile.from_histograms(sparse.csr_array(matrix))
    expected = matrix[:, words] @ values  # halves and quarters: exact in float32
    np.testing.assert_array_equal(index.scores(words, values), expected)
    for length in (None, top):
        images, scores = index.search(words, values, length)
        assert images.tolist() == brute_force(expected, length)
        np.testing.assert_array_equal(scores, expected[images])


def test_random_histograms_score_as_scipy_does():
    rows = sparse.random_array((300, 500), density=0.05, rng=np.random.default_rng(1)).tocsr()
    rows = rows.astype(np.float32)
    index = InvertedFile.from_histograms(rows)
    query = rows[[17]].toarray()[0]
    words = np.flatnonzero(query)
    np.testing.assert_allclose(index.scores(words, query[words]), rows @ query, atol=1e-6)
    assert (index.words, index.n_images) == (500, 300)
    assert index.nbytes == 501 * 8 + rows.nnz * 8
    top, _ = index.search(words, query[words], 5)
    whole, _ = index.search(words, query[words])
    np.testing.assert_array_equal(top, whole[:5])
    assert top[0] == 17


def test_factors_weigh_queries_at_unit_length():
    rows = sparse.csr_array(np.eye(3, dtype=np.float32))
    index = InvertedFile.from_histograms(rows, np.array([2, 0, 1], np.float32))
    scores = index.scores(np.array([0, 1, 2]), np.array([0.6, 0.7, 0.8], np.float32))
    np.testing.assert_allclose(scores, np.array([1.2, 0, 0.8]) / np.hypot(1.2, 0.8), rtol=1e-6)
    assert not index.scores(np.array([1]), np.array([1.0])).any()


def test_a_stored_index_is_the_same_and_is_read_from_disk(store):
    rows = sparse.random_array((40, 60), density=0.2, rng=np.random.default_rng(2)).tocsr()
    rows, factors = rows.astype(np.float32), np.linspace(0, 1, 60, dtype=np.float32)
    for given_factors in (None, factors):
        made = InvertedFile.from_histograms(rows, given_factors)
        opened = build_index({"idf": given_factors is not None}, "label", store, lambda m=made: m)
        for array in (opened.images, opened.weights):  # or a plain view of a map
            assert isinstance(array, np.memmap) or isinstance(array.base, np.memmap)
        query = np.array([3, 30, 59]), np.array([0.5, 0.1, 0.7], np.float32)
        for one, other in zip(made.search(*query), opened.search(*query), strict=True):
            np.testing.assert_array_equal(one, other)
        assert (opened.factors is None) == (given_factors is None)


def test_an_empty_query_ranks_by_number():
    index = InvertedFile.from_histograms(sparse.csr_array(np.ones((4, 2), np.float32)))
    images, scores = index.search(np.array([], np.int64), np.array([], np.float32))
    assert images.tolist() == [0, 1, 2, 3]
    assert not scores.any()


def test_wrong_queries_are_refused():
    index = InvertedFile.from_histograms(sparse.csr_array(np.ones((4, 2), np.float32)))
    for word in (-1, 2):
        with pytest.raises(StudyError, match=f"expected query words 0 to 1, found {word}"):
            index.search(np.array([word]), np.array([1.0]))
    for top in (0, -1):
        with pytest.raises(StudyError, match=f"top of at least 1, found {top}"):
            index.search(np.array([0]), np.array([1.0]), top)
