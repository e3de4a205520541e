"""Scores of saliency maps against numbers worked out by hand and loops without cleverness."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.quality import (
    auc_judd,
    cc,
    fixation_density,
    judge,
    kl,
    nss,
    sample_fixations,
    sim,
)

SHAPE = (6, 8)
maps = arrays(np.uint8, SHAPE)
varied = maps.filter(lambda values: values.min() < values.max())
fixation_maps = arrays(bool, SHAPE).filter(lambda f: 0 < f.sum() < f.size)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def some_fixations(seed: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.2


def naive_auc(saliency: np.ndarray, fixations: np.ndarray, seed: int) -> float:
    """The MATLAB code's steps, one threshold at a time, with its noise added to the map."""
    noise = np.random.default_rng(seed).random(saliency.size).reshape(saliency.shape)
    noisy = saliency + noise * 1e-7
    noisy = (noisy - noisy.min()) / (noisy.max() - noisy.min())
    hits, misses = noisy[fixations], noisy[~fixations]
    points = [(0.0, 0.0)]
    for threshold in sorted(hits, reverse=True):
        true = sum(value >= threshold for value in hits) / len(hits)
        false = sum(value >= threshold for value in misses) / len(misses)
        points.append((false, true))
    points.append((1.0, 1.0))
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))


def test_cc_by_hand():
    # Deviations -1.5 -0.5 0.5 1.5 and 0 -1 1 0: their product is 1, their squares 5 and 2.
    assert cc([[1, 2], [3, 4]], [[1, 0], [2, 1]]) == pytest.approx(1 / math.sqrt(10))


def test_sim_by_hand():
    # Stretched: 0 1 2 3 thirds, sum 6 thirds; 1 0 2 1 halves, sum 4 halves.
    assert sim([[1, 2], [3, 4]], [[2, 1], [3, 2]]) == pytest.approx(0 + 0 + 2 / 6 + 1 / 4)


def test_kl_by_hand():
    expected = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert kl([[1, 3]], [[3, 1]]) == pytest.approx(expected)
    # Where the map says 0, eps is what keeps the result finite.
    assert kl([[0, 1]], [[1, 0]]) == pytest.approx(-math.log(2.220446049250313e-16))


def test_nss_by_hand():
    fixations = np.array([[False, False], [True, True]])
    # Mean 2.5, sample variance 5/3; the fixated pixels have 3 and 4.
    assert nss([[1, 2], [3, 4]], fixations) == pytest.approx(1 / math.sqrt(5 / 3))


def test_auc_by_hand():
    fixations = np.array([[True, False, True, False]])
    # The curve goes over (0, 1/2) and (1/2, 1).
    assert auc_judd([[4, 3, 2, 1]], fixations) == pytest.approx(0.5 * 0.75 + 0.5)
    # It goes straight to (1, 1/2), so that even the worst map has a little.
    assert auc_judd([[1, 4, 2, 3]], fixations) == pytest.approx(0.25)


@settings(max_examples=60, deadline=None)
@given(varied, fixation_maps, st.integers(0, 99))
def test_auc_is_that_of_the_threshold_loop(saliency, fixations, seed):
    area = auc_judd(saliency, fixations, seed=seed)
    assert area == pytest.approx(naive_auc(saliency.astype(float), fixations, seed), abs=1e-12)


def test_auc_of_a_large_map_with_ties_is_that_of_the_threshold_loop():
    rng = np.random.default_rng(5)
    saliency = rng.integers(0, 6, (40, 50)).astype(np.uint8)
    fixations = rng.random((40, 50)) < saliency / 30
    area = auc_judd(saliency, fixations, seed=3)
    assert area == pytest.approx(naive_auc(saliency.astype(float), fixations, 3), abs=1e-12)
    # Noise that breaks ties has no side: on average they count half.
    hits, misses = saliency[fixations], saliency[~fixations]
    halves = np.sign(hits[:, None].astype(int) - misses[None].astype(int)).mean() / 2 + 0.5
    areas = [auc_judd(saliency, fixations, seed=seed) for seed in range(40)]
    # n thresholds cut the staircase's corners by 1 / 2n.
    assert np.mean(areas) == pytest.approx(halves, abs=0.01)
    assert len(set(areas)) > 1
    assert auc_judd(saliency, fixations, seed=3) == area


@settings(max_examples=60, deadline=None)
@given(varied, varied)
def test_density_scores_are_those_of_plain_loops(saliency, density):
    s, g = saliency.astype(float).ravel(), density.astype(float).ravel()
    assert cc(saliency, density) == pytest.approx(np.corrcoef(s, g)[0, 1], abs=1e-9)
    stretched = [(v - v.min()) / (v.max() - v.min()) for v in (s, g)]
    a, b = (v / v.sum() for v in stretched)
    assert sim(saliency, density) == pytest.approx(sum(map(min, a, b)))
    a, b, eps = s / s.sum(), g / g.sum(), 2.0**-52
    expected = sum(q * math.log(eps + q / (p + eps)) for p, q in zip(a, b, strict=True))
    assert kl(saliency, density) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(varied, fixation_maps)
