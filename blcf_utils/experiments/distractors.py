"""How much harder a search becomes with every image that nobody looks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from blcf_utils.results.evaluation import average_precision, unit_ranking
from blcf_utils.study.pipeline import Pipeline

COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def distractor_curve(
    bench: Pipeline,
    recipes: Sequence[str] = ("GS", "LS"),
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the mAP among so many wrong images, index *wrong images*, a column a recipe.

    Wrong images are drawn once, in an order that the seed fixes; a query meets the first of them
    that are neither its positives nor its junk. What is drawn is taken out of the full ranking:
    without idf an image's score does not depend on the others. The last row has all images.

    Args:
        bench: the dataset.
        recipes: GS or LS; re-ranking and expansion depend on which images there are.
        counts: numbers of wrong images; those that the dataset does not have are left out.
        seed: of the order.
    """
    dataset = bench.dataset
    units = int(dataset.unit_numbers.max()) + 1
    order = np.random.default_rng(seed).permutation(units)
    wrong = {q.id: order[~np.isin(order, [*q.positives, *q.junk])] for q in dataset.queries}
    least = min(map(len, wrong.values()))
    rankings = {
        recipe: {q: unit_ranking(dataset, r.images) for q, r in bench.search(recipe).items()}
        for recipe in recipes
    }

    def score(recipe: str, count: int) -> float:
        return float(
            np.mean(
                [
                    average_precision(
                        rankings[recipe][q.id],
                        q.positives,
                        [*q.junk, *wrong[q.id][count:]],
                        dataset.protocol.ap,
                    )
                    for q in dataset.queries
                ]
            )
        )

    kept = [count for count in counts if count < least] + [units]
    rows = {min(count, least): {r: score(r, count) for r in recipes} for count in kept}
    curve = pd.DataFrame.from_dict(rows, orient="index")
    curve.index.name = "wrong images"
    return curve
