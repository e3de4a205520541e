"""Global and local search on a small generated benchmark."""

import numpy as np
import pytest

from blcf_utils.results.evaluation import evaluate
from blcf_utils.search.boxes import box_cells
from blcf_utils.search.query import dense_rankings, region_histogram
from blcf_utils.words.histograms import histogram


def full(pair, words):
    dense = np.zeros(words)
    dense[pair[0]] = pair[1]
    return dense


def histogram_of(searcher, query, mode, augment=False):
    return region_histogram(searcher.base.regions(query, mode, augment))


def rankings_of(searcher, recipe):
    return {query: found.ranking for query, found in searcher.run_all(recipe).items()}


def test_global_search_uses_all_words_and_local_those_in_the_box(toy, toy_stages, toy_searcher):
    maps = toy_stages.maps
    for query in toy.queries:
        i = toy.image_index[query.image]
        words = maps.map(i)
        inside = words[box_cells(query.box, tuple(maps.sizes[i]), words.shape)]
        assert 0 < inside.size < words.size
        for mode, used in (("gs", words), ("ls", inside)):
            expected = histogram(used, maps.words)
            found = full(histogram_of(toy_searcher, query, mode), maps.words)
            np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("mode", ["gs", "ls"])
def test_rankings_are_cosines_of_histograms(toy, toy_stages, toy_searcher, mode):
    maps = toy_stages.maps
    database = np.stack([histogram(maps.map(i), maps.words) for i in range(maps.n_database)])
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    rankings = rankings_of(toy_searcher, mode)
    assert list(rankings) == [query.id for query in toy.queries]
    for query in toy.queries:
        ranking = rankings[query.id]
        cosines = database @ full(histogram_of(toy_searcher, query, mode), maps.words)
        assert sorted(ranking.images) == list(range(18))
        np.testing.assert_allclose(ranking.scores, cosines[ranking.images], atol=1e-6)
        assert (np.diff(ranking.scores) <= 0).all()


def test_global_search_for_a_database_image_finds_it_first(toy, toy_searcher):
    rankings = rankings_of(toy_searcher, "GS")
    for query in toy.queries[:4]:
        first = rankings[query.id]
        assert toy.images[first.images[0]] == query.image
        assert first.scores[0] == pytest.approx(1, abs=1e-5)


def test_the_search_finds_posters_better_than_chance(toy, toy_searcher):
    rankings = rankings_of(toy_searcher, "LS")
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


def test_augmentation_adds_the_words_of_the_other_views(toy, toy_searcher):
    query, base = toy.queries[1], toy_searcher.base
    alone, views = base.regions(query, "ls"), base.regions(query, "ls", augment=True)
    assert (len(alone), len(views)) == (1, 4)
    np.testing.assert_array_equal(alone[0][0], views[0][0])
    words = np.concatenate([region[0][region[1]] for region in views])
    expected = histogram(words, base.maps.words)
    found = full(histogram_of(toy_searcher, query, "ls", augment=True), base.maps.words)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


def test_a_window_of_an_image_has_the_histogram_of_its_cells(toy_searcher):
    base = toy_searcher.base
    words = base.maps.map(4)[2:7, 1:6]
    expected = histogram(words, base.maps.words)
    found = full(base.histogram(4, (2, 7, 1, 6)), base.maps.words)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
