"""Pictures: each function draws what it was given and leaves no open figure behind."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from blcf_utils import plots
from blcf_utils.config.finetuning import FinetuningConfig, MiningConfig
from blcf_utils.config.profile import BackboneConfig, SiftConfig, VerificationConfig
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.finetuning.image_rankings import ImageRankings
from blcf_utils.finetuning.triplets import Triplets
from blcf_utils.ground.artefacts import Artefact
from blcf_utils.plots.canvas import EIGHT, IGNORED, QUERY, RELEVANT, WRONG
from blcf_utils.plots.comparison import pareto_front
from blcf_utils.plots.maps import common_words, counting_words, word_colours
from blcf_utils.pooling.rmac import rmac_regions
from blcf_utils.pooling.rmac_weighting import location_weights
from blcf_utils.pooling.spoc import spoc_prior
from blcf_utils.results.evaluation import average_precision, evaluate
from blcf_utils.search.boxes import box_cells
from blcf_utils.search.localisation import localise
from blcf_utils.search.sift.keypoints import extract_sift, query_keypoints
from blcf_utils.search.sift.verification import local_features, match_images
from blcf_utils.search.windows import window_box, window_grid


@pytest.fixture(scope="module")
def rankings(toy_searcher):
    return {
        mode: {query: found.ranking for query, found in toy_searcher.run_all(mode).items()}
        for mode in ("gs", "ls")
    }


@pytest.fixture(scope="module")
def scores(toy, rankings):
    return {m: evaluate(toy, {q: r.images for q, r in run.items()}) for m, run in rankings.items()}


def drawn(figure):
    """The figure's pixels; nothing of it may be left to pyplot."""
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    return pixels


def titles(figure):
    return [a.get_title(loc) for a in figure.axes for loc in ("center", "left") if a.get_title(loc)]


def test_every_public_plot_is_tested():
    # Pictures of growing databases are tested beside their numbers.
    here = Path(__file__).parent
    places = (*here.glob("test_*.py"), here.parent / "experiments" / "test_scaling.py")
    source = "".join(path.read_text(encoding="utf-8") for path in places)
    missing = [name for name in plots.__all__ if f"{name}(" not in source]
    assert missing == []


def test_the_pipeline_keeps_its_words_inside_their_boxes():
    figure = plots.draw_pipeline()
    drawn(figure)
    ax = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in ax.patches]
    assert len(boxes) == 14  # six stages a row, then re-ranking and expansion
    names = [text for text in ax.texts if text.get_weight() == "bold"]
    assert len(names) == len(boxes)
    for text, box in zip(names, boxes, strict=True):
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0
        assert extent.x1 <= box.x1


def test_learned_things(toy_stages):
    figure = plots.plot_variances(toy_stages.whitening)
    drawn(figure)
    explained = figure.axes[1].lines[0].get_ydata()
    assert explained[-1] == pytest.approx(1, abs=1e-4)
    figure = plots.plot_kmeans(toy_stages.codebook)
    drawn(figure)
    per_descriptor = toy_stages.codebook.objective / toy_stages.codebook.n_descriptors
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), per_descriptor)
    figure = plots.plot_word_frequencies(toy_stages.index)
    drawn(figure)
    lengths = figure.axes[0].lines[0].get_ydata()
    assert lengths.max() <= 18
    assert (np.diff(lengths) <= 0).all()


@pytest.mark.parametrize("kind", ["trapezoid", "rectangular"])
def test_the_shaded_area_is_the_average_precision(toy, rankings, scores, kind):
    dataset = replace(toy, protocol=replace(toy.protocol, ap=kind))
    query = max(toy.queries, key=lambda q: abs(scores["gs"].per_query[q.id] - 1))
    figure = plots.plot_precision_recall(
        dataset, query, {m: rankings[m][query.id] for m in rankings}
    )
    drawn(figure)
    assert len(figure.axes) == 2
    for mode, ax in zip(rankings, figure.axes, strict=True):
        ranking = rankings[mode][query.id].images
        ap = average_precision(ranking, query.positives, query.junk, kind)
        assert ax.get_title() == f"{mode}: AP {ap:.2f}"
        # The area of the shaded polygon, by the shoelace formula.
        x, y = ax.collections[0].get_paths()[0].vertices.T
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert area == pytest.approx(ap, abs=1e-9)
    assert scores["gs"].per_query[query.id] < 1  # or any area would do


