"""Bootstrap intervals of every measured mean over queries, and of its gain over the first row.

Queries of one instance (a building, an object) share its positives and succeed or fail together,
so that a set of 75 queries of 6 objects tells about 6 objects rather than 75. Therefore two things
are drawn: queries, and instances with all their queries (the cluster bootstrap: Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The wider interval of the two
decides what a number can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.published import dataset_of
from blcf_utils.results.tables import read_per_query

KEY = ("table", "row", "column")
INSTANCES = "per_query/instances.csv"
COLUMNS = (
    "mean", "low", "high", "queries", "gain", "gain_low", "gain_high",
    "instances", "instance_low", "instance_high", "gain_instance_low", "gain_instance_high",
)  # fmt: skip
Values = Mapping[str, float]  # by query


@dataclass(frozen=True)
class Interval:
    """A mean with its interval, and what was drawn for it.

    Attributes:
        mean, low, high: of the values.
        units: how many were drawn.
        unit: ``queries`` or ``instances``.
    """

    mean: float
    low: float
    high: float
    units: int
    unit: str = "queries"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bootstrap(
    sets: Sequence[Values],
    instances: Sequence[Mapping[str, str]] = (),
    shares: Sequence[float] = (1.0,),
    *,
    samples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of values, or of the means of several sets, with its percentile interval.

    Each set is drawn from by itself. Percentiles are those that make up for few units (Hesterberg,
    What Teachers Should Know about the Bootstrap, 2015, section 5.3.2): with n units the tail is
    the normal distribution's beyond sqrt(n / (n - 1)) times Student's quantile. One unit tells
    nothing: its interval has no ends.

    Args:
        sets: values by query, of one set or of several.
        instances: for each set the instance of its queries, to draw these; a query that it lacks
            is an instance by itself. Without it, queries are drawn.
        shares: what the mean of each set counts in the whole.
        samples: bootstrap samples.
        seed: of the draws; the same seed gives the same interval.
        level: coverage, 0.95 for a 95 % interval.
    """
    drawn, mean, units = np.zeros(samples), 0.0, []
    for number, (values, share) in enumerate(zip(sets, shares, strict=True)):
        of = instances[number] if instances else {}
        groups: dict[str, list[float]] = {}
        for query, value in values.items():
            groups.setdefault(of.get(query, query), []).append(value)
        sums = np.array([sum(group) for group in groups.values()])
        sizes = np.array([len(group) for group in groups.values()], dtype=float)
        times = _draws(len(groups), samples, seed + number)
        drawn += share * (times @ sums) / (times @ sizes)
        mean += share * float(sums.sum() / sizes.sum())
        units.append(len(groups))
    if min(units) < 2:
        low, high = -np.inf, np.inf
    else:
        few = min(units)
        student = stats.t.ppf((1 + level) / 2, few - 1) * np.sqrt(few / (few - 1))
        low, high = np.quantile(drawn, [stats.norm.cdf(-student), stats.norm.cdf(student)])
    unit = "instances" if instances else "queries"
    # Twelve digits: the last bits of a sum in binary must not tell 0 from less than 0.
    return Interval(
        round(mean, 12), *(round(float(end), 12) for end in (low, high)), sum(units), unit
    )


