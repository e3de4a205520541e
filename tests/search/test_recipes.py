"""Search recipes: parsing, what each step does, and steps shared between recipes."""

from dataclasses import replace

import numpy as np
import pytest

from blcf_utils.config.profile import ExpansionConfig, RerankingConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.published import load_published
from blcf_utils.search.boxes import box_cells
from blcf_utils.search.expansion import expand_query
from blcf_utils.search.index.inverted_file import InvertedFile
from blcf_utils.search.query import SearchBase
from blcf_utils.search.recipes import RECIPES, Searcher, Step, parse_recipe
from blcf_utils.search.windows import window_box


def same(one, two):
    np.testing.assert_array_equal(one.ranking.images, two.ranking.images)
    np.testing.assert_allclose(one.ranking.scores, two.ranking.scores, atol=1e-6)


def test_the_recipes_are_the_rows_of_the_published_table():
    assert list(RECIPES) == load_published("t02_blcf_search")["row"].unique().tolist()


def test_a_recipe_is_read_as_it_is_written():
    assert parse_recipe("gs") == (Step("GS"),)
    changed = parse_recipe("LS + R(images=50, sizes=[1, 0.5]) +LQE( alpha=3 )")
    assert changed == (
        Step("LS"),
        Step("R", (("images", 50), ("sizes", (1, 0.5)))),
        Step("LQE", (("alpha", 3),)),
    )


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("R", "expected GS or LS first"),
        ("GS + LS", "expected GS or LS first and only there"),
        ("", "recipe '': unknown step '': expected one of GQE, GS, LQE, LS, R"),
        ("GS + QE", "'QE': expected one of GQE, GS, LQE, LS, R"),
        ("GS + R(images 5)", "unknown setting of R"),
        ("GS + R(images=[)", "expected settings as in R"),
        ("GS + R(best=5)", "unknown setting of R 'best': expected one of aggregation, aspect"),
        ("GS + R(images=0)", "R: images: input should be greater than or equal to 1"),
        ("GS(images=5)", "GS: expected no settings, found images"),
        ("GS + R(1)", "expected settings as in R"),
        ("GS + R(sizes=[[1]])", "expected settings as in R"),
        ("GS + R(sizes={a: 1})", "expected settings as in R"),
        ("GS + R(sizes=[0.00001])", "R: sizes: input should be greater than or equal to 0.05"),
        ("GS + GQE(query_weight=.inf)", "GQE: query_weight: input should be a finite number"),
        ((), "expected GS or LS first"),
    ],
)
def test_a_recipe_that_cannot_be_run_says_why(toy, toy_searcher, recipe, message):
    with pytest.raises(StudyError, match=message.replace("(", r"\(")):
        toy_searcher.run(recipe, toy.queries[0])


def test_recipes_share_their_first_steps_and_find_the_same_alone(toy, toy_searcher):
    for augment in (False, True):
        for query in toy.queries[::2]:
            done = {}
            for recipe in RECIPES:
                shared = toy_searcher.run(recipe, query, augment, done)
                same(shared, toy_searcher.run(recipe, query, augment))
                assert sorted(shared.ranking.images) == list(range(18))
                assert (np.diff(shared.ranking.scores) <= 1e-6).all()
            assert len(done) == 10
            assert done[parse_recipe("GS + R")].seconds > done[parse_recipe("GS")].seconds > 0


def test_expansion_by_no_image_changes_nothing(toy, toy_searcher):
    for recipe in ("GS", "LS + R"):
        for expansion in ("GQE", "LQE"):
            for query in toy.queries:
                before = toy_searcher.run(recipe, query)
                same(toy_searcher.run(f"{recipe} + {expansion}(images=0)", query), before)


def test_global_expansion_averages_whole_images(toy, toy_searcher):
    query, base = toy.queries[2], toy_searcher.base
    first = toy_searcher.run("LS", query)
    images = first.ranking.images[:3]
    expected = expand_query(
        first.histogram, [base.histogram(i) for i in images], [1, 1, 1], ExpansionConfig(images=3)
    )
    found = toy_searcher.run("LS + GQE", query)
    np.testing.assert_array_equal(found.histogram[0], expected[0])
    np.testing.assert_allclose(found.histogram[1], expected[1], atol=1e-6)
    np.testing.assert_allclose(found.ranking.scores, base.index.search(*expected)[1], atol=1e-6)


