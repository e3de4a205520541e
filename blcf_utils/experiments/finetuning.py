"""Tables t06, t07 and t12: networks fine-tuned from the fused ranking, and words of their features.

Every cell is over the queries of the tested folds. On the dataset trained on, each is answered by
a network that never saw an image of its instance; on other datasets by the network of one fold,
another one with each seed. A trained row is the mean over ``finetuning.seeds`` seeds, each with
trainings of its own; what every seed gave is in ``tables/seeds.csv``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from blcf_utils.experiments.measuring import MODES, elsewhere, gain, intervals_frame
from blcf_utils.finetuning.variants import (
    BASELINES,
    INSTRE_ROWS,
    OXFORD_ROWS,
    TRAINED_A,
    VARIANTS,
    Variant,
)
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.results.tables import Measurement
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import Mode
from blcf_utils.study.finetuning import Finetuning
from blcf_utils.study.study import Study

T06, T07, T12 = "t06_finetune_oxford", "t07_finetune_instre", "t12_blcf_finetuned"
OFF_THE_SHELF, TUNED = "off-the-shelf", "fine-tuned"


def finetuned_oxford_table(study: Study) -> pd.DataFrame:
    """Train on what stands for Oxford, test on every dataset (table t06).

    Columns named after a dataset are global search, those with ``/ls`` local search.
    """
    return _trained_table(study, T06, "oxford", OXFORD_ROWS)


def finetuned_instre_table(study: Study) -> pd.DataFrame:
    """Train on what stands for INSTRE, also with class labels; test everywhere (table t07)."""
    return _trained_table(study, T07, "instre", INSTRE_ROWS)


def _trained_table(
    study: Study, table_id: str, which: str, rows: Sequence[Variant]
) -> pd.DataFrame:
    trained_on, cells = study.training_dataset(which), []
    if not trained_on:
        return study.results.table(table_id, [], not_run=_unset(study, table_id, which))
    home = study.finetuning(trained_on)
    home.train([variant.row for variant in rows])
    for name in study.datasets:
        _describe(study.finetuning(name), [variant.row for variant in rows], home)
    for variant in progress(rows, label=f"networks trained on {trained_on}", unit="network"):
        for name in study.datasets:
            for mode in MODES:
                column = name if mode == "gs" else f"{name}/{mode}"
                own = home if variant.source else None
                cells.append(_network_cell(study.finetuning(name), variant, own, mode, column))
    return study.results.table(table_id, cells, not_run=elsewhere(study, table_id))


def _unset(study: Study, table_id: str, which: str) -> dict[str, str]:
    why = f"finetuning.{which} names no dataset in profile {study.profile.name}"
    return dict.fromkeys(elsewhere(study, table_id), why)


def _network_cell(
    on: Finetuning, variant: Variant, trained_on: Finetuning | None, mode: Mode, column: str
) -> Measurement:
    keys = _descriptor_keys(on, variant.row, trained_on)
    started = time.perf_counter()
    found = on.evaluations(variant.row, trained_on, mode)
    seconds = time.perf_counter() - started
    return _cell(on, variant.row, column, found, seconds, keys)


def _answering(on: Finetuning, row: str, trained_on: Finetuning | None) -> list[tuple[int, int]]:
    """Return fold and seed of each of a row's networks that answers a query."""
    return [
        (fold, seed)
        for seed in on.seeds(row)
        for fold in dict.fromkeys(on.answered_by(row, trained_on, seed).values())
    ]


def _describe(on: Finetuning, rows: Sequence[str], home: Finetuning) -> None:
    """Make all descriptors that some rows need, several at once."""
    trained_on = {row: home if VARIANTS[row].source else None for row in rows}
    on.describe(
        (row, teacher, *pair)
        for row, teacher in trained_on.items()
        for pair in _answering(on, row, teacher)
    )


def _descriptor_keys(on: Finetuning, row: str, trained_on: Finetuning | None) -> list[str]:
    """Return the keys of what a row's networks describe, of all seeds."""
    pairs = _answering(on, row, trained_on)
    return [on.descriptors(row, trained_on, fold, seed).key for fold, seed in pairs]


def _cell(
    on: Finetuning,
    row: str,
    column: str,
    found: Sequence[Evaluation],
    seconds: float,
    keys: Sequence[str],
) -> Measurement:
    """Return the cell of one evaluation, or of the mean of several seeds'."""
    digest = digest_of([on.bench.config_digest(), *keys, on.tested_queries])
    per_query = {q: float(np.mean([one.per_query[q] for one in found])) for q in found[0].per_query}
    mean = Evaluation(per_query)
    seeds = tuple(one.mean for one in found) if len(found) > 1 else ()
    seconds = round(seconds, 4)
    return Measurement(row, column, mean.mean, "measured", seconds, digest, per_query, seeds)