def test_paired_queries_count_wins(scores):
    figure = plots.plot_paired_queries(scores["gs"], scores["ls"], ("GS", "LS"))
    drawn(figure)
    a, b = (np.array(list(scores[m].per_query.values())) for m in ("gs", "ls"))
    low, high = figure.axes[0].get_xlim()
    assert low < -0.02 < 1.02 < high  # dots at 0 and 1 are seen whole
    assert figure.axes[1].get_title() == f"better on {(b > a).sum()}, worse on {(b < a).sum()} of 5"


def test_sizes_of_codebooks():
    columns = ["a/gs", "a/ls", "a/bytes an image", "a/distinct words an image"]
    table = pd.DataFrame([[0.4, 0.5, 99, 30], [0.6, 0.7, 200, 80]], ["64", "512"], columns)
    figure = plots.plot_codebook_sizes(table, "a")
    drawn(figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["GS", "LS"]
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[64, 0.5], [512, 0.7]]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [30, 80]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["64", "512"]
    drawn(plots.plot_codebook_sizes(table.iloc[:0], "a"))


def places(axis):
    """The points of a picture, in the order drawn, and how opaque each is."""
    points = [c for c in axis.collections if isinstance(c, PathCollection)]
    return [(*np.round(c.get_offsets()[0], 6).tolist(), c.get_alpha()) for c in points]


def test_claims_stand_beside_those_of_the_thesis():
    lines = {
        ("LS over GS", "thesis", "oxford5k"): (0.085, np.nan, np.nan),
        ("LS over GS", "run", "a"): (0.2, 0.1, 0.3),
        ("SIFT", "run", "b"): (-0.6, -0.7, -0.5),
        ("SIFT", "run", "a"): (0.01, -0.02, 0.04),
    }
    index = pd.MultiIndex.from_tuples(lines, names=["claim", "origin", "dataset"])
    frame = pd.DataFrame(lines.values(), index, ["difference", "low", "high"])
    figure = plots.plot_claims(frame)
    drawn(figure)
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["LS over GS", "SIFT"]
    # Of a claim each dataset of the run has a line of its own, the thesis' the last one.
    assert places(axis) == [(0.085, 0.3, None), (0.2, -0.3, 1), (-0.6, 1, 1), (0.01, 0.7, 0.45)]
    assert axis.get_xlim()[0] < -0.7 < 0.7 < axis.get_xlim()[1]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a", "b", "thesis: oxford5k"]
    drawn(plots.plot_claims(frame.iloc[:0]))


def test_ladder_draws_a_line_a_dataset():
    lines = {
        ("thesis", "oxford5k", "GS"): (0.65, np.nan, np.nan),
        ("run", "a", "GS"): (0.4, 0.3, 0.5),
        ("thesis", "oxford5k", "LS"): (0.74, np.nan, np.nan),
        ("run", "a", "LS"): (0.6, 0.5, 0.7),
    }
    index = pd.MultiIndex.from_tuples(lines, names=["origin", "dataset", "step"])
    frame = pd.DataFrame(lines.values(), index, ["mAP", "low", "high"])
    figure = plots.plot_ladder(frame)
    drawn(figure)
    axis = figure.axes[0]
    assert [line.get_xydata().tolist() for line in axis.lines] == [
        [[0, 0.65], [1, 0.74]],
        [[0, 0.4], [1, 0.6]],
    ]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["GS", "LS"]
    intervals = axis.collections[-1].get_segments()
    assert [segment[:, 1].tolist() for segment in intervals] == [[0.3, 0.5], [0.5, 0.7]]
    drawn(plots.plot_ladder(frame.iloc[:0]))


