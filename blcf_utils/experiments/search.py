"""Table t02: every search recipe, with and without query augmentation."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from blcf_utils.experiments.measuring import MODES, elsewhere, measure
from blcf_utils.ground.progress import progress
from blcf_utils.results.evaluation import evaluate_query
from blcf_utils.results.tables import Measurement
from blcf_utils.search.recipes import RECIPES
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

AUGMENTED = "+qaug"


def search_table(study: Study, recipes: tuple[str, ...] = RECIPES) -> pd.DataFrame:
    """Measure search recipes on every dataset, with and without query augmentation (table t02).

    Args:
        study: the study.
        recipes: the rows; those of the slides, or a reader's own beside them.
    """
    cells = [
        cell
        for name in study.datasets
        for augment in (False, True)
        for cell in recipe_cells(study.open(name), recipes, augment)
    ]
    why = elsewhere(study, "t02_blcf_search")
    return study.results.table("t02_blcf_search", cells, not_run=why)


def recipe_cells(
    bench: Pipeline, recipes: tuple[str, ...], augment: bool = False
) -> list[Measurement]:
    """Measure recipes on one dataset; recipes that begin alike share their first steps.

    ``seconds`` is the time of all steps of a recipe for every query, without encoding its image.
    """
    dataset, searcher, digest = bench.dataset, bench.searcher(), bench.config_digest()
    column = bench.name + AUGMENTED if augment else bench.name
    aps: dict[str, dict[str, float]] = {recipe: {} for recipe in recipes}
    seconds = dict.fromkeys(recipes, 0.0)
    if augment:
        searcher.base.augmented()  # encoded before anything is timed
    for query in progress(dataset.queries, label=f"recipes on {column}", unit="query"):
        done: dict = {}
        for recipe in recipes:
            found = searcher.run(recipe, query, augment, done)
            aps[recipe][query.id] = evaluate_query(dataset, query, found.ranking.images)
            seconds[recipe] += found.seconds
    return [
        Measurement(
            recipe,
            column,
            float(np.mean(list(of_query.values()))),
            "measured",
            round(seconds[recipe], 4),
            digest,
            of_query,
        )
        for recipe, of_query in aps.items()
    ]


def search_cells(
    bench: Pipeline, rows: tuple[str, str], columns: tuple[str, str]
) -> list[Measurement]:
    """Measure BLCF global and local search into (row, column) of each mode."""
    bench.index()
    return [
        measure(bench, row, column, partial(bench.search, mode))
        for mode, row, column in zip(MODES, rows, columns, strict=True)
    ]
