"""Assignment maps and histograms of visual words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, sparse

from blcf_utils.config.profile import EncodingConfig
from blcf_utils.words import assignment_maps as bow
from blcf_utils.words.assignment_maps import assign_map, assignment_maps, interpolate_map
from blcf_utils.words.histograms import (
    database_histograms,
    histogram,
    inverse_document_frequency,
    scale_words,
    sparse_histogram,
)

K = 30
MAPS = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, K - 1),
)


@st.composite
def weighted_maps(draw):
    words = draw(MAPS)
    weights = draw(hnp.arrays(np.float64, words.shape, elements=st.floats(0, 4, width=16)))
    return words, weights


def dense(words, weights=None):
    indices, values = sparse_histogram(words, weights)
    full = np.zeros(K, np.float32)
    full[indices] = values
    return full


@given(MAPS)
def test_a_histogram_counts_each_position_once(words):
    counts = histogram(words, K)
    assert counts.shape == (K,)
    assert counts.sum() == words.size
    assert all(counts[w] == (words == w).sum() for w in range(K))


@given(weighted_maps(), st.randoms(use_true_random=False))
def test_the_order_of_positions_does_not_matter(weighted, random):
    words, weights = (a.ravel() for a in weighted)
    order = list(range(len(words)))
    random.shuffle(order)
    shuffled = histogram(words[order], K, weights[order])
    np.testing.assert_allclose(shuffled, histogram(words, K, weights), rtol=1e-5)


@given(MAPS, st.integers(0, 12), st.integers(0, 12))
def test_disjoint_parts_add_up(words, row, column):
    parts = [words[:row], words[row:, :column], words[row:, column:]]
    summed = sum(histogram(part, K) for part in parts)
    np.testing.assert_array_equal(summed, histogram(words, K))


@given(weighted_maps())
def test_weights_add_to_their_word_s_bin(weighted):
    words, weights = weighted
    expected = np.zeros(K)
    for word, weight in zip(words.ravel(), weights.ravel(), strict=True):
        expected[word] += weight
    np.testing.assert_allclose(histogram(words, K, weights), expected, rtol=1e-6)


@given(weighted_maps())
def test_a_sparse_histogram_is_the_full_one_at_unit_length(weighted):
    words, weights = weighted
    for w in (None, weights):
        indices, values = sparse_histogram(words, w)
        assert (np.diff(indices) > 0).all()
        assert (values > 0).all()
        full = histogram(words, K, w).astype(np.float64)
        if full.sum() == 0:
            assert len(indices) == 0
            continue
        assert np.linalg.norm(values.astype(np.float64)) == pytest.approx(1, rel=1e-6)
        np.testing.assert_allclose(dense(words, w), full / np.linalg.norm(full), atol=1e-6)


@given(MAPS, st.floats(0.01, 100))
def test_equal_weights_weigh_nothing(words, weight):
    np.testing.assert_allclose(dense(words, np.full(words.shape, weight)), dense(words), atol=1e-6)


@given(weighted_maps())
def test_positions_of_weight_zero_do_not_exist(weighted):
    words, weights = weighted
    weights = np.where(words < K // 2, 0, weights)
    kept = weights > 0
    np.testing.assert_allclose(dense(words, weights), dense(words[kept], weights[kept]), atol=1e-6)
    nothing = sparse_histogram(words, np.zeros(words.shape))
    assert [len(part) for part in nothing] == [0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_interpolation_is_that_of_scipy_s_zoom(channels, height, width, factor):
    values = np.random.default_rng(height).normal(size=(channels, height, width))
    values = values.astype(np.float32)
    expected = ndimage.zoom(values, (1, factor, factor), order=1)
    found = interpolate_map(values, factor)
    assert found.shape == (channels, height * factor, width * factor)
    # zoom leaves out sides of one position; a single position has nothing to interpolate
    if min(height, width) > 1:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found[:, 0, 0], values[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[:, -1, -1], values[:, -1, -1], atol=1e-6)


def test_assignment_maps_hold_each_position_s_nearest_word(toy_stages):
    maps, features = toy_stages.maps, toy_stages.features
    assert (len(maps), maps.n_database, maps.words) == (19, 18, 50)
    for i in (0, 1, 18):
        words = maps.map(i)
        assert words.dtype == np.uint16
        assert words.shape == tuple(2 * features.shapes[i])
        enlarged = ndimage.zoom(features.map(i), (1, 2, 2), order=1)
        rows = toy_stages.whitening.apply(enlarged.reshape(len(enlarged), -1).T)
        distances = ((rows[:, None] - toy_stages.codebook.centroids[None]) ** 2).sum(axis=2)
        chosen = distances[np.arange(len(rows)), words.ravel()]
        np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-3, atol=1e-4)
    plain = assign_map(features.map(0), toy_stages.whitening, toy_stages.codebook)
    assert plain.shape == tuple(features.shapes[0])


def test_stopped_assignment_goes_on_where_it_was(toy_stages, store, monkeypatch):
    class Stop(Exception):
        pass

    s, assigned = toy_stages, []

    def stopping(*arguments):
        if len(assigned) == 7:
            assigned.append("stop")
            raise Stop
        assigned.append("image")
        return assign_map(*arguments)

    monkeypatch.setattr(bow, "assign_map", stopping)
    monkeypatch.setattr(bow, "pool_threads", lambda: 1)  # none is under way when it stops
    arguments = (s.features, s.whitening, s.codebook, EncodingConfig(), store)
    with pytest.raises(Stop):
        assignment_maps(*arguments)
    resumed = assignment_maps(*arguments)
    assert assigned.count("image") == len(resumed)
    assert resumed.key == s.maps.key
    for name in ("words.npy", "done.npy"):
        whole, again = ((m.artefact / name).read_bytes() for m in (s.maps, resumed))
        assert whole == again


def test_database_histograms_are_the_database_s_in_order(toy_stages):
    maps = toy_stages.maps
    rows = database_histograms(maps)
    assert rows.shape == (18, 50)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(sparse.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    counts = np.stack([histogram(maps.map(i), 50) for i in range(18)])
    expected = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    np.testing.assert_allclose(rows.toarray(), expected, atol=1e-6)
    flat = database_histograms(maps, lambda i: np.full(maps.map(i).shape, 0.3))
    np.testing.assert_allclose(flat.toarray(), expected, atol=1e-6)
    empty = database_histograms(maps, lambda i: np.zeros(maps.map(i).shape) + (i != 4))
    assert empty[[4]].nnz == 0
    np.testing.assert_allclose(empty.toarray()[5:], expected[5:], atol=1e-6)


def test_idf_is_the_log_of_one_over_the_share_of_images():
    # Word 0 is in all four images, word 1 in one, word 2 in none, word 3 in two.
    rows = sparse.csr_array([[1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0.0]])
    idf = inverse_document_frequency(rows)
    np.testing.assert_allclose(idf, [0, np.log(4), 0, np.log(2)], rtol=1e-6)


@given(
    hnp.arrays(np.float32, (6, 7), elements=st.sampled_from([0, 0, 0.5, 1, 3])),
    hnp.arrays(np.float32, 7, elements=st.sampled_from([0, 0.25, 1, 2])),
)
def test_scaled_words_keep_unit_length(matrix, factors):
    rows = sparse.csr_array(matrix)
    before = rows.toarray()
    expected = matrix.astype(np.float64) * factors
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = np.divide(expected, norms, out=np.zeros_like(expected), where=norms > 0)
    np.testing.assert_allclose(scale_words(rows, factors).toarray(), expected, atol=1e-6)
    np.testing.assert_array_equal(rows.toarray(), before)