def test_nss_is_that_of_z_scores(saliency, fixations):
    s = saliency.astype(float)
    scores = (s - s.mean()) / s.std(ddof=1)
    assert nss(saliency, fixations) == pytest.approx(scores[fixations].mean(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(varied, fixation_maps, st.floats(1e-200, 1e200), st.floats(-3, 3))
def test_scale_and_offset_do_not_matter(saliency, fixations, scale, offset):
    density = fixation_density(fixations)
    s = saliency / 255
    moved = scale * (s + offset)
    assert cc(moved, density) == pytest.approx(cc(s, density), abs=1e-9)
    assert sim(moved, density) == pytest.approx(sim(s, density), abs=1e-9)
    assert nss(moved, fixations) == pytest.approx(nss(s, fixations), abs=1e-9)
    assert kl(scale * s, density) == pytest.approx(kl(s, density), abs=1e-6)
    assert cc(-s, density) == pytest.approx(-cc(s, density), abs=1e-9)
    assert nss(-s, fixations) == pytest.approx(-nss(s, fixations), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(varied, fixation_maps)
def test_auc_sees_the_order_only(saliency, fixations):
    s = saliency.astype(float)
    for transformed in (s**3, 1e-9 * s - 5e-9, np.exp(s), np.sqrt(s)):
        assert auc_judd(transformed, fixations) == auc_judd(s, fixations)


@settings(max_examples=60, deadline=None)
@given(maps, maps.filter(np.any), fixation_maps)
def test_scores_stay_in_their_ranges(saliency, density, fixations):
    assert -1 <= cc(saliency, density) <= 1
    assert -1e-12 <= sim(saliency, density) <= 1 + 1e-12
    assert kl(saliency, density) > -1e-9
    assert 0 <= auc_judd(saliency, fixations) <= 1
    assert np.isfinite(nss(saliency, fixations))


def test_perfect_and_inverse_predictions():
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:50] = True
    density = fixation_density(mask)
    assert cc(density, density) == pytest.approx(1)
    assert sim(density, density) == pytest.approx(1)
    assert kl(density, density) == pytest.approx(0, abs=1e-9)
    assert cc(density.max() - density, density) == pytest.approx(-1)
    assert kl(density.max() - density, density) > 1
    fixations = sample_fixations(density, 50, seed=0)
    perfect = judge(density, mask, seed=0)
    inverse = judge(-density, mask, seed=0)
    assert auc_judd(fixations, fixations) == 1
    assert auc_judd(~fixations, fixations) == pytest.approx(1 / (2 * 50))
    assert perfect["AUC-Judd"] > 0.85
    assert inverse["AUC-Judd"] < 0.15
    assert perfect["NSS"] > 1 > 0 > inverse["NSS"]


@pytest.mark.parametrize("value", [0, 0.1, 255, 1e300, -3])
def test_constant_maps_say_nothing(value):
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 2:6] = True
    density = fixation_density(mask)
    scores = judge(np.full(SHAPE, value), mask, seed=1, fixations=10)
    assert (scores["CC"], scores["NSS"], scores["AUC-Judd"]) == (0, 0, 0.5)
    stretched = (density - density.min()) / (density - density.min()).sum()
    assert scores["SIM"] == pytest.approx(np.minimum(stretched, 1 / mask.size).sum())
    assert scores["KL"] == pytest.approx((density * np.log(density * mask.size)).sum(), abs=1e-6)


def test_constant_density_has_no_correlation_with_anything():
    assert cc(np.arange(48).reshape(SHAPE), np.ones(SHAPE)) == 0
    assert sim(np.ones(SHAPE), np.ones(SHAPE)) == pytest.approx(1)
    assert kl(np.zeros(SHAPE), np.ones(SHAPE)) == pytest.approx(0, abs=1e-9)


def test_density_is_the_sum_of_a_gaussian_at_each_pixel_of_the_mask():
    mask = np.zeros((20, 30), bool)
    mask[3, 4] = mask[12, 25] = mask[12, 24] = True
    density = fixation_density(mask, sigma=0.1)
    y, x = np.mgrid[:20, :30]
    expected = sum(
        np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 3.0**2)) for a, b in np.argwhere(mask)
    )
    np.testing.assert_allclose(density, expected / expected.sum(), atol=2e-5)
    assert density.sum() == pytest.approx(1)
    assert density.dtype == np.float64


