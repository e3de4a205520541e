"""The tables of a run and those of the reference that it may be compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.run.provenance import git
from blcf_utils.run.record import (
    RUN_FILE,
    read_run,
    refuse_reference,
    results_folder,
    settings_of,
)


def read_runs(
    profile: str, results: Path | None = None, reference: Path | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the reference's and the run's tables, by name the text of each CSV.

    Args:
        profile: name of the profile.
        results: the folder that holds one folder per profile, instead of ``results``.
        reference: the reference's results folder of this profile; by default what git has
            committed as ``results/<profile>``, because a run writes over the files themselves.

    Raises:
        StudyError: there is no reference, no run, or a run with other settings.
    """
    folder = results_folder(profile, results)
    fresh = _tables(folder / "tables")
    if not fresh:
        raise StudyError(
            f"{folder / 'tables'}: no table to verify; run blcf run --profile {profile} first"
        )
    if reference is None:
        refuse_reference(folder, profile)
        expected, record = _committed(profile)
    else:
        expected, record = _reference(Path(reference))
    _refuse_other_settings(folder, read_run(folder), record)
    return expected, fresh


def _tables(folder: Path) -> dict[str, str]:
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.csv"))}


def _reference(folder: Path) -> tuple[dict[str, str], dict]:
    tables = _tables(folder / "tables") or _tables(folder)
    if not tables:
        raise StudyError(
            f"{folder}: expected a reference run (tables/*.csv), found none; name the results "
            "folder of the profile, such as results/mini"
        )
    return tables, read_run(folder)


def _committed(profile: str) -> tuple[dict[str, str], dict]:
    root, where = project_root(), f"results/{profile}"
    listing = git(root, "ls-tree", "--name-only", "HEAD", f"{where}/tables/") or ""
    names = sorted(line for line in listing.splitlines() if line.endswith(".csv"))
    if not names:
        raise StudyError(
            f"no reference for profile {profile}: git has no {where}/tables/*.csv committed; name "
            "one with --against DIR"
        )
    record = json.loads(git(root, "show", f"HEAD:{where}/{RUN_FILE}") or "{}")
    return {Path(name).stem: git(root, "show", f"HEAD:{name}") or "" for name in names}, record


def _refuse_other_settings(folder: Path, run: dict, reference: dict) -> None:
    """Refuse to compare runs whose records name different settings, as far as both have them."""
    ours, theirs = (
        pd.json_normalize(settings_of(record["profile"]["document"])).to_dict("records")[0]
        if "profile" in record
        else {}
        for record in (run, reference)
    )
    told = [
        f"{name} {ours[name]} instead of {theirs[name]}"
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    ]
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        raise StudyError(
            f"{folder}: run with other settings than the reference ({', '.join(told[:3])}{more}), "
            "so their tables are not compared; run with the reference's settings or name another "
            "reference with --against DIR"
        )
