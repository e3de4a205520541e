"""Cells of a table against cells of a table: does a claim hold, on what numbers, how surely."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

from blcf_utils.results.intervals import Interval, deciding, differences
from blcf_utils.results.published import dataset_of, table_info
from blcf_utils.results.tables import NOT_RUN

MOST_SPELLED_OUT = 6
VERDICTS = {True: "holds", False: "does not hold", None: "undecided"}
RELATIONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}

Key = tuple[str, str]  # row and column
Row = str | tuple[str, ...]  # of a tuple the greatest counts, of an empty one that of all rows
Outcome = bool | None  # None: undecided


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Return False when one surely fails, True when all surely hold, else None."""
    found = set(outcomes)
    return False if False in found else None if None in found else True


def any_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Return True when one surely holds, False when all surely fail, else None."""
    found = set(outcomes)
    return True if True in found else None if None in found else False


def fulfilled(relation: str, bound: float, low: float, high: float) -> Outcome:
    """Say whether all that lies between low and high has a relation to a bound, or none of it.

    ``within`` is two relations: at least -bound, and at most bound.
    """
    if relation == "within":
        return all_of([fulfilled(">=", -bound, low, high), fulfilled("<=", bound, low, high)])
    ends = {RELATIONS[relation](end, bound) for end in (low, high)}
    return ends.pop() if len(ends) == 1 else None


@dataclass(frozen=True)
class Cells:
    """The numbers of one table, published or measured.

    Attributes:
        table: its id.
        values: number of each cell.
        per_query: AP by query of the cells that are means over queries.
        instances: dataset to query to its instance, where known.
    """

    table: str
    values: Mapping[Key, float]
    per_query: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)
    instances: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

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
    """One left cell against one right cell, or against a bound where there is no right.

    Attributes:
        dataset: what both are about.
        row: of the left cell.
        difference: left - right, or left - bound.
        text: both cells for reading.
        queries: the difference by query, where both sides have APs.
        instances: the instances of the queries.
    """

    dataset: str
    row: str
    difference: float
    text: str
    queries: Mapping[str, float] = field(default_factory=dict)
    instances: Mapping[str, str] = field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """The interval of the difference, None without APs of queries."""
        return deciding([self.queries], [self.instances]) if self.queries else None


@dataclass(frozen=True)
class Claim:
    """How a claim is read: left cells against right cells, on every dataset that has both.

    A comparison *surely* fulfils the claim's relation when the whole interval of its difference
    does (95 %, the wider of the paired bootstraps by query and by instance), and surely violates
    it when no part of the interval fulfils it. Where there are no APs of queries (the slides'
    numbers, times, sizes, counts) the interval is the difference itself, so that nothing is
    undecided. Then, by ``rule``:

    - ``all``: holds when all comparisons surely fulfil it; does not hold when one surely violates
      it; else undecided.
    - ``any``: holds when one surely fulfils it; does not hold when all surely violate it; else
      undecided.
    - ``mean``: the interval is that of the mean over all comparisons. Each dataset's queries are
      drawn by themselves, a query with all the comparisons it is in.
    - ``differ``: whether the best row on the left is not the same on all datasets. A row may be
      the best of a dataset unless the best measured one surely beats it. Holds when no row may be
      the best everywhere, does not hold when the same one must be, else undecided.

    Of several rows (``best of``) the one with the greatest value is compared, as if it had been
    named beforehand. No correction is made for many comparisons or claims.

    Attributes:
        table: of the left cells.
        left, right: a row, or lists of rows that are taken pairwise; a single right row goes with
            each on the left. A table may lack rows on the left, but not on the right. Without
            ``right`` the left value itself is compared with ``bound``.
        columns: what follows a dataset's name in the columns.
        right_columns: the same on the right, where it differs; None for any column.
        right_table: of the right cells, where it differs.
        only: the datasets that the claim is about, where not all.
        rule: ``all``, ``any``, ``mean`` or ``differ``, as above.
        relation, bound: what left - right must be.
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
            (evidence, ``holds`` / ``does not hold`` / ``undecided`` / ``not run: <why>``, intervals
            of the mean difference by dataset, and over all for a mean, or "").
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
        lacking = [row for row in _listed(self.left) if row not in {c.row for c in found}]
        if self.rule == "mean" and lacking:  # a mean over some of its rows is another claim
            return "", f"{NOT_RUN}{self.table} has no measured {_names(lacking)}", ""
        if self.rule == "differ":
            if len(found) < 2:
                return "", f"{NOT_RUN}one dataset cannot differ", ""
            return self._evidence(found), VERDICTS[self._differ(left, found)], ""
        told = {
            name: mean_interval([c for c in found if c.dataset == name]) for name in _sets(found)
        }
        if self.rule == "mean":
            told["all"] = mean_interval(found)
            outcome = self._fits(_mean(found), told["all"])
        else:
            rule = all_of if self.rule == "all" else any_of
            outcome = rule(self._fits(c.difference, c.interval) for c in found)
        if len(told) == 2 and "all" in told:  # of one dataset
            del told["all"]
        shown = [f"{name}: {i} over {i.units} {i.unit}" for name, i in told.items() if i]
        return self._evidence(found), VERDICTS[outcome], "; ".join(shown)

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
                found.append(Comparison(dataset, key[0], _minus(value, self.bound), text))
                continue
            column = None if other is None else dataset + other
            others = right.find(theirs, column, "" if self.right_table else key[0])
            if not others or (isinstance(theirs, tuple) and len(others) < len(theirs)):
                continue
            best = max(others, key=right.values.__getitem__)
            where = "" if best[1] == key[1] else f" {best[1]}"
            where += f" in {self.right_table}" if self.right_table else ""
            text = (
                f"{key[1]}: {key[0]}{_best_of(keys)} {_digits(value)}, {best[0]}{where}"
                f"{_best_of(others)} {_digits(right.values[best])}"
            )
            found.append(_compared(dataset, (left, key), (right, best), text))
        return found

    def _differ(self, cells: Cells, found: list[Comparison]) -> Outcome:
        """Say whether no row may be the best of every dataset."""
        perhaps = []
        for best in found:
            (key,) = cells.find(best.row, best.dataset + self.columns[0])
            rivals = cells.find(_listed(self.left)[0], key[1], besides=best.row)
            against = [_compared(best.dataset, (cells, key), (cells, rival)) for rival in rivals]
            open_rows = {
                rival[0]
                for rival, one in zip(rivals, against, strict=True)
                if rival != key and not fulfilled(">", 0.0, *_ends(one.difference, one.interval))
            }
            perhaps.append({best.row} | open_rows)
        if not set.intersection(*perhaps):
            return True
        return False if len(set.union(*perhaps)) == 1 else None

    def _fits(self, difference: float, interval: Interval | None) -> Outcome:
        # Without a right side the difference is already against the bound.
        bound = 0.0 if self.right is None else self.bound
        if self.relation in ("<", ">") and interval and interval.low <= bound <= interval.high:
            return None  # also of [0, 0], as of two searches that are one where nothing is boxed
        return fulfilled(self.relation, bound, *_ends(difference, interval))

    def _evidence(self, found: list[Comparison]) -> str:
        """Spell the comparisons out, or sum them up by dataset where there are many."""
        if self.right is None or len(found) <= MOST_SPELLED_OUT:
            mean = [f"mean difference {_mean(found):+.3f}"]
            told = mean if self.rule == "mean" and len(found) > 1 else []
            return "; ".join([c.text for c in found] + told)
        parts = []
        for name in [*_sets(found), "all"]:
            part = [c for c in found if name in (c.dataset, "all")]
            values = [c.difference for c in part]
            outcomes = [self._fits(c.difference, c.interval) for c in part]
            undecided = f" ({outcomes.count(None)} undecided)" if None in outcomes else ""
            parts.append(
                f"{name}: mean difference {_mean(part):+.3f}, from {min(values):+.3f} to "
                f"{max(values):+.3f}, {sum(bool(self._fits(v, None)) for v in values)} of "
                f"{len(part)} {self.relation} {self.bound:g}{undecided}"
            )
        return "; ".join(parts)


