"""Spatial re-ranking against a slow implementation written from its definition."""

from dataclasses import dataclass

import numpy as np
import pytest

from blcf_utils.config.profile import RerankingConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.query import Ranking
from blcf_utils.search.reranking import region_query, rerank
from blcf_utils.words.histograms import sparse_histogram

SHAPES = [(42, 32), (32, 42), (21, 15), (9, 13), (2, 3), (1, 1), (1, 6)]
WHOLE = RerankingConfig(sizes=(1.0,), pyramid=False)


@dataclass
class Maps:
    """Assignment maps in memory, with what re-ranking reads of the stored ones."""

    arrays: list
    sizes: np.ndarray
    words: int

    @property
    def shapes(self):
        return np.array([array.shape for array in self.arrays])

    def map(self, image):
        return self.arrays[image]


def random_maps(shapes, words=40, seed=0, skew=1.0):
    rng = np.random.default_rng(seed)
    law = 1 / (np.arange(words) + 1) ** skew
    arrays = [rng.choice(words, s, p=law / law.sum()).astype(np.uint16) for s in shapes]
    sizes = np.array([(w * rng.integers(6, 12), h * 8) for h, w in shapes])
    return Maps(arrays, sizes, words)


def ranking_of(images, first=0.9, last=0.1):
    images = np.asarray(images)
    return Ranking(images, np.linspace(first, last, len(images), dtype=np.float32))


def box_query(maps, image, y0, y1, x0, x1):
    cells = np.zeros(maps.map(image).shape, bool)
    cells[y0:y1, x0:x1] = True
    return region_query([(maps.map(image), cells)], maps.sizes[image])


def unit(words, size, weights=None, factors=None):
    dense = np.zeros(size)
    weights = np.ones(words.shape) if weights is None else weights
    for word, weight in zip(words.ravel(), weights.ravel(), strict=True):
        dense[word] += weight
    dense = dense if factors is None else dense * factors
    return dense / max(np.linalg.norm(dense), 1e-12)


def split(y0, y1, x0, x1):
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    return [(t, b, le, ri) for t, b in ((y0, y), (y, y1)) for le, ri in ((x0, x), (x, x1))]


def all_windows(shape, sizes):
    """Slide by half a window until the border; written without the grid under test."""
    sides = []
    for cells in shape:
        spans = []
        for size in sizes:
            start, last = 0.0, False
            while not last:
                last = start + size >= 1 - 1e-9
                start = min(start, 1 - size)
                a = min(int(np.round(start * cells)), cells - 1)
                spans.append((a, max(a + 1, int(np.round((start + size) * cells)))))
                start += size / 2
        sides.append(spans)
    return {(*y, *x) for y in sides[0] for x in sides[1]}


def slow_scores(words, size, k, query_words, query_rectangle, query_size, config, **given):
    """Return window -> score of the windows that the aspect filter keeps."""
    weight, factors = given.get("weight"), given.get("factors")
    y0, y1, x0, x1 = query_rectangle
    across, down = query_size[0] / query_words.shape[1], query_size[1] / query_words.shape[0]
    query_aspect = (x1 - x0) * across / ((y1 - y0) * down)

    def compare(rectangle, query):
        a, b, c, d = rectangle
        e, f, g, h = query
        if (f - e) * (h - g) == 0:
            return None
        weights = None if weight is None else weight[a:b, c:d]
        window = unit(words[a:b, c:d], k, weights, factors)
        return window @ unit(query_words[e:f, g:h], k, None, factors)

    found = {}
    for window in all_windows(words.shape, config.sizes):
        across, down = size[0] / words.shape[1], size[1] / words.shape[0]
        aspect = (window[3] - window[2]) * across / ((window[1] - window[0]) * down)
        if min(aspect, query_aspect) / max(aspect, query_aspect) < config.aspect - 1e-9:
            continue
        score = compare(window, query_rectangle)
        if config.pyramid:
            quarters = map(compare, split(*window), split(*query_rectangle))
            quarters = [cosine for cosine in quarters if cosine is not None]
            both = max(quarters) if config.aggregation == "max" else np.mean(quarters)
            score = np.average([score, both], weights=config.level_weights)
        found[window] = score
    return found


