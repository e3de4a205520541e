"""What each stage of a run took: time, memory and disk, as the run's record has it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from blcf_utils.ground.errors import StudyError
from blcf_utils.run.record import RUN_FILE, read_run, refuse_reference, results_folder

COLUMNS = ("notebook", "stage", "of", "seconds", "peak MB so far", "MB on disk", "in this run")


def stages_table(
    profile: str, results: Path | None = None, *, slowest_first: bool = False
) -> pd.DataFrame:
    """Return every stage of a run once, in the order in which it was first needed.

    ``seconds`` is how long making it took, in this run or in the one that made it. The peak is
    that of the notebook's whole process up to then, not of the stage alone.

    Args:
        profile: name of the profile that was run.
        results: the folder that holds one folder per profile, instead of ``results``.
        slowest_first: sort by seconds instead.

    Raises:
        StudyError: nothing has been run.
    """
    folder = results_folder(profile, results)
    record = read_run(folder)
    if not record["notebooks"]:
        raise StudyError(f"{folder / RUN_FILE}: no run to tell of; run blcf run first")
    refuse_reference(folder, profile)
    table = stages_of(record)
    if slowest_first:
        table = table.sort_values("seconds", ascending=False, kind="stable", ignore_index=True)
    return table


def stages_of(record: dict) -> pd.DataFrame:
    """Return the stages of a run's record, each once, in the order of first need."""
    rows = {}
    for name, entry in record["notebooks"].items():
        for event in entry.get("stages", []):
            rows.setdefault(
                event["key"],
                (
                    name,
                    event["stage"],
                    event["label"],
                    round(event["made_in_seconds"], 1),
                    event["peak_rss_so_far_mb"],
                    round(event["bytes"] / 1e6, 1),
                    "reused" if event["reused"] else "made",
                ),
            )
    return pd.DataFrame(rows.values(), columns=list(COLUMNS))
