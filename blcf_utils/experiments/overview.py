"""Every table of a run at a glance, and the claims of the thesis."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from blcf_utils.experiments.measuring import instances_of, published_columns
from blcf_utils.results.claims import write_claims
from blcf_utils.results.intervals import write_instances, write_intervals
from blcf_utils.results.published import dataset_of, published_ids, table_info
from blcf_utils.results.tables import LONG
from blcf_utils.results.verdicts import verdicts
from blcf_utils.study.study import Study


def complete_tables(study: Study) -> list[str]:
    """Write the tables no notebook of this run measures, every cell saying why it was not run.

    Returns:
        The ids of all tables of the run, published and own, in order.
    """
    folder = study.results / "tables"
    for table_id in published_ids():
        if not (folder / f"{table_id}.csv").exists():
            why = "the notebook that measures it has not run"
            reasons = dict.fromkeys(published_columns(table_id), why)
            study.results.table(table_id, [], not_run=reasons)
    own = {path.stem for path in folder.glob("*.csv") if _is_long(path)}
    return [*published_ids(), *sorted(own - set(published_ids()))]


def _is_long(path: Path) -> bool:
    """Tell a table of measurements from what is written about them (claims, intervals, stages)."""
    with open(path, encoding="utf-8") as file:
        return file.readline().strip() == ",".join(LONG)


def summary_table(study: Study, table_ids: list[str]) -> pd.DataFrame:
    """Count, per table, the cells that were measured and the verdicts on like against like."""
    lines = []
    for table_id in table_ids:
        table = study.results.read(table_id)
        verdict = verdicts(table_id, study.results.folder, study.results.networks)["verdict"]
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


def intervals_table(study: Study, table_ids: list[str]) -> pd.DataFrame:
    """Write the bootstrap intervals of every mean, by query and by instance (intervals.csv).

    Which query shows which instance is written as well, for the claims.
    """
    columns = (column for table in table_ids for _, column in study.results.per_query(table))
    measured = {dataset_of(column) for column in columns}
    instances = {
        name: instances_of(study, name) for name in study.profile.all_datasets if name in measured
    }
    write_instances(study.results.folder, instances)
    return write_intervals(study.results.folder, table_ids)


def claims_table(study: Study) -> pd.DataFrame:
    """Check every claim of the slides on their numbers and on this run's (claims.csv)."""
    return write_claims(study.results.folder)
