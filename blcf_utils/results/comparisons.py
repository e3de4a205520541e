"""Cells of a table against cells of a table: does a claim hold, on what numbers, how surely."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from blcf_utils.results.intervals import paired_bootstrap
from blcf_utils.results.published import dataset_of, table_info
from blcf_utils.results.tables import NOT_RUN

MOST_SPELLED_OUT = 6
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "within": lambda difference, bound: abs(difference) <= bound,
}

Key = tuple[str, str]  # row and column
Row = str | tuple[str, ...]  # of a tuple the greatest counts, of an empty one that of all rows


@dataclass(frozen=True)
class Cells:
    """The numbers of one table, published or measured; APs of queries where it has them."""

    table: str
    values: Mapping[Key, float]
    per_query: Mapping[Key, Mapping[str, float]]

    def datasets(self) -> list[str]:
        """Return the datasets that columns are about, in table order."""
        attributes = table_info(self.table).attributes
        columns = [column for _, column in self.values if column not in attributes]
        return list(dict.fromkeys(dataset_of(column) for column in columns))

    def find(self, row: Row, column: str | None, besides: str = "") -> list[Key]:
        """Return the cells of named rows, or of all ``besides`` one; in all columns if None."""
        rows = (row,) if isinstance(row, str) else row
        return [
            key
            for key in self.values
            if (key[0] in rows if rows else key[0] != besides) and column in (None, key[1])
        ]


@dataclass(frozen=True)
class Comparison:
    """One left cell against one right cell, or against a bound where ``right`` is None."""

    dataset: str
    left: Key
    right: Key | None
    difference: float
    text: str


@dataclass(frozen=True)
class Claim:
    """How a claim is read: left cells against right cells, on every dataset that has both.

    Attributes:
        table: of the left cells.
        left, right: a row, or lists of rows that are taken pairwise; a single right row goes with
            each on the left. A table may lack rows on the left, but not on the right. Without
            ``right`` the left value itself is compared with ``bound``.
        columns: what follows a dataset's name in the columns.
        right_columns: the same on the right, where it differs; None for any column.
        right_table: of the right cells, where it differs.
        only: the datasets that the claim is about, where not all.
        rule: whether ``all``, ``any`` or the ``mean`` of the differences left - right is
            ``relation`` to ``bound``; ``differ`` asks whether the best row on the left is another
            one on some dataset.
    """

    table: str
    left: Row | list[Row]
    right: Row | list[Row] | None = None
    columns: tuple[str, ...] = ("",)
    right_columns: tuple[str | None, ...] = ()
    right_table: str = ""
    only: tuple[str, ...] = ()
    rule: str = "all"
    relation: str = ">"
    bound: float = 0.0

    def tested(self, cells: Callable[[str], Cells | None]) -> tuple[str, str, str]:
        """Test the claim.

        Args:
            cells: function from a table's id to its numbers, None where there are none.

        Returns:
            (evidence, ``holds`` / ``does not hold`` / ``not run: <why>``, paired bootstrap interval
            over queries by dataset, or "").
        """
        left, right = cells(self.table), cells(self.right_table or self.table)
        if left is None or right is None:
            missing = self.table if left is None else self.right_table
            return "", f"{NOT_RUN}this run has no table {missing}", ""
        found = self._compare(left, right)
        if not found:
            names = [_names(side) for side in (self.left, self.right) if side is not None]
            where = f" on {', '.join(self.only)}" if self.only else ""
            return "", f"{NOT_RUN}{self.table} has no measured {' and '.join(names)}{where}", ""
        lacking = [row for row in _listed(self.left) if row not in {c.left[0] for c in found}]
        if self.rule == "mean" and lacking:  # a mean over some of its rows is another claim
            return "", f"{NOT_RUN}{self.table} has no measured {_names(lacking)}", ""
        if self.rule == "differ" and len(found) < 2:
            return "", f"{NOT_RUN}one dataset cannot differ", ""
        verdict = "holds" if self._holds(found) else "does not hold"
        return self._evidence(found), verdict, _interval(found, left, right)

    def _compare(self, left: Cells, right: Cells) -> list[Comparison]:
        """Return every comparison that both sides have numbers for."""
        lefts, rights = _listed(self.left), _listed(self.right)
        rows = list(zip(lefts, rights * len(lefts) if len(rights) == 1 else rights, strict=True))
        columns = list(zip(self.columns, self.right_columns or self.columns, strict=True))
        found = []
        for dataset, (ours, theirs), (ending, other) in product(left.datasets(), rows, columns):
            keys = left.find(ours, dataset + ending)
            if not keys or (self.only and dataset not in self.only):
                continue
            key = max(keys, key=left.values.__getitem__)
            value = left.values[key]
            if theirs is None:
                text = f"{key[1]}: {key[0]} {_digits(value)}"
                text += "" if self.rule == "differ" else f" (threshold {self.bound:g})"
                found.append(Comparison(dataset, key, None, _minus(value, self.bound), text))
                continue
            column = None if other is None else dataset + other
            others = right.find(theirs, column, "" if self.right_table else key[0])
            if not others or (isinstance(theirs, tuple) and len(others) < len(theirs)):
                continue
            best = max(others, key=right.values.__getitem__)
            difference = _minus(value, right.values[best])
            where = "" if best[1] == key[1] else f" {best[1]}"
            where += f" in {self.right_table}" if self.right_table else ""
            text = (
                f"{key[1]}: {key[0]}{_best_of(keys)} {_digits(value)}, {best[0]}{where}"
                f"{_best_of(others)} {_digits(right.values[best])} ({difference:+.3f})"
            )
            found.append(Comparison(dataset, key, best, difference, text))
        return found

    def _holds(self, found: list[Comparison]) -> bool:
        if self.rule == "differ":
            return len({c.left[0] for c in found}) > 1
        if self.rule == "mean":
            return self._fits(round(_mean(found), 12))
        return (all if self.rule == "all" else any)(self._fits(c.difference) for c in found)

    def _fits(self, difference: float) -> bool:
        # Without a right side the difference is already against the bound.
        return RELATIONS[self.relation](difference, 0.0 if self.right is None else self.bound)

    def _evidence(self, found: list[Comparison]) -> str:
        """Spell the comparisons out, or sum them up by dataset where there are many."""
        if self.right is None or len(found) <= MOST_SPELLED_OUT:
            mean = [f"mean difference {_mean(found):+.3f}"]
            told = mean if self.rule == "mean" and len(found) > 1 else []
            return "; ".join([c.text for c in found] + told)
        parts = []
        for dataset in [*dict.fromkeys(c.dataset for c in found), "all"]:
            part = [c for c in found if dataset in (c.dataset, "all")]
            differences = [c.difference for c in part]
            parts.append(
                f"{dataset}: mean difference {_mean(part):+.3f}, from {min(differences):+.3f} to "
                f"{max(differences):+.3f}, {sum(map(self._fits, differences))} of {len(part)} "
                f"{self.relation} {self.bound:g}"
            )
        return "; ".join(parts)


def _interval(found: list[Comparison], left: Cells, right: Cells) -> str:
    """Return the paired bootstrap interval of the mean difference, for each dataset with APs.

    Where a dataset has several comparisons a query's APs are averaged over them first, so that a
    query is drawn once with all it contributes.
    """
    parts = []
    for dataset in dict.fromkeys(c.dataset for c in found):
        pairs = [
            (left.per_query[c.left], right.per_query[c.right])
            for c in found
            if c.dataset == dataset and c.left in left.per_query and c.right in right.per_query
        ]
        aps = [ap for pair in pairs for ap in pair]
        shared = [q for q in sorted(aps[0]) if all(q in ap for ap in aps)] if aps else []
        if shared:
            sides = [
                {q: sum(ap[q] for ap in side) / len(pairs) for q in shared}
                for side in zip(*pairs, strict=True)
            ]
            mean, low, high = paired_bootstrap(*sides)
            told = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            parts.append(f"{dataset}: {told} over {len(shared)} queries")
    return "; ".join(parts)


def _listed(rows: Row | list[Row] | None) -> list:
    return rows if isinstance(rows, list) else [rows]


def _names(rows: Row | list[Row]) -> str:
    """Return rows for reading: ``A ; B``, and the greatest of several as ``max: A | B``."""
    names = [
        row if isinstance(row, str) else f"max: {' | '.join(row) or '*'}" for row in _listed(rows)
    ]
    return " ; ".join(dict.fromkeys(names))


def _minus(left: float, right: float) -> float:
    # 0.498 - 0.503 is not -0.005 in binary; twelve digits are beyond any table's precision.
    return round(left - right, 12)


def _mean(found: list[Comparison]) -> float:
    return sum(c.difference for c in found) / len(found)


def _best_of(keys: list[Key]) -> str:
    return f" (best of {len(keys)})" if len(keys) > 1 else ""


def _digits(value: float) -> str:
    """Three decimals, or three significant digits where those would hide the value."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 10 else f"{value:.3g}"
