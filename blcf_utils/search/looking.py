"""Which queries and images a notebook looks at: some that differ, the best, the worst."""

from __future__ import annotations

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.search.localisation import Localisation, localise
from blcf_utils.search.query import Ranking
from blcf_utils.search.recipes import Searcher


def varied_queries(dataset: Dataset, count: int) -> list[Query]:
    """Return queries of different instances, spread over the dataset."""
    first = {query.instance or query.id: query for query in reversed(dataset.queries)}
    queries = list(first.values())[::-1]
    return queries[:: max(1, len(queries) // count)][:count]


def positive_images(dataset: Dataset, query: Query, count: int) -> list[int]:
    """Return the numbers of some images that show the query's instance."""
    return [dataset.image_of(unit) for unit in query.positives[:count]]


def other_images(dataset: Dataset, query: Query, count: int) -> list[int]:
    """Return the numbers of some images, spread over the database, that do not show it."""
    known = {*query.positives, *query.junk}
    others = [i for i in range(len(dataset.images)) if dataset.unit_of(i) not in known]
    return others[:: max(1, len(others) // count)][:count]


def best_images(dataset: Dataset, query: Query, ranking: Ranking, count: int) -> list[int]:
    """Return the first images of a ranking, without junk and the query's own image.

    Of images that form one unit (TRECVID shots) only the first in the ranking is taken.
    """
    first: dict[int, int] = {}
    for image in ranking.images.tolist():
        unit = dataset.unit_of(image)
        if unit not in query.junk and dataset.images[image] != query.image:
            first.setdefault(unit, image)
        if len(first) == count:
            break
    return list(first.values())


def queries_by_gain(
    dataset: Dataset, better: Evaluation, than: Evaluation | None = None
) -> list[Query]:
    """Return a dataset's queries, largest AP (or AP gain over ``than``) first."""
    base = than.per_query if than else dict.fromkeys(better.per_query, 0.0)
    return sorted(dataset.queries, key=lambda q: base[q.id] - better.per_query[q.id])


def least_overlaps(searcher: Searcher, count: int) -> list[Localisation]:
    """Return where re-ranking misses most: the least overlap of each query, least first."""
    worst = []
    for query in searcher.base.dataset.queries:
        found = localise(searcher, query) if query.box is not None else []
        worst += sorted(found, key=lambda one: one.overlap)[:1]
    return sorted(worst, key=lambda one: one.overlap)[:count]
