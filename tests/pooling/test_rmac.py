"""R-MAC: values by hand, slices and loops, invariances, and its reading as a weighting."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.rmac import region_maxima, rmac_pool, rmac_regions
from blcf_utils.pooling.rmac_kernels import window_maxima
from blcf_utils.pooling.rmac_weighting import (
    decompose,
    location_weights,
    region_gains,
    region_share,
    region_sums,
    rmac_alpha,
)
from blcf_utils.words.whitening import Whitening

# No deadline: the first call compiles.
many = settings(deadline=None, max_examples=60)
sizes = (st.integers(1, 5), st.integers(1, 16), st.integers(1, 16), st.integers(0, 9999))
every_level = pytest.mark.parametrize("levels", [1, 2, 3, 7])
shapes = pytest.mark.parametrize("shape", [(15, 20), (20, 15), (9, 12), (16, 16), (7, 7)])


def drawn_map(channels, height, width, seed):
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.normal(size=(height, width, channels)), 0).astype(np.float32)
    return rows.transpose(2, 0, 1)


def drawn_whitening(channels, dimensions, seed):
    rng = np.random.default_rng(seed)
    mean = (0.1 * rng.random(channels)).astype(np.float32)
    projection = rng.normal(size=(channels, dimensions)).astype(np.float32)
    return Whitening(mean, projection, np.ones(channels, np.float32), 99)


def slow_maxima(feature_map, levels=3):
    """Return the maxima of all regions, value by value."""
    found = []
    for y0, y1, x0, x1 in rmac_regions(feature_map.shape[1:], levels):
        best = [-np.inf] * len(feature_map)
        for y in range(y0, y1):
            for x in range(x0, x1):
                for c in range(len(feature_map)):
                    best[c] = max(best[c], feature_map[c, y, x])
        found.append(best)
    return np.array(found, np.float32)


def symmetric(length, side, count):
    """Whether ``count`` windows of a side stand symmetrically: no rounding is needed."""
    return count == 1 or (length - side) % (count - 1) == 0


def symmetric_grid(regions, shape):
    """Whether the regions mirrored left to right are the regions."""
    mirrored = regions.copy()
    mirrored[:, 2], mirrored[:, 3] = shape[1] - regions[:, 3], shape[1] - regions[:, 2]
    return sorted(map(tuple, regions)) == sorted(map(tuple, mirrored))


def test_rmac_of_2_x_2_positions_by_hand():
    # Two levels: the whole map, whose maxima are 5 and 12, and the four positions.
    feature_map = np.array([[[3, 0], [5, 0]], [[4, 5], [12, 0]]], np.float32)
    np.testing.assert_array_equal(
        region_maxima(feature_map, 2), [[5, 12], [3, 4], [0, 5], [5, 12], [0, 0]]
    )
    expected = [0.6 + 2 * 5 / 13, 0.8 + 1 + 2 * 12 / 13]
    np.testing.assert_allclose(rmac_pool(feature_map, levels=2), expected, rtol=1e-6)
    # The whole window once more.
    expected = [0.6 + 3 * 5 / 13, 0.8 + 1 + 3 * 12 / 13]
    np.testing.assert_allclose(rmac_pool(feature_map, levels=2, whole=True), expected, rtol=1e-6)
    # One level, whitened: (5, 12) / 13 less the mean, doubled in its second value.
    projection = np.array([[1, 0], [0, 2]], np.float32)
    whitening = Whitening(np.array([1 / 13, 4 / 13], np.float32), projection, np.ones(2), 9)
    np.testing.assert_allclose(
        rmac_pool(feature_map, levels=1, whitening=whitening),
        np.array([4, 16]) / np.hypot(4, 16),
        rtol=1e-5,
    )


def published_grid(height, width, levels=3):
    """The squares (y, x, side) of the published formula, with plain numbers."""
    w, extra = min(height, width), 0
    if height != width:
        steps = [(max(height, width) - w) / (m - 1) for m in range(2, 8)]
        misses = [abs((w**2 - w * b) / w**2 - 0.4) for b in steps]
        extra = 1 + misses.index(min(misses))
    squares = []
    for level in range(1, levels + 1):
        side = math.floor(2 * w / (level + 1))
        half = math.floor(side / 2 - 1)
        starts = []
        for length, other in ((height, width), (width, height)):
            count = level + (extra if length > other else 0)
            b = (length - side) / (count - 1) if count > 1 else 0
            starts.append([math.floor(half + i * b) - half for i in range(count)])
        squares += [(y, x, side) for y in starts[0] for x in starts[1] if side > 0]
    return squares


def test_the_grid_is_that_of_the_published_formula():
    for height, width in itertools.product(range(1, 69), repeat=2):
        found = rmac_regions((height, width))
        assert [(y, x, y1 - y) for y, y1, x, _ in found.tolist()] == published_grid(height, width)
        assert (found[:, 1] - found[:, 0] == found[:, 3] - found[:, 2]).all()


def test_ties_and_thin_maps():
    # The overlaps 1/3 and 7/15 are as far from .4: the sum's rounding prefers the first.
    for shape in ((9, 33), (33, 9), (18, 66), (66, 18)):
        assert len(rmac_regions(shape)) == (1 + 4) + 2 * (2 + 4) + 3 * (3 + 4)
    # Squares of one cell at the first scale, none of no cells at the others.
    assert rmac_regions((1, 1)).tolist() == [[0, 1, 0, 1]]
    assert len(rmac_regions((1, 6))) == len(rmac_regions((6, 1))) == 7
    assert len(rmac_regions((2, 2), levels=7)) == 1 + 4 + 9


@many
@given(*sizes, st.integers(1, 4))
def test_the_maxima_of_regions_are_those_of_plain_loops(channels, height, width, seed, levels):
    feature_map = drawn_map(channels, height, width, seed) - 0.5  # negative ones too
    expected = slow_maxima(feature_map, levels)
    np.testing.assert_array_equal(region_maxima(feature_map, levels), expected)
    whole = region_maxima(feature_map, levels, whole=True)
    np.testing.assert_array_equal(whole[:-1], expected)
    np.testing.assert_array_equal(whole[-1], mac_pool(feature_map))


@many
@given(*sizes, st.integers(1, 12))
def test_the_maxima_of_any_windows_are_those_of_slices(channels, height, width, seed, count):
    values = np.stack([drawn_map(channels, height, width, s).transpose(1, 2, 0) for s in (0, 1)])
    values = np.ascontiguousarray(values)
    rng = np.random.default_rng(seed)
    y0, x0 = rng.integers(0, height, count), rng.integers(0, width, count)
    y1, x1 = rng.integers(y0 + 1, height + 1), rng.integers(x0 + 1, width + 1)
    out = np.full((2, count, channels), np.nan, np.float32)
    window_maxima(values, np.stack([y0, y1, x0, x1], axis=1), out)
    for k in range(count):
        part = values[:, y0[k] : y1[k], x0[k] : x1[k]]
        np.testing.assert_array_equal(out[:, k], part.max(axis=(1, 2)))


@shapes
@pytest.mark.parametrize("whiten", [False, True])
def test_rmac_is_the_sum_of_its_postprocessed_regions(shape, whiten):
    feature_map = drawn_map(12, *shape, 5)
    whitening = drawn_whitening(12, 8, 1) if whiten else None
    expected = 0
    for region in slow_maxima(feature_map).astype(float):
        vector = region / np.linalg.norm(region)
        if whiten:
            vector = (vector - whitening.mean) @ whitening.projection
            vector = vector / np.linalg.norm(vector)
        expected = expected + vector
    found = rmac_pool(feature_map, whitening=whitening)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_multiply_the_map_and_regions_lie_in_the_box():
    maps = np.stack([drawn_map(6, 11, 14, seed) for seed in range(3)])
    weights = np.random.default_rng(0).random((3, 11, 14)).astype(np.float32)
    box = (1, 10, 2, 14)
    found = region_maxima(maps, weights=weights, box=box)
    for k in range(3):
        cut = (maps[k] * weights[k])[:, 1:10, 2:14]
        np.testing.assert_array_equal(found[k], slow_maxima(cut))
    whitening = drawn_whitening(6, 4, 2)
    pooled = rmac_pool(maps, weights, box, whitening=whitening)
    assert pooled.shape == (3, 4)
    alone = [rmac_pool(maps[k], weights[k], box, whitening=whitening) for k in range(3)]
    np.testing.assert_allclose(pooled, alone, rtol=1e-5)


@many
@given(*sizes, st.sampled_from([0.01, 7.0, 300.0]))
def test_rmac_does_not_see_the_scale(channels, height, width, seed, scale):
    feature_map = drawn_map(channels, height, width, seed)
    np.testing.assert_allclose(
        rmac_pool(scale * feature_map), rmac_pool(feature_map), rtol=1e-4, atol=1e-5
    )


@many
@given(*sizes, st.integers(1, 4))
def test_a_mirrored_map_has_the_same_rmac_where_the_grid_is_symmetric(
    channels, height, width, seed, levels
):
    feature_map = drawn_map(channels, height, width, seed)
    regions = rmac_regions((height, width), levels)
    if symmetric_grid(regions, (height, width)):
        np.testing.assert_allclose(
            rmac_pool(feature_map[:, :, ::-1], levels=levels),
            rmac_pool(feature_map, levels=levels),
            rtol=1e-4,
            atol=1e-5,
        )


def test_which_published_grids_are_symmetric():
    # Squares of side s: room for n windows of s - floor(2 s / (n + 1)), cut into n - 1 steps.
    for side in range(4, 40):
        expected = all(symmetric(side, 2 * side // (level + 1), level) for level in (1, 2, 3))
        assert symmetric_grid(rmac_regions((side, side)), (side, side)) == expected
        assert expected == (side % 4 in (0, 3))
    # Maps near 4:3, two largest squares along the width: rounding spoils most.
    assert symmetric_grid(rmac_regions((15, 22)), (15, 22))
    assert not symmetric_grid(rmac_regions((15, 20)), (15, 20))
    # Upright ones are symmetric from left to right, along their shorter side.
    assert symmetric_grid(rmac_regions((20, 15)), (20, 15))
    feature_map = np.zeros((2, 15, 20), np.float32)
    feature_map[0, 7, 4], feature_map[1, 7, 5] = 1, 1
    assert not np.allclose(rmac_pool(feature_map), rmac_pool(feature_map[:, :, ::-1]))


@every_level
@shapes
def test_the_number_of_regions_is_that_of_the_published_grid(shape, levels):
    along = 0 if shape[0] == shape[1] else 1
    expected = sum(level * (level + along) for level in range(1, levels + 1))
    assert len(rmac_regions(shape, levels)) == expected
    assert region_maxima(drawn_map(3, *shape, 0), levels).shape == (expected, 3)


@every_level
@shapes
def test_without_postprocessing_alpha_is_the_number_of_regions(shape, levels):
    feature_map = drawn_map(10, *shape, 3).astype(float)
    sums = [
        feature_map[:, y0:y1, x0:x1].sum(axis=(1, 2))
        for y0, y1, x0, x1 in rmac_regions(shape, levels)
    ]
    np.testing.assert_allclose(region_sums(feature_map, levels), sums, rtol=1e-5)
    weighted = (feature_map * location_weights(shape, levels)).sum(axis=(1, 2))
    np.testing.assert_allclose(weighted, np.sum(sums, axis=0), rtol=1e-10)


@every_level
@shapes
def test_alpha_is_exact_with_l2_postprocessing(shape, levels):
    feature_map = drawn_map(10, *shape, 4).astype(float)
    expected = np.zeros(10)
    for y0, y1, x0, x1 in rmac_regions(shape, levels):
        total = feature_map[:, y0:y1, x0:x1].sum(axis=(1, 2))
        expected += total / np.linalg.norm(total)
    alpha = rmac_alpha(feature_map, levels)
    assert alpha.shape == shape
    np.testing.assert_allclose((feature_map * alpha).sum(axis=(1, 2)), expected, rtol=1e-6)


@every_level
@shapes
def test_alpha_is_exact_but_for_a_constant_with_whitening(shape, levels):
    feature_map = drawn_map(10, *shape, 6).astype(float)
    whitening = drawn_whitening(10, 7, 3)
    expected, constant = np.zeros(7), np.zeros(7)
    for y0, y1, x0, x1 in rmac_regions(shape, levels):
        total = feature_map[:, y0:y1, x0:x1].sum(axis=(1, 2))
        white = (total / np.linalg.norm(total) - whitening.mean) @ whitening.projection
        expected += white / np.linalg.norm(white)
        constant += whitening.mean @ whitening.projection / np.linalg.norm(white)
    alpha = rmac_alpha(feature_map, levels, whitening)
    projected = np.einsum("chw,cd->dhw", feature_map, whitening.projection)
    found = (projected * alpha).sum(axis=(1, 2)) - constant
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # The regions' post-processed sums, as the whitening itself makes them.
    np.testing.assert_allclose(
        whitening.apply(region_sums(feature_map, levels)).sum(axis=0),
        expected,
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_region_without_activations_takes_no_part():
    feature_map = drawn_map(4, 8, 8, 0)
    feature_map[:, :4, :4] = 0  # the first of nine regions of the third level
    gains = region_gains(feature_map)
    assert gains[5] == 0
    assert (np.delete(gains, 5) > 0).all()
    before, after = region_share(feature_map)
    assert before[5] == after[5] == 0


@every_level
@shapes
def test_postprocessing_makes_all_regions_equal(shape, levels):
    feature_map = drawn_map(10, *shape, 7)
    before, after = region_share(feature_map, levels)
    assert before.sum() == pytest.approx(1)
    np.testing.assert_allclose(after, 1 / len(after))
    norms = np.linalg.norm(region_sums(feature_map, levels), axis=1)
    np.testing.assert_allclose(before, norms / norms.sum())
    np.testing.assert_allclose(region_gains(feature_map, levels), 1 / norms, rtol=1e-6)
    if levels > 1:
        assert before[0] > 2 * before[-1]  # the largest scale dominates the plain sum


@every_level
@shapes
def test_the_decomposition_holds_what_its_parts_say(shape, levels):
    feature_map = drawn_map(10, *shape, 8)
    parts = decompose(feature_map, levels)
    np.testing.assert_array_equal(parts.coverage, location_weights(shape, levels))
    np.testing.assert_allclose(parts.alpha, rmac_alpha(feature_map, levels))
    for weights, vector in ((parts.coverage, parts.by_coverage), (parts.alpha, parts.by_alpha)):
        np.testing.assert_allclose(vector, (feature_map * weights).sum(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(parts.rmac, rmac_pool(feature_map, levels=levels))
    plain = feature_map.sum(axis=(1, 2))
    pairs = [
        (parts.cosine_sum, plain),
        (parts.cosine_coverage, parts.by_coverage),
        (parts.cosine_alpha, parts.by_alpha),
    ]
    for cosine, vector in pairs:
        expected = np.dot(parts.rmac, vector) / np.linalg.norm(parts.rmac) / np.linalg.norm(vector)
        assert cosine == pytest.approx(expected, rel=1e-4)
    if levels == 1 and shape[0] == shape[1]:
        # One region, the whole map: nothing is weighted.
        assert parts.cosine_sum == pytest.approx(parts.cosine_alpha, rel=1e-5)


def test_on_a_map_of_one_descriptor_all_readings_agree():
    feature_map = np.tile(np.array([1, 2, 3], np.float32)[:, None, None], (1, 9, 12))
    parts = decompose(feature_map)
    cosines = [parts.cosine_sum, parts.cosine_coverage, parts.cosine_alpha]
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)
