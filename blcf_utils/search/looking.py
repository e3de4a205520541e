"""Which queries and images a notebook looks at: some that differ, the best, the worst."""

from __future__ import annotations

from collections.abc import Callable

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import Evaluation
from blcf_utils.search.localisation import Localisation, localise
from blcf_utils.search.query import Ranking
from blcf_utils.search.recipes import Searcher


class StudyQueries:
    """The part of a study that picks queries and images of its datasets to look at."""

    dataset: Callable[[str], Dataset]
    searcher: Callable[[str], Searcher]

    def varied_queries(self, name: str, count: int) -> list[Query]:
        """Return queries of different instances, spread over the dataset."""
        queries = self.dataset(name).queries
        first = {query.instance or query.id: query for query in reversed(queries)}
        queries = list(first.values())[::-1]
        return queries[:: max(1, len(queries) // count)][:count]

    def query(self, name: str, number: int) -> Query:
        """Return a dataset's query by its number.

        Raises:
            StudyError: no such query.
        """
        queries = self.dataset(name).queries
        if not 0 <= number < len(queries):
            raise StudyError(
                f"{name}: expected a query number from 0 to {len(queries) - 1}, found {number}"
            )
        return queries[number]

    def positive_images(self, name: str, query: Query, count: int) -> list[int]:
        """Return the numbers of some images that show the query's instance."""
        dataset = self.dataset(name)
        return [dataset.image_of(unit) for unit in query.positives[:count]]

    def other_images(self, name: str, query: Query, count: int) -> list[int]:
        """Return the numbers of some images, spread over the database, that do not show it."""
        dataset = self.dataset(name)
        known = {*query.positives, *query.junk}
        others = [i for i in range(len(dataset.images)) if dataset.unit_of(i) not in known]
        return others[:: max(1, len(others) // count)][:count]

    def best_images(self, name: str, query: Query, ranking: Ranking, count: int) -> list[int]:
        """Return the first images of a ranking, without junk and the query's own image.

        Of images that form one unit (TRECVID shots) only the first in the ranking is taken.
        """
        dataset, first = self.dataset(name), {}
        for image in ranking.images.tolist():
            unit = dataset.unit_of(image)
            if unit not in query.junk and dataset.images[image] != query.image:
                first.setdefault(unit, image)
            if len(first) == count:
                break
        return list(first.values())

    def queries_by_gain(
        self, name: str, better: Evaluation, than: Evaluation | None = None
    ) -> list[Query]:
        """Return a dataset's queries, largest AP (or AP gain over ``than``) first."""
        base = than.per_query if than else dict.fromkeys(better.per_query, 0.0)
        queries = self.dataset(name).queries
        return sorted(queries, key=lambda q: base[q.id] - better.per_query[q.id])

    def localise_worst(self, name: str, count: int) -> list[Localisation]:
        """Return where re-ranking misses most: the least overlap of each query, least first."""
        searcher, worst = self.searcher(name), []
        for query in self.dataset(name).queries:
            found = localise(searcher, query) if query.box is not None else []
            worst += sorted(found, key=lambda one: one.overlap)[:1]
        return sorted(worst, key=lambda one: one.overlap)[:count]
