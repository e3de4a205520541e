"""Does a fresh run say what the reference says? Tables compared cell by cell.

Counts and texts must be equal. Real numbers may differ by ``TOLERANCE``: k-means and the network's
sums round differently on another processor, BLAS or thread count, which moves a few words, a few
ranks, and with them an mAP by some thousandths. Times are not compared.
"""

from __future__ import annotations

import io
import json
import re
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

TOLERANCE = 0.005
KEY_COLUMNS = ("row", "column")
# How long something took, and the digest of settings that include what is compared anyway.
NOT_COMPARED = ("seconds", "config_digest")
TIMES = re.compile(r"\(s\)|\b(?:ms|seconds?|times?|per s)\b", re.I)
# A number written with a point or an exponent: a count has neither, and is compared exactly.
REAL = re.compile(r"(?<![\w.])[+-]?(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?![\w.]*\d)")


def verify(
    profile: str,
    results: Path | None = None,
    reference: Path | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> list[str]:
    """Compare the tables of a run with the reference run's.

    Args:
        profile: name of the profile.
        results: the folder that holds one folder per profile, instead of ``results``.
        reference: the reference's results folder of this profile; by default what git has
            committed as ``results/<profile>``, because a run writes over the files themselves.
        tolerance: largest absolute difference of real numbers up to 1; larger numbers may
            differ by that share.

    Returns:
        The differences, a sentence each, in the reference's order; none when the run agrees.

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
    differences = []
    for name, text in expected.items():
        if name not in fresh:
            differences.append(f"{name}: expected the table, found missing")
        else:
            differences += [f"{name}: {it}" for it in _compare(text, fresh[name], tolerance)]
    new = [name for name in fresh if name not in expected]
    return differences + [f"{name}: expected missing, found the table" for name in new]


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


def _compare(expected: str, found: str, tolerance: float) -> list[str]:
    reference, fresh = _read(expected), _read(found)
    if list(reference) != list(fresh):
        return [f"header: expected {','.join(reference)}, found {','.join(fresh)}"]
    shared = reference.index.intersection(fresh.index, sort=False)
    lost = [
        f"{row}: expected the row, found missing"
        for row in reference.index.difference(shared, sort=False)
    ]
    new = [
        f"{row}: expected missing, found the row"
        for row in fresh.index.difference(shared, sort=False)
    ]
    cells = pd.DataFrame(
        {"expected": reference.loc[shared].stack(), "found": fresh.loc[shared].stack()}
    )
    differing = []
    for (row, column), a, b in cells[cells["expected"] != cells["found"]].itertuples():
        timed = TIMES.search(f"{row} {column} {a}") and REAL.search(a)
        if not timed and column not in NOT_COMPARED and not _agree(a, b, tolerance):
            differing.append(f"{row}, {column}: expected {a or 'blank'}, found {b or 'blank'}")
    return lost + differing + new


def _read(text: str) -> pd.DataFrame:
    """Return a table of text, with what identifies each row as its index."""
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    keys = [name for name in KEY_COLUMNS if name in table] or [table.columns[0]]
    key = pd.Series(map(", ".join, table[keys].to_numpy()), table.index, str)
    again = key.groupby(key).cumcount()
    return table.set_index(key.where(again == 0, key + " #" + (again + 1).astype(str)))


def _agree(expected: str, found: str, tolerance: float) -> bool:
    """Compare two texts: the real numbers in them within the tolerance, all else exactly."""
    if REAL.sub("0.0", expected) != REAL.sub("0.0", found):
        return False
    pairs = zip(REAL.findall(expected), REAL.findall(found), strict=True)
    return all(
        abs(float(a) - float(b)) <= tolerance * max(1.0, abs(float(a))) + 1e-12 for a, b in pairs
    )