def finetuned_words_table(study: Study) -> pd.DataFrame:
    """Measure words of network A's features on the dataset it was trained on (table t12).

    Without weighting, with the centre prior, and with the profile's ``finetuning.saliency``.
    """
    name = study.training_dataset("oxford")
    if not name:
        return study.results.table(T12, [], not_run=_unset(study, T12, "oxford"))
    on = study.of_saliency_work.finetuning(name)
    saliency, cells = study.profile.finetuning.saliency, []
    weighted = on.bench.weightings
    weightings = {"none": NONE, "gaussian": "Gaussian", "saliency": saliency}
    weightings = {label: weighting for label, weighting in weightings.items() if weighting}
    seeds = on.seeds(TRAINED_A.row)
    tuned = [partial(on.tuned_words, seed=seed) for seed in seeds]
    pairs = product(range(len(on.splits)), seeds)
    on.train([TRAINED_A.row])
    keys = [on.trained(TRAINED_A.row, fold, seed).artefact.key for fold, seed in pairs]
    for row, searches in {OFF_THE_SHELF: [on.words], TUNED: tuned}.items():
        for label, weighting in weightings.items():
            if why := weighted.unavailable_because(weighting):
                empty = [(row, f"{name}/{label}/{mode}") for mode in MODES]
                cells += [Measurement(*cell, None, f"not run: {why}") for cell in empty]
                continue
            weights = weighted.weights(weighted.checked(weighting))
            for mode in MODES:
                for search in searches:
                    search(mode, weighting)  # makes what the search needs, untimed
                started = time.perf_counter()
                found = [on.evaluate(search(mode, weighting)) for search in searches]
                seconds = time.perf_counter() - started
                made_of = [*(keys if row == TUNED else []), weights.key if weights else ""]
                column = f"{name}/{label}/{mode}"
                cells.append(_cell(on, row, column, found, seconds, made_of))
    return study.results.table(T12, cells, not_run=elsewhere(study, T12))


def training_curves(study: Study, which: str) -> pd.DataFrame:
    """Return the curves of every network trained on what stands for ``oxford`` or ``instre``.

    Returns:
        Columns loss, active, rate, validation; index (row, fold, seed, step).
    """
    on = study.finetuning(study.training_dataset(which))
    rows = OXFORD_ROWS if which == "oxford" else INSTRE_ROWS
    on.train([variant.row for variant in rows])
    curves = {
        (variant.row, fold, seed): on.trained(variant.row, fold, seed).curve()
        for variant in rows
        if variant.source
        for fold, seed in product(range(len(on.splits)), on.seeds(variant.row))
    }
    return pd.concat(curves, names=["row", "fold", "seed"])


def finetuning_gains(study: Study, table_id: str) -> pd.DataFrame:
    """Return what every trained network gains over its baseline, and how sure that is.

    Args:
        study: a study whose table ``table_id`` (t06 or t07) is written.
        table_id: which.

    Returns:
        Columns gain, low and high (its bootstrap interval), and seeds, the standard
        deviation over seeds; NaN of one. Index (dataset, network), global search.
    """
    values, lines = study.results.per_query(table_id), {}
    deviation = study.results.seeds(table_id).groupby(["column", "row"])["value"].std()
    for name in study.datasets:
        for row, variant in VARIANTS.items():
            if variant.source and (row, name) in values:
                baseline = values[f"Baseline {variant.network}", name]
                lines[name, row] = gain(study, name, values[row, name], baseline)
    gains = intervals_frame(lines, ("dataset", "network"))
    return gains.assign(seeds=deviation.reindex(gains.index).to_numpy(float))


def seen_instances_table(study: Study) -> pd.DataFrame:
    """Compare network A on instances it never saw with the slides' way (table x08).

    The slides train and test on all images: queries, positives and what looks like them are among
    the triplets. That network, whose weights are those of the last step because nothing is held
    out, answers the same queries as those of t06 and t07.
    """
    cells, everything = [], study.changed({"finetuning.folds": 1, "finetuning.tested": 0})
    names = [study.training_dataset(which) for which in ("oxford", "instre")]
    ways = {
        BASELINES[0].row: (study, BASELINES[0].row),
        f"{TRAINED_A.row}, unseen instances": (study, TRAINED_A.row),
        f"{TRAINED_A.row}, seen instances": (everything, TRAINED_A.row),
    }
    for name in dict.fromkeys(filter(None, names)):
        for label, (trained, row) in progress(ways.items(), label=f"seen or not: {name}"):
            home, on = trained.finetuning(name), study.finetuning(name)
            home.train([row])
            _describe(home, [row], home)
            keys = _descriptor_keys(home, row, home)
            for mode in MODES:
                started = time.perf_counter()
                answers = [home.rankings(row, home, mode, seed) for seed in home.seeds(row)]
                found = [on.evaluate({q: one[q] for q in on.tested_queries}) for one in answers]
                seconds = time.perf_counter() - started
                cells.append(_cell(on, label, f"{name}/{mode}", found, seconds, keys))
    return study.results.table("x08_seen_instances", cells)


def mining_table(study: Study) -> pd.DataFrame:
    """Return what the first folds of both training datasets hold to mine, and how right it is.

    Returns:
        Columns (dataset, source of the triplets); a row for each statistic.
    """
    names = filter(None, (study.training_dataset(which) for which in ("oxford", "instre")))
    return pd.concat({name: study.finetuning(name).mining_statistics() for name in names}, axis=1)


def projection_table(study: Study) -> pd.DataFrame:
    """Measure what a random projection does by itself, by its place and its ReLU (table x07).

    Rows are baseline A and the ways that the slides leave open for baseline B.
    """
    config, cells = study.profile.finetuning.projection, []
    rows = {"no projection (A)": None}
    for place, relu in (("pooled", False), ("pooled", True), ("local", True)):
        label = f"{place}, {'rectified' if relu else 'linear'}"
        rows[label] = config.model_copy(update={"place": place, "relu": relu})
    for name in study.datasets:
        on = study.finetuning(name)
        on.describe(
            ("Baseline B" if projection else "Baseline A", None, 0, 0, projection)
            for projection in rows.values()
        )
        for row, projection in progress(rows.items(), label=f"projections of {name}", unit="row"):
            for mode in MODES:
                started = time.perf_counter()
                found = [on.evaluate(on.projected(projection, mode))]
                seconds = time.perf_counter() - started
                digest = [projection.document() if projection else {}]
                cells.append(_cell(on, row, f"{name}/{mode}", found, seconds, digest))
    return study.results.table("x07_projections", cells)
