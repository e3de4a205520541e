"""The experiments behind the tables: each function measures, writes its table and returns it.

A cell is measured by the run that writes it or says why it was not run. Tables stand in
``results/<profile>/tables``, APs of every query in ``per_query``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from blcf_utils.claims import write_claims
from blcf_utils.progress import progress
from blcf_utils.published import dataset_of, load_published, published_ids, table_info
from blcf_utils.search import Ranking, query_histogram
from blcf_utils.study import Study
from blcf_utils.tables import Measurement, read_table, verdicts, write_table

MODES = ("gs", "ls")
_NOT_BUILT = {
    "t02_blcf_search": "spatial re-ranking and query expansion are not in this version",
    "t03_trecvid": "sum pooling at full resolution is not in this version",
    "t04_efficiency": "spatial re-ranking is not in this version",
    "t05_sift_fusion": "SIFT-BoW and late fusion are not in this version",
    "t06_finetune_oxford": "fine-tuning is not in this version",
    "t07_finetune_instre": "fine-tuning is not in this version",
    "t08_saliency_sum_pooling": "saliency weighting is not in this version",
    "t09_saliency_blcf": "saliency weighting is not in this version",
    "t10_comparison": "the compared methods are not in this version",
    "t11_comparison_expansion": "the compared methods are not in this version",
    "t12_blcf_finetuned": "fine-tuning is not in this version",
    "t13_state_of_the_art": "the compared methods are not in this version",
}


def _elsewhere(study: Study, table_id: str) -> dict[str, str]:
    """Why the slides' own columns are empty: their datasets are not in this profile."""
    columns = {dataset_of(name) for name in _published_columns(table_id)}
    return {
        column: f"{column} is not in profile {study.profile.name}"
        for column in columns
        if column not in study.datasets
    }


def _published_columns(table_id: str) -> list[str]:
    return load_published(table_id)["column"].unique().tolist()


def _unbuilt(study: Study, table_id: str, rows: list[str]) -> list[Measurement]:
    """Cells of this profile's datasets for published rows that this version cannot compute."""
    status = f"not run: {_NOT_BUILT[table_id]}"
    return [Measurement(row, name, None, status) for row in rows for name in study.datasets]


def _measure(
    study: Study, row: str, column: str, name: str, rank: Callable[[], dict[str, Ranking]]
) -> Measurement:
    """Score one method; ``seconds`` is the time to rank the database for every query once.

    What the ranking needs (features, words, index, pooled vectors) must be there already.
    """
    started = time.perf_counter()
    rankings = rank()
    seconds = round(time.perf_counter() - started, 4)
    evaluation = study.evaluate(name, rankings)
    return Measurement(
        row,
        column,
        evaluation.mean,
        "measured",
        seconds,
        study.config_digest(name),
        evaluation.per_query,
    )


def _search_cells(
    study: Study, name: str, rows: tuple[str, str], columns: tuple[str, str]
) -> list[Measurement]:
    """Measure BLCF global and local search into (row, column) of each mode."""
    study.index(name)
    return [
        _measure(study, row, column, name, partial(study.search, name, mode))
        for mode, row, column in zip(MODES, rows, columns, strict=True)
    ]


def _pooling_cells(
    study: Study, name: str, rows: tuple[str, str], columns: tuple[str, str], whiten: bool
) -> list[Measurement]:
    """Measure sum pooling, global and local, into (row, column) of each mode."""
    cells = []
    for mode, row, column in zip(MODES, rows, columns, strict=True):
        study.pooled(name, mode, whiten)
        rank = partial(study.sum_pooling, name, mode, whiten)
        cells.append(_measure(study, row, column, name, rank))
    return cells


def datasets_table(study: Study) -> pd.DataFrame:
    """Count images, instances and relevant images of every dataset (table t01)."""
    cells = []
    for name in study.datasets:
        dataset, digest = study.dataset(name), study.config_digest(name)
        relevant = [len(query.positives) for query in dataset.queries]
        instances = {query.instance for query in dataset.queries}
        low, high = min(relevant), max(relevant)
        values = {
            "images": len(dataset.images),
            "instances": len(instances) if all(instances) else "not stated",
            "relevant_per_instance": f"{low}-{high}" if low < high else low,
            "domain": dataset.domain or "not stated",
            "queries": len(dataset.queries),
            "query image": dataset.protocol.query_image,
        }
        cells += [
            Measurement(name, column, value, config_digest=digest)
            for column, value in values.items()
        ]
    rows = dict.fromkeys(_published_rows("t01_datasets"), f"not in profile {study.profile.name}")
    return write_table("t01_datasets", cells, study.results, not_run=rows)


def _published_rows(table_id: str) -> list[str]:
    return load_published(table_id)["row"].unique().tolist()


def search_table(study: Study) -> pd.DataFrame:
    """Measure BLCF global and local search on every dataset (rows GS and LS of table t02)."""
    table_id, rows = "t02_blcf_search", ("GS", "LS")
    cells = [
        cell for name in study.datasets for cell in _search_cells(study, name, rows, (name, name))
    ]
    waiting = [row for row in _published_rows(table_id) if row not in rows]
    cells += _unbuilt(study, table_id, waiting)
    return write_table(table_id, cells, study.results, not_run=_elsewhere(study, table_id))