def test_networks_group_rivals():
    lines = {
        ("d", "vgg16 conv5_1 (local)", "CroW"): (0.3, 0.2, 0.4),
        ("d", "vgg16 conv5_1 (local)", "R-MAC"): (0.1, 0.05, 0.2),
        ("d", "resnet18 layer3 (local)", "R-MAC"): (-0.05, -0.1, 0.01),
    }
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "network", "rival"])
    figure = plots.plot_networks(pd.DataFrame(lines.values(), index, ["gain", "low", "high"]))
    drawn(figure)
    assert titles(figure) == ["over CroW", "over R-MAC"]
    assert places(figure.axes[0]) == [(0.3, 0, 1)]
    assert places(figure.axes[1]) == [(0.1, 0, 1), (-0.05, 1, 0.45)]
    assert figure.axes[0].get_ylabel() == "d"
    boxes = [a.get_tightbbox() for a in figure.axes]
    assert boxes[0].x1 <= boxes[1].x0  # no label lies on another panel
    drawn(plots.plot_networks(pd.DataFrame(columns=["gain", "low", "high"])))


def test_photographs(toy, rankings):
    figure = plots.show_queries(toy, toy.queries[:3], positives=2)
    drawn(figure)
    assert titles(figure).count("should be found") == 6
    query = toy.queries[-1]
    figure = plots.show_ranking(toy, query, rankings["ls"][query.id], top=5)
    drawn(figure)
    assert sum(bool(a.images) for a in figure.axes) == 6


def test_rankings_frame_the_relevant_and_leave_junk_out(toy, rankings):
    query = toy.queries[2]
    ranking = rankings["gs"][query.id]
    figure = plots.show_rankings(toy, query, {"GS": ranking, "again": ranking}, top=4)
    drawn(figure)
    shown = [i for i in ranking.images if i not in query.junk][:4]
    colours = [to_hex(a.spines["left"].get_edgecolor()) for a in figure.axes[1:5]]
    assert colours == [RELEVANT if i in query.positives else WRONG for i in shown]
    assert IGNORED not in colours
    ap = evaluate(toy, {q: r.images for q, r in rankings["gs"].items()}).per_query[query.id]
    assert titles(figure)[0] == f"GS\nAP {ap:.2f}"


def test_feature_maps(toy, toy_stages):
    figure = plots.show_channels(toy, toy_stages.features, 1, channels=3)
    drawn(figure)
    height, width = toy_stages.features.shapes[1]
    assert titles(figure)[0].startswith(f"{width} x {height}")
    figure = plots.show_interpolation(toy_stages.features, 0, 3)
    drawn(figure)
    assert figure.axes[1].images[0].get_array().shape == tuple(3 * toy_stages.features.shapes[0])
    for transform in (None, toy_stages.whitening.apply):
        images = [1, 2, 14]
        figure = plots.show_similarity(toy, toy_stages.features, toy.queries[0], images, transform)
        drawn(figure)
        best = [float(t.removeprefix("best ")) for t in titles(figure) if t.startswith("best")]
        assert len(best) == 3
        assert all(-1 <= value <= 1 for value in best)


def test_words(toy, toy_stages):
    maps = toy_stages.maps
    figure = plots.show_assignment_maps(toy, maps, toy.queries[1], [0, 3])
    drawn(figure)
    assert f"{len(np.unique(maps.map(3)))} words" in titles(figure)
    coloured = {to_hex(c) for a in figure.axes[3:] for c in np.vstack(a.images[0].get_array())}
    assert len({c for c in coloured if len({c[1:3], c[3:5], c[5:]}) > 1 or c == EIGHT[-1]}) <= 8
    words = plots.common_words(toy, maps, 3)
    assert len(set(words)) == 3
    figure = plots.show_word_patches(toy, maps, words, patches=4, side=16)
    drawn(figure)
    holders = [sum((maps.map(i) == words[0]).any() for i in range(18)), words[0]]
    assert titles(figure)[0] == f"word {holders[1]}: in {holders[0]} images"
    query = toy.queries[1]
    figure = plots.show_box_words(toy, maps, query)
    drawn(figure)
    i = toy.image_index[query.image]
    inside = box_cells(query.box, tuple(maps.sizes[i]), maps.map(i).shape)
    assert any(t.startswith(f"LS: {inside.sum()} positions") for t in titles(figure))
    figure = plots.show_matching_words(toy, maps, query, [4, 16])
    drawn(figure)
    wanted = np.unique(maps.map(i)[inside])
    shared = len(np.intersect1d(maps.map(16), wanted))
    assert titles(figure)[-1] == f"{shared} of {len(wanted)} words"


