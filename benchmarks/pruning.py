"""What exact pruning could leave out of a search, with bounds as tight as they can be.

The score of the last image of the answer is taken as known from the start, and bounds are those of
the weights themselves. *Block-max*: blocks of images whose bound, the sum over the query's words of
their largest product in the block, is below that score need not be scored. *MaxScore*: images that
hold only words whose bounds together are below it need not be looked at, and of the others only
those go on to the last words whose bound is not below it. What this table says cannot be left out
no such pruning leaves out; ``--profile photos`` measures the histograms of photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from search import POSITIONS, bags
from side_by_side import machine, report

from blcf_utils.search.query import region_histogram
from blcf_utils.study.study import open_study
from blcf_utils.words.histograms import database_histograms

BLOCKS = (64, 512)
Query = tuple[np.ndarray, np.ndarray]


def could_skip(histograms: sparse.csc_array, query: Query, top: int) -> dict[str, float]:
    """Return what share of the work each kind of pruning leaves out for one query."""
    words, values = query
    products = histograms[:, words].toarray() * values  # (n, m)
    scores = products.sum(axis=1)
    least = np.sort(scores)[-top]
    found = {}
    for size in BLOCKS:
        highest = np.maximum.reduceat(products, np.arange(0, len(products), size), axis=0)
        found[f"blocks of {size} skipped"] = float((highest.sum(axis=1) < least).mean())
    bounds = products.max(axis=0)
    order = np.argsort(bounds, kind="stable")
    optional = order[np.cumsum(bounds[order]) < least]
    needed = np.setdiff1d(order, optional)
    held = products > 0
    found["images of no needed word"] = float((~held[:, needed].any(axis=1)).mean())
    found["postings of optional words"] = float(held[:, optional].sum() / max(held.sum(), 1))
    after = products[:, needed].sum(axis=1) + bounds[optional].sum()
    found["images below after needed words"] = float((after < least).mean())
    return found


def drawn(number: int, options) -> Iterator[tuple[str, str, sparse.csr_array, list[Query]]]:
    """Give name, mode, database and queries of drawn words."""
    database = bags(number, options.words, POSITIONS, seed=0)
    for mode, positions in (("GS", POSITIONS), ("LS", POSITIONS // 6)):
        asked = bags(options.queries, options.words, positions, seed=1)
        rows = (asked[[i]] for i in range(options.queries))
        yield "drawn", mode, database, [(row.indices, row.data) for row in rows]


def photographed(options) -> Iterator[tuple[str, str, sparse.csr_array, list[Query]]]:
    """Give the same of a profile's datasets."""
    study = open_study(options.profile)
    for name in study.datasets:
        base, database = study.searcher(name).base, database_histograms(study.maps(name))
        queries = base.dataset.queries[: options.queries]
        for mode in ("gs", "ls"):
            asked = [region_histogram(base.regions(query, mode)) for query in queries]
            yield name, mode.upper(), database, asked


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=int, nargs="+", default=[5_000, 100_000], metavar="N")
    parser.add_argument("--words", type=int, default=25_000, help="K")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--profile", help="measure its datasets instead of drawn words")
    options = parser.parse_args(arguments)
    start, rows, agree = machine(), [], True
    sources = [photographed(options)] if options.profile else []
    sources = sources or [drawn(number, options) for number in options.database]
    for source in sources:
        for name, mode, database, queries in source:
            columns = sparse.csc_array(database)
            shares = [could_skip(columns, query, options.top) for query in queries]
            means = {key: float(np.mean([one[key] for one in shares])) for key in shares[0]}
            agree &= all(0 <= share <= 1 for share in means.values())
            words = float(np.mean([len(query[0]) for query in queries]))
            images = {"data": name, "images": database.shape[0], "query": mode, "words": words}
            rows.append({**images, **means})
    report("pruning", rows, agree, start, otherwise="a share is none", **vars(options))


if __name__ == "__main__":
    main()
