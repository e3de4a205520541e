"""Tables x05 and x06: how small a dense vector may become, by PCA and by product quantisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from blcf_utils.experiments.comparison import compare_methods
from blcf_utils.experiments.measuring import scored, timed
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.pooling.compared.methods import METHODS
from blcf_utils.pooling.compared.refinement import ranked
from blcf_utils.pooling.compared.rows import row
from blcf_utils.pooling.compared.timing import best_of, median_ms
from blcf_utils.pooling.quantisation import learn_quantiser
from blcf_utils.results.tables import Measurement
from blcf_utils.search.query import Ranking
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

DIMENSIONS = (16, 32, 64, 128, 256, 512)
SWEPT = ("sum", "crow", "rmac")


def dimension_table(
    study: Study, methods: Sequence[str] = SWEPT, dimensions: Sequence[int] = DIMENSIONS
) -> pd.DataFrame:
    """Measure methods at several numbers of PCA directions (table x05): local search.

    More directions than a method's whitening has are left out.
    """
    cells = []
    for name in study.datasets:
        comparison = study.comparison(name)
        for method in progress(methods, label=f"dimensions on {name}", unit="method"):
            most = comparison.vectors(method).database().shape[1]
            for kept in [d for d in dimensions if d <= most]:
                vectors = comparison.vectors(method, kept)
                vectors.database()  # described before anything is timed
                found = timed(vectors.rank)
                title, column = METHODS[method].title, f"{name}/{kept}"
                cells.append(scored(comparison.bench, title, column, *found, besides=str(kept)))
    return study.results.table("x05_dimensions", cells)


def quantisation_table(
    study: Study, method: str = "rmac", parts: Sequence[int] = (8, 16, 32, 64)
) -> pd.DataFrame:
    """Measure product-quantised vectors beside whole ones and the inverted file (table x06).

    The quantiser learns on the vectors of the teacher's images. Scores are products of the query's
    whole vector with the decoded ones (asymmetric distance).
    """
    cells = []
    for name in progress(study.datasets, label="quantisation", unit="dataset"):
        bench, vectors = study.open(name), study.comparison(name).vectors(method)
        database = np.ascontiguousarray(vectors.database())
        queries, title = vectors.queries("ls"), METHODS[method].title
        learned_on = vectors.of_teacher()
        cells += _line(
            bench,
            f"{title}, float32",
            lambda q, d=database: q @ d.T,
            queries,
            4 * database.shape[1],
        )
        for count in [p for p in parts if database.shape[1] % p == 0]:
            quantiser = learn_quantiser(learned_on, count, seed=study.profile.seed)
            held = quantiser.encode(database)
            label = f"{title}, PQ {count} x {quantiser.bits} bits"
            cells += _line(bench, label, held.search, queries, held.bytes_per_vector)
    words = [one for one in compare_methods(study, [row("blcf")]) if not one.why]
    for one in words:
        scores, seconds = one.scores["ls", False]
        cells += _costs(
            one.row.label,
            one.dataset,
            scores.mean,
            seconds,
            one.digest,
            scores.per_query,
            one.bytes,
            one.milliseconds,
        )
    return study.results.table("x06_quantisation", cells)


def index_weights(study: Study, weightings: Sequence[str] = ("Gaussian",)) -> pd.DataFrame:
    """Measure what weights of one byte in the inverted file save and what they cost.

    One row a dataset and weighting; columns are bytes for each pair of an image and a word, and mAP
    of global and local search, with weights kept exactly and in one byte. Of no table: the study's
    own results keep weights exactly.
    """
    kept_ways = {
        kept: study.changed({"encoding.index_weights": kept}) for kept in ("exact", "uint8")
    }
    rows = []
    for name in study.datasets:
        for weighting in progress(weightings, label=f"index of {name}", unit="weighting"):
            found = {"dataset": name, "weighting": weighting}
            for kept, other in kept_ways.items():
                bench = other.open(name)
                index = bench.index(weighting)
                found[f"{kept}: bytes"] = index.nbytes / max(index.entries, 1)
                for recipe in ("GS", "LS"):
                    rankings = bench.search(recipe, weighting=weighting)
                    found[f"{kept}: {recipe}"] = bench.evaluate(rankings).mean
            rows.append(found)
    return pd.DataFrame(rows).set_index(["dataset", "weighting"])


def _line(bench: Pipeline, label: str, search, queries: np.ndarray, size: float):
    def rank() -> dict[str, Ranking]:
        ids = [query.id for query in bench.dataset.queries]
        return {i: ranked(row) for i, row in zip(ids, search(queries), strict=True)}

    rankings, seconds = timed(rank)
    found = bench.evaluate(rankings)
    digest = digest_of([bench.config_digest(), label])
    speed = median_ms([lambda q=q: best_of(search(q[None])[0]) for q in queries[:30]])
    return _costs(label, bench.name, found.mean, seconds, digest, found.per_query, size, speed)


def _costs(label, name, value, seconds, digest, aps, size, speed) -> list[Measurement]:
    return [
        Measurement(label, f"{name}/ls", value, "measured", round(seconds, 4), digest, aps),
        Measurement(label, f"{name}/bytes per image", float(size), config_digest=digest),
        Measurement(label, f"{name}/ms per query", float(speed), config_digest=digest),
    ]
