"""Knobs of the chapters: their frames differ, and what they show is what the package measures."""

import textwrap
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
from visiting import shoot, visiting

from blcf_utils.apps import knobs
from blcf_utils.apps.knobs.descriptors import nearest, row_at
from blcf_utils.apps.knobs.knob import Knob
from blcf_utils.apps.knobs.mining import mined
from blcf_utils.apps.knobs.pooling import pooled, position_shares
from blcf_utils.apps.knobs.searching import fused, weighted
from blcf_utils.apps.knobs.words import word_at
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.gem import gem_pool
from blcf_utils.pooling.rmac import rmac_pool, rmac_regions
from blcf_utils.results.evaluation import evaluate_query
from blcf_utils.search.boxes import query_cells
from blcf_utils.study.study import open_study

PROFILE = """
    name: toy
    datasets: [toy]
    features:
      backbone: {name: squeezenet1_1, layer: fire3, weights: random}
      longest_side: 96
      batch_size: 4
      device: cpu
    whitening: {dimensions: 64}
    codebook: {words: 60, iterations: 6}
    sift: {words: 20, iterations: 3, verification: {least: 4}}
    finetuning:
      oxford: toy
      instre: toy
      folds: 1
      validation: 0.0
      mining: {images: 8, positive: 2, negative: [0, 1], triplets: 60}
    seed: 1
"""


