"""Codebook aggregations, patch sets, codes: against loops and by hand."""

import numpy as np
import pytest

from blcf_utils.errors import StudyError
from blcf_utils.pooling.dense_codebook import learn_dense_codebook
from blcf_utils.pooling.mop import learn_mop, mop_pool
from blcf_utils.pooling.netvlad import netvlad_alpha, netvlad_parameters, netvlad_pool
from blcf_utils.pooling.patches import (
    patch_maxima,
    patch_set_scores,
    patch_windows,
    window_grid,
)
from blcf_utils.pooling.quantisation import learn_quantiser
from blcf_utils.pooling.vlad import vlad_pool


def some_maps(seed=0, count=3, channels=4, height=5, width=6):
    values = np.random.default_rng(seed).normal(size=(count, channels, height, width))
    return np.maximum(values, 0).astype(np.float32)


def words(seed=1, count=3, channels=4):
    values = np.random.default_rng(seed).normal(size=(count, channels))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def slow_vlad(values, centroids, shares, weights=None):
    sums = np.zeros_like(centroids, dtype=float)
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            one = values[:, y, x] / max(np.linalg.norm(values[:, y, x]), 1e-12)
            for k, share in enumerate(shares(one)):
                weight = 1 if weights is None else weights[y, x]
                sums[k] += share * weight * (one - centroids[k])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return sums.ravel() / max(np.linalg.norm(sums), 1e-12)


def test_vlad_against_loops():
    maps, centroids = some_maps(), words()
    weights = np.random.default_rng(2).random((5, 6))

    def nearest(one):
        return np.eye(3)[((centroids - one) ** 2).sum(axis=1).argmin()]

    found = vlad_pool(maps, weights, centroids=centroids)
    for one, vector in zip(maps, found, strict=True):
        np.testing.assert_allclose(
            vector, slow_vlad(one, centroids, nearest, weights), rtol=1e-3, atol=1e-5
        )
    inside = np.zeros((5, 6), bool)
    inside[1:4, 2:5] = True
    boxed = vlad_pool(maps[0], box=(1, 4, 2, 5), centroids=centroids)
    np.testing.assert_allclose(vlad_pool(maps[0], inside, centroids=centroids), boxed, atol=1e-5)
    with pytest.raises(StudyError, match="as the map has channels"):
        vlad_pool(maps, centroids=words(channels=5))


def test_netvlad_against_loops():
    maps, centroids, alpha = some_maps(3), words(), 7.0

    def soft(one):
        logits = -alpha * ((centroids - one) ** 2).sum(axis=1)
        return np.exp(logits) / np.exp(logits).sum()

    found = netvlad_pool(maps, centroids=centroids, alpha=alpha)
    for one, vector in zip(maps, found, strict=True):
        np.testing.assert_allclose(vector, slow_vlad(one, centroids, soft), rtol=1e-3, atol=1e-5)
    # A very sharp assignment is VLAD's.
    sharp = netvlad_pool(maps, centroids=centroids, alpha=1e4)
    np.testing.assert_allclose(sharp, vlad_pool(maps, centroids=centroids), atol=1e-4)


def test_the_sharpness_of_netvlad():
    rows, centroids = words(5, 50), words()
    alpha = netvlad_alpha(rows, centroids)
    two = np.sort(((rows[:, None] - centroids) ** 2).sum(axis=2), axis=1)[:, :2]
    assert np.exp(alpha * (two[:, 1] - two[:, 0]).mean()) == pytest.approx(100, rel=1e-3)


def test_a_trained_netvlad_layer():
    maps, centroids, alpha = some_maps(4), words(), 3.0
    state = {
        "pool.centroids": centroids,
        "pool.conv.weight": (2 * alpha * centroids).reshape(3, 4, 1, 1),
        "pool.conv.bias": -alpha * (centroids**2).sum(axis=1),
    }
    found, assignment = netvlad_parameters(state)
    np.testing.assert_allclose(
        netvlad_pool(maps, centroids=found, assignment=assignment),
        netvlad_pool(maps, centroids=centroids, alpha=alpha),
        atol=1e-5,
    )
    with pytest.raises(StudyError, match="state dict"):
        netvlad_parameters({"other": centroids})
    with pytest.raises(StudyError, match="one of them"):
        netvlad_pool(maps, centroids=centroids)


def test_patch_grids():
    windows = patch_windows((12, 16), 4)
    assert len(windows) == 30
    assert windows[0].tolist() == [0, 12, 0, 16]
    assert windows[1:5].tolist() == [[0, 8, 0, 11], [0, 8, 5, 16], [4, 12, 0, 11], [4, 12, 5, 16]]
    for shape in ((1, 1), (2, 7), (30, 3)):
        y0, y1, x0, x1 = patch_windows(shape, 4).T
        assert (y0 >= 0).all()
        assert (y0 < y1).all()
        assert (y1 <= shape[0]).all()
        assert (x0 < x1).all()
        assert (x1 <= shape[1]).all()
    with pytest.raises(StudyError, match="at least one level"):
        patch_windows((3, 3), 0)