def test_density_takes_the_longer_side_and_any_non_zero_mask():
    mask = np.zeros((24, 96), np.uint8)
    mask[12, 48] = 255
    density = fixation_density(mask)
    # Sigma is 96 / 24 = 4 pixels.
    assert density[12, 52] / density[12, 48] == pytest.approx(math.exp(-0.5), rel=1e-3)
    assert np.array_equal(density, fixation_density(mask > 0))
    tiny = fixation_density(np.ones((1, 1), bool))
    assert tiny == pytest.approx(np.ones((1, 1)))


def test_fixations_follow_the_density():
    density = np.zeros((10, 10))
    density[:, :5], density[:, 5:] = 3, 1
    counts = sum(sample_fixations(density, 10, seed) for seed in range(400)).astype(float)
    # Nearly three to one; less, since a pixel is drawn once.
    assert counts[:, :5].sum() / counts.sum() == pytest.approx(0.74, abs=0.02)
    assert counts.sum() == 4000
    assert counts.min() > 0


def test_fixations_are_repeatable_and_never_where_the_density_is_zero():
    density = np.zeros((30, 40))
    density[5:9, 5:9] = np.arange(16).reshape(4, 4)
    one, same, other = (sample_fixations(density, 9, seed) for seed in (1, 1, 2))
    assert one.sum() == 9
    assert one.dtype == bool
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not one[density == 0].any()
    assert np.array_equal(sample_fixations(density, 100, 0), density > 0)


def test_judge_gives_what_the_single_scores_give():
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:60] = True
    saliency = (mask * 100 + rng.integers(0, 100, mask.shape)).astype(np.uint8)
    scores = judge(saliency, mask, seed=7)
    assert list(scores) == ["CC", "SIM", "KL", "NSS", "AUC-Judd"]
    assert all(type(score) is float for score in scores.values())
    assert scores["CC"] == cc(saliency, fixation_density(mask))
    assert scores["SIM"] == sim(saliency, fixation_density(mask))
    assert scores["KL"] == kl(saliency, fixation_density(mask))
    assert judge(saliency, mask, seed=7) == scores
    other = judge(saliency, mask, seed=8)
    assert other["CC"] == scores["CC"]
    assert other["NSS"] != scores["NSS"]
    fewer = judge(saliency, mask, seed=7, fixations=20)
    assert fewer["NSS"] != scores["NSS"]


def test_better_maps_get_better_scores():
    rng = np.random.default_rng(1)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:60] = True
    noise = rng.random(mask.shape)
    scores = [judge(share * mask + noise, mask, seed=0) for share in (0, 0.5, 1.5)]
    for name in scores[0]:
        series = [score[name] * (-1 if name == "KL" else 1) for score in scores]
        assert series == sorted(series), name
        assert series[0] < series[2]


GOOD = np.arange(48.0).reshape(SHAPE)
HIT = GOOD == 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cc(GOOD, GOOD[:4]),
            r"fixation density: has shape \(4, 8\), expected the .*\(6, 8",
        ),
        (lambda: nss(GOOD, HIT.T), r"fixations: has shape \(8, 6\), expected the .*\(6, 8\)"),
        (lambda: auc_judd(GOOD[None], HIT), r"saliency map: has shape \(1, 6, 8\)"),
        (lambda: sim(GOOD[:0], GOOD), r"saliency map: has shape \(0, 8\)"),
        (lambda: cc(GOOD.astype(str), GOOD), "saliency map: has shape .* and type <U"),
        (lambda: kl(np.where(HIT, np.nan, GOOD), GOOD), "not finite"),
        (lambda: nss(np.where(HIT, np.inf, GOOD), HIT), "not finite"),
        (lambda: cc(GOOD, 0 * GOOD), "has values from 0 to 0, expected none below 0 and some"),
        (lambda: kl(GOOD, GOOD - 1), "has values from -1 to 46"),
        (lambda: sample_fixations(0 * GOOD, 1, 0), "has values from 0 to 0"),
        (lambda: sample_fixations(GOOD, 0, 0), "0 are asked for"),
        (lambda: nss(GOOD, 0 * HIT), "fixations: no pixel is set"),
        (lambda: auc_judd(GOOD, 0 * HIT), "fixations: no pixel is set"),
        (lambda: auc_judd(GOOD, HIT | True), "all 48 pixels are fixations"),
        (lambda: judge(GOOD, 0 * HIT, seed=0), "mask: no pixel is set"),
        (lambda: judge(GOOD, HIT.T, seed=0, fixations=9), r"has shape \(8, 6\)"),
        (lambda: fixation_density(HIT, 0), "sigma is 0"),
        (lambda: fixation_density(HIT, math.nan), "sigma is nan"),
    ],
)
def test_bad_input_is_said_in_one_sentence(call, message):
    with pytest.raises(StudyError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
