"""Table t01: what the datasets hold."""

from __future__ import annotations

import pandas as pd

from blcf_utils.experiments.measuring import published_rows
from blcf_utils.results.tables import Measurement
from blcf_utils.study.study import Study


def datasets_table(study: Study) -> pd.DataFrame:
    """Count images, instances and relevant images of every dataset (table t01)."""
    cells = []
    for name in study.datasets:
        bench = study.open(name)
        dataset, digest = bench.dataset, bench.config_digest()
        relevant = [len(query.positives) for query in dataset.queries]
        instances = {query.instance for query in dataset.queries}
        low, high = min(relevant), max(relevant)
        values = {
            "images": len(dataset.images),
            "instances": len(instances) if all(instances) else "not stated",
            "relevant_per_instance": f"{low}-{high}" if low < high else low,
            "domain": dataset.domain or "not stated",
            "queries": len(dataset.queries),
            "query image": dataset.protocol.query_image,
        }
        cells += [
            Measurement(name, column, value, config_digest=digest)
            for column, value in values.items()
        ]
    rows = dict.fromkeys(published_rows("t01_datasets"), f"not in profile {study.profile.name}")
    return study.results.table("t01_datasets", cells, not_run=rows)
