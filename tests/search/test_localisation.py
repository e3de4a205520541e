"""Localisation: overlaps by hand, boxes that are known, and windows that find them."""

from dataclasses import replace

import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.search.localisation import intersection_over_union, known_boxes, localise
from blcf_utils.search.recipes import Searcher


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0),
    ],
)
def test_overlaps_by_hand(a, b, expected):
    assert intersection_over_union(a, b) == pytest.approx(expected)
    assert intersection_over_union(b, a) == pytest.approx(expected)


def test_boxes_come_from_other_queries_of_the_instance_and_from_the_dataset(toy):
    outside, first = toy.queries[-1], toy.queries[0]
    # Query 0 shows poster 0 in image 0; the outside query seeks the same poster.
    assert known_boxes(toy, outside) == {0: first.box}
    assert known_boxes(toy, first) == {}
    boxed = replace(toy, boxes={1: (1, 2, 30, 40), 9: (5, 5, 9, 9)})
    assert known_boxes(boxed, first) == {1: (1, 2, 30, 40)}
    assert known_boxes(replace(boxed, units=tuple("abc" * 6)), first) == {}
    # Where it is in the query's own image is given, not found, also where that is a positive.
    counted = replace(first, positives=(0, 1, 2))
    assert known_boxes(replace(boxed, queries=(counted,)), counted) == {1: (1, 2, 30, 40)}


def test_a_query_is_localised_in_its_relevant_images(toy, toy_searcher):
    (one,) = localise(toy_searcher, toy.queries[-1])
    assert one.image == 0
    assert one.truth == toy.queries[0].box
    assert one.overlap == pytest.approx(intersection_over_union(one.box, one.truth))
    assert 0 <= one.overlap <= one.possible <= 1
    assert one.whole == pytest.approx(intersection_over_union((0, 0, 96, 64), one.truth))


def test_the_best_window_is_sought_among_those_of_the_settings(toy, toy_searcher):
    for sizes in ((1.0,), (0.9, 0.8, 0.7), (0.3,)):
        config = toy_searcher.reranking.model_copy(update={"sizes": sizes})
        searcher = Searcher(toy_searcher.base, config, toy_searcher.expansion)
        (one,) = localise(searcher, toy.queries[-1])
        assert one.overlap <= one.possible
        assert (one.possible == one.whole) == (sizes == (1.0,))


def test_nothing_is_localised_without_known_boxes_and_refused_without_a_box(toy, toy_searcher):
    assert localise(toy_searcher, toy.queries[1]) == []
    with pytest.raises(StudyError, match="query q1: expected a box to localise"):
        localise(toy_searcher, replace(toy.queries[1], box=None))
