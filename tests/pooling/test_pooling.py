"""Sum pooling: sums of positions, whole or boxed, at unit length, whitened on request."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blcf_utils.config.profile import SumPoolingConfig
from blcf_utils.pooling.sum_pooling import (
    database_sums,
    query_sums,
    sum_pool,
    sum_pooled_vectors,
)
from blcf_utils.search.boxes import box_cells


def pooled(toy, features, config, mode):
    sums = (database_sums(features), query_sums(toy, features, mode))
    return sum_pooled_vectors(*sums, config)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8), st.integers(0, 999))
def test_pooling_sums_the_chosen_positions(channels, height, width, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((channels, height, width), np.float32)
    cells = rng.random((height, width)) < 0.5
    weights = rng.random((height, width), np.float32)
    expected = np.zeros((3, channels))
    for y in range(height):
        for x in range(width):
            expected += np.outer([1, cells[y, x], weights[y, x]], values[:, y, x])
    np.testing.assert_allclose(sum_pool(values), expected[0], rtol=1e-4)
    np.testing.assert_allclose(sum_pool(values, cells), expected[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sum_pool(values, weights), expected[2], rtol=1e-4, atol=1e-6)
    parts = sum_pool(values, cells) + sum_pool(values, ~cells)
    np.testing.assert_allclose(parts, sum_pool(values), rtol=1e-4)


@pytest.mark.parametrize("mode", ["gs", "ls"])
def test_vectors_of_a_dataset(toy, toy_stages, mode):
    features = toy_stages.features
    database, queries = pooled(toy, features, SumPoolingConfig(), mode)
    assert (database.shape, queries.shape) == ((18, 128), (5, 128))
    for vectors in (database, queries):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    summed = features.map(6).sum(axis=(1, 2))
    np.testing.assert_allclose(database[6], summed / np.linalg.norm(summed), atol=1e-5)
    for query, found in zip(toy.queries, queries, strict=True):
        i = toy.image_index[query.image]
        values = features.map(i)
        cells = box_cells(query.box, tuple(features.sizes[i]), values.shape[1:])
        inside = values[:, cells if mode == "ls" else np.ones_like(cells)].sum(axis=1)
        np.testing.assert_allclose(found, inside / np.linalg.norm(inside), atol=1e-5)


def test_whitened_vectors_have_no_common_direction(toy, toy_stages):
    config = SumPoolingConfig(whiten=True, dimensions=6)
    plain, _ = pooled(toy, toy_stages.features, SumPoolingConfig(), "gs")
    database, queries = pooled(toy, toy_stages.features, config, "gs")
    assert (database.shape, queries.shape) == ((18, 6), (5, 6))
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    assert (plain @ plain.T).mean() > 0.5
    assert abs((database @ database.T).mean()) < 0.1
    # A query that is a database image has that image's vector.
    i = toy.image_index[toy.queries[2].image]
    np.testing.assert_allclose(queries[2], database[i], atol=1e-4)


def test_a_small_database_is_whitened_to_fewer_directions(toy, toy_stages):
    config = SumPoolingConfig(whiten=True, dimensions=64)
    database, _ = pooled(toy, toy_stages.features, config, "gs")
    assert database.shape == (18, 17)
