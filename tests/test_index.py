"""The inverted file against a dense matrix product and a brute-force ranking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from blcf_utils.bow import inverse_document_frequency, scale_words
from blcf_utils.errors import StudyError
from blcf_utils.index import InvertedFile, build_index

LAYOUTS = [  # (block size, share of the images from which a word has a row)
    pytest.param(32_768, 0.2, id="one-block"),
    pytest.param(7, 0.2, id="blocks"),
    pytest.param(7, 2.0, id="lists-only"),
    pytest.param(64, 0.0, id="rows-only"),
]


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


def unit(matrix):
    """The rows at unit length, float32; rows of zeros stay."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return (matrix / np.where(norms > 0, norms, 1)).astype(np.float32)


def counts(n=80, k=300, positions=120, seed=0):
    """Counts of Zipf-like words, (n, k); every tenth image has none."""
    rng = np.random.default_rng(seed)
    law = 1 / (np.arange(k) + 3) ** 1.1
    drawn = rng.multinomial(positions, law / law.sum(), n)
    drawn[::10] = 0
    return drawn


def agree(index, matrix, atol, words, values):
    """Assert that the index scores as ``matrix`` does and holds what it holds."""
    expected = matrix[:, words].astype(np.float64) @ values
    np.testing.assert_allclose(index.scores(words, values), expected, rtol=0, atol=atol)
    np.testing.assert_array_equal(index.list_lengths, (matrix > 0).sum(axis=0))
    assert index.entries == (matrix > 0).sum()
    assert index.touched(words) == (matrix[:, words] > 0).sum()
    assert (index.n_images, index.words) == matrix.shape


@settings(max_examples=200, deadline=None)
@given(searches(), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 0.2, 0.5, 2]))
def test_rankings_are_those_of_the_dense_product_with_ties_by_number(search, top, block, share):
    matrix, words, values = search
    histograms = sparse.csr_array(matrix)
    index = InvertedFile.from_histograms(histograms, block_size=block, row_share=share)
    expected = matrix[:, words] @ values  # halves and quarters: exact in float32
    np.testing.assert_array_equal(index.scores(words, values), expected)
    for length in (None, top, 1, len(matrix)):
        images, scores = index.search(words, values, length)
        assert images.tolist() == brute_force(expected, length)
        np.testing.assert_array_equal(scores, expected[images])


