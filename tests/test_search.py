"""Global and local search on a small generated benchmark."""

import numpy as np
import pytest

from blcf_utils.bow import histogram
from blcf_utils.boxes import box_cells
from blcf_utils.evaluation import evaluate
from blcf_utils.search import dense_rankings, query_histogram, search_all


def full(pair, words):
    dense = np.zeros(words)
    dense[pair[0]] = pair[1]
    return dense


def test_global_search_uses_all_words_and_local_those_in_the_box(toy, toy_stages):
    maps = toy_stages.maps
    for query in toy.queries:
        i = toy.image_index[query.image]
        words = maps.map(i)
        inside = words[box_cells(query.box, tuple(maps.sizes[i]), words.shape)]
        assert 0 < inside.size < words.size
        for mode, used in (("gs", words), ("ls", inside)):
            expected = histogram(used, maps.words)
            found = full(query_histogram(toy, query, maps, mode), maps.words)
            np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("mode", ["gs", "ls"])
def test_rankings_are_cosines_of_histograms(toy, toy_stages, mode):
    maps, index = toy_stages.maps, toy_stages.index
    database = np.stack([histogram(maps.map(i), maps.words) for i in range(maps.n_database)])
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    rankings = search_all(toy, maps, index, mode)
    assert list(rankings) == [query.id for query in toy.queries]
    for query in toy.queries:
        ranking = rankings[query.id]
        cosines = database @ full(query_histogram(toy, query, maps, mode), maps.words)
        assert sorted(ranking.images) == list(range(18))
        np.testing.assert_allclose(ranking.scores, cosines[ranking.images], atol=1e-6)
        assert (np.diff(ranking.scores) <= 0).all()
    top = search_all(toy, maps, index, mode, top=4)
    for query, ranking in rankings.items():
        np.testing.assert_array_equal(top[query].images, ranking.images[:4])


def test_global_search_for_a_database_image_finds_it_first(toy, toy_stages):
    rankings = search_all(toy, toy_stages.maps, toy_stages.index, "gs")
    for query in toy.queries[:4]:
        first = rankings[query.id]
        assert toy.images[first.images[0]] == query.image
        assert first.scores[0] == pytest.approx(1, abs=1e-5)


def test_the_search_finds_posters_better_than_chance(toy, toy_stages):
    rankings = search_all(toy, toy_stages.maps, toy_stages.index, "ls")
    found = evaluate(toy, {query: r.images for query, r in rankings.items()}).mean
    rng = np.random.default_rng(0)
    chance = np.mean(
        [evaluate(toy, {q.id: rng.permutation(18) for q in toy.queries}).mean for _ in range(50)]
    )
    assert found > chance + 0.3


def test_dense_rankings_sort_dot_products_with_ties_by_number(toy):
    queries = np.zeros((5, 2))
    queries[0], queries[1] = (1, 0), (0, 1)
    database = np.zeros((18, 2))
    database[[4, 9], 0], database[7, 1] = 0.5, 1
    rankings = dense_rankings(toy, database, queries)
    assert rankings["q0"].images[:3].tolist() == [4, 9, 0]
    assert rankings["q1"].images[:2].tolist() == [7, 0]
    assert rankings["q1"].scores[0] == 1
    assert rankings["q2"].images.tolist() == list(range(18))
