"""The inverted file against a dense matrix product and a brute-force ranking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from blcf_utils.ground.errors import StudyError
from blcf_utils.search.index import inverted_file
from blcf_utils.search.index.inverted_file import InvertedFile, build_index
from blcf_utils.search.index.segments import pack_block
from blcf_utils.words.histograms import inverse_document_frequency, scale_words

LAYOUTS = [  # (block size, share of the images from which a word is frequent)
    pytest.param((32_768, 0.2), id="one-block"),
    pytest.param((7, 0.2), id="blocks"),
    pytest.param((7, 2.0), id="none-frequent"),
    pytest.param((64, 0.0), id="all-frequent"),
]


@pytest.fixture(params=LAYOUTS)
def block(request, monkeypatch):
    """The block size of a layout, with its share set."""
    size, share = request.param
    monkeypatch.setattr(inverted_file, "FREQUENT_SHARE", share)
    return size


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
    np.testing.assert_array_equal(index.holders, (matrix > 0).sum(axis=0))
    assert index.entries == (matrix > 0).sum()
    assert index.touched(words) == (matrix[:, words] > 0).sum()
    assert (index.n_images, index.words) == matrix.shape


@settings(max_examples=200, deadline=None)
@given(searches(), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 0.2, 0.5, 2]))
def test_rankings_are_those_of_the_dense_product_with_ties_by_number(search, top, block, share):
    matrix, words, values = search
    histograms = sparse.csr_array(matrix)
    index = InvertedFile.from_histograms(histograms, block_size=block)
    expected = matrix[:, words] @ values  # halves and quarters: exact in float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted_file, "FREQUENT_SHARE", share)
        np.testing.assert_array_equal(index.scores(words, values), expected)
        for length in (None, top, 1, len(matrix)):
            images, scores = index.search(words, values, length)
            assert images.tolist() == brute_force(expected, length)
            np.testing.assert_array_equal(scores, expected[images])


@pytest.mark.parametrize("high", [False, True])
def test_histograms_of_counts_are_exact(block, high):
    drawn = counts()
    if high:  # above a byte, and an image without a one
        drawn *= 3
        drawn[[1, 7, 42], 0] = 300, 1200, 256
        drawn[7, 299] = 255
        drawn[8] = 0
        drawn[8, 5] = 60_000
    matrix = unit(drawn)
    index = InvertedFile.from_histograms(sparse.csr_array(matrix), block_size=block)
    assert len(index.offsets) == -(-80 // block)
    for image in (1, 7, 8, 42):
        words = np.flatnonzero(matrix[image])
        agree(index, matrix, 1e-6, words, matrix[image, words])
        assert index.search(words, matrix[image, words], 1)[0].tolist() == [image]


def stored(levels, block):
    """An index of levels (n, K) as they are, all scales 1; each block is packed from two parts."""
    offsets, data, holders = [], np.empty(0, np.uint16), 0
    for start in range(0, len(levels), block):
        rows = sparse.csr_array(levels[start : start + block].astype(np.uint32))
        begins, packed, counted = pack_block([rows[:400], rows[400:]])
        offsets.append(len(data) + begins)
        data, holders = np.concatenate([data, packed]), holders + counted
    scales = np.ones(len(levels), np.float32)
    return InvertedFile(np.array(offsets, np.uint32), data, holders, scales, block)


HIGHEST = [1, 3, 15, 255, 65_535, 262_140]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 100_000),
    st.integers(1, 1_500),
    st.sampled_from([1, 7, 512, 600, 65_536]),
    st.sampled_from([0.0, 0.2, 2.0]),
)
def test_every_level_is_kept_however_it_is_stored(seed, n, block, share):
    rng = np.random.default_rng(seed)
    held = rng.random((n, 12)) < rng.choice([0, 0.01, 0.06, 0.2, 0.6, 1], 12)
    # Mostly small levels with a few high ones, and mostly high ones.
    highest = np.where(rng.random((n, 12)) < 0.02, rng.choice(HIGHEST, 12), rng.choice(HIGHEST, 12))
    levels = held * rng.integers(1, highest + 1)
    index = stored(levels, block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted_file, "FREQUENT_SHARE", share)
        for word in range(12):
            found = index.scores(np.array([word]), np.ones(1))
            np.testing.assert_array_equal(found, levels[:, word])
        np.testing.assert_array_equal(index.holders, held.sum(axis=0))
        # Sums of four words at a time are rounded otherwise than the exact ones.
        found = index.scores(np.arange(12), np.ones(12))
        np.testing.assert_allclose(found, levels.sum(axis=1), rtol=1e-6)


def test_more_pairs_than_a_header_counts_are_kept():
    rng = np.random.default_rng(0)
    levels = np.zeros((30_000, 2), np.int64)
    levels[rng.choice(30_000, 4_500, replace=False), 0] = rng.integers(2, 300_000, 4_500)
    levels[:, 1] = rng.integers(65_500, 65_600, 30_000)  # rows, and further segments
    index = stored(levels, 65_536)
    for word in range(2):
        found = index.scores(np.array([word]), np.ones(1))
        np.testing.assert_array_equal(found, levels[:, word])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 100_000),
    st.sampled_from([40, 300, 2_000]),
    st.sampled_from([16, 700, 65_536]),
    st.sampled_from([1, 5, 100, 250]),
    st.sampled_from(["counts", "weighted", "idf"]),
)
def test_the_best_images_are_those_of_the_whole_ranking_bit_for_bit(seed, n, block, top, kind):
    rng = np.random.default_rng(seed)
    drawn = counts(n, 200, 60, seed).astype(float)
    drawn[rng.integers(0, n, n // 4)] = drawn[rng.integers(0, n, n // 4)]  # equal images
    if kind == "weighted":
        drawn *= rng.uniform(0.1, 1, 200)
    histograms = sparse.csr_array(unit(drawn))
    factors = inverse_document_frequency(histograms) if kind == "idf" else None
    if factors is not None:
        histograms = scale_words(histograms, factors)
    index = InvertedFile.from_histograms(histograms, factors, block_size=block)
    one_block = InvertedFile.from_histograms(histograms, factors)
    for words in (np.flatnonzero(drawn[3]), np.array([150, 199]), np.arange(200)):
        values = rng.choice([0.05, 0.1, 0.5], len(words)).astype(np.float32)
        whole = index.search(words, values)
        best = index.search(words, values, top)
        np.testing.assert_array_equal(whole[1], one_block.search(words, values)[1])
        for expected, found in zip(whole, best, strict=True):
            np.testing.assert_array_equal(found, expected[:top])
            assert found.dtype == expected.dtype


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 33, 80, 200])
def test_an_index_built_from_chunks_is_the_same(weighted, size):
    drawn = counts() * (np.random.default_rng(1).uniform(0.1, 1, (80, 300)) if weighted else 1)
    histograms = sparse.csr_array(unit(drawn))
    whole = InvertedFile.from_histograms(histograms, block_size=32)
    chunks = (histograms[start : start + size] for start in range(0, 80, size))
    made = InvertedFile.from_chunks(chunks, 300, block_size=32)
    for name in ("offsets", "data", "holders", "scales"):
        np.testing.assert_array_equal(getattr(made, name), getattr(whole, name))


def test_chunks_of_another_codebook_are_refused():
    chunk = sparse.csr_array(np.ones((4, 2), np.float32))
    with pytest.raises(StudyError, match="expected histograms of 3 words, found 2"):
        InvertedFile.from_chunks([chunk], 3)


def test_weights_of_one_byte_are_close_and_equal_counts_stay_exact():
    drawn = counts() * np.random.default_rng(1).uniform(0.1, 1, (80, 300))
    matrix = unit(drawn)
    index = InvertedFile.from_histograms(sparse.csr_array(matrix), weights="uint8")
    exact = InvertedFile.from_histograms(sparse.csr_array(matrix))
    assert index.nbytes < exact.nbytes
    error = 0
    for word in range(300):
        found = index.scores(np.array([word]), np.ones(1))
        error = max(error, abs(found - matrix[:, word]).max())
    assert 1e-5 < error < 1 / 510
    whole = sparse.csr_array(unit(counts()))
    coarse = InvertedFile.from_histograms(whole, weights="uint8")
    np.testing.assert_array_equal(coarse.data, InvertedFile.from_histograms(whole).data)
    with pytest.raises(StudyError, match="uint4"):
        InvertedFile.from_histograms(whole, weights="uint4")


def test_other_weights_are_rounded_finely(block):
    rng = np.random.default_rng(1)
    matrix = counts() * rng.uniform(0.1, 1, (80, 300))
    matrix[5] = 0
    matrix[5, [2, 3, 200]] = 1, 0.9, 0.01  # levels above 65535
    matrix = unit(matrix)
    index = InvertedFile.from_histograms(sparse.csr_array(matrix), block_size=block)
    for image in (5, 42):
        words = np.flatnonzero(matrix[image])
        agree(index, matrix, 5e-6, words, matrix[image, words])
    for word in range(300):  # the weights themselves
        found = index.scores(np.array([word]), np.ones(1))
        np.testing.assert_allclose(found, matrix[:, word], rtol=0, atol=2e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_histograms_scaled_by_idf_score_as_scipy_does(block, weighted):
    drawn = counts() * (np.random.default_rng(1).uniform(0.1, 1, (80, 300)) if weighted else 1)
    plain = sparse.csr_array(unit(drawn))
    factors = inverse_document_frequency(plain)
    scaled = scale_words(plain, factors)
    index = InvertedFile.from_histograms(scaled, factors, block_size=block)
    # Counts stay counts, because the factors are divided out again.
    assert (index.word_scales is not None) == (not weighted)
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
    assert factors[0] == 0 == index.holders[0]
    assert index.word_scales is not None
    words = plain[[42]].indices.astype(np.int64)
    query = plain[[42]].data * factors[words]
    expected = scaled.toarray()[:, words] @ (query / np.linalg.norm(query))
    np.testing.assert_allclose(index.scores(words, plain[[42]].data), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_order_of_the_images_changes_no_score(block, weighted):
    drawn = counts() * (np.random.default_rng(1).uniform(0.1, 1, (80, 300)) if weighted else 1)
    matrix = unit(drawn)
    matrix[50:53] = matrix[2]  # equal images, whose order is that of their numbers
    order = np.random.default_rng(4).permutation(80)
    index, other = (
        InvertedFile.from_histograms(sparse.csr_array(m), block_size=block)
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
    for array in (opened.offsets, opened.data):
        assert isinstance(array.base, np.memmap)
    query = np.array([3, 30, 59]), np.array([0.5, 0.1, 0.7], np.float32)
    for one, other in zip(made.search(*query), opened.search(*query), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (opened.factors is None) == (opened.word_scales is None) == (not idf)
    assert opened.entries == made.entries
    np.testing.assert_array_equal(opened.holders, made.holders)
    files = list((store.root / "index").glob("label-*/*.npy"))
    heads = 128 * len(files)
    assert opened.nbytes == made.nbytes == sum(f.stat().st_size for f in files) - heads


@pytest.mark.parametrize(
    ("weighted", "weights", "most"), [(False, "exact", 2.3), (True, "exact", 5), (True, "uint8", 3)]
)
def test_an_index_is_small_on_disk(store, weighted, weights, most):
    drawn = counts(5_000, 5_000, 315)
    if weighted:
        drawn = drawn * np.random.default_rng(1).uniform(0.1, 1, drawn.shape)
    histograms = sparse.csr_array(unit(drawn))

    def build():
        return InvertedFile.from_histograms(histograms, weights=weights)

    index = build_index({}, "small", store, build)
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
