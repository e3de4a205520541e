"""Does a fresh run say what the reference says? Tables compared cell by cell, within tolerances.

k-means and the network's sums round differently on another processor, BLAS or thread count, which
moves a few words, a few ranks and with them an mAP by some thousandths; a training multiplies that.

- Times, and what was timed, are never compared. Counts, labels and reasons must be equal.
- Sizes (bytes, MB, distinct words) may differ by ``SIZE_SHARE``: another word here and there.
- Other numbers, mAPs above all, may differ by ``TOLERANCE`` (beyond 1 by that share). A cell that
  ``seeds.csv`` names is a mean over trainings; it may differ by as much as the seeds of one run do,
  those of the run that spreads more.
- mAPs among drawn images may differ by ``DRAWN``: the images are drawn from laws that are fitted to
  the run's own words, so that another rounding is another draw.
- The ends of an interval may differ by ``TOLERANCE`` more than the numbers of its table.
- Claims are compared by their verdicts; their numbers stand in the other tables. *Holds* against
  *does not hold* is a difference; *undecided* against either is none while the tables that the
  claim reads agree: an end of an interval lay beside the bound.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from blcf_utils.results.claims import CLAIMS
from blcf_utils.run.reference import read_runs

TOLERANCE = 0.01
SIZE_SHARE = 0.05
# Of two processors (x09 of `mini`, AMD EPYC and Intel Xeon with AVX-512) the most was 0.035.
DRAWN = {"x09_scaling": 0.05}
KEY_COLUMNS = ("table", "row", "column", "seed", "id")
CELL = ["table", "row", "column"]
# How long something took, the digest of settings that are compared anyway, and what a single
# training gave: the mean over the seeds stands in its table.
NOT_COMPARED = ("seconds", "config_digest", "value")
TIMES = re.compile(r"\(s\)|\b(?:ms|seconds?|times?|per s)\b", re.I)
# The dimension of words is the mean number of distinct ones in an image.
SIZES = re.compile(r"\b(?:bytes|MB|entries)\b|\bBLCF\b.*, dim$", re.I)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
COUNT = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Compared:
    """One table of a run against the reference's.

    Attributes:
        table: its name.
        cells: how many values were compared.
        largest: the largest difference of two that agree.
        differences: a sentence for each that does not.
    """

    table: str
    cells: int = 0
    largest: float = 0.0
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.differences:
            told = f", largest difference {self.largest:.4f}" if self.largest else ""
            return f"{self.table}: {self.cells} cells agree{told}"
        first = self.differences[0]
        of = f"{len(self.differences)} of {self.cells} cells differ, first " if self.cells else ""
        return f"{self.table}: {of}{first}"


def verify(
    profile: str,
    results: Path | None = None,
    reference: Path | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> list[Compared]:
    """Compare the tables of a run with the reference run's.

    Args:
        profile: name of the profile.
        results: the folder that holds one folder per profile, instead of ``results``.
        reference: the reference's results folder of this profile; by default what git has
            committed as ``results/<profile>``, because a run writes over the files themselves.
        tolerance: largest absolute difference of numbers up to 1 that are neither counts nor
            sizes; larger numbers may differ by that share.

    Returns:
        One comparison a table, in the reference's order, claims last, then tables that only the
        run has. The run agrees when none has differences.

    Raises:
        StudyError: there is no reference, no run, or a run with other settings.
    """
    expected, fresh = read_runs(profile, results, reference)
    spread = _spread(expected, fresh)
    found: dict[str, Compared] = {}
    for name in sorted(expected, key=lambda name: name == "claims"):
        if name not in fresh:
            found[name] = Compared(name, differences=("this run has no such table",))
        elif name == "claims":
            found[name] = _compare_claims(*map(_read, (expected[name], fresh[name])), found)
        else:
            pair = _read(expected[name]), _read(fresh[name])
            found[name] = _compare(name, *pair, spread, tolerance)
    new = [name for name in fresh if name not in expected]
    return [*found.values(), *(Compared(n, 0, 0.0, ("only this run has it",)) for n in new)]


def _spread(*runs: dict[str, str]) -> dict[tuple[str, ...], float]:
    """Return by how much the seeds of one run differ, of the two runs the more, by cell."""
    found: dict[tuple[str, ...], float] = {}
    for tables in runs:
        if "seeds" in tables:
            cells = pd.read_csv(io.StringIO(tables["seeds"])).groupby(CELL)["value"]
            for cell, spread in (cells.max() - cells.min()).items():
                found[cell] = max(spread, found.get(cell, 0.0))
    return found


def _read(text: str) -> pd.DataFrame:
    """Return a table of text, with what identifies each row as its index."""
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    keys = [name for name in KEY_COLUMNS if name in table] or [table.columns[0]]
    if "id" in keys:  # a claim names the table that it reads
        keys = ["id"]
    key = pd.Series(map(", ".join, table[keys].to_numpy()), table.index, str)
    again = key.groupby(key).cumcount()
    return table.set_index(key.where(again == 0, key + " #" + (again + 1).astype(str)))


def _rows(reference: pd.DataFrame, fresh: pd.DataFrame) -> tuple[pd.Index, list[str]]:
    """Return the rows that both have, and a sentence for each that one of them lacks."""
    shared = reference.index.intersection(fresh.index, sort=False)
    sides = ((reference, "this run lacks it"), (fresh, "only this run has it"))
    told = [f"{row}: {why}" for side, why in sides for row in side.index.difference(shared, False)]
    return shared, told


def _compare(
    name: str, reference: pd.DataFrame, fresh: pd.DataFrame, spread: dict, tolerance: float
) -> Compared:
    if list(reference) != list(fresh):
        told = f"columns {','.join(reference)} expected, {','.join(fresh)} found"
        return Compared(name, differences=(told,))
    shared, told = _rows(reference, fresh)
    compared = [name for name in reference if name not in (*NOT_COMPARED, *KEY_COLUMNS)]
    cells, largest = len(told), 0.0
    rows = (side.loc[shared].to_dict("records") for side in (reference, fresh))
    for row, ours, theirs in zip(shared, *rows, strict=True):
        cell = tuple({"table": name, **ours}.get(part, "") for part in CELL)
        allowed = max(tolerance, spread.get(cell, 0.0), DRAWN.get(cell[0], 0.0))
        allowed += tolerance if name == "intervals" else 0.0
        for column in compared:
            a, b = ours[column], theirs[column]
            if column == "measured" and TIMES.search(row) and NUMBER.fullmatch(a):
                continue
            cells += 1
            size = column == "measured" and bool(SIZES.search(row))
            difference = _difference(a, b, size)
            most = SIZE_SHARE if size else 0.0 if column == "published" else allowed
            if difference > most + 1e-12:
                told.append(f"{row}, {column}: expected {a or 'blank'}, found {b or 'blank'}")
            else:
                largest = max(largest, 0.0 if size else difference)
    return Compared(name, cells, largest, tuple(told))


def _difference(expected: str, found: str, size: bool) -> float:
    """Return by how much two texts differ: infinity unless both are numbers that may."""
    if expected == found:
        return 0.0
    numbers = NUMBER.fullmatch(expected) and NUMBER.fullmatch(found)
    if not numbers or (not size and COUNT.fullmatch(expected) and COUNT.fullmatch(found)):
        return float("inf")
    a, b = float(expected), float(found)
    return abs(a - b) / (max(abs(a), 1e-12) if size else max(abs(a), 1.0))


def _compare_claims(
    reference: pd.DataFrame, fresh: pd.DataFrame, tables: dict[str, Compared]
) -> Compared:
    """Compare verdicts; ``tables`` are the comparisons of the tables that claims read."""
    shared, told = _rows(reference, fresh)
    cells = len(told)
    for row in shared:
        ours, theirs = reference.loc[row], fresh.loc[row]
        if TIMES.search(ours.get("measured_evidence", "")):
            continue
        cells += 1
        for column in [c for c in ("published_holds", "measured") if c in reference]:
            a, b = ours[column], theirs.get(column, "")
            close = column == "measured" and _undecided(row, a, b, tables)
            if a != b and not close:
                told.append(f"{row}, {column}: expected {a or 'blank'}, found {b or 'blank'}")
    return Compared("claims", cells, 0.0, tuple(told))


def _undecided(claim: str, a: str, b: str, tables: dict[str, Compared]) -> bool:
    """Say whether one verdict is *undecided*, the other one not, and the numbers behind agree."""
    if "undecided" not in (a, b) or not {a, b} <= {"holds", "does not hold", "undecided"}:
        return False
    read = CLAIMS.get(claim)
    names = {read.table, read.right_table} if read else set()
    return not any(tables[name].differences for name in names if name in tables)
