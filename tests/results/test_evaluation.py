"""Average precision: by hand, against a slow loop like Oxford's compute_ap, and its properties."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blcf_utils.datasets.base import Dataset, Protocol, Query
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import (
    average_precision,
    evaluate,
    precision_recall,
    unit_ranking,
)


def oxford_loop(ranking, positives, junk):
    """The algorithm of Oxford's evaluation program, item by item."""
    positives, junk = set(positives), set(junk)
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    hits, rank = 0, 0
    for item in ranking:
        if item in junk:
            continue
        hits += item in positives
        recall, precision = hits / len(positives), hits / (rank + 1.0)
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        rank += 1
    return ap


def rectangular_loop(ranking, positives, junk):
    """Sum of precision at each relevant item over the number of relevant items."""
    kept = [item for item in ranking if item not in set(junk)]
    precisions = []
    for rank, item in enumerate(kept):
        if item in set(positives):
            precisions.append(sum(i in set(positives) for i in kept[: rank + 1]) / (rank + 1))
    return sum(precisions) / len(positives)


@pytest.mark.parametrize(
    ("ranking", "positives", "junk", "trapezoid", "rectangular"),
    [
        # Precision 1 from recall 0 to 1.
        ([0, 1, 2, 3], [0, 1], [], 1, 1),
        # The hit at rank 2: precision goes 0 -> 1/2, mean 1/4; all of the recall.
        ([2, 0], [0], [], 1 / 4, 1 / 2),
        # Hits at ranks 1 and 3: (1 + 1)/2 and (1/2 + 2/3)/2, half of the recall each.
        ([0, 5, 1], [0, 1], [], (1 + 7 / 12) / 2, (1 + 2 / 3) / 2),
        # Junk in front is taken out before ranks are counted.
        ([8, 9, 0, 1], [0, 1], [8, 9], 1, 1),
        ([8, 2, 9, 0], [0], [8, 9], 1 / 4, 1 / 2),
        # A positive that is never found adds nothing: half of the recall.
        ([0, 5], [0, 1], [], 1 / 2, 1 / 2),
        ([5, 6], [0], [], 0, 0),
        ([], [0], [], 0, 0),
        # An item in both lists is junk, and still one of the positives that recall counts.
        ([0, 1, 2], [0, 1], [0], 1 / 2, 1 / 2),
        # Only the last of four: (0 + 1/4)/2.
        ([3, 2, 1, 0], [0], [], 1 / 8, 1 / 4),
    ],
)
def test_hand_worked_cases(ranking, positives, junk, trapezoid, rectangular):
    assert average_precision(ranking, positives, junk) == pytest.approx(trapezoid)
    assert average_precision(ranking, positives, junk, "rectangular") == pytest.approx(rectangular)


def random_case(rng):
    n = int(rng.integers(1, 40))
    ranking = rng.permutation(n)[: rng.integers(1, n + 1)]
    positives = np.sort(rng.choice(n, rng.integers(1, n + 1), replace=False))
    junk = np.sort(rng.choice(n, rng.integers(0, n + 1), replace=False))  # may share items
    return ranking, positives, junk


def test_thousands_of_random_rankings_score_as_the_slow_loops_do():
    rng = np.random.default_rng(11)
    shared = 0
    for _ in range(4000):
        ranking, positives, junk = random_case(rng)
        shared += bool(set(positives) & set(junk))
        found = average_precision(ranking, positives, junk)
        assert found == pytest.approx(oxford_loop(ranking, positives, junk), abs=1e-12)
        found = average_precision(ranking, tuple(positives), tuple(junk), "rectangular")
        assert found == pytest.approx(rectangular_loop(ranking, positives, junk), abs=1e-12)
    assert shared > 1000


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(["trapezoid", "rectangular"]))
def test_moving_a_positive_up_never_lowers_it(seed, ap):
    rng = np.random.default_rng(seed)
    ranking, positives, junk = random_case(rng)
    positives = np.setdiff1d(positives, junk)
    assume(len(positives))
    before = average_precision(ranking, positives, junk, ap)
    assert 0 <= before <= 1
    wrong = [i for i, item in enumerate(ranking) if item not in positives and item not in junk]
    right = [i for i, item in enumerate(ranking) if item in positives]
    pairs = [(i, j) for i in wrong for j in right if i < j]
    assume(pairs)
    i, j = pairs[rng.integers(len(pairs))]
    ranking = ranking.copy()
    ranking[i], ranking[j] = ranking[j], ranking[i]
    assert average_precision(ranking, positives, junk, ap) >= before


