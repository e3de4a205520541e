"""Late fusion: worked examples, and the laws every fusion keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils.config.profile import FusionConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.fusion import fuse, fuse_all, normalised_scores
from blcf_utils.search.query import Ranking

CONFIGS = [
    FusionConfig(kind=kind, normalise=normalise, weight=weight)
    for kind, normalise in (
        ("score", "max"),
        ("score", "minmax"),
        ("score", "zscore"),
        ("score", "none"),
        ("rank", "max"),
    )
    for weight in (0.0, 0.25, 0.5, 1.0)
]


def ranking_of(scores):
    """Rank images by their scores, ties by number."""
    scores = np.asarray(scores, np.float32)
    order = np.argsort(-scores, kind="stable")
    return Ranking(order, scores[order])


def by_image(ranking):
    return ranking.scores[np.argsort(ranking.images)]


@st.composite
def pairs(draw):
    """Scores of the same images in two searches; eighths, some negative, many equal."""
    n = draw(st.integers(1, 25))
    values = st.integers(-4, 16).map(lambda value: value / 8)
    return [draw(st.lists(values, min_size=n, max_size=n)) for _ in range(2)]


def test_scores_are_normalised_and_weighed():
    first, second = ranking_of([4, 2, 0, 1]), ranking_of([0, 10, 5, 0])
    fused = fuse(first, second, FusionConfig(normalise="max", weight=0.75))
    np.testing.assert_allclose(by_image(fused), [0.75, 0.625, 0.125, 0.1875])
    assert fused.images.tolist() == [0, 1, 3, 2]
    plain = fuse(first, second, FusionConfig(normalise="none", weight=0.5))
    np.testing.assert_allclose(by_image(plain), [2, 6, 2.5, 0.5])
    assert plain.images.tolist() == [1, 2, 0, 3]


def test_normalisations_by_hand():
    scores = np.array([5.0, 1.0, 3.0])
    np.testing.assert_allclose(normalised_scores(scores, "max"), [1, 0.2, 0.6])
    np.testing.assert_allclose(normalised_scores(-scores, "max"), [-1, -0.2, -0.6])
    np.testing.assert_allclose(normalised_scores(scores, "minmax"), [1, 0, 0.5])
    np.testing.assert_allclose(
        normalised_scores(scores, "zscore"), np.sqrt([1.5, 1.5, 0]) * (1, -1, 1)
    )
    np.testing.assert_array_equal(normalised_scores(scores, "none"), scores)


@pytest.mark.parametrize("how", ["max", "minmax", "zscore", "none"])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_equal_scores_do_not_divide_by_zero(how, value):
    scores = np.full(7, value, np.float32)
    with np.errstate(all="raise"):
        found = normalised_scores(scores, how)
        ranked = fuse(ranking_of(scores), ranking_of(range(7)), FusionConfig(normalise=how))
    assert np.isfinite(found).all()
    assert len(set(found.tolist())) == 1
    assert ranked.images.tolist() == [6, 5, 4, 3, 2, 1, 0]


def test_ranks_are_fused_by_their_reciprocals():
    first, second = ranking_of([0.9, 0.1, 0.5, 0.5]), ranking_of([1, 3, 2, 0])
    fused = fuse(first, second, FusionConfig(kind="rank", weight=0.5, rank_constant=10))
    ranks = np.array([[1, 4, 2, 2], [3, 1, 2, 4]])  # equal scores share the best rank
    np.testing.assert_allclose(by_image(fused), (1 / (10 + ranks)).mean(axis=0))
    assert fused.images.tolist() == [0, 2, 1, 3]


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from(CONFIGS), st.randoms(use_true_random=False))
def test_laws_of_fusion(scores, config, random):
    first, second = (ranking_of(s) for s in scores)
    fused = fuse(first, second, config)
    n = len(scores[0])
    assert sorted(fused.images) == list(range(n))
    assert (np.diff(fused.scores) <= 0).all()
    ties = np.diff(fused.scores) == 0
    assert (np.diff(fused.images)[ties] > 0).all()
    # A weight of 1 or 0 leaves one ranking.
    if config.weight in (0, 1):
        np.testing.assert_array_equal(fused.images, (second, first)[int(config.weight)].images)
    # Symmetry: quarters are exact, so 1 - weight is.
    swapped = fuse(second, first, config.model_copy(update={"weight": 1 - config.weight}))
    np.testing.assert_allclose(by_image(swapped), by_image(fused), rtol=1e-12, atol=1e-12)
    # The scores of images do not depend on their numbers.
    new = list(range(n))
    random.shuffle(new)
    moved = [np.empty(n) for _ in scores]
    for target, values in zip(moved, scores, strict=True):
        target[new] = values
    renumbered = fuse(*(ranking_of(s) for s in moved), config)
    np.testing.assert_allclose(by_image(renumbered)[new], by_image(fused), rtol=1e-9, atol=1e-12)


def test_the_scale_of_a_search_does_not_matter_once_normalised():
    rng = np.random.default_rng(0)
    one, other = rng.random(30), rng.random(30)
    for how in ("max", "minmax", "zscore"):
        config = FusionConfig(normalise=how, weight=0.4)
        plain = fuse(ranking_of(one), ranking_of(other), config)
        scaled = fuse(ranking_of(one * 50), ranking_of(other), config)
        np.testing.assert_array_equal(plain.images, scaled.images)


def test_two_searches_that_err_differently_are_better_together():
    truth = np.repeat([1.0, 0.0], 200)
    rng = np.random.default_rng(2)
    one, other = (truth + rng.normal(0, 0.7, 400) for _ in range(2))

    def found(ranking):
        return (ranking.images[:200] < 200).sum()

    for kind in ("score", "rank"):
        both = fuse(ranking_of(one), ranking_of(other), FusionConfig(kind=kind, normalise="minmax"))
        assert found(both) > max(found(ranking_of(one)), found(ranking_of(other)))


def test_every_query_is_fused():
    first, second = ranking_of([1, 0, 0.5]), ranking_of([0, 1, 0.2])
    fused = fuse_all({"a": first, "b": second}, {"b": first, "a": first}, FusionConfig())
    assert list(fused) == ["a", "b"]
    assert fused["a"].images.tolist() == [0, 2, 1]
    assert fused["b"].images.tolist() == fuse(second, first, FusionConfig()).images.tolist()
    with pytest.raises(StudyError, match="two rankings for every query, found one for b"):
        fuse_all({"a": first, "b": first}, {"a": first}, FusionConfig())


def test_rankings_that_do_not_fit_are_refused():
    whole = ranking_of([3, 2, 1])
    part = Ranking(whole.images[:2], whole.scores[:2])
    with pytest.raises(StudyError, match="same images, found 3 and 2 images, of which 2 in both"):
        fuse(whole, part, FusionConfig())
    rising = Ranking(whole.images, whole.scores[::-1])
    with pytest.raises(StudyError, match="fall along the second ranking"):
        fuse(whole, rising, FusionConfig())