def test_local_expansion_averages_the_box_and_the_windows(toy, toy_searcher):
    query, base = toy.queries[2], toy_searcher.base
    reranked = toy_searcher.run("GS + R", query)
    box = toy_searcher.run("LS", query).histogram
    images = reranked.ranking.images[:3]
    windows = [base.histogram(i, reranked.windows[i]) for i in images]
    expected = expand_query(box, windows, [1, 1, 1], ExpansionConfig(images=3))
    found = toy_searcher.run("GS + R + LQE", query)
    np.testing.assert_array_equal(found.histogram[0], expected[0])
    np.testing.assert_allclose(found.histogram[1], expected[1], atol=1e-6)
    # Without R the first images keep their order and are only localised.
    alone = toy_searcher.run("GS + LQE", query)
    first = toy_searcher.run("GS", query).ranking.images[:3]
    localised = toy_searcher.rerank(query, toy_searcher.run("GS", query), images=3).windows
    windows = [base.histogram(i, localised[i]) for i in first]
    expected = expand_query(box, windows, [1, 1, 1], ExpansionConfig(images=3))
    np.testing.assert_allclose(alone.histogram[1], expected[1], atol=1e-6)


def test_one_full_window_scores_as_local_search(toy, toy_searcher):
    for query in toy.queries:
        local = toy_searcher.run("LS", query)
        one = toy_searcher.run("GS + R(sizes=[1.0], pyramid=false, aspect=0)", query)
        same(one, local)


def test_windows_are_compared_with_the_box_or_with_what_was_searched(toy, toy_searcher):
    query = toy.queries[1]
    box = toy_searcher.run("GS + R", query)
    searched = toy_searcher.run("GS + R(query=search)", query)
    assert not np.allclose(box.ranking.scores, searched.ranking.scores)
    same(toy_searcher.run("LS + R(query=search)", query), toy_searcher.run("LS + R", query))


def test_idf_counts_in_windows_and_in_the_query(toy, toy_stages):
    from blcf_utils.words.histograms import (
        database_histograms,
        inverse_document_frequency,
        scale_words,
    )

    histograms = database_histograms(toy_stages.maps)
    factors = inverse_document_frequency(histograms)
    index = InvertedFile.from_histograms(scale_words(histograms, factors), factors)
    base = SearchBase(toy, toy_stages.maps, index)
    searcher = Searcher(base, RerankingConfig(), ExpansionConfig(images=3))
    for query in toy.queries:
        local = searcher.run("LS", query)
        same(searcher.run("LS + R(sizes=[1.0], pyramid=false, aspect=0)", query), local)
        # Histograms are averaged before idf, which the index puts on the result.
        joined = [base.histogram(i) for i in local.ranking.images[:3]]
        expected = expand_query(local.histogram, joined, [1, 1, 1], ExpansionConfig(images=3))
        expanded = searcher.run("LS + GQE", query).ranking
        np.testing.assert_allclose(expanded.scores, index.search(*expected)[1], atol=1e-6)


def test_weights_of_the_database_count_in_windows(toy, toy_stages):
    from blcf_utils.words.histograms import database_histograms

    rng = np.random.default_rng(0)
    maps = toy_stages.maps
    weights = [rng.random(tuple(maps.shapes[i])) for i in range(len(maps))]
    index = InvertedFile.from_histograms(database_histograms(maps, weights.__getitem__))
    base = SearchBase(toy, maps, index, weights=weights.__getitem__)
    searcher = Searcher(base, RerankingConfig(), ExpansionConfig(images=3))
    for query in toy.queries:
        one = searcher.run("LS + R(sizes=[1.0], pyramid=false, aspect=0)", query)
        local = searcher.run("LS", query)
        np.testing.assert_array_equal(one.ranking.images, local.ranking.images)
        np.testing.assert_allclose(one.ranking.scores, local.ranking.scores, atol=1e-5)
        first = local.ranking.images[0]
        words, values = base.histogram(first, (0, 3, 0, 3))
        seen = np.bincount(maps.map(first)[:3, :3].ravel(), weights[first][:3, :3].ravel())
        np.testing.assert_allclose(values, seen[words] / np.linalg.norm(seen), atol=1e-6)
        assert sorted(searcher.run("LS + R + LQE", query).ranking.images) == list(range(18))


