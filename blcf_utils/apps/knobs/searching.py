"""Knobs of a search: its box, its expansion, its fusion with SIFT, its centre prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from blcf_utils.apps.knobs.knob import Knob, canvas
from blcf_utils.config.profile import WeightingConfig
from blcf_utils.datasets.base import Query
from blcf_utils.plots.canvas import photograph
from blcf_utils.plots.photographs import draw_ranking
from blcf_utils.plots.saliency import draw_heat
from blcf_utils.saliency.weighting import gaussian
from blcf_utils.search.fusion import fuse_all
from blcf_utils.search.index.inverted_file import invert
from blcf_utils.search.query import Ranking
from blcf_utils.search.recipes import Searcher
from blcf_utils.search.sift.verification import order_by_inliers
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.words.histograms import database_histograms

ROW = 8, 1.3, 1.35  # a query and its first seven images


def box(bench: Pipeline, query: Query) -> Knob:
    """Return local search with a box that is drawn by hand."""
    dataset, searcher = bench.dataset, bench.searcher()

    def draw(axes, box: list[float]) -> str:
        asked = replace(query, box=tuple(box) or None, mask=None)
        found = searcher.run("LS", asked)
        draw_ranking(axes, dataset, asked, found.ranking)
        return f"{len(found.histogram[0])} words"

    width, height = searcher.base.query_size(query)
    drawn = [round(value) for value in query.box or (0, 0, width, height)]
    x1, y1, x2, y2 = drawn
    half = [x1, y1, (x1 + x2) // 2, y2]
    frames = [{"box": one} for one in (drawn, [], half)]
    return Knob(draw, ROW, frames, box=canvas(dataset, query.image, box=drawn))


def expansion(bench: Pipeline, query: Query) -> Knob:
    """Return how many images are re-ranked, and how many of them expand the query (LQE)."""
    searcher = bench.searcher()

    def draw(axes, reranked: int, joined: int) -> str:
        recipe = f"LS + R(images={reranked}) + LQE(images={joined})"
        draw_ranking(axes, bench.dataset, query, searcher.run(recipe, query).ranking)
        return ""

    first = bench.profile.reranking.images
    frames = [{"reranked": first, "joined": joined} for joined in (0, 3, 10, 50)]
    reranked = sorted({0, 10, 30, first})
    return Knob(draw, ROW, frames, reranked=reranked, joined=(0, 1, 2, 3, 5, 7, 10, 20, 50))


def fusion(bench: Pipeline, query: Query) -> Knob:
    """Return the weight of BLCF in the fusion, and how many matches SIFT must verify to count."""
    recipe = bench.profile.fusion.recipe
    both = bench.search(recipe), bench.sift.search("ls"), bench.sift.verified("ls")

    def draw(axes, weight: float, least: int) -> str:
        merged = fused(bench, *both, weight, least)
        draw_ranking(axes, bench.dataset, query, merged[query.id])
        return f"mAP {bench.evaluate(merged).mean:.3f}"

    least = bench.profile.sift.verification.least
    offered = sorted({least, *(more for more in (10, 15, 20, 30, 50, 100) if more > least)})
    frames = [{"weight": weight, "least": least} for weight in (0.5, 0.0, 1.0)]
    frames.append({"weight": 0.5, "least": offered[-1]})
    return Knob(
        draw, ROW, frames, weight=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1.0), least=offered
    )


def fused(
    bench: Pipeline,
    words: dict[str, Ranking],
    sift: dict[str, Ranking],
    verified: dict[str, Ranking],
    weight: float,
    least: int,
) -> dict[str, Ranking]:
    """Return the late fusion with another weight and more verified matches asked for.

    Args:
        bench: gives the other settings of the fusion.
        words, sift, verified: rankings by words, by SIFT words, and by verified matches.
        weight: of ``words``.
        least: fewer verified matches count as none; not less than ``verified`` was made with.
    """
    config = bench.profile.fusion.model_copy(update={"weight": weight})
    partner = {}
    for query, ranking in sift.items():
        matches = np.zeros(len(ranking.images))
        # Whole matches: the rest of a score only breaks ties.
        matches[verified[query].images] = np.floor(verified[query].scores + 1e-6)
        counts = matches[ranking.images]
        partner[query] = order_by_inliers(ranking, counts * (counts >= least))
    return fuse_all(words, partner, config)


def centre_prior(bench: Pipeline, query: Query) -> Knob:
    """Return how wide the centre prior is, and how much it counts, in global search."""
    dataset = bench.dataset
    image = dataset.image_of(query.positives[0])
    pixels = photograph(dataset, dataset.images[image])

    def draw(axes, sigma: float, strength: float) -> str:
        searcher = weighted(bench, sigma, strength)
        draw_heat(axes[0], pixels, searcher.base.weights(image), "weights")
        found = {one.id: searcher.run("GS", one).ranking for one in dataset.queries}
        draw_ranking(axes[1:], dataset, query, found[query.id])
        return f"mAP {bench.evaluate(found).mean:.3f}"

    third = bench.profile.weighting.sigma
    frames = [(third, 1.0), (third, 0.0), (third, 0.5), (0.1, 1.0), (1.0, 1.0)]
    frames = [{"sigma": sigma, "strength": strength} for sigma, strength in frames]
    sigmas = sorted({third, 0.05, 0.1, 0.17, 0.25, 0.5, 1.0})
    return Knob(draw, ROW, frames, sigma=sigmas, strength=(0.0, 0.25, 0.5, 0.75, 1.0))


def weighted(bench: Pipeline, sigma: float, strength: float) -> Searcher:
    """Return a search whose database is weighted by a centre prior, made in memory.

    Args:
        bench: words and the other settings.
        sigma: of the prior, as a share of the shorter side.
        strength: s of the weights 1 - s + s * prior; 0 counts every position alike.
    """
    config = WeightingConfig(gaussian=bench.profile.weighting.gaussian, sigma=sigma)
    maps, prior, plain = bench.maps, gaussian(config), bench.searcher("None")

    def weights(image: int) -> np.ndarray:
        shape = tuple(maps.shapes[image].tolist())
        return 1 - strength + strength * prior.weights(image, None, shape)

    encoding = bench.profile.encoding
    index = invert(database_histograms(maps, weights), encoding.idf, encoding.index_weights)
    base = replace(plain.base, index=index, weights=weights)
    return Searcher(base, plain.reranking, plain.expansion)