def test_patches_are_maximised_part_by_part():
    maps, windows = some_maps(6), np.array([[0, 5, 1, 6], [2, 3, 2, 4]])
    found = window_grid(maps, windows, (2, 2))
    assert found.shape == (3, 2, 4, 2, 2)
    # As adaptive max pooling: 5 rows are cut into 0..3 and 2..5.
    np.testing.assert_array_equal(found[1, 0, :, 0, 0], maps[1][:, 0:3, 1:4].max(axis=(1, 2)))
    np.testing.assert_array_equal(found[1, 0, :, 1, 1], maps[1][:, 2:5, 3:6].max(axis=(1, 2)))
    np.testing.assert_array_equal(found[2, 1, :, 0, 1], maps[2][:, 2, 3])
    flat = patch_maxima(maps, windows, (2, 2))
    np.testing.assert_array_equal(flat[1, 0, :4], found[1, 0, :, 0, 0])
    np.testing.assert_array_equal(flat[1, 0, 12:], found[1, 0, :, 1, 1])
    np.testing.assert_array_equal(patch_maxima(maps[0], windows, (2, 2)), flat[0])
    with pytest.raises(StudyError, match="inside a map of 5 x 6"):
        window_grid(maps, np.array([[0, 6, 0, 2]]), (1, 1))


def test_sets_are_compared_patch_by_patch():
    rng = np.random.default_rng(7)
    queries, database = rng.normal(size=(2, 3, 5)), rng.normal(size=(7, 4, 5))
    queries, database = queries.astype(np.float32), database.astype(np.float32)
    expected = np.zeros((2, 7))
    for q in range(2):
        for i in range(7):
            best = [max(database[i, p] @ queries[q, k] for p in range(4)) for k in range(3)]
            expected[q, i] = np.mean(best)
    np.testing.assert_allclose(patch_set_scores(queries, database), expected, rtol=1e-5)
    np.testing.assert_allclose(patch_set_scores(list(queries), database), expected, rtol=1e-5)


def test_mop_is_three_scales_side_by_side():
    maps = some_maps(8, 6, 4, 9, 9)

    def code(pooled):
        return pooled.reshape(len(pooled), -1)

    books = learn_mop([maps[:3], maps[3:]], code, 2, words=5, seed=0)
    found = mop_pool(maps, encode=code, books=books)
    assert found.shape == (6, 16 + 2 * 5 * 16)
    whole = window_grid(maps, np.array([[0, 9, 0, 9]]), (2, 2)).reshape(6, -1)
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, :16], expected, rtol=1e-5)
    for part in (found[:, :16], found[:, 16:96], found[:, 96:]):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(mop_pool(maps[2], encode=code, books=books), found[2], atol=1e-5)
    with pytest.raises(StudyError, match="cannot be learned from"):
        learn_mop([maps[:1]], code, 2, words=50)


def test_dense_codebooks_are_learned_once(toy_stages, store):
    book = learn_dense_codebook(toy_stages.features, 8, store, seed=3)
    again = learn_dense_codebook(toy_stages.features, 8, store, seed=3)
    assert book.centroids.shape == (8, 128)
    np.testing.assert_array_equal(book.centroids, again.centroids)
    assert (np.linalg.norm(book.centroids, axis=1) <= 1 + 1e-5).all()
    with pytest.raises(StudyError, match="vlad_words"):
        learn_dense_codebook(toy_stages.features, 10**6, store)


@pytest.mark.parametrize("bits", [8, 5])
def test_codes_stand_for_the_nearest_centroids(bits):
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(1500, 12)).astype(np.float32)
    quantiser = learn_quantiser(vectors, 3, bits=bits, seed=1)
    assert quantiser.bits == bits
    held = quantiser.encode(vectors[:40])
    assert held.bytes_per_vector == (3 if bits == 8 else 2)
    decoded = []
    for vector in vectors[:40]:
        parts = vector.reshape(3, 4)
        nearest = [
            book[((book - part) ** 2).sum(axis=1).argmin()]
            for book, part in zip(quantiser.centroids, parts, strict=True)
        ]
        decoded.append(np.concatenate(nearest))
    queries = rng.normal(size=(5, 12)).astype(np.float32)
    np.testing.assert_allclose(
        held.search(queries), queries @ np.array(decoded).T, rtol=1e-3, atol=1e-4
    )
    again = learn_quantiser(vectors, 3, bits=bits, seed=1)
    np.testing.assert_array_equal(again.centroids, quantiser.centroids)


def test_codes_that_cannot_be_learned():
    vectors = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
    assert learn_quantiser(vectors, 4).bits == 4  # 16 centroids for 100 vectors
    with pytest.raises(StudyError, match="take 4"):
        learn_quantiser(vectors, 5)
    with pytest.raises(StudyError, match="training vectors"):
        learn_quantiser(vectors[:5], 4)
