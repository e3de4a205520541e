"""Table x02: how well the windows of re-ranking localise the query."""

from __future__ import annotations

import numpy as np
import pandas as pd

from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.search.localisation import localise
from blcf_utils.study.study import Study

ROWS = {
    "re-ranking's window": lambda found: found.overlap,
    "the whole image": lambda found: found.whole,
    "the best of all windows": lambda found: found.possible,
}


def localisation_table(study: Study) -> pd.DataFrame:
    """Measure the overlap of localised windows with known boxes (table x02).

    The mean intersection over union, per query over its relevant images whose box is known and
    then over queries; and the share of images in which it reaches one half.
    """
    cells = []
    for name in study.datasets:
        bench = study.open(name)
        searcher, digest = bench.searcher(), bench.config_digest()
        queries = progress(bench.dataset.queries, label=f"localise {name}", unit="query")
        found = {q.id: localise(searcher, q) for q in queries if q.box is not None}
        found = {query: images for query, images in found.items() if images}
        for row, overlap in ROWS.items():
            if not found:
                status = "not run: no box of a relevant image is known"
                cells.append(Measurement(row, name, None, status))
                continue
            overlaps = {q: np.array([overlap(i) for i in images]) for q, images in found.items()}
            for column, values in (
                (name, {q: float(o.mean()) for q, o in overlaps.items()}),
                (f"{name}/half", {q: float((o >= 0.5).mean()) for q, o in overlaps.items()}),
            ):
                value = float(np.mean(list(values.values())))
                cells.append(
                    Measurement(row, column, value, config_digest=digest, per_query=values)
                )
    return study.results.table("x02_localisation", cells)