def test_the_order_of_the_database_does_not_matter(toy, toy_stages, toy_searcher):
    """Every recipe finds the same images when they are numbered another way."""
    from blcf_utils.words.histograms import database_histograms

    order = np.random.default_rng(5).permutation(18)

    class Shuffled:
        """The assignment maps with the database in another order."""

        words, n_database = toy_stages.maps.words, 18
        places = np.concatenate([order, np.arange(18, len(toy_stages.maps))])
        shapes, sizes = toy_stages.maps.shapes[places], toy_stages.maps.sizes[places]

        def map(self, image):
            return toy_stages.maps.map(int(self.places[image]))

    maps = Shuffled()
    index = InvertedFile.from_histograms(database_histograms(maps))
    images = tuple(toy.images[i] for i in order)
    shuffled = SearchBase(replace(toy, images=images), maps, index)
    searcher = Searcher(shuffled, toy_searcher.reranking, toy_searcher.expansion)
    for query in toy.queries:
        for recipe in RECIPES:
            one, two = (s.run(recipe, query).ranking for s in (toy_searcher, searcher))
            scores = np.zeros((2, 18))
            scores[0, one.images], scores[1, order[two.images]] = one.scores, two.scores
            np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_a_query_without_a_known_word_scores_nothing(toy, toy_stages):
    class Strange:
        """The assignment maps with all query words replaced by one no image holds."""

        words, n_database = toy_stages.maps.words + 1, 18
        shapes, sizes = toy_stages.maps.shapes, toy_stages.maps.sizes

        def map(self, image):
            words = toy_stages.maps.map(image)
            return words if image < 18 else np.full_like(words, toy_stages.maps.words)

    from blcf_utils.words.histograms import database_histograms

    maps = Strange()
    index = InvertedFile.from_histograms(database_histograms(maps))
    base = SearchBase(toy, maps, index)
    searcher = Searcher(base, RerankingConfig(), ExpansionConfig(images=3))
    query = toy.queries[-1]  # its image is not in the database
    for recipe in RECIPES:  # nor does an image that scores nothing join the query
        found = searcher.run(recipe, query)
        np.testing.assert_array_equal(found.ranking.scores, 0)
        assert found.ranking.images.tolist() == list(range(18))


def test_a_box_outside_the_image_is_refused(toy, toy_searcher):
    for box in ((200, 10, 300, 50), (10, 10, 10, 50)):
        query = replace(toy.queries[0], box=box)
        for recipe in ("LS", "GS + R", "GS + R + LQE"):
            with pytest.raises(StudyError, match="expected x1 < x2 and y1 < y2 inside an image"):
                toy_searcher.run(recipe, query)


def test_a_box_the_zoom_does_not_show_is_searched_without_the_zoom(toy, toy_searcher):
    query = replace(toy.queries[0], box=(0, 0, 9, 6))
    regions = toy_searcher.base.regions(query, "ls", augment=True)
    assert [bool(cells.any()) for _, cells in regions] == [True, True, False, False]
    words, cells = regions[0]
    size = tuple(toy_searcher.base.maps.sizes[0])
    np.testing.assert_array_equal(cells, box_cells(query.box, size, words.shape))
    assert len(toy_searcher.run("LS + R + LQE", query, augment=True).ranking.images) == 18


def test_places_keep_the_order_and_leave_the_query_image_out(toy, toy_searcher):
    query = toy.queries[0]
    found = toy_searcher.run("LS", query)
    places = toy_searcher.places(query, found, 6)
    own = toy.image_index[query.image]
    assert [p.image for p in places] == [i for i in found.ranking.images.tolist() if i != own][:6]
    best = toy_searcher.rerank(query, found).windows[places[0].image]
    maps = toy_searcher.base.maps
    shape, size = maps.shapes[places[0].image], maps.sizes[places[0].image]
    assert places[0].box == window_box(best, shape, size)