@given(st.integers(0, 100_000), st.sampled_from(["trapezoid", "rectangular"]))
def test_a_perfect_ranking_scores_one_wherever_junk_stands(seed, ap):
    rng = np.random.default_rng(seed)
    items = rng.permutation(30)
    positives, others, junk = items[:5], items[5:20], items[20:]
    ranking = list(positives) + list(others)
    for item in junk:
        ranking.insert(rng.integers(len(ranking) + 1), item)
    assert average_precision(ranking, positives, junk, ap) == pytest.approx(1)


def test_wrong_input_is_refused():
    for arguments, message in (
        (([0, 1], []), "at least one positive"),
        (([0, 1, 0], [1]), "each item once"),
        (([0, 1], [1], [], "sklearn"), "expected trapezoid or rectangular, found 'sklearn'"),
    ):
        with pytest.raises(StudyError, match=message):
            average_precision(*arguments)


def test_precision_and_recall_skip_junk():
    precision, recall = precision_recall(np.array([4, 0, 5, 1]), [0, 1], [4])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(recall, [1 / 2, 1 / 2, 1])


def dataset(units=None, protocol=None, positives=((0,), (1, 2))):
    images = tuple(Path(f"{k}.jpg") for k in range(5))
    queries = tuple(Query(f"q{i}", Path("q.jpg"), None, p) for i, p in enumerate(positives))
    return Dataset("set", Path(), images, queries, protocol or Protocol(), units)


def test_a_run_is_the_mean_over_queries():
    rankings = {"q0": np.array([0, 1, 2]), "q1": np.array([0, 1, 2])}
    # q1: hits at ranks 2 and 3: (0 + 1/2)/2 and (1/2 + 2/3)/2, half of the recall each.
    found = evaluate(dataset(), rankings)
    assert found.per_query == pytest.approx({"q0": 1, "q1": (1 / 4 + 7 / 12) / 2})
    assert found.mean == pytest.approx((1 + 5 / 12) / 2)
    trec = evaluate(dataset(protocol=Protocol("rectangular")), rankings)
    assert trec.per_query == pytest.approx({"q0": 1, "q1": (1 / 2 + 2 / 3) / 2})


def test_every_query_needs_a_ranking():
    with pytest.raises(StudyError, match="set: 1 of 2 queries have no ranking, first q1"):
        evaluate(dataset(), {"q0": np.array([0])})


def test_a_unit_stands_at_its_best_image():
    shots = ("b", "a", "b", "c", "a")
    grouped = dataset(shots)
    assert grouped.unit_names == ("b", "a", "c")
    assert unit_ranking(grouped, np.array([4, 1, 2, 3, 0])).tolist() == [1, 0, 2]
    assert unit_ranking(dataset(), np.array([4, 1])).tolist() == [4, 1]
    # q0 looks for unit 0 (b), found second; q1 for units 1 and 2, found first and third.
    found = evaluate(grouped, dict.fromkeys(("q0", "q1"), np.array([4, 1, 2, 3, 0])))
    assert found.per_query == pytest.approx({"q0": 1 / 4, "q1": (1 + 7 / 12) / 2})


@given(st.integers(0, 10_000))
def test_unit_rankings_match_a_slow_one(seed):
    rng = np.random.default_rng(seed)
    grouped = dataset(tuple(rng.choice(list("abc"), 5)))
    ranking, seen = rng.permutation(5), []
    for image in ranking:
        unit = grouped.unit_names.index(grouped.units[image])
        if unit not in seen:
            seen.append(unit)
    assert unit_ranking(grouped, ranking).tolist() == seen
