"""Localised re-ranking: candidates by hand, a slow search of the same, and how good it is."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.aml import candidate_windows, localise, localise_all
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.rmac_kernels import approximate_cosine, integral_powers

# No deadline: the first call compiles.
many = settings(deadline=None, max_examples=60)


def smooth_map(channels, height, width, seed):
    """Return a map whose activations are blobs, as those of a network are."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(height, width, channels)).astype(np.float32)
    for c in range(channels):
        rows[:, :, c] = cv2.GaussianBlur(rows[:, :, c], (0, 0), 1.2)
    return np.maximum(rows - 0.1, 0).transpose(2, 0, 1)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def every_window(height, width, least=2):
    for y0 in range(height):
        for y1 in range(y0 + least, height + 1):
            for x0 in range(width):
                for x1 in range(x0 + least, width + 1):
                    yield y0, y1, x0, x1


def approximate_score(feature_map, query, window, power=10):
    y0, y1, x0, x1 = window
    part = feature_map[:, y0:y1, x0:x1].astype(float)
    return cosine(query, (part**power).sum(axis=(1, 2)) ** (1 / power))


def slow_search(feature_map, query, aspect, step=3, tolerance=1.1, rounds=5):
    """Return the window that the published search finds, sums taken anew for each window."""
    height, width = feature_map.shape[1:]
    best, window = -1.0, None
    for y0 in range(0, height, step):
        for y1 in range(y0 + 2, height + 1, step):
            for x0 in range(0, width, step):
                for x1 in range(x0 + 2, width + 1, step):
                    ratio = (x1 - x0) / (y1 - y0) / aspect
                    if 1 / tolerance - 1e-9 <= ratio <= tolerance + 1e-9:
                        score = approximate_score(feature_map, query, (y0, y1, x0, x1))
                        if score > best:
                            best, window = score, [y0, y1, x0, x1]
    for by in range(step, 0, -1):
        for _ in range(rounds):
            moved = False
            for edge in range(4):
                for way in (-by, by):
                    tried = list(window)
                    tried[edge] += way
                    y0, y1, x0, x1 = tried
                    real = y0 + 2 <= y1 <= height and x0 + 2 <= x1 <= width
                    if min(y0, x0) >= 0 and real:
                        score = approximate_score(feature_map, query, tried)
                        if score > best:
                            best, window, moved = score, tried, True
            if not moved:
                break
    return tuple(window)


def test_candidates_by_hand():
    # Spans of 5 cells: 0 to 2, 0 to 5 and 3 to 5. Four small squares and the whole map.
    found = candidate_windows((5, 5), 1.0)
    expected = {(0, 2, 0, 2), (0, 2, 3, 5), (3, 5, 0, 2), (3, 5, 3, 5), (0, 5, 0, 5)}
    assert {tuple(window) for window in found} == expected
    assert len(found) == 5
    # No window has an aspect ratio of 2 within 10 %; 5 x 2 comes nearest.
    found = candidate_windows((5, 5), 2.0)
    assert {tuple(window) for window in found} == {(0, 2, 0, 5), (3, 5, 0, 5)}


@many
@given(
    st.integers(1, 30), st.integers(1, 30), st.floats(0.1, 10), st.integers(1, 4), st.integers(0, 9)
)
def test_candidates_lie_inside_and_are_near_the_aspect_ratio(height, width, aspect, step, k):
    windows = candidate_windows((height, width), aspect, step)
    assert len(windows)
    y0, y1, x0, x1 = windows.T
    assert ((y0 >= 0) & (y1 <= height) & (x0 >= 0) & (x1 <= width)).all()
    assert ((y1 - y0 >= min(2, height)) & (x1 - x0 >= min(2, width))).all()
    assert not (y0 % step).any()
    off = np.exp(np.abs(np.log((x1 - x0) / (y1 - y0) / aspect)))
    assert (off <= 1.1 + 1e-6).all() or np.ptp(off) < 1e-6


@pytest.mark.parametrize("power", [1, 2, 7, 10])
def test_integral_images_give_the_generalised_mean_of_any_window(power):
    feature_map = smooth_map(6, 7, 5, 0)
    total = integral_powers(np.ascontiguousarray(feature_map.transpose(1, 2, 0)), power)
    query = np.random.default_rng(1).random(6).astype(np.float32)
    query /= np.linalg.norm(query)
    relative = feature_map.astype(float) / feature_map.max()
    for y0, y1, x0, x1 in every_window(7, 5, least=1):
        part = relative[:, y0:y1, x0:x1]
        inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
        np.testing.assert_allclose(inside, (part**power).sum(axis=(1, 2)), rtol=1e-6, atol=1e-12)
        if part.any():
            found = approximate_cosine(total, query, y0, y1, x0, x1, 1 / power)
            expected = approximate_score(feature_map, query, (y0, y1, x0, x1), power)
            assert found == pytest.approx(expected, abs=0.02)  # rounding of x^power near 0


