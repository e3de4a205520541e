"""Knobs of pooling: GeM's exponent and R-MAC's levels."""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from blcf_utils.apps.knobs.knob import Knob
from blcf_utils.apps.knobs.searching import ROW
from blcf_utils.datasets.base import Query
from blcf_utils.features.rows import normalise_rows
from blcf_utils.plots.canvas import photograph
from blcf_utils.plots.photographs import draw_ranking
from blcf_utils.plots.saliency import draw_heat
from blcf_utils.pooling.gem import gem_pool
from blcf_utils.pooling.rmac import rmac_pool, rmac_regions
from blcf_utils.pooling.rmac_weighting import location_weights
from blcf_utils.pooling.sum_pooling import Pool, database_sums, query_sums
from blcf_utils.search.query import Ranking, dense_rankings
from blcf_utils.study.pipeline import Pipeline


def gem(bench: Pipeline, query: Query, image: int) -> Knob:
    """Return GeM's exponent p, from the mean (1) towards the maximum.

    Args:
        bench: the dataset's pipeline.
        query: whose ranking is shown.
        image: in which positions are shown by their mean share of the channels' sums.
    """

    @cache
    def found(p: float) -> dict[str, Ranking]:
        return pooled(bench, partial(gem_pool, p=p))

    def draw(axes, p: float) -> str:
        shares = position_shares(bench.features.map(image), p)
        said = _draw(axes, bench, query, image, shares.mean(axis=0), found(p))
        count = (1 / (shares**2).sum(axis=(1, 2))).mean()
        return f"a channel is made of {count:.1f} positions, {said}"

    frames = [{"p": p} for p in (3.0, 1.0, 10.0, 30.0)]
    return Knob(draw, ROW, frames, p=(1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0))


def position_shares(feature_map: np.ndarray, p: float) -> np.ndarray:
    """Return each position's share of the sum of x^p of its channel.

    Args:
        feature_map: (C, h, w).
        p: GeM's exponent.

    Returns:
        (c, h, w), of the channels that fire anywhere; each sums to 1.
    """
    values = np.maximum(feature_map, 0).astype(np.float64)
    values = values[values.max(axis=(1, 2)) > 0]
    powers = (values / values.max(axis=(1, 2), keepdims=True)) ** p
    return powers / powers.sum(axis=(1, 2), keepdims=True)


def rmac(bench: Pipeline, query: Query, image: int) -> Knob:
    """Return the number of R-MAC's levels (arguments as for :func:`gem`)."""

    @cache
    def found(levels: int) -> dict[str, Ranking]:
        return pooled(bench, partial(rmac_pool, levels=levels))

    def draw(axes, levels: int) -> str:
        shape = bench.features.map(image).shape[1:]
        covered = location_weights(shape, levels)
        said = _draw(axes, bench, query, image, covered, found(levels))
        return f"{len(rmac_regions(shape, levels))} regions, {said}"

    frames = [{"levels": levels} for levels in (3, 1, 2, 5)]
    return Knob(draw, ROW, frames, levels=(1, 2, 3, 4, 5))


def _draw(axes, bench: Pipeline, query: Query, image: int, weights, found) -> str:
    dataset = bench.dataset
    draw_heat(axes[0], photograph(dataset, dataset.images[image]), weights, "positions")
    draw_ranking(axes[1:], dataset, query, found[query.id])
    return f"mAP {bench.evaluate(found).mean:.3f}"


def pooled(bench: Pipeline, pool: Pool) -> dict[str, Ranking]:
    """Return local search by cosine of pooled vectors, without whitening."""
    dataset, features = bench.dataset, bench.features
    database = database_sums(features, pool=pool)
    queries = query_sums(dataset, features, "ls", bench.profile.encoding.box, pool)
    return dense_rankings(dataset, normalise_rows(database), normalise_rows(queries))
