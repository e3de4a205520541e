"""The claims of the thesis' slides, tested on their own numbers and on this run's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import published_dir
from blcf_utils.results.published import dataset_of, load_published, number, read_published, table_info
from blcf_utils.results.intervals import paired_bootstrap
from blcf_utils.results.tables import markdown, read_per_query, read_table

HEADER = (
    "id", "claim", "slide", "table", "left_row", "left_column", "right_table", "right_row",
    "right_column", "datasets", "rule", "relation", "threshold", "evidence", "remark",
)  # fmt: skip
EVALUATED = (
    "id", "claim", "slide", "table", "published_evidence", "published_holds",
    "measured_evidence", "measured", "interval", "remark",
)  # fmt: skip
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda difference, threshold: difference > threshold,
    ">=": lambda difference, threshold: difference >= threshold,
    "<": lambda difference, threshold: difference < threshold,
    "<=": lambda difference, threshold: difference <= threshold,
    "within": lambda difference, threshold: abs(difference) <= threshold,
}
RULES = ("all", "any", "mean", "differ")
UNTESTABLE = "not testable by a table: "
NOT_RUN = "not run: "
DATASET = "{d}"
MOST_CELLS_SPELLED_OUT = 6
BEST = "max: "

Key = tuple[str, str]


@dataclass(frozen=True)
class Cells:
    """The numbers of one table, published or measured: (row, column) -> value."""

    table: str
    values: Mapping[Key, float]
    per_query: Mapping[Key, Mapping[str, float]]

    def columns(self) -> list[str]:
        """Return the columns that are about a dataset, in table order."""
        attributes = table_info(self.table).attributes
        return [
            c for c in dict.fromkeys(column for _, column in self.values) if c not in attributes
        ]

    def rows(self) -> list[str]:
        """Return the rows, in table order."""
        return list(dict.fromkeys(row for row, _ in self.values))


@dataclass(frozen=True)
class Comparison:
    """One left cell against one right cell (or a threshold when ``right`` is None)."""

    dataset: str
    left: Key
    right: Key | None
    left_value: float
    right_value: float
    left_of: str = ""
    right_of: str = ""
    right_table: str = ""

    @property
    def difference(self) -> float:
        # 0.498 - 0.503 is not -0.005 in binary; twelve digits are beyond any table's precision.
        return round(self.left_value - self.right_value, 12)


def load_claims() -> pd.DataFrame:
    """Return ``data/published/claims.csv`` as text.

    Raises:
        StudyError: wrong header, or an unknown table, rule or relation.
    """
    path = published_dir() / "claims.csv"
    claims = read_published(path, HEADER)
    for claim in claims.itertuples():
        if claim.remark.startswith(UNTESTABLE):
            continue
        table_info(claim.table)
        for name, allowed in (("rule", RULES), ("relation", RELATIONS)):
            if getattr(claim, name) not in allowed:
                raise StudyError(
                    f"{path}: claim {claim.id}: expected {name} to be one of "
                    f"{', '.join(allowed)}, found {getattr(claim, name)!r}"
                )
        if number(claim.threshold) is None:
            raise StudyError(
                f"{path}: claim {claim.id}: expected a number as threshold, "
                f"found {claim.threshold!r}"
            )
    return claims


def published_cells(table_id: str) -> Cells:
    """Return the numbers of a published table."""
    table = load_published(table_id)
    values = {(c.row, c.column): number(c.value) for c in table.itertuples()}
    return Cells(table_id, {key: v for key, v in values.items() if v is not None}, {})


def measured_cells(table_id: str, folder: Path) -> Cells | None:
    """Return the measured numbers of a run's table, or None when the run has no such table."""
    if not (Path(folder) / "tables" / f"{table_id}.csv").is_file():
        return None
    table = read_table(table_id, folder)
    ran = table[table["status"] == "measured"]
    values = {(c.row, c.column): c.measured for c in ran.itertuples()}
    numeric = {key: value for key, value in values.items() if isinstance(value, float)}
    return Cells(table_id, numeric, read_per_query(table_id, folder))


def _entries(text: str) -> list[str]:
    return [part.strip() for part in text.split(" ; ")]


def _pairs(left: str, right: str, claim_id: str) -> list[tuple[str, str]]:
    """Pair the entries of two lists; a single entry goes with each of the other's."""
    lefts, rights = _entries(left), _entries(right)
    if len(rights) == 1:
        rights = rights * len(lefts)
    elif len(lefts) == 1:
        lefts = lefts * len(rights)
    if len(lefts) != len(rights):
        raise StudyError(
            f"claims.csv: claim {claim_id}: expected as many entries left as right (or one), "
            f"found {len(lefts)} and {len(rights)}"
        )
    return list(zip(lefts, rights, strict=True))