CONFIGS = {
    "default": {},
    "no pyramid": {"pyramid": False},
    "max": {"aggregation": "max", "level_weights": (1.0, 0.5)},
    "no filter": {"aspect": 0.0},
    "strict filter": {"aspect": 0.8},
    "other sizes": {"sizes": (1.0, 0.6, 0.3)},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_factors", [False, True])
def test_scores_and_windows_are_those_of_the_definition(name, weighted, with_factors):
    config = RerankingConfig(**CONFIGS[name])
    maps = random_maps(SHAPES, seed=3)
    rng = np.random.default_rng(5)
    weight_maps = [rng.random(shape) * (rng.random(shape) < 0.8) for shape in SHAPES]
    for weight in weight_maps:  # windows without any weight
        weight[weight.shape[0] // 2 :, weight.shape[1] // 2 :] = 0
    factors = rng.random(maps.words).astype(np.float32) if with_factors else None
    rectangle = (3, 8, 2, 11)
    query = box_query(maps, 3, *rectangle)
    found = rerank(
        ranking_of(range(len(SHAPES))),
        query,
        maps,
        config,
        weights=weight_maps.__getitem__ if weighted else None,
        factors=factors,
    )
    scores = dict(zip(found.ranking.images.tolist(), found.ranking.scores, strict=True))
    assert sorted(scores) == list(range(len(SHAPES)))
    for image, words in enumerate(maps.arrays):
        given = {"factors": factors, "weight": weight_maps[image] if weighted else None}
        slow = slow_scores(
            words,
            maps.sizes[image],
            maps.words,
            maps.map(3),
            rectangle,
            maps.sizes[3],
            config,
            **given,
        )
        if not slow:  # nothing resembles the query: the whole map is compared
            slow = slow_scores(
                words,
                maps.sizes[image],
                maps.words,
                maps.map(3),
                rectangle,
                maps.sizes[3],
                config.model_copy(update={"aspect": 0.0, "sizes": (1.0,)}),
                **given,
            )
        assert scores[image] == pytest.approx(max(slow.values()), abs=1e-5)
        assert slow[found.cells[image]] == pytest.approx(scores[image], abs=1e-5)


def test_one_window_without_pyramid_is_the_cosine_of_local_search():
    maps = random_maps([(42, 32)] * 3, words=500)
    query = box_query(maps, 0, 10, 30, 5, 20)
    found = rerank(ranking_of([2, 1, 0]), query, maps, WHOLE)
    words, values = sparse_histogram(maps.map(0)[10:30, 5:20])
    np.testing.assert_array_equal(query.whole[0], words)
    for image, score in zip(found.ranking.images, found.ranking.scores, strict=True):
        dense = np.zeros(500)
        there, values_there = sparse_histogram(maps.map(image))
        dense[there] = values_there
        assert score == pytest.approx(float(dense[words] @ values), abs=1e-6)
        assert found.cells[image] == (0, 42, 0, 32)


@pytest.mark.parametrize("pyramid", [False, True])
def test_a_pasted_region_is_found_where_it_lies(pyramid):
    maps = random_maps([(40, 32)] * 6, words=3000, skew=0.3)
    patch = maps.map(0)[7:17, 9:17].copy()
    maps.map(4)[25:35, 12:20] = patch  # a window of a quarter of the map's sides
    query = box_query(maps, 0, 7, 17, 9, 17)
    found = rerank(ranking_of([1, 2, 3, 5, 4]), query, maps, RerankingConfig(pyramid=pyramid))
    assert found.ranking.images[0] == 4
    assert found.ranking.scores[0] == pytest.approx(1, abs=1e-5)
    assert found.cells[4] == (25, 35, 12, 20)


def test_the_pyramid_tells_an_arrangement_from_its_mirror_image():
    maps = random_maps([(40, 32)] * 3, words=3000, skew=0.3)
    patch = maps.map(0)[7:17, 9:17].copy()
    maps.map(1)[25:35, 12:20] = patch[:, ::-1]
    maps.map(2)[25:35, 12:20] = patch
    query = box_query(maps, 0, 7, 17, 9, 17)
    flat, layered = (
        rerank(ranking_of([1, 2]), query, maps, RerankingConfig(pyramid=p)).ranking
        for p in (False, True)
    )
    np.testing.assert_allclose(flat.scores, [1, 1], atol=1e-5)
    assert layered.images.tolist() == [2, 1]
    assert layered.scores[1] < 0.8


def test_results_do_not_depend_on_the_order_of_the_images():
    maps = random_maps(SHAPES * 3, seed=8)
    query = box_query(maps, 0, 5, 20, 5, 20)
    images = np.arange(len(maps.arrays))
    shuffled = np.random.default_rng(1).permutation(images)
    a, b = (rerank(ranking_of(i), query, maps, RerankingConfig()) for i in (images, shuffled))
    assert a.cells == b.cells
    by_image = [dict(zip(r.ranking.images, r.ranking.scores, strict=True)) for r in (a, b)]
    assert by_image[0] == by_image[1]


def test_the_tail_keeps_its_order_and_scores_never_rise():
    maps = random_maps([(12, 10)] * 30)
    query = box_query(maps, 0, 2, 9, 1, 8)
    ranking = ranking_of(np.random.default_rng(2).permutation(30), first=5.0, last=4.0)
    found = rerank(ranking, query, maps, RerankingConfig(images=10))
    assert sorted(found.ranking.images[:10]) == sorted(ranking.images[:10])
    assert set(found.cells) == set(ranking.images[:10].tolist())
    np.testing.assert_array_equal(found.ranking.images[10:], ranking.images[10:])
    assert found.ranking.scores.dtype == np.float32
    assert (np.diff(found.ranking.scores) <= 0).all()
    tail = found.ranking.scores[10:]
    assert tail[0] == pytest.approx(found.ranking.scores[9])
    np.testing.assert_allclose(tail / tail[0], ranking.scores[10:] / ranking.scores[10], rtol=1e-5)


def test_a_tail_below_the_head_keeps_its_scores():
    maps = random_maps([(12, 10)] * 12)
    query = box_query(maps, 0, 2, 9, 1, 8)
    ranking = ranking_of(range(12), first=0.02, last=0.01)
    found = rerank(ranking, query, maps, RerankingConfig(images=5))
    np.testing.assert_array_equal(found.ranking.scores[5:], ranking.scores[5:])


def test_more_images_than_the_ranking_has_re_rank_all():
    maps = random_maps([(12, 10)] * 5)
    query = box_query(maps, 0, 2, 9, 1, 8)
    found = rerank(ranking_of([3, 1, 4]), query, maps, RerankingConfig(images=100))
    assert sorted(found.ranking.images) == [1, 3, 4]
    assert set(found.cells) == {1, 3, 4}


def test_an_empty_ranking_stays_empty():
    maps = random_maps([(12, 10)])
    found = rerank(ranking_of([]), box_query(maps, 0, 2, 9, 1, 8), maps, RerankingConfig())
    assert len(found.ranking.images) == len(found.ranking.scores) == len(found.cells) == 0


def test_a_query_whose_words_no_image_holds_keeps_the_order():
    maps = random_maps(SHAPES, words=40)
    maps.words = 60
    query = region_query([(np.full((4, 4), 50, np.uint16), np.ones((4, 4), bool))], (32, 32))
    images = [4, 2, 0, 6, 1, 3, 5]
    found = rerank(ranking_of(images), query, maps, RerankingConfig(images=5))
    assert found.ranking.images.tolist() == images
    assert (found.ranking.scores == 0).all()


def test_equal_images_keep_the_order_of_the_first_ranking():
    maps = random_maps([(12, 10)] * 8)
    maps.arrays[6] = maps.arrays[2] = maps.arrays[4]
    maps.sizes[:] = maps.sizes[0]
    query = box_query(maps, 4, 2, 9, 1, 8)
    found = rerank(ranking_of([6, 0, 4, 1, 2]), query, maps, RerankingConfig())
    kept = [image for image in found.ranking.images if image in (2, 4, 6)]
    assert kept == [6, 4, 2]


def test_of_equal_windows_the_first_of_the_grid_is_taken():
    maps = random_maps([(42, 32)] * 2)
    maps.arrays[1][:] = maps.arrays[0][:] = 7
    maps.sizes[:] = (32, 42)
    found = rerank(ranking_of([1]), box_query(maps, 0, 0, 9, 0, 9), maps, RerankingConfig())
    assert found.cells[1] == (0, 42, 0, 32)
    assert found.ranking.scores[0] == pytest.approx(1, abs=1e-6)


def test_the_aspect_filter_discards_windows_unlike_the_query():
    maps = random_maps([(32, 32)] * 2, words=3000, skew=0.3)
    maps.sizes[:] = 256
    patch = maps.map(0)[0:8, 0:8].copy()
    maps.map(1)[16:24, 8:16] = patch
    wide = region_query([(patch.reshape(2, 32), np.ones((2, 32), bool))], (256, 16))
    anything, alike = (
        rerank(ranking_of([1]), wide, maps, RerankingConfig(aspect=a, pyramid=False)).cells[1]
        for a in (0.0, 0.2)
    )
    assert anything == (16, 24, 8, 16)
    y0, y1, x0, x1 = alike
    assert (x1 - x0) / (y1 - y0) >= 0.2 * 16  # only windows 4 times as wide as high are left


def test_the_aspect_ratio_is_that_of_the_pixels():
    maps = random_maps([(32, 32)] * 2, words=3000, skew=0.3)
    maps.sizes[:] = (512, 128)  # cells are 16 x 4 pixels
    query = box_query(maps, 0, 0, 16, 0, 4)
    assert query.aspect == pytest.approx(1)
    patch = maps.map(0)[0:16, 0:8].copy()
    maps.map(1)[8:24, 12:20] = patch
    config = RerankingConfig(aspect=1.0, pyramid=False)
    y0, y1, x0, x1 = rerank(ranking_of([1]), query, maps, config).cells[1]
    assert (x1 - x0) * 16 == (y1 - y0) * 4


def test_the_whole_map_is_compared_when_every_window_is_discarded():
    maps = random_maps([(40, 32)] * 2)
    maps.sizes[:] = (256, 320)
    query = box_query(maps, 0, 0, 1, 0, 32)
    config = RerankingConfig(aspect=0.9, sizes=(0.5,), pyramid=False)
    found = rerank(ranking_of([1]), query, maps, config)
    assert found.cells == {1: (0, 40, 0, 32)}
    expected = unit(maps.map(1), 40) @ unit(maps.map(0)[:1], 40)
    assert found.ranking.scores[0] == pytest.approx(expected, abs=1e-5)


def test_images_left_out_go_to_the_end_of_the_head():
    maps = random_maps([(12, 10)] * 6)
    maps.arrays[1] = np.zeros((0, 0), np.uint16)
    maps.arrays[3] = np.full((12, 10), 39, np.uint16)  # a map that shares no word with the query
    query = region_query([(np.zeros((3, 3), np.uint16), np.ones((3, 3), bool))], (24, 24))
    found = rerank(ranking_of([1, 3, 2, 4, 0]), query, maps, RerankingConfig(images=4))
    assert found.ranking.images[2:].tolist() == [3, 1, 0]
    assert found.ranking.scores[3] == 0
    assert 1 not in found.cells


def test_weights_hide_what_they_set_to_zero():
    maps = random_maps([(40, 32)] * 2, words=3000, skew=0.3)
    patch = maps.map(0)[7:17, 9:17].copy()
    maps.map(1)[25:35, 12:20] = patch
    maps.map(1)[0:10, 0:8] = patch
    query = box_query(maps, 0, 7, 17, 9, 17)
    weight = np.full((40, 32), 1e-3)
    weight[25:35, 12:20] = 0
    found = rerank(ranking_of([1]), query, maps, RerankingConfig(), weights=lambda image: weight)
    assert found.cells[1] == (0, 10, 0, 8)
    nothing = rerank(
        ranking_of([1]), query, maps, RerankingConfig(), weights=lambda image: weight * 0
    )
    assert nothing.ranking.scores.tolist() == [0]


def test_views_of_a_query_are_counted_together():
    rng = np.random.default_rng(4)
    first, second = rng.integers(0, 9, (2, 8, 6)).astype(np.uint16)
    box, other, none = np.zeros((3, 8, 6), bool)
    box[1:5, 2:6], other[1:5, 0:4] = True, True
    query = region_query([(first, none), (first, box), (second, other)], (60, 80))
    assert query.aspect == pytest.approx(1)

    def assert_holds(found, *parts):
        dense = np.zeros(9)
        dense[found[0]] = found[1]
        together = np.concatenate([part.ravel() for part in parts])
        np.testing.assert_allclose(dense, unit(together, 9), atol=1e-6)

    assert_holds(query.whole, first[1:5, 2:6], second[1:5, 0:4])
    assert_holds(query.quarters[0], first[1:3, 2:4], second[1:3, 0:2])
    assert_holds(query.quarters[1], first[1:3, 4:6], second[1:3, 2:4])
    assert_holds(query.quarters[2], first[3:5, 2:4], second[3:5, 0:2])
    assert_holds(query.quarters[3], first[3:5, 4:6], second[3:5, 2:4])


def test_a_masked_query_takes_the_marked_cells_of_its_rectangle_only():
    words = np.arange(16, dtype=np.uint16).reshape(4, 4)
    query = region_query([(words, np.eye(4, dtype=bool))], (8, 4))
    assert query.whole[0].tolist() == [0, 5, 10, 15]
    assert [part[0].tolist() for part in query.quarters] == [[0, 5], [], [], [10, 15]]
    assert query.aspect == pytest.approx(2)


def test_a_query_of_one_cell_can_match_fully():
    maps = random_maps([(1, 1), (2, 3)], words=10)
    maps.arrays[0][:] = 6
    maps.arrays[1][:] = [[1, 2, 3], [4, 5, 6]]
    found = rerank(ranking_of([0, 1]), box_query(maps, 0, 0, 1, 0, 1), maps, RerankingConfig())
    np.testing.assert_allclose(found.ranking.scores, [1, 1], atol=1e-6)
    assert found.cells == {0: (0, 1, 0, 1), 1: (1, 2, 2, 3)}


def test_bad_input_is_named():
    maps = random_maps([(6, 5)] * 2)
    query = box_query(maps, 0, 0, 6, 0, 5)
    nowhere = np.zeros((6, 5), bool)
    with pytest.raises(StudyError, match="at least one cell of the query's map"):
        region_query([(maps.map(0), nowhere)], (5, 6))
    strange = region_query([(np.full((2, 2), 40), np.ones((2, 2), bool))], (2, 2))
    with pytest.raises(StudyError, match="query words 0 to 39, found 40 to 40"):
        rerank(ranking_of([1]), strange, maps, RerankingConfig())
    with pytest.raises(StudyError, match=r"level_weights.*found \(0\.0, 0\.0\)"):
        rerank(ranking_of([1]), query, maps, RerankingConfig(level_weights=(0, 0)))
    for weight in (np.ones((5, 6)), -np.ones((6, 5)), np.full((6, 5), np.inf), np.ones(0)):
        with pytest.raises(StudyError, match="weight map of image 1: expected 6x5"):
            rerank(ranking_of([1]), query, maps, WHOLE, weights=lambda image, w=weight: w)
    maps.arrays[1] = maps.arrays[1] + np.uint16(40)
    with pytest.raises(StudyError, match="words 0 to 39 in the assignment maps"):
        rerank(ranking_of([1]), query, maps, WHOLE)