def test_an_image_that_was_left_out_holds_no_word(toy, toy_stages):
    class Without:
        """The assignment maps of ``toy`` without image 2."""

        words, n_database, sizes = 50, 18, toy_stages.maps.sizes

        def map(self, image):
            return toy_stages.maps.map(image) if image != 2 else np.zeros((0, 0), np.uint16)

    words = common_words(toy, Without(), 2)
    drawn(plots.show_word_patches(toy, Without(), words, patches=3, side=16))


def test_words_that_count_are_coloured_and_others_grey():
    colours = word_colours(np.arange(200, dtype=np.uint16).reshape(10, 20), [7, 199])
    assert colours.shape == (10, 20, 3)
    assert [to_hex(colours[0, 7]), to_hex(colours[-1, -1])] == list(EIGHT[:2])
    others = np.delete(colours.reshape(-1, 3), [7, 199], axis=0)
    assert (others == others[:, :1]).all()
    assert 0.7 < others.min() < others.max() < 0.95
    assert len(np.unique(others.round(6))) == 198  # borders between words are seen


def test_eight_colours_differ_for_colour_blind_readers():
    # Severe deuteranomaly and protanomaly (Machado and others, 2009), linear RGB.
    deutan = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ]
    protan = [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
    rgb = np.array([to_rgba(colour)[:3] for colour in EIGHT])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), deutan, protan):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1).astype(np.float32)
        lab = cv2.cvtColor(seen[None] ** np.float32(1 / 2.2), cv2.COLOR_RGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert apart[~np.eye(8, dtype=bool)].min() > 10


def test_words_count_by_what_they_add_to_the_cosines_of_right_images(toy, toy_stages):
    query, maps = toy.queries[1], toy_stages.maps
    source = toy.image_index[query.image]
    inside = box_cells(query.box, tuple(maps.sizes[source]), maps.map(source).shape)

    def unit(words):
        counts = np.bincount(words.ravel(), minlength=maps.words)
        return counts / np.linalg.norm(counts)

    asked = unit(maps.map(source)[inside])
    added = sum(asked * unit(maps.map(i)) for i in query.positives)
    found = counting_words(toy, maps, query, 4)
    np.testing.assert_allclose(added[found], np.sort(added)[::-1][:4])
    lost = replace(query, positives=())
    assert counting_words(toy, maps, lost, 1) == [int(np.argmax(asked * unit(maps.map(source))))]


def outlines(ax):
    """The outer corners of the rectangles drawn on a picture, by edge colour."""
    return [
        (to_hex(patch.get_edgecolor()), (x, y, x + patch.get_width(), y + patch.get_height()))
        for patch in ax.patches
        for x, y in [patch.get_xy()]
    ]


def test_windows_of_every_size_are_counted(toy, toy_stages):
    figure = plots.show_windows(toy, toy_stages.maps, 0)
    drawn(figure)
    shape = tuple(toy_stages.maps.shapes[0])
    counted = {t.split(": ")[0]: int(t.split()[-2]) for t in titles(figure)}
    assert sum(counted.values()) == len(window_grid(shape, (1.0, 0.5, 0.25)))
    assert counted["H × W"] == 1
    assert "H × W: 1 window" in titles(figure)
    assert counted["H × W/2"] == 3
    figure = plots.show_windows(toy, toy_stages.maps, 0, (0.9, 0.3))
    drawn(figure)
    assert len(figure.axes) == 4
    assert titles(figure)[1].startswith("0.9 H × 0.3 W: ")
    assert sum(int(t.split()[-2]) for t in titles(figure)) == len(window_grid(shape, (0.9, 0.3)))


def test_found_windows_are_drawn_where_they_are(toy, toy_stages, toy_searcher):
    query, maps = toy.queries[0], toy_stages.maps
    found = toy_searcher.run("LS + R", query)
    figure = plots.show_found(toy, maps, query, found, top=3)
    drawn(figure)
    shown = [i for i in found.ranking.images.tolist() if i not in query.junk][:3]
    for ax, image in zip(figure.axes[1:], shown, strict=True):
        size, shape = tuple(maps.sizes[image]), tuple(maps.shapes[image])
        colour = RELEVANT if image in query.positives else WRONG
        box = window_box(found.windows[image], shape, size)
        assert (colour, pytest.approx(box)) in outlines(ax)


def test_localisations_show_truth_and_window(toy, toy_searcher):
    found = localise(toy_searcher, toy.queries[-1])
    figure = plots.show_localisations(toy, found)
    drawn(figure)
    assert (RELEVANT, pytest.approx(found[0].truth)) in outlines(figure.axes[0])
    assert (WRONG, pytest.approx(found[0].box)) in outlines(figure.axes[0])


def test_without_known_boxes_that_is_said(toy):
    figure = plots.show_localisations(toy, [])
    assert figure.axes[0].texts[0].get_text() == "no box of a relevant image is known"


def test_a_frame_of_a_relevant_shot_is_right_whichever_it_is(toy, toy_stages, toy_searcher):
    found = toy_searcher.run("LS + R", toy.queries[0])
    # Shots of two frames; the shot of the first found image is the only relevant one.
    shots = replace(toy, units=tuple(f"shot {i // 2}" for i in range(18)))
    shot = shots.unit_of(int(found.ranking.images[0]))
    query = replace(toy.queries[0], positives=(shot,), junk=())
    figure = plots.show_found(shots, toy_stages.maps, query, found, top=6)
    drawn(figure)
    colours = [to_hex(a.spines["left"].get_edgecolor()) for a in figure.axes[1:]]
    images = found.ranking.images[:6]
    assert colours == [RELEVANT if i // 2 == shot else WRONG for i in images]


def test_views_show_the_box_in_each(toy, toy_searcher):
    figure = plots.show_views(toy, toy.queries[0], toy_searcher.base.augmented())
    drawn(figure)
    assert titles(figure) == ["as it is", "mirrored", "zoom 1.5", "zoom 1.5 mirrored"]
    mirrored = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(mirrored[:, ::-1], figure.axes[0].images[0].get_array())


def test_keypoints_and_matches(toy, store):
    features = extract_sift(toy, SiftConfig(keypoints=60, words=8), store)
    query = toy.queries[-1]
    figure = plots.show_keypoints(toy, features, [query])
    drawn(figure)
    inside = query_keypoints(toy, query, features, "ls")
    assert titles(figure) == [f"{inside.sum()} of {len(inside)} keypoints"]
    config = VerificationConfig(least=4)
    figure = plots.show_matches(toy, features, query, [0], config)
    drawn(figure)
    asked = local_features(features, toy.image_index[query.image], inside)
    matches = match_images(asked, local_features(features, 0), config)
    assert titles(figure) == [f"{matches.count} of {len(matches.inliers)} matches agree"]


def test_curves_are_named_by_their_table():
    index = pd.Index([0.0, 1.0], name="weight")
    table = pd.DataFrame({"a": [0.2, 0.4], "b": [0.3, 0.1]}, index=index)
    figure = plots.plot_curves(table)
    drawn(figure)
    assert figure.axes[0].get_xscale() == "linear"
    assert plots.plot_curves(table + 1, xscale="log").axes[0].get_xscale() == "log"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("weight", "mAP")
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), table["b"])