def _datasets(patterns: list[str], columns: list[str]) -> list[str]:
    """Return the datasets that {d} can stand for, in the order of the columns."""
    found = []
    for column in columns:
        for pattern in patterns:
            name = re.escape(DATASET)
            expression = re.escape(pattern).replace(name, "([^/+]+)")
            match = re.fullmatch(expression, column)
            if match:
                found.append(match[1] if match.groups() else dataset_of(column))
    return list(dict.fromkeys(found))


def _pick(
    cells: Cells, rows: str, column: str, *, besides: str = "", complete: bool
) -> tuple[Key, float, str] | None:
    """Return the cell that ``rows`` names in ``column``, its value and what it is the best of."""
    if column == f"{BEST}*":
        found = {key: value for key, value in cells.values.items() if key[0] == rows}
        if not found:
            return None
        key = max(found, key=found.__getitem__)
        return key, found[key], f"best of {len(found)}" if len(found) > 1 else ""
    if not rows.startswith(BEST):
        value = cells.values.get((rows, column))
        return None if value is None else ((rows, column), value, "")
    named = [row.strip() for row in rows.removeprefix(BEST).split(" | ")]
    everyone = named == ["*"]
    candidates = [row for row in cells.rows() if row != besides] if everyone else named
    found = {
        (row, column): cells.values[row, column]
        for row in candidates
        if (row, column) in cells.values
    }
    if not found or (complete and not everyone and len(found) < len(candidates)):
        return None
    key = max(found, key=found.__getitem__)
    return key, found[key], f"best of {len(found)}" if len(found) > 1 else ""


def _compare(claim, left: Cells, right: Cells) -> list[Comparison]:
    """Return every comparison of a claim that both sides have numbers for."""
    only = _entries(claim.datasets) if claim.datasets else None
    threshold = float(claim.threshold)
    columns = _pairs(claim.left_column, claim.right_column or claim.left_column, claim.id)
    rows = _pairs(claim.left_row, claim.right_row, claim.id)
    found = []
    for dataset in _datasets([pattern for pattern, _ in columns], left.columns()):
        if only is not None and dataset not in only:
            continue
        for left_rows, right_rows in rows:
            for left_pattern, right_pattern in columns:
                ours = _pick(
                    left, left_rows, left_pattern.replace(DATASET, dataset), complete=False
                )
                if ours is None:
                    continue
                if not right_rows:
                    found.append(Comparison(dataset, ours[0], None, ours[1], threshold))
                    continue
                theirs = _pick(
                    right,
                    right_rows,
                    right_pattern.replace(DATASET, dataset),
                    besides=ours[0][0] if left.table == right.table else "",
                    complete=True,
                )
                if theirs is None or (theirs[0] == ours[0] and left.table == right.table):
                    continue
                found.append(
                    Comparison(
                        dataset,
                        ours[0],
                        theirs[0],
                        ours[1],
                        theirs[1],
                        ours[2],
                        theirs[2],
                        "" if left.table == right.table else right.table,
                    )
                )
    return found


def _bound(claim) -> float:
    # With a threshold as the right side the difference is already against it.
    return float(claim.threshold) if claim.right_row else 0.0


def _holds(claim, found: list[Comparison]) -> bool:
    relation, bound = RELATIONS[claim.relation], _bound(claim)
    if claim.rule == "differ":  # the row that is best is not the same everywhere
        return len({c.left[0] for c in found}) > 1
    if claim.rule == "mean":
        mean = sum(c.difference for c in found) / len(found)
        return relation(round(mean, 12), bound)
    return (all if claim.rule == "all" else any)(relation(c.difference, bound) for c in found)


