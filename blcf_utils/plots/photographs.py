"""Photographs, queries with their boxes, and rankings as thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.plots.canvas import (
    IGNORED,
    QUERY,
    RELEVANT,
    done,
    draw_box,
    frame,
    grid,
    judge,
    photograph,
    picture,
)
from blcf_utils.results.evaluation import average_precision, unit_ranking
from blcf_utils.search.query import Ranking


def show_queries(dataset: Dataset, queries: Sequence[Query], positives: int = 3) -> Figure:
    """Show each query with its box and, beside it, some images that should be found."""
    figure, axes = grid(len(queries), 1 + positives, 1.9, 1.6)
    for line, query in zip(axes, queries, strict=True):
        picture(line[0], photograph(dataset, query.image), query.id, QUERY)
        draw_box(line[0], query.box)
        frame(line[0], QUERY, 2)
        shown = query.positives[:: max(1, len(query.positives) // positives)][:positives]
        for ax in line[1:]:
            ax.axis("off")
        for ax, i in zip(line[1:], shown, strict=False):
            ax.axis("on")
            picture(ax, photograph(dataset, _unit_image(dataset, i)), "should be found", RELEVANT)
    return done(figure)


def _unit_image(dataset: Dataset, unit: int):
    return dataset.images[dataset.image_of(unit)]


def show_ranking(dataset: Dataset, query: Query, ranking: Ranking, top: int = 10) -> Figure:
    """Show a query and the first images of its ranking; green is relevant, orange is not."""
    return show_rankings(dataset, query, {"": ranking}, top)


def show_rankings(
    dataset: Dataset, query: Query, rankings: Mapping[str, Ranking], top: int = 7
) -> Figure:
    """Show one query's ranking by several methods, one row each, junk left out."""
    figure, axes = grid(len(rankings), top + 1, 1.3, 1.35)
    for line, (method, ranking) in zip(axes, rankings.items(), strict=True):
        draw_ranking(line, dataset, query, ranking, method)
    return done(figure)


def draw_ranking(
    line: Sequence[Axes], dataset: Dataset, query: Query, ranking: Ranking, label: str = ""
) -> None:
    """Draw a query, its AP and its first images on a row of axes, junk left out."""
    units = unit_ranking(dataset, ranking.images)
    ap = average_precision(units, query.positives, query.junk, dataset.protocol.ap)
    picture(line[0], photograph(dataset, query.image), f"{label}\nAP {ap:.2f}".strip(), QUERY)
    draw_box(line[0], query.box)
    frame(line[0], QUERY, 2)
    shown = units[~np.isin(units, query.junk)][: len(line) - 1]
    for ax in line[1:]:
        ax.axis("off")
    for rank, (ax, unit) in enumerate(zip(line[1:], shown, strict=False), 1):
        ax.axis("on")
        picture(ax, photograph(dataset, _unit_image(dataset, unit)), f"{rank}", IGNORED)
        judge(ax, unit in query.positives)
