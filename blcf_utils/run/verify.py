"""Does a fresh run say what the reference says? Tables compared cell by cell.

Counts and texts must be equal. Real numbers may differ by ``TOLERANCE``: k-means and the network's
sums round differently on another processor, BLAS or thread count, which moves a few words, a few
ranks, and with them an mAP by some thousandths. Times are not compared.
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.run.record import refuse_reference, results_folder

TOLERANCE = 0.005
KEY_COLUMNS = ("row", "column")
# How long something took, and the digest of settings that include what is compared anyway.
NOT_COMPARED = ("seconds", "config_digest")
# Times, memory and disk of a run: no result.
ABOUT_THE_RUN = ("x10_stages",)
TIMES = re.compile(r"\(s\)|\b(?:ms|seconds?|times?|per s)\b", re.I)
# A number written with a point or an exponent: a count has neither, and is compared exactly.
REAL = re.compile(r"(?<![\w.])[+-]?(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?![\w.]*\d)")


@dataclass(frozen=True)
class Difference:
    """One disagreement.

    Attributes:
        table: file name without its suffix.
        cell: which row and column.
        expected: the reference's value, or ``missing``.
        found: the fresh run's value, or ``missing``.
    """

    table: str
    cell: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.table}: {self.cell}" if self.cell else self.table
        return f"{where}: expected {self.expected}, found {self.found}"


def verify(
    profile: str,
    results: Path | None = None,
    reference: Path | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> list[Difference]:
    """Compare the tables of a run with the reference run's.

    Args:
        profile: name of the profile.
        results: the folder that holds one folder per profile, instead of ``results``.
        reference: the reference's results folder of this profile; by default what git has
            committed as ``results/<profile>``, because a run writes over the files themselves.
        tolerance: largest absolute difference of real numbers up to 1; larger numbers may
            differ by that share.

    Returns:
        The differences, in the reference's order; none when the run agrees.

    Raises:
        StudyError: there is no reference, or no run.
    """
    folder = results_folder(profile, results) / "tables"
    fresh = _read_folder(folder)
    if not fresh:
        raise StudyError(f"{folder}: no table to verify; run blcf run --profile {profile} first")
    if reference is None:
        refuse_reference(folder.parent, profile)
    expected = _committed(profile) if reference is None else _read_reference(Path(reference))
    differences = []
    for name, text in expected.items():
        if name not in fresh:
            differences.append(Difference(name, "", "the table", "missing"))
        else:
            differences += _compare(name, text, fresh[name], tolerance)
    for name in fresh:
        if name not in expected:
            differences.append(Difference(name, "", "missing", "the table"))
    return differences


def _read_folder(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.glob("*.csv")) if path.stem not in ABOUT_THE_RUN]
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


def _read_reference(folder: Path) -> dict[str, str]:
    tables = _read_folder(folder / "tables") or _read_folder(folder)
    if not tables:
        raise StudyError(
            f"{folder}: expected a reference run (tables/*.csv), found none; name the results "
            "folder of the profile, such as results/mini"
        )
    return tables


def _committed(profile: str) -> dict[str, str]:
    root = project_root()
    where = f"results/{profile}/tables"
    listing = _git(root, "ls-tree", "--name-only", "HEAD", f"{where}/")
    names = [line for line in (listing or "").splitlines() if line.endswith(".csv")]
    if not names:
        raise StudyError(
            f"no reference for profile {profile}: git has no {where}/*.csv committed; name one "
            "with --against DIR"
        )
    return {Path(name).stem: _git(root, "show", f"HEAD:{name}") or "" for name in sorted(names)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8") if done.returncode == 0 else None


def _compare(name: str, expected: str, found: str, tolerance: float) -> list[Difference]:
    header, reference = _rows(expected)
    fresh_header, fresh = _rows(found)
    if header != fresh_header:
        return [Difference(name, "header", ",".join(header), ",".join(fresh_header))]
    differences = []
    for key, row in reference.items():
        if key not in fresh:
            differences.append(Difference(name, key, "the row", "missing"))
            continue
        for column, value in row.items():
            other = fresh[key][column]
            timed = TIMES.search(f"{key} {column} {value}") and REAL.search(value)
            if column in NOT_COMPARED or timed or _agree(value, other, tolerance):
                continue
            differences.append(
                Difference(name, f"{key}, {column}", value or "blank", other or "blank")
            )
    extra = [key for key in fresh if key not in reference]
    return differences + [Difference(name, key, "missing", "the row") for key in extra]


def _rows(text: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the header and the rows by what identifies them, in order."""
    reader = csv.DictReader(io.StringIO(text))
    header = list(reader.fieldnames or [])
    keys = [name for name in KEY_COLUMNS if name in header] or header[:1]
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        key = ", ".join(row[name] for name in keys)
        again = sum(1 for known in rows if known == key or known.startswith(f"{key} #"))
        rows[f"{key} #{again + 1}" if again else key] = row
    return header, rows


def _agree(expected: str, found: str, tolerance: float) -> bool:
    """Compare two texts: the real numbers in them within the tolerance, all else exactly."""
    if expected == found:
        return True
    if REAL.sub("0.0", expected) != REAL.sub("0.0", found):
        return False
    pairs = zip(REAL.findall(expected), REAL.findall(found), strict=True)
    return all(
        abs(float(a) - float(b)) <= tolerance * max(1.0, abs(float(a))) + 1e-12 for a, b in pairs
    )