def _digits(value: float) -> str:
    """Three decimals, or three significant digits where those would hide the value."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 10 else f"{value:.3g}"


def _evidence(claim, found: list[Comparison]) -> str:
    """Spell the comparisons out, or sum them up by dataset where there are many."""
    if claim.right_row and len(found) > MOST_CELLS_SPELLED_OUT:
        relation, bound = RELATIONS[claim.relation], _bound(claim)
        parts = []
        for dataset in [*dict.fromkeys(c.dataset for c in found), "all"]:
            differences = [c.difference for c in found if dataset in (c.dataset, "all")]
            fit = sum(relation(d, bound) for d in differences)
            mean = sum(differences) / len(differences)
            parts.append(
                f"{dataset}: mean difference {mean:+.3f}, from {min(differences):+.3f} to "
                f"{max(differences):+.3f}, {fit} of {len(differences)} {claim.relation} {bound:g}"
            )
        return "; ".join(parts)
    parts = []
    for c in found:
        best = f" ({c.left_of})" if c.left_of else ""
        left = f"{c.left[1]}: {c.left[0]}{best} {_digits(c.left_value)}"
        if claim.rule == "differ":
            parts.append(left)
            continue
        if c.right is None:
            parts.append(f"{left} (threshold {c.right_value:g})")
            continue
        where = "" if c.right[1] == c.left[1] else f" {c.right[1]}"
        where += f" in {c.right_table}" if c.right_table else ""
        of = f" ({c.right_of})" if c.right_of else ""
        parts.append(
            f"{left}, {c.right[0]}{where}{of} {_digits(c.right_value)} ({c.difference:+.3f})"
        )
    if claim.rule == "mean" and len(found) > 1:
        parts.append(f"mean difference {sum(c.difference for c in found) / len(found):+.3f}")
    return "; ".join(parts)


def _interval(found: list[Comparison], left: Cells, right: Cells) -> str:
    """Return the paired bootstrap interval of the mean difference, for each dataset with APs.

    Where a dataset has several comparisons a query's APs are averaged over them first, so that a
    query is drawn once with all it contributes.
    """
    parts = []
    for dataset in dict.fromkeys(c.dataset for c in found):
        sides = [
            (left.per_query[c.left], right.per_query[c.right])
            for c in found
            if c.dataset == dataset and c.left in left.per_query and c.right in right.per_query
        ]
        shared = set.intersection(*(set(a) & set(b) for a, b in sides)) if sides else set()
        if not shared:
            continue
        ours, theirs = (
            {q: sum(pair[side][q] for pair in sides) / len(sides) for q in sorted(shared)}
            for side in (0, 1)
        )
        mean, low, high = paired_bootstrap(ours, theirs)
        parts.append(f"{dataset}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over {len(shared)} queries")
    return "; ".join(parts)


def published_evidence(claim) -> tuple[str, str]:
    """Return a claim's evidence in the slides' own numbers, and whether it holds on them.

    Args:
        claim: one row of :func:`load_claims` (from ``itertuples``).

    Returns:
        (evidence, ``holds`` / ``does not hold`` / ``not testable by a table: <why>`` /
        ``no value in the slides``).
    """
    if claim.remark.startswith(UNTESTABLE):
        return "", claim.remark
    found = _compare(
        claim, published_cells(claim.table), published_cells(claim.right_table or claim.table)
    )
    if not found:
        return "", "no value in the slides"
    return _evidence(claim, found), "holds" if _holds(claim, found) else "does not hold"


def measured_evidence(claim, folder: Path) -> tuple[str, str, str]:
    """Return a claim's evidence in a run's numbers, whether it holds, and its interval.

    Args:
        claim: one row of :func:`load_claims` (from ``itertuples``).
        folder: the profile's results folder.

    Returns:
        (evidence, ``holds`` / ``does not hold`` / ``not run: <why>`` / ``not testable by a table:
        <why>``, paired bootstrap interval over queries by dataset, or "").
    """
    if claim.remark.startswith(UNTESTABLE):
        return "", claim.remark, ""
    sides = []
    for table_id in (claim.table, claim.right_table or claim.table):
        cells = measured_cells(table_id, folder)
        if cells is None:
            return "", f"{NOT_RUN}this run has no table {table_id}", ""
        sides.append(cells)
    left, right = sides
    found = _compare(claim, left, right)
    if not found:
        where = f" on {claim.datasets.replace(' ; ', ', ')}" if claim.datasets else ""
        right_name = f" and {claim.right_row}" if claim.right_row else ""
        return "", f"{NOT_RUN}{claim.table} has no measured {claim.left_row}{right_name}{where}", ""
    if claim.rule == "differ" and len(found) < 2:
        return "", f"{NOT_RUN}one dataset cannot differ", ""
    if claim.rule == "mean":  # a mean over some of its rows is another claim
        missing = [row for row in _entries(claim.left_row) if row not in {c.left[0] for c in found}]
        if missing:
            return "", f"{NOT_RUN}{claim.table} has no measured {' ; '.join(missing)}", ""
    verdict = "holds" if _holds(claim, found) else "does not hold"
    return _evidence(claim, found), verdict, _interval(found, left, right)


def evaluate_claims(folder: Path) -> pd.DataFrame:
    """Test every claim of the slides on the published and on a run's tables.

    Args:
        folder: the profile's results folder.

    Returns:
        Columns id, claim, slide, table, published_evidence, published_holds, measured_evidence,
        measured, interval (95 % paired bootstrap over queries), remark.
    """
    lines = [
        (
            *(claim.id, claim.claim, claim.slide, claim.table),
            *published_evidence(claim),
            *measured_evidence(claim, folder),
            claim.remark,
        )
        for claim in load_claims().itertuples()
    ]
    return pd.DataFrame(lines, columns=list(EVALUATED))


def write_claims(folder: Path) -> pd.DataFrame:
    """Write ``tables/claims.csv`` and ``tables/claims.md``; return :func:`evaluate_claims`."""
    claims = evaluate_claims(folder)
    tables = Path(folder) / "tables"
    write_text(tables / "claims.csv", claims.to_csv(index=False, lineterminator="\n"))
    page = [
        "# The slides' claims\n",
        "Each claim tested on the slides' own numbers and on this run's. Datasets differ: an "
        "ordering is compared, not a number.\n",
        markdown(claims.drop(columns=["slide"]), index=False),
    ]
    write_text(tables / "claims.md", "\n".join(page))
    return claims