@lru_cache(maxsize=8)
def _draws(units: int, samples: int, seed: int) -> np.ndarray:
    """Return how many times each unit is drawn, (samples, units)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=samples).astype(float)


def deciding(
    sets: Sequence[Values], instances: Sequence[Mapping[str, str]], shares: Sequence[float] = (1.0,)
) -> Interval:
    """Return the wider of the interval by query and that by instance."""
    by_query, by_instance = bootstrap(sets, shares=shares), bootstrap(sets, instances, shares)
    return max(by_query, by_instance, key=lambda one: one.high - one.low)


def differences(a: Values, b: Values) -> dict[str, float]:
    """Return a - b for the queries that both have.

    Raises:
        StudyError: there is none.
    """
    shared = {query: a[query] - b[query] for query in a if query in b}
    if not shared:
        raise StudyError(
            f"paired bootstrap: expected queries that both systems have, found none among "
            f"{len(a)} and {len(b)}"
        )
    return shared


def paired_bootstrap(
    a: Values, b: Values, instances: Mapping[str, str] | None = None, **options
) -> tuple[float, float, float]:
    """Return the mean of a - b over the queries both have, with its bootstrap interval.

    The two systems' APs of a query are always drawn together (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13; in retrieval Sakai, SIGIR 2006).

    Args:
        a: AP by query id.
        b: AP by query id of the other system.
        instances: of the queries; the interval is then the wider of those by query and by instance.
            Without it, by query.
        options: samples, seed and level of :func:`bootstrap`.

    Returns:
        (mean difference, low, high).

    Raises:
        StudyError: the two share no query.
    """
    shared = [differences(a, b)]
    found = bootstrap(shared, **options) if instances is None else deciding(shared, [instances])
    return found.mean, found.low, found.high


def write_instances(folder: Path, instances: Mapping[str, Mapping[str, str]]) -> None:
    """Write ``per_query/instances.csv``: dataset to query to the instance that it shows."""
    lines = [(name, *pair) for name, of in instances.items() for pair in of.items()]
    table = pd.DataFrame(lines, columns=["dataset", "query", "instance"])
    write_text(Path(folder) / INSTANCES, table.to_csv(index=False, lineterminator="\n"))


def read_instances(folder: Path) -> dict[str, dict[str, str]]:
    """Return what :func:`write_instances` wrote; nothing when it did not."""
    path = Path(folder) / INSTANCES
    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {
        name: dict(zip(part["query"], part["instance"], strict=True))
        for name, part in table.groupby("dataset", sort=False)
    }


def write_intervals(folder: Path, table_ids: Iterable[str]) -> pd.DataFrame:
    """Write ``tables/intervals.csv``: what a mean over so many queries can tell.

    Args:
        folder: the profile's results.
        table_ids: the tables; those without values per query are passed over.

    Returns:
        One line per measured mean, by table, row and column: ``mean`` with its 95 % bootstrap
        interval (``low``, ``high``) and the number of ``queries``; ``gain`` over the table's first
        row in the same column with its paired interval (``gain_low``, ``gain_high``); and the same
        intervals by instance with the number of ``instances``, blank where no query names one.
    """
    lines, known = [], read_instances(folder)
    for table_id in table_ids:
        first: dict[str, Values] = {}
        for (row, column), values in read_per_query(table_id, folder).items():
            gains = differences(values, first.setdefault(column, values))
            mean, gain = bootstrap([values]), bootstrap([gains])
            line = [table_id, row, column, mean.mean, mean.low, mean.high, mean.units]
            line += [gain.mean, gain.low, gain.high]
            of = known.get(dataset_of(column), {})
            if of.keys() & values.keys():
                mean, gain = bootstrap([values], [of]), bootstrap([gains], [of])
                line += [mean.units, mean.low, mean.high, gain.low, gain.high]
            lines.append(line + [None] * (len(KEY) + len(COLUMNS) - len(line)))
    table = pd.DataFrame(lines, columns=[*KEY, *COLUMNS]).set_index(list(KEY))
    table["instances"] = table["instances"].astype("Int64")
    text = table.round(4).to_csv(lineterminator="\n")
    write_text(Path(folder) / "tables" / "intervals.csv", text)
    return table


def show_intervals(table: pd.DataFrame, table_id: str) -> pd.DataFrame:
    """Return one table's intervals for reading: ``0.530 [0.471, 0.589], +0.012 [...]``.

    Each is the wider of the one by query and the one by instance.
    """
    if table_id not in table.index.get_level_values("table"):  # nothing measured
        return pd.DataFrame()
    part = table.loc[table_id]

    def wider(one: pd.Series, kind: str) -> tuple[float, float]:
        ends = [(one[f"{kind}{by}low"], one[f"{kind}{by}high"]) for by in ("", "instance_")]
        return max((e for e in ends if pd.notna(e[0])), key=lambda e: e[1] - e[0])

    shown = [
        "{:.3f} [{:.3f}, {:.3f}]".format(one["mean"], *wider(one, ""))
        + (
            ", {:+.3f} [{:+.3f}, {:+.3f}]".format(one["gain"], *wider(one, "gain_"))
            if one["gain"]
            else ""
        )
        for _, one in part.iterrows()
    ]
    spread = pd.Series(shown, index=part.index).unstack("column")
    rows, columns = (part.index.get_level_values(level).unique() for level in ("row", "column"))
    spread = spread.reindex(index=rows, columns=columns).fillna("–")
    spread.columns.name = None
    return spread