def test_saliency_over_images_and_as_weights(toy, toy_stages):
    maps = toy_stages.maps
    rng = np.random.default_rng(0)
    look = {i: rng.integers(0, 256, (40, 60)).astype(np.uint8) for i in range(18)}.__getitem__

    def weights(image):
        return np.linspace(0, 1, maps.map(image).size).reshape(maps.map(image).shape)

    figure = plots.show_saliency(toy, [0, 5], {"noise": look, "ramp": weights}, columns=2)
    drawn(figure)
    assert titles(figure) == [
        toy.images[0].stem,
        "noise",
        "ramp",
        toy.images[5].stem,
        "noise",
        "ramp",
    ]
    figure = plots.show_conspicuity(toy, 2)
    drawn(figure)
    assert titles(figure) == [toy.images[2].stem, "intensity", "colour", "orientation", "their sum"]
    figure = plots.show_weighted_words(toy, maps, 3, look, weights)
    drawn(figure)
    heights = [bar.get_height() for bar in figure.axes[3].patches]
    counts = np.sort(np.bincount(maps.map(3).ravel(), minlength=maps.words))[::-1][:25]
    np.testing.assert_array_equal(heights[:25], counts)
    assert sum(heights[25:]) <= weights(3).sum() + 1e-9


def test_weighted_results_are_framed_by_relevance(toy, rankings):
    query = toy.queries[0]
    ranking = rankings["gs"][query.id]

    def flat(image):
        return np.ones((3, 4))

    def corner(image):
        return np.eye(1, 12).reshape(3, 4)

    figure = plots.show_weighted_results(
        toy, query, {"None": ranking, "flat": ranking}, {"flat": flat}, top=3
    )
    drawn(figure)
    edges = [to_hex(ax.spines["top"].get_edgecolor()) for ax in figure.axes[1:4]]
    shown = [i for i in ranking.images.tolist() if i not in query.junk][:3]
    assert edges == [RELEVANT if i in query.positives else WRONG for i in shown]
    plain, dimmed = (figure.axes[place].images[0].get_array() for place in (1, 5))
    np.testing.assert_array_equal(plain, dimmed)  # full weight everywhere: nothing is dark
    dark = plots.show_weighted_results(toy, query, {"x": ranking}, {"x": corner}, top=1)
    drawn(dark)
    seen = dark.axes[1].images[0].get_array()
    assert seen[0, 0].mean() == pytest.approx(plain[0, 0].mean(), abs=1)
    assert seen[-1, -1].mean() == pytest.approx(plain[-1, -1].mean() / 3, abs=1)


