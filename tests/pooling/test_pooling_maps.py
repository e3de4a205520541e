"""Pooling of feature maps: values worked out by hand, plain loops, and what must not matter."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.crow import crow_channel_weights, crow_pool, crow_spatial_weights
from blcf_utils.pooling.gem import gem_pool
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.rmac import rmac_pool
from blcf_utils.pooling.spoc import spoc_pool, spoc_prior
from blcf_utils.pooling.sum_pooling import sum_pool

POOLS = {
    "sum": sum_pool,
    "spoc": spoc_pool,
    "crow": crow_pool,
    "mac": mac_pool,
    "gem": gem_pool,
    "rmac": rmac_pool,
}
every_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
# No deadline: the first call compiles.
many = settings(deadline=None, max_examples=60)
sizes = (st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9999))


def drawn_map(channels, height, width, seed):
    """Return a map (C, h, w) with many zeros, as a view of position-major memory."""
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.normal(size=(height, width, channels)), 0).astype(np.float32)
    return rows.transpose(2, 0, 1)


# Two channels on 2 x 3 positions.
SMALL = np.array([[[1, 0, 2], [3, 0, 0]], [[0, 4, 0], [0, 2, 6]]], np.float32)
HALF = np.array([[1, 0.5, 0], [0, 1, 0.5]])


def test_sum_by_hand():
    np.testing.assert_allclose(sum_pool(SMALL), [6, 12])
    np.testing.assert_allclose(sum_pool(SMALL, HALF), [1, 2 + 2 + 3])
    np.testing.assert_allclose(sum_pool(SMALL, HALF > 0), [1, 4 + 2 + 6])
    np.testing.assert_allclose(sum_pool(SMALL, HALF, box=(1, 2, 1, 3)), [0, 2 + 3])


def test_mac_by_hand():
    np.testing.assert_allclose(mac_pool(SMALL), [3, 6])
    np.testing.assert_allclose(mac_pool(SMALL, box=(0, 1, 0, 3)), [2, 4])
    np.testing.assert_allclose(mac_pool(SMALL, HALF), [1, 3])


def test_gem_by_hand():
    # (1 + 8 + 27) / 6 and (64 + 8 + 216) / 6, zeros counting 1e-6 cubed.
    np.testing.assert_allclose(gem_pool(SMALL), [6 ** (1 / 3), 48 ** (1 / 3)], rtol=1e-5)
    np.testing.assert_allclose(gem_pool(SMALL, p=1), [1, 2], rtol=1e-5)
    # Weights 1, 0.5, 1, 0.5 on 1, 0, 0, 0 and on 0, 4, 2, 6: means of squares 1 / 3 and 30 / 3.
    np.testing.assert_allclose(
        gem_pool(SMALL, HALF, p=2), [(1 / 3) ** 0.5, (30 / 3) ** 0.5], rtol=1e-5
    )


def test_spoc_by_hand():
    # Half a cell: a third of the way from the middle of 3 x 3 cells to the border.
    edge, corner = np.exp(-2), np.exp(-4)
    expected = [[corner, edge, corner], [edge, 1, edge], [corner, edge, corner]]
    np.testing.assert_allclose(spoc_prior((3, 3)), expected, rtol=1e-6)
    feature_map = np.zeros((2, 5, 6), np.float32)
    feature_map[0, 2, 3], feature_map[1, 1, 2], feature_map[1, 2, 4] = 5, 1, 1
    np.testing.assert_allclose(
        spoc_pool(feature_map, box=(1, 4, 2, 5)), [5, corner + edge], rtol=1e-6
    )
    # Even sides: the middle lies between cells, and the prior is the same on both of its sides.
    np.testing.assert_allclose(spoc_prior((2, 4)), spoc_prior((2, 4))[::-1, ::-1], rtol=1e-6)
    assert spoc_prior((2, 4), 1.0)[0, 1] == pytest.approx(np.exp(-0.5 * 0.5 / 4))


def test_crow_by_hand():
    feature_map = np.array([[[3, 0]], [[0, 4]], [[0, 0]]], np.float32)
    # Positions have 3 and 4 of 5; the two channels that fire do so in half of the positions.
    spatial = np.sqrt([0.6, 0.8])
    np.testing.assert_allclose(crow_spatial_weights(feature_map), [spatial], rtol=1e-6)
    rarity = np.log(2)
    np.testing.assert_allclose(crow_channel_weights(feature_map), [rarity, rarity, 0], rtol=1e-6)
    expected = [3 * spatial[0] * rarity, 4 * spatial[1] * rarity, 0]
    np.testing.assert_allclose(crow_pool(feature_map), expected, rtol=1e-6)
    # Only the first position: the first channel always fires, and is not rare.
    np.testing.assert_allclose(crow_pool(feature_map, np.array([[2.0, 0]])), [0, 0, 0], atol=1e-7)


def slow_pools(feature_map, weights, p):
    """Return sum, SPoC, MAC, GeM and CroW of a map, position by position."""
    channels, height, width = feature_map.shape
    sigma = min(height, width) / 6
    names = ("sum", "spoc", "mac", "gem", "crow")
    found = {name: np.zeros(channels) for name in names}
    length = 0.0
    for y in range(height):
        for x in range(width):
            length += float(feature_map[:, y, x].sum()) ** 2
    fires, taking = np.zeros(channels), 0
    for y in range(height):
        for x in range(width):
            value, weight = feature_map[:, y, x].astype(float), float(weights[y, x])
            away = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
            found["sum"] += weight * value
            found["spoc"] += weight * np.exp(-away / 2 / sigma**2) * value
            found["mac"] = np.maximum(found["mac"], weight * value)
            found["gem"] += weight * np.maximum(value, 1e-6) ** p
            found["crow"] += weight * np.sqrt(value.sum() / max(length**0.5, 1e-12)) * value
            if weight > 0:
                fires, taking = fires + (value > 0), taking + 1
    found["gem"] = (found["gem"] / weights.sum()) ** (1 / p)
    share = fires / taking
    for c in range(channels):
        found["crow"][c] *= np.log(share.sum() / share[c]) if share[c] else 0
    return found


@many
@given(*sizes, st.sampled_from([1.0, 2.0, 3.0, 6.5]))
def test_pooling_is_what_plain_loops_find(channels, height, width, seed, p):
    feature_map = drawn_map(channels, height, width, seed)
    rng = np.random.default_rng(seed + 1)
    weights = rng.random((height, width)) * (rng.random((height, width)) < 0.7)
    weights[rng.integers(height), rng.integers(width)] = 0.5
    for given_weights in (None, weights):
        every = np.ones((height, width)) if given_weights is None else given_weights
        slow = slow_pools(feature_map, every, p)
        for name, expected in slow.items():
            pool = partial(gem_pool, p=p) if name == "gem" else POOLS[name]
            pooled = pool(feature_map, given_weights)
            assert pooled.dtype == np.float32
            np.testing.assert_allclose(pooled, expected, rtol=2e-4, atol=1e-5, err_msg=name)


@every_pool
@many
@given(*sizes)
def test_a_box_is_the_cut_map(pool, channels, height, width, seed):
    feature_map = drawn_map(channels, height + 2, width + 3, seed)
    weights = np.random.default_rng(seed).random((height + 2, width + 3))
    box = (1, 1 + height, 2, 2 + width)
    cut = np.ascontiguousarray(feature_map[:, 1 : 1 + height, 2 : 2 + width])
    np.testing.assert_allclose(pool(feature_map, box=box), pool(cut), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        pool(feature_map, weights, box),
        pool(cut, weights[1 : 1 + height, 2 : 2 + width]),
        rtol=1e-5,
        atol=1e-6,
    )


@every_pool
def test_a_batch_is_its_maps_one_by_one(pool):
    maps = np.stack([drawn_map(7, 6, 5, seed) for seed in range(4)])
    weights = np.random.default_rng(0).random((4, 6, 5))
    box = (1, 6, 0, 4)
    for options in ({}, {"box": box}):
        batch = pool(maps, **options)
        assert batch.shape == (4, 7)
        assert batch.dtype == np.float32
        alone = [pool(each, **options) for each in maps]
        np.testing.assert_allclose(batch, alone, rtol=1e-5)
        own = [pool(m, w, **options) for m, w in zip(maps, weights, strict=True)]
        np.testing.assert_allclose(pool(maps, weights, **options), own, rtol=1e-5)
        shared = [pool(each, weights[0], **options) for each in maps]
        np.testing.assert_allclose(pool(maps, weights[0], **options), shared, rtol=1e-5)


@every_pool
@many
@given(*sizes)
def test_channels_are_pooled_each_in_its_place(pool, channels, height, width, seed):
    feature_map = drawn_map(channels, height, width, seed)
    order = np.random.default_rng(seed).permutation(channels)
    np.testing.assert_allclose(
        pool(feature_map[order]), pool(feature_map)[order], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["sum", "spoc", "crow", "mac", "gem"])
@many
@given(*sizes)
def test_a_mirrored_map_has_the_same_vector(name, channels, height, width, seed):
    feature_map = drawn_map(channels, height, width, seed)
    for mirrored in (feature_map[:, :, ::-1], feature_map[:, ::-1]):
        np.testing.assert_allclose(
            POOLS[name](mirrored), POOLS[name](feature_map), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["sum", "spoc", "crow", "mac", "gem"])
@many
@given(*sizes, st.sampled_from([0.25, 3.0, 40.0]))
def test_a_scaled_map_has_a_scaled_vector(name, channels, height, width, seed, scale):
    # CroW too: its two weights do not depend on the scale.
    feature_map = drawn_map(channels, height, width, seed)
    np.testing.assert_allclose(
        POOLS[name](scale * feature_map), scale * POOLS[name](feature_map), rtol=1e-4, atol=1e-4
    )


@many
@given(*sizes)
def test_gem_lies_between_the_mean_and_the_maximum(channels, height, width, seed):
    feature_map = drawn_map(channels, height, width, seed)
    mean, most = feature_map.mean(axis=(1, 2)), feature_map.max(axis=(1, 2))
    before = mean - 1e-5
    for p in (1.0, 2.0, 3.0, 10.0, 50.0):
        pooled = gem_pool(feature_map, p=p)
        assert (pooled >= before - 1e-5).all()
        assert (pooled <= most + 2e-6 + 1e-5 * most).all()
        before = pooled


def test_gem_of_a_large_power_is_the_maximum():
    feature_map = drawn_map(20, 9, 8, 1) * 1000
    np.testing.assert_allclose(gem_pool(feature_map, p=3000), mac_pool(feature_map), rtol=2e-3)
    # What weighs nothing does not count, however large it is.
    feature_map[:, 4, 4] = 1e6
    weights = np.ones((9, 8))
    weights[4, 4] = 0
    others = np.where(weights > 0, feature_map, 0)
    found = gem_pool(feature_map, weights, p=100)
    np.testing.assert_allclose(found, mac_pool(others), rtol=0.05)


def test_gem_refuses_a_power_below_1():
    with pytest.raises(StudyError, match=r"GeM: p: expected at least 1, found 0\.5"):
        gem_pool(SMALL, p=0.5)


@every_pool
def test_a_map_without_activations_and_weights_of_zero_give_finite_vectors(pool):
    nothing = np.zeros((3, 4, 5), np.float32)
    np.testing.assert_allclose(pool(nothing), np.zeros(3), atol=2e-6)
    unweighted = pool(drawn_map(3, 4, 5, 0), np.zeros((4, 5)))
    np.testing.assert_allclose(unweighted, np.zeros(3), atol=2e-6)


def test_position_major_maps_are_not_copied():
    rows = np.random.default_rng(0).random((4, 5, 8), np.float32)
    read = positions(rows.transpose(2, 0, 1))
    assert np.shares_memory(read.values, rows)
    np.testing.assert_array_equal(read.values[0], rows.reshape(20, 8))
    half = positions(rows.astype(np.float16).transpose(2, 0, 1))
    assert half.values.dtype == np.float32


@every_pool
def test_wrong_input_is_refused_in_one_sentence(pool):
    feature_map = drawn_map(3, 4, 5, 0)
    with pytest.raises(StudyError, match=r"feature maps: expected \(C, h, w\).*\(4, 5\)"):
        pool(feature_map[0])
    with pytest.raises(StudyError, match=r"weights: expected \(4, 5\).*found \(5, 4\)"):
        pool(feature_map, np.ones((5, 4)))
    for box in ((0, 0, 0, 5), (0, 5, 0, 5), (-1, 2, 0, 5), (0, 4, 3, 6)):
        with pytest.raises(StudyError, match="0 <= y0 < y1 <= 4 and 0 <= x0 < x1 <= 5"):
            pool(feature_map, box=box)
