"""Product quantisation: codes, products with coded vectors, memory, determinism, errors."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.quantisation import learn_quantiser


def unit_vectors(count, dimensions, seed=0):
    rng = np.random.default_rng(seed)
    return normalise_rows(rng.normal(size=(count, dimensions)).astype(np.float32))


def test_corners_of_a_square_are_coded_without_loss():
    # Each part takes two values: one bit a part, four parts, four bits of one byte.
    corners = np.array(
        [[a, b, c, d] for a in (-1, 2) for b in (0, 3) for c in (1, 5) for d in (4, 7)]
    )
    quantiser = learn_quantiser(corners.astype(np.float32), 4, bits=1)
    assert quantiser.centroids.shape == (4, 2, 1)
    assert np.sort(quantiser.centroids[..., 0], axis=1).tolist() == [
        [-1, 2],
        [0, 3],
        [1, 5],
        [4, 7],
    ]
    held = quantiser.encode(corners)
    assert held.bytes_per_vector == 1
    assert len(np.unique(held.codes)) == 16
    query = np.array([[1, 2, -1, 0.5]], np.float32)
    np.testing.assert_array_equal(held.search(query), query @ corners.T)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 99))
def test_scores_are_products_with_the_nearest_centroids(bits, parts, seed):
    vectors = unit_vectors(600, 12, seed)
    quantiser = learn_quantiser(vectors, parts, bits=bits, seed=seed)
    assert quantiser.bits == min(bits, 7)  # 600 vectors are four each for 128 centroids
    held = quantiser.encode(vectors)
    assert held.bytes_per_vector == -(-parts * quantiser.bits // 8)
    expected = np.empty_like(vectors)
    for part, centroids in enumerate(quantiser.centroids):
        own = np.s_[:, part * 12 // parts : (part + 1) * 12 // parts]
        apart = ((vectors[own][:, None] - centroids) ** 2).sum(axis=2)
        expected[own] = centroids[apart.argmin(axis=1)]
    near = (np.abs(quantiser.decode(held.codes) - expected) < 1e-5).all(axis=1)
    assert near.mean() > 0.99  # all but ties of rounding
    queries = unit_vectors(5, 12, seed + 1)
    found = held.search(queries)
    assert (found.shape, found.dtype) == ((5, 600), np.float32)
    np.testing.assert_allclose(found[:, near], queries @ expected[near].T, atol=1e-5)


def test_more_bytes_come_nearer_the_truth():
    vectors, queries = unit_vectors(1200, 32), unit_vectors(20, 32, 1)
    truth, errors, sizes = queries @ vectors.T, [], []
    for parts in (4, 8, 16, 32):
        held = learn_quantiser(vectors, parts).encode(vectors)
        errors.append(np.abs(held.search(queries) - truth).mean())
        sizes.append(held.bytes_per_vector)
    assert sizes == [4, 8, 16, 32]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.003
    # Of the training vectors the scores are right on average, for any query.
    assert abs((held.search(queries) - truth).mean()) < 1e-4


def test_a_seed_gives_one_quantiser_on_any_number_of_threads():
    vectors, threads = unit_vectors(1500, 16), faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        one = learn_quantiser(vectors, 4, bits=6, seed=0)
        other = learn_quantiser(vectors, 4, bits=6, seed=1)
        faiss.omp_set_num_threads(2)
        again = learn_quantiser(vectors, 4, bits=6, seed=0)
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(one.centroids, again.centroids)
    np.testing.assert_array_equal(one.encode(vectors).codes, again.encode(vectors).codes)
    assert np.abs(one.centroids - other.centroids).max() > 1e-3


@pytest.mark.parametrize(("count", "bits"), [(8, 1), (15, 1), (16, 2), (1023, 7), (1024, 8)])
def test_bits_are_lowered_to_four_vectors_a_centroid(count, bits):
    assert learn_quantiser(unit_vectors(count, 8), 2).bits == bits
    assert learn_quantiser(unit_vectors(count, 8), 2, bits=1).bits == 1


def test_bad_input_is_refused():
    vectors = unit_vectors(64, 12)
    for parts, nearest in ((5, 4), (0, 1), (8, 6), (100, 12)):
        message = f"{parts} parts do not divide 12 dimensions; take {nearest}$"
        with pytest.raises(StudyError, match=message):
            learn_quantiser(vectors, parts)
    for bits in (0, 9):
        with pytest.raises(StudyError, match=f"1 to 8 bits a part, found {bits}"):
            learn_quantiser(vectors, 4, bits=bits)
    with pytest.raises(StudyError, match="at least 8 training vectors, found 7"):
        learn_quantiser(vectors[:7], 4)
    quantiser = learn_quantiser(vectors, 4)
    for wrong in (vectors[:, :8], vectors[0]):
        with pytest.raises(StudyError, match=r"vectors \(n, 12\)"):
            quantiser.encode(wrong)
        with pytest.raises(StudyError, match=r"vectors \(n, 12\)"):
            quantiser.encode(vectors).search(wrong)