@pytest.mark.parametrize(("block", "share"), LAYOUTS)
def test_histograms_of_counts_are_exact(block, share):
    matrix = unit(counts())
    index = InvertedFile.from_histograms(
        sparse.csr_array(matrix), block_size=block, row_share=share
    )
    assert index.levels.dtype == index.rows.dtype == np.uint8
    assert len(index.offsets) == -(-80 // block)
    for image in (1, 42):
        words = np.flatnonzero(matrix[image])
        agree(index, matrix, 1e-6, words, matrix[image, words])
        assert index.search(words, matrix[image, words], 1)[0].tolist() == [image]


@pytest.mark.parametrize(("block", "share"), LAYOUTS)
def test_other_weights_are_rounded_finely(block, share):
    rng = np.random.default_rng(1)
    matrix = counts() * rng.uniform(0.1, 1, (80, 300))
    matrix[5] = 0
    matrix[5, [2, 3, 200]] = 1, 0.9, 0.01  # levels above 65535
    matrix = unit(matrix)
    index = InvertedFile.from_histograms(
        sparse.csr_array(matrix), block_size=block, row_share=share
    )
    assert index.levels.dtype == index.rows.dtype == np.uint16
    for image in (5, 42):
        words = np.flatnonzero(matrix[image])
        agree(index, matrix, 5e-6, words, matrix[image, words])
    for word in range(300):  # the weights themselves
        found = index.scores(np.array([word]), np.ones(1))
        np.testing.assert_allclose(found, matrix[:, word], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("block", "share"), LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_histograms_scaled_by_idf_score_as_scipy_does(block, share, weighted):
    drawn = counts() * (np.random.default_rng(1).uniform(0.1, 1, (80, 300)) if weighted else 1)
    plain = sparse.csr_array(unit(drawn))
    factors = inverse_document_frequency(plain)
    scaled = scale_words(plain, factors)
    index = InvertedFile.from_histograms(scaled, factors, block_size=block, row_share=share)
    # Counts stay counts: the factors are taken out again.
    assert (index.levels.dtype == np.uint8) == (not weighted)
    words = plain[[42]].indices.astype(np.int64)
    query = plain[[42]].data * factors[words]
    query /= np.linalg.norm(query)
    expected = scaled.toarray()[:, words] @ query
    found = index.scores(words, plain[[42]].data)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 if weighted else 1e-6)


def test_a_word_of_factor_zero_leaves_counts_exact():
    drawn = counts()
    drawn[:, 0] = 1  # held by every image: its idf is 0
    plain = sparse.csr_array(unit(drawn))
    factors = inverse_document_frequency(plain)
    scaled = scale_words(plain, factors)
    index = InvertedFile.from_histograms(scaled, factors)
    assert factors[0] == 0 == index.list_lengths[0]
    assert index.levels.dtype == np.uint8
    words = plain[[42]].indices.astype(np.int64)
    query = plain[[42]].data * factors[words]
    expected = scaled.toarray()[:, words] @ (query / np.linalg.norm(query))
    np.testing.assert_allclose(index.scores(words, plain[[42]].data), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("block", "share"), LAYOUTS)
def test_counts_above_a_byte_and_without_a_one_are_exact(block, share):
    drawn = counts() * 3
    drawn[[1, 7, 42], 0] = 300, 1200, 256
    drawn[7, 299] = 255
    drawn[8] = 0
    drawn[8, 5] = 60_000
    matrix = unit(drawn)
    index = InvertedFile.from_histograms(
        sparse.csr_array(matrix), block_size=block, row_share=share
    )
    assert index.levels.dtype == np.uint8
    for image in (1, 7, 8, 42):
        words = np.flatnonzero(matrix[image])
        agree(index, matrix, 1e-6, words, matrix[image, words])


@pytest.mark.parametrize(("block", "share"), LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_order_of_the_images_changes_no_score(block, share, weighted):
    drawn = counts() * (np.random.default_rng(1).uniform(0.1, 1, (80, 300)) if weighted else 1)
    matrix = unit(drawn)
    matrix[50:53] = matrix[2]  # equal images, whose order is that of their numbers
    order = np.random.default_rng(4).permutation(80)
    index, other = (
        InvertedFile.from_histograms(sparse.csr_array(m), block_size=block, row_share=share)
        for m in (matrix, matrix[order])
    )
    words = np.flatnonzero(matrix[2])
    query = words, matrix[2, words]
    np.testing.assert_array_equal(other.scores(*query), index.scores(*query)[order])
    images, scores = index.search(*query, 20)
    assert images[:4].tolist() == [2, 50, 51, 52]
    assert len(set(scores[:4].tolist())) == 1
    found, other_scores = other.search(*query, 20)
    np.testing.assert_array_equal(other_scores, scores)
    assert found[:4].tolist() == sorted(np.flatnonzero(np.isin(order, [2, 50, 51, 52])))
    distinct = np.array([np.count_nonzero(scores == score) == 1 for score in scores[:-1]])
    np.testing.assert_array_equal(order[found[:-1]][distinct], images[:-1][distinct])


def test_rows_without_order_and_with_repeated_words_are_added_up():
    parts = (np.array([0.25, 0.5, 0.25], np.float32), np.array([2, 0, 2]), np.array([0, 3]))
    histograms = sparse.csr_array(parts, shape=(1, 3))
    index = InvertedFile.from_histograms(histograms)
    assert [float(index.scores([word], [1])[0]) for word in range(3)] == [0.5, 0, 0.5]
    assert index.entries == 2
    assert histograms.nnz == 3  # the caller's stay as they were


def test_factors_weigh_queries_at_unit_length():
    rows = sparse.csr_array(np.eye(3, dtype=np.float32))
    index = InvertedFile.from_histograms(rows, np.array([2, 0, 1], np.float32))
    scores = index.scores(np.array([0, 1, 2]), np.array([0.6, 0.7, 0.8], np.float32))
    np.testing.assert_allclose(scores, np.array([1.2, 0, 0.8]) / np.hypot(1.2, 0.8), rtol=1e-6)
    assert not index.scores(np.array([1]), np.array([1.0])).any()


@pytest.mark.parametrize("idf", [False, True])
def test_a_stored_index_is_the_same_and_is_read_from_disk(store, idf):
    plain = sparse.csr_array(unit(counts()))
    factors = inverse_document_frequency(plain) if idf else None
    made = InvertedFile.from_histograms(
        scale_words(plain, factors) if idf else plain, factors, block_size=32
    )
    opened = build_index({"idf": idf}, "label", store, lambda: made)
    for array in (opened.offsets, opened.images, opened.levels, opened.rows):
        assert isinstance(array.base, np.memmap)
    query = np.array([3, 30, 59]), np.array([0.5, 0.1, 0.7], np.float32)
    for one, other in zip(made.search(*query), opened.search(*query), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (opened.factors is None) == (opened.word_scales is None) == (not idf)
    assert opened.entries == made.entries
    np.testing.assert_array_equal(opened.list_lengths, made.list_lengths)
    files = list((store.root / "index").glob("label-*/*.npy"))
    heads = 128 * len(files)
    assert opened.nbytes == made.nbytes == sum(f.stat().st_size for f in files) - heads


@pytest.mark.parametrize(("weighted", "most"), [(False, 3.5), (True, 6)])
def test_an_index_is_small_on_disk(store, weighted, most):
    drawn = counts(2_000, 5_000, 315)
    if weighted:
        drawn = drawn * np.random.default_rng(1).uniform(0.1, 1, drawn.shape)
    histograms = sparse.csr_array(unit(drawn))
    index = build_index({}, "small", store, lambda: InvertedFile.from_histograms(histograms))
    stored = sum(f.stat().st_size for f in (store.root / "index").glob("small-*/*"))
    assert index.nbytes <= stored <= most * histograms.nnz


@pytest.mark.parametrize("top", [None, 2])
def test_an_empty_query_ranks_by_number(top):
    index = InvertedFile.from_histograms(sparse.csr_array(np.ones((4, 2), np.float32)))
    images, scores = index.search(np.array([], np.int64), np.array([], np.float32), top)
    assert images.tolist() == [0, 1, 2, 3][:top]
    assert not scores.any()
    assert index.touched(np.array([], np.int64)) == 0


@pytest.mark.parametrize("n", [0, 3])
def test_images_without_words_score_zero(store, n):
    empty = sparse.csr_array((n, 4), dtype=np.float32)
    index = build_index({}, "empty", store, lambda: InvertedFile.from_histograms(empty))
    images, scores = index.search(np.array([1, 2]), np.ones(2))
    assert images.tolist() == list(range(n))
    assert not scores.any()
    assert (index.entries, index.words) == (0, 4)


def test_wrong_queries_are_refused():
    index = InvertedFile.from_histograms(sparse.csr_array(np.ones((4, 2), np.float32)))
    for word in (-1, 2):
        with pytest.raises(StudyError, match=f"expected query words 0 to 1, found {word}"):
            index.search(np.array([word]), np.array([1.0]))
    for top in (0, -1):
        with pytest.raises(StudyError, match=f"top of at least 1, found {top}"):
            index.search(np.array([0]), np.array([1.0]), top)


@pytest.mark.parametrize("weight", [-0.5, np.inf, np.nan])
def test_histograms_with_impossible_weights_are_refused(weight):
    histograms = sparse.csr_array(np.array([[1, weight], [0.5, 0]], np.float32))
    with pytest.raises(StudyError, match=f"weights of at least 0, found .*{weight}"):
        InvertedFile.from_histograms(histograms)


@pytest.mark.parametrize("size", [0, 65_537])
def test_blocks_beyond_16_bits_are_refused(size):
    histograms = sparse.csr_array(np.ones((4, 2), np.float32))
    with pytest.raises(StudyError, match=f"block size of 1 to 65536, found {size}"):
        InvertedFile.from_histograms(histograms, block_size=size)