@pytest.fixture
def study(tmp_path, toy_root, shared_cache, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    path = tmp_path / "toy.yaml"
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return open_study(str(path))


@pytest.fixture
def bench(study):
    return study.open()


def rows(knob):
    """Return the pictures of each frame, and the titles of their panels."""
    figure, panels = knob.frames(), knob._panels[0]
    lines = [figure.axes[i : i + panels] for i in range(0, len(figure.axes), panels)]
    drawn = [
        b"".join(np.asarray(part).tobytes() for ax in line for part in parts(ax)) for line in lines
    ]
    return drawn, [[ax.get_title() for ax in line] for line in lines]


def parts(ax):
    """Return the pixels of the pictures on axes, and the corners of what is painted there."""
    return [*(one.get_array() for one in ax.images), *(one.get_extents() for one in ax.patches)]


def shown_ap(titles):
    return next(float(title.strip()[3:]) for title in titles if title.strip().startswith("AP "))


def aps(bench, query, rankings):
    return evaluate_query(bench.dataset, query, rankings[query.id].images)


@pytest.mark.parametrize("name", knobs.__all__)
def test_a_knob_answers_live_and_its_frames_differ(name, study, bench):
    query = bench.query(0)
    image = bench.dataset.image_of(query.positives[0])
    needs = {
        "gem": (bench, query, image),
        "rmac": (bench, query, image),
        "words": (bench, query, [20]),
        "mining": (study.finetuning("toy"),),
    }
    knob = getattr(knobs, name)(*needs.get(name, (bench, query)))
    drawn, _ = rows(knob)
    assert len(set(drawn)) >= 2, "no frame differs from another"
    before = knob.picture.value
    for values in knob._frames[1:]:
        for choice, value in values.items():
            setattr(knob.choices[choice], knob._trait(choice), value)
        assert knob.values == values
        assert knob.picture.value != before
        before = knob.picture.value
        print(name, knob.summary.value)
    bundle = knob._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_browser_s_slider_and_click_change_the_answer(browser, bench, tmp_path):
    query, profile = bench.query(0), str(tmp_path / "toy.yaml")
    maps = {size: bench.changed({"codebook.words": size}).maps for size in (20, 60)}
    image = bench.dataset.image_index[query.image]
    rows, columns = maps[20].map(image).shape
    width, height = maps[20].sizes[image]
    code = f"""
        from blcf_utils.apps import knobs
        from blcf_utils.study.study import open_study

        bench = open_study({profile!r}).open()
        knobs.words(bench, bench.query(0), [20])
        """

    def answer(page, size, point):
        word, cells = word_at(maps[size], image, point)
        assert cells.shape == (rows, columns)
        page.get_by_text(f"words {size}: word {word}, in ").wait_for()
        return page.locator("img").first.get_attribute("src")

    with visiting(browser, code, tmp_path, until="canvas.blcf-box") as page:
        x1, y1, x2, y2 = query.box
        middle = [round((x1 + x2) / 2), round((y1 + y2) / 2)]
        pictures = [answer(page, 60, middle)]
        page.get_by_role("slider").press("ArrowLeft")
        pictures.append(answer(page, 20, middle))
        # The middle of a cell of another word than the one shown, so that a pixel less is no other.
        y, x = np.argwhere(maps[20].map(image) != word_at(maps[20], image, middle)[0])[0]
        at = [(x + 0.5) / columns, (y + 0.5) / rows]
        canvas = page.locator("canvas.blcf-box")
        box = canvas.bounding_box()
        canvas.click(position={"x": at[0] * box["width"], "y": at[1] * box["height"]})
        pictures.append(answer(page, 20, [at[0] * width, at[1] * height]))
        shoot(page, "knob-words")
    assert len(set(pictures)) == 3


def test_what_cannot_be_drawn_is_said_and_the_last_picture_stays():
    def draw(axes, value):
        if value == 2:
            raise StudyError("nothing <here>")
        return "fine"

    knob = Knob(draw, (1, 2, 2), [{"value": 1}], value=(1, 2))
    assert knob.summary.value.startswith("value 1: fine (")
    picture = knob.picture.value
    knob.choices["value"].value = 2
    assert "nothing &lt;here&gt;" in knob.summary.value
    assert knob.picture.value == picture
    assert plt.get_fignums() == []
    knob.choices["value"].value = 1
    assert knob.summary.value.startswith("value 1: fine (")


def test_boxes_are_searched_as_the_package_searches_them(bench):
    query = bench.query(0)
    knob = knobs.box(bench, query)
    _, titles = rows(knob)
    for line, mode in zip(titles, ("LS", "GS"), strict=False):
        expected = aps(bench, query, bench.search(mode))
        assert shown_ap(line) == pytest.approx(expected, abs=0.0051)
    knob.choices["box"].box = [0, 0, 10, 10]
    assert " words (" in knob.summary.value


def test_an_expansion_by_some_images_is_the_recipe_of_as_many(bench):
    query = bench.query(0)
    knob = knobs.expansion(bench, query)
    _, titles = rows(knob)
    for line, values in zip(titles, knob._frames, strict=True):
        n, m = values["reranked"], values["joined"]
        found = bench.search(f"LS + R(images={n}) + LQE(images={m})")
        assert shown_ap(line) == pytest.approx(aps(bench, query, found), abs=0.0051)


def test_a_fusion_is_that_of_a_profile_with_its_settings(bench):
    sift = bench.sift.search("ls"), bench.sift.verified("ls")
    words = bench.search(bench.profile.fusion.recipe)
    seen = []
    for weight, least in ((0.5, 4), (0.9, 4), (0.5, 16), (0.0, 16)):
        settings = {"fusion.weight": weight, "sift.verification.least": least}
        expected = bench.changed(settings).fused()
        found = fused(bench, words, *sift, weight, least)
        for query, ranking in expected.items():
            np.testing.assert_allclose(found[query].scores, ranking.scores, atol=1e-6)
            np.testing.assert_array_equal(found[query].images, ranking.images)
        seen.append(np.concatenate([one.scores for one in found.values()]))
    assert not np.allclose(seen[0], seen[2]), "no count lies between both thresholds"


def test_a_centre_prior_is_that_of_a_profile_and_none_at_strength_0(bench):
    dataset = bench.dataset
    cases = (
        (bench.changed({"weighting.sigma": 0.17}).search("GS", weighting="Gaussian"), 1.0),
        (bench.search("GS", weighting="None"), 0.0),
    )
    for expected, strength in cases:
        searcher = weighted(bench, 0.17, strength)
        for query in dataset.queries:
            found = searcher.run("GS", query).ranking
            np.testing.assert_allclose(found.scores, expected[query.id].scores, atol=1e-3)
    half = weighted(bench, 0.17, 0.5).base.weights(0)
    whole = weighted(bench, 0.17, 1.0).base.weights(0)
    np.testing.assert_allclose(half, (1 + whole) / 2, atol=1e-6)


def test_gem_runs_from_the_mean_to_the_maximum(bench):
    features = bench.features
    mean = bench.sum_pooling("ls", whiten=False)
    for query, found in pooled(bench, partial(gem_pool, p=1.0)).items():
        np.testing.assert_allclose(found.scores, mean[query].scores, atol=1e-4)
    maxima = np.stack([features.map(i).max(axis=(1, 2)) for i in range(features.n_database)])
    maxima = maxima / np.linalg.norm(maxima, axis=1, keepdims=True)
    whole = gem_pool(features.map(0), p=300.0)
    assert whole @ maxima[0] / np.linalg.norm(whole) == pytest.approx(1, abs=1e-3)
    # Four positions of which one holds all, two share, and none fires.
    feature_map = np.array([[[0, 2], [0, 0]], [[3, 3], [0, 0]], [[0, 0], [0, 0]]], np.float32)
    shares = position_shares(feature_map, 5.0)
    np.testing.assert_allclose(shares, [[[0, 1], [0, 0]], [[0.5, 0.5], [0, 0]]])


@pytest.mark.parametrize("levels", [1, 3])
def test_rmac_of_some_levels_adds_as_many_regions(levels, bench):
    features, dataset = bench.features, bench.dataset

    def added(feature_map):
        total = np.zeros(len(feature_map))
        for y0, y1, x0, x1 in rmac_regions(feature_map.shape[1:], levels):
            maxima = feature_map[:, y0:y1, x0:x1].max(axis=(1, 2))
            total += maxima / max(np.linalg.norm(maxima), 1e-12)
        return total / np.linalg.norm(total)

    found = pooled(bench, partial(rmac_pool, levels=levels))
    database = [added(features.map(i)) for i in range(features.n_database)]
    for query in dataset.queries:
        i = dataset.image_index[query.image]
        whole = features.map(i)
        cells = query_cells(query, features.sizes[i], whole.shape[1:], "ls")
        asked, ranking = added(whole * cells), found[query.id]
        expected = [asked @ database[image] for image in ranking.images]
        np.testing.assert_allclose(ranking.scores, expected, atol=1e-4)


def test_thresholds_mine_what_a_profile_with_them_mines(study, tmp_path):
    tuning, told = study.finetuning("toy"), []
    rankings = tuning.image_rankings
    unmatched = rankings.scores[(rankings.images >= 0) & (rankings.matches == 0)]
    half = float(np.median(unmatched))
    for positive, negative in ((2.0, 0.0), (4.0, 0.0), (2.0, half)):
        settings = {
            "finetuning.mining.positive": positive,
            "finetuning.mining.negative": [negative, 1.0],
        }
        changed = open_study(str(tmp_path / "toy.yaml"), settings).finetuning("toy")
        config = changed.config.mining
        told.append(mined(tuning, config))
        expected = changed.mining_statistics()["fused"]
        assert {**told[-1]} == pytest.approx(dict(expected), nan_ok=True)
    assert told[0] != told[1]
    assert told[0] != told[2]


@pytest.mark.parametrize("size", [20, 60])
def test_the_word_at_a_point_is_that_of_the_nearest_centre_there(size, bench):
    changed = bench.changed({"codebook.words": size})
    width, height = changed.maps.sizes[0]
    _, cells = word_at(changed.maps, 0, [0, 0])
    large = changed.features.map(0)
    assert cells.shape == (2 * large.shape[1], 2 * large.shape[2])
    for y, x in ((0, 0), (3, 5), (cells.shape[0] - 1, cells.shape[1] - 1)):
        point = (x + 0.5) * width / cells.shape[1], (y + 0.5) * height / cells.shape[0]
        assert word_at(changed.maps, 0, point)[0] == cells[y, x]
    assert word_at(changed.maps, 0, [width, height])[0] == cells[-1, -1]
    # At the corner the enlarged map is the map itself.
    corner = changed.whitening.apply(large[:, 0, 0][None])
    distance = ((changed.codebook.centroids - corner) ** 2).sum(axis=1)
    assert cells[0, 0] == distance.argmin()


@pytest.mark.parametrize("dimensions", [8, 64])
def test_the_nearest_descriptors_are_those_of_a_whitening_of_as_many_dimensions(dimensions, bench):
    features = bench.features
    full = [bench.whitening.apply(features.descriptors(i)) for i in range(6)]
    found = nearest(full[0][7], full[1:], dimensions)
    whitening = bench.changed({"whitening.dimensions": dimensions}).whitening
    fewer = [whitening.apply(features.descriptors(i)) for i in range(6)]
    cosines = [rows @ fewer[0][7] for rows in fewer[1:]]
    expected = sorted(cosines, key=lambda one: -one.max())
    np.testing.assert_allclose(
        [one[2] for one in found], [one.max() for one in expected], atol=1e-3
    )
    for k, row, _ in found:
        assert cosines[k][row] == pytest.approx(cosines[k].max(), abs=1e-3)


def test_a_point_is_the_row_of_its_position(bench):
    features = bench.features
    (height, width), (across, down) = features.shapes[0], features.sizes[0]
    assert row_at(features, 0, [0, 0]) == 0
    assert row_at(features, 0, [across, down]) == height * width - 1
    x, y = 2.5 * across / width, 1.5 * down / height
    assert row_at(features, 0, [x, y]) == width + 2