def test_gains_and_quality(toy):
    index = pd.MultiIndex.from_tuples([("a", "BMS"), ("a", "SalGAN"), ("b", "BMS")])
    gains = pd.DataFrame(
        {"gain": [0.1, -0.2, 0.0], "low": [0, -0.3, -0.1], "high": [0.2, -0.1, 0.1]}, index
    )
    figure = plots.plot_gains(gains, "words")
    drawn(figure)
    assert titles(figure) == ["words: a", "words: b"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["SalGAN", "BMS"]
    colours = [to_hex(c) for c in figure.axes[0].collections[1].get_facecolors()]
    assert colours == [WRONG, IGNORED]  # BMS' interval touches 0
    figure = plots.plot_query_gains({"a": {"q": 0.2, "r": -0.1, "s": 0.0}}, "gain")
    drawn(figure)
    assert titles(figure) == ["a: 1 better, 1 worse"]
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.2, 0.0, -0.1]
    index = pd.MultiIndex.from_product([["words"], ["a", "b"], [*"rstu"]])
    table = pd.DataFrame(
        {
            "CC": [0.1, 0.2, 0.3, 0.4] * 2,
            "gain": [0.0, 0.01, 0.02, 0.4, 0.001, 0.003, 0.002, 0.004],
        },
        index,
    ).eval("low = gain - .1\nhigh = gain + .1")
    figure = plots.plot_quality(table)
    drawn(figure)
    assert titles(figure)[0] == "a: rank correlation +1.00"
    intervals = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in intervals][-1], [0.3, 0.5])
    assert {t.get_text() for t in figure.axes[0].texts} == set("rstu")
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()  # what is small looks small
    names = sorted(
        (Text.get_window_extent(t) for t in figure.axes[0].texts), key=lambda box: box.y0
    )
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(names))
    figure = plots.plot_quality(table.iloc[:0])
    drawn(figure)
    assert "nothing to judge by" in figure.axes[0].texts[0].get_text()