def _compared(
    dataset: str, ours: tuple[Cells, Key], theirs: tuple[Cells, Key], text: str = ""
) -> Comparison:
    """Compare two cells, query by query where both have APs."""
    (left, key), (right, other) = ours, theirs
    difference = _minus(left.values[key], right.values[other])
    aps = left.per_query.get(key, {}), right.per_query.get(other, {})
    queries = differences(*aps) if aps[0].keys() & aps[1].keys() else {}
    found = Comparison(dataset, key[0], difference, text, queries, left.instances.get(dataset, {}))
    told = str(found.interval) if queries else f"{difference:+.3f}"
    return replace(found, text=f"{text} ({told})")


def mean_interval(found: list[Comparison]) -> Interval | None:
    """Return the interval of the mean difference; None unless every comparison has APs.

    A query's differences are averaged over the comparisons of its dataset first, so that a query
    is drawn once with all it contributes.
    """
    if not all(c.queries for c in found):
        return None
    sets, instances, shares = [], [], []
    for name in _sets(found):
        part = [c for c in found if c.dataset == name]
        shared = [q for q in part[0].queries if all(q in c.queries for c in part)]
        sets.append({q: sum(c.queries[q] for c in part) / len(part) for q in shared})
        instances.append(part[0].instances)
        shares.append(len(part) / len(found))
    return deciding(sets, instances, shares) if all(sets) else None


def _sets(found: list[Comparison]) -> list[str]:
    return list(dict.fromkeys(c.dataset for c in found))


def _ends(difference: float, interval: Interval | None) -> tuple[float, float]:
    return (interval.low, interval.high) if interval else (difference, difference)


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
    return round(sum(c.difference for c in found) / len(found), 12)


def _best_of(keys: list[Key]) -> str:
    return f" (best of {len(keys)})" if len(keys) > 1 else ""


def _digits(value: float) -> str:
    """Three decimals, or three significant digits where those would hide the value."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 10 else f"{value:.3g}"
