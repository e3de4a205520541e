"""Query expansion: averages of histograms, plain and weighted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blcf_utils.config.profile import ExpansionConfig
from blcf_utils.search.expansion import expand_query

WORDS = 12


def sparse(dense):
    words = np.flatnonzero(dense)
    return words.astype(np.int64), (dense[words] / np.linalg.norm(dense)).astype(np.float32)


def dense(pair):
    values = np.zeros(WORDS)
    values[pair[0]] = pair[1]
    return values


def some_histograms(seed, count):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.7, (count, WORDS))
    counts[np.arange(count), rng.integers(WORDS, size=count)] += 1
    return [sparse(row.astype(float)) for row in counts]


@given(st.integers(0, 500), st.integers(0, 6), st.floats(0, 4), st.floats(0.1, 3))
def test_the_expanded_query_is_the_weighted_average(seed, images, alpha, weight):
    query, *found = some_histograms(seed, 6)
    scores = np.sort(np.random.default_rng(seed).random(5))[::-1]
    config = ExpansionConfig(images=images, alpha=alpha, query_weight=weight)
    expanded = expand_query(query, found, scores, config)
    if images == 0:
        assert expanded is query
        return
    expected = weight * dense(query)
    for histogram, score in list(zip(found, scores, strict=True))[:images]:
        expected += score**alpha * dense(histogram)
    np.testing.assert_allclose(dense(expanded), expected / np.linalg.norm(expected), atol=1e-5)
    assert np.linalg.norm(expanded[1]) == pytest.approx(1, abs=1e-5)
    assert (np.diff(expanded[0]) > 0).all()


def test_the_order_of_what_was_found_does_not_matter_without_alpha():
    query, *found = some_histograms(3, 5)
    one = expand_query(query, found, [0.9, 0.8, 0.7, 0.6], ExpansionConfig(images=4))
    two = expand_query(query, found[::-1], [0.9, 0.8, 0.7, 0.6], ExpansionConfig(images=4))
    np.testing.assert_allclose(dense(one), dense(two), atol=1e-6)


def test_nothing_found_and_nothing_weighed_leave_the_query_as_it_is():
    query, other = some_histograms(1, 2)
    assert expand_query(query, [], [], ExpansionConfig()) is query
    for alpha in (0, 2):
        nothing = ExpansionConfig(alpha=alpha, query_weight=0)
        assert expand_query(query, [other, other], [0, -0.2], nothing) is query


def test_images_without_a_score_do_not_join():
    query, one, other = some_histograms(4, 3)
    plain = expand_query(query, [one], [0.3], ExpansionConfig())
    joined = expand_query(query, [one, other], [0.3, 0.0], ExpansionConfig())
    np.testing.assert_allclose(dense(joined), dense(plain), atol=1e-6)