def test_one_channel_summed_and_raised_to_powers(toy):
    values = np.zeros((2, 4, 5), np.float32)
    values[1] = 1
    values[1, 2, 3] = 3
    figure = plots.show_pooling(toy, 6, values)
    drawn(figure)
    # 19 ones and a three: half of 22 is the three and eight ones; 27 is more than half of 46.
    assert titles(figure) == [
        "the image, of which\nchannel 1 is pooled",
        "sum\nhalf from 9 of 20 positions",
        "GeM, p = 3\nhalf from 1 of 20 positions",
        "maximum\nhalf from 1 of 20 positions",
    ]
    shown = figure.axes[2].images[1].get_array()
    np.testing.assert_allclose(shown[0, 0], 1 / 27)


def test_an_inverted_file_shows_what_a_query_reads():
    lists = {
        2: [(0, 0.5), (1, 0.2)],
        5: [(image, 0.1) for image in range(9)],
        7: [(1, 0.9)],
    }
    figure = plots.draw_inverted_file(lists, {2: 0.6, 5: 0.8})
    drawn(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "word 2   0.60" in texts
    assert "word 7   not read" in texts
    assert "and 2 more" in texts
    # .6 x .5 + .8 x .1, then .6 x .2 + .8 x .1, then .8 x .1
    assert "image 0:   0.300 + 0.080  =  0.380" in texts
    assert "image 1:   0.120 + 0.080  =  0.200" in texts
    drawn(plots.draw_inverted_file(lists, {99: 1.0}))


def test_a_receptive_field_is_drawn_around_its_cell(toy):
    config = BackboneConfig(name="squeezenet1_1", layer="fire3", weights="random")
    figure = plots.show_receptive_field(toy, load_backbone(config), 0, 96)
    drawn(figure)
    half, most, own = outlines(figure.axes[1])[1::2]
    middles = {
        tuple(np.round([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2], 6)) for _, b in (half, most, own)
    }
    assert len(middles) == 1
    assert own[1][2] - own[1][0] < half[1][2] - half[1][0] < most[1][2] - most[1][0]


def test_networks_are_drawn_as_they_are_configured():
    config = FinetuningConfig.model_validate(
        {"training": {"frozen": "block9"}, "projection": {"dimensions": 77, "relu": True}}
    )
    figure = plots.draw_networks(config, 33)
    drawn(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    unit = "numbers,\nof length 1"
    for words in ("up to block9", f"33 {unit}", f"77 {unit}", "drawn at random,\nrectified"):
        assert words in texts
    assert texts.count("sum") == texts.count("triplet loss") == 2
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches]
    extents = [Text.get_window_extent(t) for t in figure.axes[0].texts if t.get_rotation() == 0]
    for one in (extent for extent in extents if extent.width > 1):
        assert any(
            b.x0 <= one.x0 and one.x1 <= b.x1 and b.y0 <= one.y0 and one.y1 <= b.y1 for b in boxes
        )
    order = [t for t in texts if t in ("sum", "Ω")]
    assert order == ["sum", "sum", "Ω"]
    local = FinetuningConfig.model_validate({"projection": {"place": "local"}})
    figure = plots.draw_networks(local, 33)
    drawn(figure)
    order = [t.get_text() for t in figure.axes[0].texts if t.get_text() in ("sum", "Ω")]
    assert order == ["sum", "Ω", "sum"]  # every local descriptor is projected before the sum


def test_regions_and_what_methods_weigh(toy, toy_stages):
    values = toy_stages.features.map(6)
    shape = values.shape[1:]
    figure = plots.show_regions(toy, 6, shape, (1, 2, 3))
    drawn(figure)
    counts = [len(axis.patches) for axis in figure.axes]
    assert sum(counts) == len(rmac_regions(shape))
    assert titles(figure)[2].endswith(f"{sum(counts)} in all")
    figure = plots.show_rmac_weights(toy, 6, values, (1, 3))
    drawn(figure)
    shown = figure.axes[1].images[1].get_array()
    cover = location_weights(shape, 3)
    np.testing.assert_allclose(shown, cover / cover.max())
    figure = plots.show_position_weights(toy, 6, values)
    drawn(figure)
    prior = spoc_prior(shape)
    np.testing.assert_allclose(figure.axes[1].images[1].get_array(), prior / prior.max())
    figure = plots.plot_region_shares(values)
    drawn(figure)
    assert sum(bar.get_height() for bar in figure.axes[0].containers[0]) == pytest.approx(1)


def test_costs_and_dimensions():
    lines = [
        (row, column, value, "measured")
        for row, score, size in (("BLCF LS", 0.8, 300.0), ("R-MAC", 0.7, 2048.0), ("MAC", 0.7, 9.0))
        for column, value in (
            ("a/ls", score),
            ("a/bytes per image", size),
            ("a/ms per query", size / 100),
        )
    ]
    table = pd.DataFrame(lines, columns=["row", "column", "measured", "status"])
    figure = plots.plot_costs(table, "a")
    drawn(figure)
    beaten, front = (c.get_offsets().tolist() for c in figure.axes[0].collections)
    assert (beaten, front) == ([[2048, 0.7]], [[9, 0.7], [300, 0.8]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["MAC", "BLCF LS"]
    cost, score = np.array([[3, 1, 2, 2, 1], [5, 1, 5, 4, 1]], float)
    assert pareto_front(cost, score).tolist() == [1, 4, 2]
    wide = pd.DataFrame({"a/16": [0.1, 0.2], "a/32": [0.3, 0.4], "b/16": [1, 1]}, ["CroW", "R-MAC"])
    figure = plots.plot_dimensions(wide, "a")
    drawn(figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["CroW", "R-MAC"]
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[16, 0.2], [32, 0.4]]


def test_mining_and_training(toy, tmp_path):
    images = np.array([[1, 2], [0, -1]] + [[0, 1]] * 16, np.int32)
    matches = np.where(images == 1, 40, 0).astype(np.int32)
    cosines = np.full(images.shape, 0.6, np.float32)
    np.savez(tmp_path / "rankings.npz", images=images, cosines=cosines, matches=matches)
    config = MiningConfig()
    artefact = Artefact("image-rankings", "toy", "key", tmp_path, False, 0.0)
    figure = plots.plot_mining(ImageRankings(artefact, config), config)
    drawn(figure)
    counted = [sum(patch.get_height() for patch in axis.containers[0]) for axis in figure.axes]
    assert counted == [(matches[images >= 0] == 0).sum(), (matches > 0).sum()]

    mined = Triplets(np.array([[0, 1, 3], [16, 17, 0]], np.int32), np.ones((2, 2), np.float32))
    figure = plots.show_triplets(toy, mined, 2)
    drawn(figure)
    edges = [axis.spines["left"].get_edgecolor() for axis in figure.axes]
    # One poster, another one, which is right for a negative; and an anchor that no query knows.
    expected = [QUERY, QUERY, RELEVANT, IGNORED, RELEVANT, IGNORED]
    assert edges == [to_rgba(colour) for colour in expected]
    marks = [text.get_text() for axis in figure.axes[2:] for text in axis.texts]
    assert marks == ["✓", "", "✓", ""]
    swapped = plots.show_triplets(toy, Triplets(mined.images[:, [0, 2, 1]], mined.scores), 2)
    assert [swapped.axes[place].texts[0].get_text() for place in (2, 4)] == ["✗", "✗"]

    rows = [("A", 0, 0, None, 0.2), ("A", 0, 1, 0.5, None), ("A", 0, 2, 0.4, 0.3)]
    curves = pd.DataFrame(rows, columns=["row", "fold", "step", "loss", "validation"])
    figure = plots.plot_training(
        curves.assign(seed=0).set_index(["row", "fold", "seed", "step"]).astype(float)
    )
    drawn(figure)
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[0, 0.2], [2, 0.3]]