def pooling_table(study: Study) -> pd.DataFrame:
    """Measure BLCF against sum pooling of the same feature maps (table t03).

    "As ours" is the thesis' recipe: sum, L2, PCA whitening learned on the database, L2. "Plain"
    leaves the whitening out, which does better where the database is too small to learn one.
    """
    table_id = "t03_trecvid"
    cells = []
    for name in progress(study.datasets, label="pooling", unit="dataset"):
        cells += _search_cells(study, name, ("Ours GS", "Ours LS"), (name, name))
        for kind, whiten in (("as ours", True), ("plain", False)):
            rows = (f"Sum pool ({kind}) GS", f"Sum pool ({kind}) LS")
            cells += _pooling_cells(study, name, rows, (name, name), whiten)
    waiting = [row for row in _published_rows(table_id) if "[20]" in row]
    cells += _unbuilt(study, table_id, waiting)
    return write_table(table_id, cells, study.results, not_run=_elsewhere(study, table_id))


def efficiency_table(study: Study) -> pd.DataFrame:
    """Measure the index: megabytes, distinct words per image, seconds per query (table t04)."""
    table_id = "t04_efficiency"
    cells = []
    for name in progress(study.datasets, label="efficiency", unit="dataset"):
        digest = study.config_digest(name)
        dense = study.features(name).channels * 4 * len(study.dataset(name).images) / 1e6
        index = study.index(name)
        values = {
            "memory (MB)": index.nbytes / 1e6,
            "memory (MB), sum pooling of the same maps": dense,
            "words/image": len(index.images) / index.n_images,
            "query/time (s)": _median_query_seconds(study, name),
        }
        cells += [
            Measurement(row, name, float(value), config_digest=digest)
            for row, value in values.items()
        ]
    cells += _unbuilt(study, table_id, ["re-ranking (s)"])
    why = {**_elsewhere(study, table_id), "dataset not stated": "the slides name no dataset"}
    return write_table(table_id, cells, study.results, not_run=why)


def _median_query_seconds(study: Study, name: str, rounds: int = 3) -> float:
    """Return the median wall time of one global search of the inverted file for its top 100."""
    dataset, maps, index = study.dataset(name), study.maps(name), study.index(name)
    queries = [query_histogram(dataset, query, maps, "gs") for query in dataset.queries]
    index.search(*queries[0], 100)  # compiles the kernel
    seconds = []
    for _ in range(rounds):
        for words, values in queries:
            started = time.perf_counter()
            index.search(words, values, 100)
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def backbones_table(study: Study) -> pd.DataFrame:
    """Measure BLCF and sum pooling with every backbone of the profile (table x01).

    Same images, sizes, K and protocol; the network, its layer and its weights change. Sum pooling
    is the plain one, without whitening.
    """
    cells = []
    main = study.profile.features.backbone
    others = [study.with_backbone(b) for b in study.profile.compare_backbones if b != main]
    for one in progress([study, *others], label="backbones", unit="backbone"):
        row = one.profile.features.backbone.label
        for name in study.datasets:
            cells += _search_cells(one, name, (row, row), (f"{name}/gs", f"{name}/ls"))
            columns = (f"{name}/sum-gs", f"{name}/sum-ls")
            cells += _pooling_cells(one, name, (row, row), columns, whiten=False)
    title = "BLCF and sum pooling on other backbones (mAP)"
    return write_table("x01_backbones", cells, study.results, title=title)


def complete_tables(study: Study) -> list[str]:
    """Write the tables no notebook of this run measures, every cell saying why it was not run.

    Returns:
        The ids of all tables of the run, published and own, in order.
    """
    folder = study.results / "tables"
    for table_id in published_ids():
        if not (folder / f"{table_id}.csv").exists():
            why = _NOT_BUILT.get(table_id, "the notebook that measures it has not run")
            reasons = dict.fromkeys(_published_columns(table_id), why)
            write_table(table_id, [], study.results, not_run=reasons)
    own = {path.stem for path in folder.glob("*.csv")} - {"claims", "verdicts", "summary"}
    return [*published_ids(), *sorted(own - set(published_ids()))]


def summary_table(study: Study, table_ids: list[str]) -> pd.DataFrame:
    """Count, per table, the cells that were measured and the verdicts on like against like."""
    context = {"backbone": study.profile.features.backbone.label}
    lines = []
    for table_id in table_ids:
        table = read_table(table_id, study.results)
        verdict = verdicts(table_id, study.results, context)["verdict"]
        lines.append(
            {
                "table": table_id,
                "title": table_info(table_id).title,
                "published cells": int(table["published"].notna().sum()),
                "measured cells": int((table["status"] == "measured").sum()),
                **{v: int((verdict == v).sum()) for v in ("reproduced", "close", "differs")},
            }
        )
    return pd.DataFrame(lines).set_index("table")


def claims_table(study: Study) -> pd.DataFrame:
    """Check every claim of the slides on their numbers and on this run's (claims.csv)."""
    return write_claims(study.results)
