"""Weights of positions: the formulas, block-max reduction, and where the weights enter."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blcf_utils.config.profile import WeightingConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.crow import crow_pool
from blcf_utils.pooling.rmac import rmac_regions
from blcf_utils.pooling.sum_pooling import database_sums, sum_pool
from blcf_utils.saliency.weight_maps import weight_maps
from blcf_utils.saliency.weighting import (
    by_saliency,
    gaussian,
    gaussian_weights,
    l2_norm,
    l2_norm_weights,
    normalised,
    rmac_coverage,
    rmac_weights,
    saliency_weights,
)
from blcf_utils.words.histograms import database_histograms, sparse_histogram


def test_gaussian_is_the_published_code_on_even_maps():
    height, width = 30, 42
    # The original: linspace(-(H // 2), H // 2, H), sigma = min(H, W) / 3, then min-max.
    ys = np.linspace(-(height // 2), height // 2, height)
    xs = np.linspace(-(width // 2), width // 2, width)
    x, y = np.meshgrid(xs, ys)
    bell = np.exp(-0.5 * (x**2 + y**2) / (min(height, width) / 3) ** 2)
    assert bell.min() == pytest.approx(0.036, abs=5e-4)  # the value the original gives here
    expected = (bell - bell.min()) / (bell.max() - bell.min())
    np.testing.assert_allclose(gaussian_weights((height, width)), expected, atol=1e-12)
    plain = gaussian_weights((height, width), WeightingConfig(gaussian="plain"))
    np.testing.assert_allclose(plain, bell, atol=1e-12)


def test_gaussian_corners_are_zero_and_the_middle_is_the_top_of_odd_maps():
    weights = gaussian_weights((21, 15))
    assert weights[0, 0] == weights[-1, -1] == weights[0, -1] == 0
    assert weights[10, 7] == weights.max() == 1
    np.testing.assert_allclose(weights, weights[::-1, ::-1])
    # Whole cells from the centre, sigma 15 / 3; the corner at (10, 7) becomes 0.
    corner = np.exp(-(10**2 + 7**2) / 50)
    for row, column in ((0, 7), (10, 0), (4, 5), (11, 9)):
        bell = np.exp(-((row - 10) ** 2 + (column - 7) ** 2) / 50)
        assert weights[row, column] == pytest.approx((bell - corner) / (1 - corner), abs=1e-12)


def test_other_centre_priors():
    linear = gaussian_weights((3, 3), WeightingConfig(gaussian="linear"))
    # d of the corners is the largest; of the edge's middle 1/sqrt(2) of it.
    np.testing.assert_allclose(
        linear, [[0, 0.2929, 0], [0.2929, 1, 0.2929], [0, 0.2929, 0]], atol=1e-4
    )
    inverse = gaussian_weights((5, 5), WeightingConfig(gaussian="inverse"))
    assert inverse[2, 2] == 1  # not infinite, as the formula has it
    assert inverse[0, 0] == pytest.approx(1 / np.hypot(2, 2))
    narrow = gaussian_weights((20, 20), WeightingConfig(sigma=1 / 6))
    assert (narrow <= gaussian_weights((20, 20)) + 1e-12).all()
    assert narrow.sum() < 0.6 * gaussian_weights((20, 20)).sum()


@pytest.mark.parametrize("kind", ["minmax", "plain", "linear", "inverse"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (9, 1), (0, 0)])
def test_gaussian_of_tiny_maps_is_finite(kind, shape):
    config = WeightingConfig(gaussian=kind)
    weights = gaussian(config).weights(0, None, shape)
    assert weights.shape == shape
    assert np.isfinite(weights).all()
    if weights.size:
        assert weights.max() == 1
        assert weights.min() >= 0


def test_l2_norm_is_the_norm_of_each_descriptor():
    rng = np.random.default_rng(0)
    feature_map = rng.normal(size=(5, 4, 6)).astype(np.float32)
    expected = np.zeros((4, 6))
    for y in range(4):
        for x in range(6):
            expected[y, x] = np.linalg.norm(feature_map[:, y, x])
    np.testing.assert_allclose(l2_norm_weights(feature_map, (4, 6)), expected, rtol=1e-5)
    doubled = l2_norm().weights(0, feature_map, (8, 12))
    assert doubled.shape == (8, 12)
    assert doubled.max() == 1
    # OpenCV's bilinear resize, half-pixel centres: the corner is the corner.
    assert doubled[0, 0] * l2_norm_weights(feature_map, (8, 12)).max() == pytest.approx(
        expected[0, 0], rel=1e-5
    )


def test_l2_norm_without_a_feature_map_says_so():
    with pytest.raises(StudyError, match="image 3: expected its feature map"):
        l2_norm().weights(3, None, (4, 6))


def test_saliency_keeps_the_largest_of_each_block():
    rng = np.random.default_rng(1)
    shape = (3, 4)
    saliency = rng.integers(0, 256, (48, 64)).astype(np.uint8)  # already 16 x 16 a cell
    expected = np.zeros(shape)
    for y in range(3):
        for x in range(4):
            expected[y, x] = saliency[16 * y : 16 * y + 16, 16 * x : 16 * x + 16].max()
    np.testing.assert_array_equal(saliency_weights(saliency, shape), expected)


def test_saliency_of_another_size_is_resized_first():
    saliency = np.random.default_rng(2).integers(0, 256, (100, 150)).astype(np.uint8)
    large = cv2.resize(saliency, (15 * 16, 10 * 16), interpolation=cv2.INTER_LINEAR)
    expected = large.reshape(10, 16, 15, 16).max(axis=(1, 3))
    np.testing.assert_array_equal(saliency_weights(saliency, (10, 15)), expected)


def test_a_small_bright_spot_is_not_averaged_away():
    saliency = np.full((160, 160), 10, np.uint8)
    saliency[33, 49] = 255
    weights = by_saliency("spot", lambda _: saliency, {}).weights(0, None, (10, 10))
    assert weights[2, 3] == 1
    assert (np.delete(weights.ravel(), 23) < 0.05).all()


def test_no_saliency_at_all_counts_every_position_once():
    nothing = by_saliency("nothing", lambda _: np.zeros((40, 60), np.uint8), {})
    np.testing.assert_array_equal(nothing.weights(0, None, (4, 6)), np.ones((4, 6)))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 255))
def test_weights_lie_between_0_and_1_with_a_1(height, width, level):
    saliency = np.random.default_rng(level).integers(0, level + 1, (height, width)).astype(np.uint8)
    weights = normalised(saliency_weights(saliency, (height, width)))
    assert weights.max() == 1
    assert weights.min() >= 0


@pytest.mark.parametrize(("shape", "count"), [((15, 20), 20), ((20, 15), 20), ((20, 20), 14)])
def test_rmac_regions_are_the_published_number(shape, count):
    regions = rmac_regions(shape)
    assert len(regions) == count
    heights, widths = regions[:, 1] - regions[:, 0], regions[:, 3] - regions[:, 2]
    np.testing.assert_array_equal(heights, widths)
    assert regions.min() == 0
    assert regions[:, 1].max() == shape[0]
    assert regions[:, 3].max() == shape[1]


def test_rmac_regions_of_a_4_3_map_by_hand():
    # w = 15; two squares of 15 along the side of 20 overlap by 10 of 15, nearest to 40 %.
    first = rmac_regions((15, 20), 1)
    np.testing.assert_array_equal(first, [[0, 15, 0, 15], [0, 15, 5, 20]])
    second = rmac_regions((15, 20), 2)[2:]
    # Level 2: squares of 10, two rows, three columns.
    np.testing.assert_array_equal(second[:3, 2], [0, 5, 10])
    np.testing.assert_array_equal(np.unique(second[:, 0]), [0, 5])


def test_rmac_weights_count_the_regions_of_each_position():
    weights, expected = rmac_weights((9, 12)), np.zeros((9, 12))
    regions = rmac_regions((9, 12))
    for y in range(9):
        for x in range(12):
            expected[y, x] = sum(a <= y < b and c <= x < d for a, b, c, d in regions)
    np.testing.assert_array_equal(weights, expected)
    assert rmac_coverage(WeightingConfig()).weights(0, None, (9, 12)).max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (3, 30)])
def test_rmac_regions_of_odd_maps_stay_inside(shape):
    regions = rmac_regions(shape)
    assert (regions[:, 0] >= 0).all()
    assert (regions[:, 1] <= shape[0]).all()
    assert (regions[:, 3] <= shape[1]).all()
    assert (regions[:, 1] > regions[:, 0]).all()


def test_pooling_with_weights_is_the_weighted_sum():
    rng = np.random.default_rng(3)
    feature_map, weights = rng.random((6, 4, 5)).astype(np.float32), rng.random((4, 5))
    expected = sum(
        weights[y, x] * feature_map[:, y, x].astype(float) for y in range(4) for x in range(5)
    )
    np.testing.assert_allclose(sum_pool(feature_map, weights), expected, rtol=1e-5)
    np.testing.assert_allclose(
        sum_pool(feature_map, weights > 0.5), feature_map[:, weights > 0.5].sum(1), rtol=1e-5
    )


def test_crow_takes_each_weight_once():
    rng = np.random.default_rng(6)
    feature_map = np.maximum(rng.normal(size=(6, 4, 5)), 0)
    weights = rng.random((4, 5)) + 0.1
    total = feature_map.sum(axis=0)
    own = np.sqrt(total / np.linalg.norm(total))
    share = (feature_map > 0).mean(axis=(1, 2))
    rarity = np.log(share.sum() / share)
    expected = (feature_map * own * weights).sum(axis=(1, 2)) * rarity
    np.testing.assert_allclose(crow_pool(feature_map, weights), expected, rtol=1e-5)
    box = np.zeros((4, 5), bool)
    box[1:3, 2:4] = True
    inside = (feature_map[:, 1:3, 2:4] > 0).mean(axis=(1, 2))
    rarity = np.log(inside.sum() / np.where(inside > 0, inside, 1)) * (inside > 0)
    expected = (feature_map * own)[:, box].sum(axis=1) * rarity
    np.testing.assert_allclose(crow_pool(feature_map, box), expected, rtol=1e-5)
    assert not crow_pool(feature_map, np.zeros((4, 5), bool)).any()


def test_crow_by_the_papers_formulas():
    rng = np.random.default_rng(4)
    feature_map = np.maximum(rng.normal(size=(7, 5, 6)), 0)
    feature_map[3] = 0  # a channel that never fires
    total = feature_map.sum(axis=0)
    spatial = (total / (total**2).sum() ** 0.5) ** 0.5
    share = np.array([np.count_nonzero(channel) / 30 for channel in feature_map])
    rarity = [np.log(share.sum() / s) if s > 0 else 0.0 for s in share]
    expected = [(c * spatial).sum() * r for c, r in zip(feature_map, rarity, strict=True)]
    np.testing.assert_allclose(crow_pool(feature_map), expected, rtol=1e-5)
    assert not crow_pool(np.zeros((3, 4, 4))).any()


def test_stored_weights_enter_histograms_and_sums(toy_stages):
    features, maps, store = toy_stages.features, toy_stages.maps, toy_stages.store
    rng = np.random.default_rng(5)
    seen = {i: rng.integers(0, 256, (64, 96)).astype(np.uint8) for i in range(maps.n_database)}
    made = by_saliency("noise", seen.__getitem__, {"noise": 5})
    fine = weight_maps(made, features, maps.shapes[0, 0] // features.shapes[0, 0], store)
    histograms = database_histograms(maps, fine)
    words, values = sparse_histogram(maps.map(4), made.weights(4, None, maps.map(4).shape))
    row = histograms[[4]].toarray()[0]
    np.testing.assert_allclose(row[words], values, rtol=1e-6)
    assert row.sum() == pytest.approx(values.sum(), rel=1e-6)

    coarse = weight_maps(made, features, 1, store)
    sums = database_sums(features, coarse)
    expected = sum_pool(features.map(7), made.weights(7, None, features.map(7).shape[1:]))
    np.testing.assert_allclose(sums[7], expected, rtol=1e-5)
    assert not np.allclose(sums, database_sums(features))
    assert fine.key != coarse.key
    assert weight_maps(made, features, 1, store).key == coarse.key
    other = by_saliency("noise", seen.__getitem__, {"noise": 6})
    assert weight_maps(other, features, 1, store).key != coarse.key


def test_weights_of_the_features_are_keyed_by_the_features(toy_stages):
    features, store = toy_stages.features, toy_stages.store
    stored = weight_maps(l2_norm(), features, 1, store)
    feature_map = features.map(2)
    expected = normalised(l2_norm_weights(feature_map, feature_map.shape[1:]))
    np.testing.assert_allclose(stored(2), expected, rtol=1e-6)
    assert stored(2).dtype == np.float32


def test_config_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="gaussian"):
        WeightingConfig(gaussian="round")
    with pytest.raises(ValueError, match="sigma"):
        WeightingConfig(sigma=0)
