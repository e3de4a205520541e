"""Table x11: how many words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from blcf_utils.experiments.search import search_cells
from blcf_utils.ground.progress import progress
from blcf_utils.results.tables import Measurement
from blcf_utils.study.pipeline import EXACT
from blcf_utils.study.study import Study


def codebook_size_table(
    study: Study, dataset: str = "", words: Sequence[int] = (), exact: int = EXACT
) -> pd.DataFrame:
    """Measure codebooks of several sizes, and the profile's own, on one dataset (table x11).

    A row is K; columns are the mAP of global and local search, bytes and distinct words of an
    image, and the recall of assignment where it is approximate.

    Args:
        study: the study.
        dataset: one of its datasets; the first one when empty.
        words: the K beside the profile's own.
        exact: larger ones of these are learned and assigned by approximate search.
    """
    cells = []
    own = study.profile.codebook.words
    for count in progress(sorted({*words, own}), label="codebook sizes", unit="codebook"):
        bench = study.open(dataset).with_words(count, exact)
        row, name, digest = str(count), bench.name, bench.config_digest()
        cells += search_cells(bench, (row, row), (f"{name}/gs", f"{name}/ls"))
        index, quality = bench.index(), bench.maps.quality
        found = {
            "bytes an image": index.nbytes / index.n_images,
            "distinct words an image": index.entries / index.n_images,
        }
        if quality:
            found["recall of assignment"] = quality["recall"]
        cells += [
            Measurement(row, f"{name}/{what}", float(value), config_digest=digest)
            for what, value in found.items()
        ]
    return study.results.table("x11_codebook_size", cells)