@pytest.mark.parametrize(("shape", "aspect"), [((21, 15), 0.8), ((12, 16), 1.0), ((9, 12), 2.5)])
def test_the_search_finds_the_window_of_a_slow_one(shape, aspect):
    for seed in range(5):
        # Nowhere zero, so that sums of powers in integral images are exact enough for equality.
        feature_map = smooth_map(16, *shape, seed) + 0.3
        query = mac_pool(smooth_map(16, *shape, seed + 50), box=(2, 7, 1, 6)) + 0.3
        window, score = localise(feature_map, query, aspect)
        assert window == slow_search(feature_map, query, aspect)
        assert score == pytest.approx(cosine(query, mac_pool(feature_map, box=window)), rel=1e-5)


def test_the_window_found_is_nearly_the_best_of_all():
    shares, whole = [], []
    for seed in range(24):
        feature_map = smooth_map(32, 12, 16, seed)
        rng = np.random.default_rng(seed)
        y0, x0 = rng.integers(0, 7), rng.integers(0, 9)
        box = (y0, y0 + rng.integers(3, 6), x0, x0 + rng.integers(3, 8))
        other = smooth_map(32, 12, 16, seed + 100)
        query = 0.7 * mac_pool(feature_map, box=box) + 0.3 * mac_pool(other, box=box)
        aspect = (box[3] - box[2]) / (box[1] - box[0])
        best = max(
            cosine(query, mac_pool(feature_map, box=window)) for window in every_window(12, 16)
        )
        shares.append(localise(feature_map, query, aspect)[1] / best)
        whole.append(cosine(query, mac_pool(feature_map)) / best)
    assert max(shares) <= 1 + 1e-6
    assert np.mean(shares) >= 0.95
    assert np.mean(shares) > np.mean(whole) + 0.02  # where looking at the whole map falls short


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_object_is_found(seed):
    rng = np.random.default_rng(seed)
    # Half of the channels see the object, the others its surroundings.
    feature_map = smooth_map(48, 21, 15, seed)
    feature_map[:24] *= 0.3
    thing = np.zeros((48, 6, 5), np.float32)
    thing[:24] = np.maximum(rng.normal(size=(24, 6, 5)), 0)
    query = mac_pool(thing)
    y0, x0 = int(rng.integers(0, 16)), int(rng.integers(0, 11))
    before = localise(feature_map, query, 5 / 6)[1]
    feature_map[:, y0 : y0 + 6, x0 : x0 + 5] = thing
    (a, b, c, d), score = localise(feature_map, query, 5 / 6)
    common = max(0, min(b, y0 + 6) - max(a, y0)) * max(0, min(d, x0 + 5) - max(c, x0))
    union = (b - a) * (d - c) + 30 - common
    assert common / union >= 0.75
    assert score > 0.97
    assert score > before + 0.2


def test_every_image_gets_its_own_window(toy_stages):
    features = toy_stages.features
    query = mac_pool(features.map(0), box=(1, 3, 1, 4))
    images = [5, 0, 9]
    windows, scores = localise_all(features, images, query, 1.5)
    assert windows.shape == (3, 4)
    assert scores.dtype == np.float32
    for k, image in enumerate(images):
        window, score = localise(features.map(image), query, 1.5)
        assert tuple(windows[k]) == window
        assert scores[k] == pytest.approx(score)
    again = localise_all(features, images, query, 1.5)
    np.testing.assert_array_equal(again[0], windows)
    np.testing.assert_array_equal(again[1], scores)


def test_an_image_that_was_left_out_has_no_window():
    maps = [smooth_map(4, 6, 6, 0), None]
    shapes, distinct = np.array([[6, 6], [0, 0]]), np.arange(2)
    features = SimpleNamespace(shapes=shapes, distinct=distinct, map=maps.__getitem__)
    windows, scores = localise_all(features, [1, 0], np.ones(4, np.float32), 1.0)
    np.testing.assert_array_equal(windows[0], [0, 0, 0, 0])
    assert scores[0] == 0
    assert scores[1] > 0.5
    windows, scores = localise_all(features, [], np.ones(4, np.float32), 1.0)
    assert windows.shape == (0, 4)
    assert scores.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 1)])
def test_tiny_maps_have_a_window(shape):
    feature_map = smooth_map(5, *shape, 0) + 1
    (y0, y1, x0, x1), score = localise(feature_map, np.ones(5, np.float32), 1.0)
    assert 0 <= y0 < y1 <= shape[0]
    assert 0 <= x0 < x1 <= shape[1]
    assert 0.5 < score <= 1 + 1e-6
    nothing, score = localise(np.zeros((5, *shape), np.float32), np.ones(5, np.float32), 1.0)
    assert score == 0
    assert nothing[1] > nothing[0]


def test_wrong_input_is_refused():
    feature_map, query = smooth_map(3, 5, 5, 0), np.ones(3, np.float32)
    with pytest.raises(StudyError, match=r"localisation: expected .* an aspect ratio above 0"):
        localise(feature_map, query, 0.0)
    with pytest.raises(StudyError, match=r"localisation: .* found shape \(3, 0, 0\)"):
        localise(np.zeros((3, 0, 0), np.float32), query, 1.0)
    with pytest.raises(StudyError, match=r"query of shape \(4,\): .*3 channels"):
        localise(feature_map, np.ones(4, np.float32), 1.0)
    with pytest.raises(StudyError, match=r"power: .* 2\.5"):
        localise(feature_map, query, 1.0, power=2.5)
