"""Table x09: a database that grows from photographs to drawn bags of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from blcf_utils.experiments.drawn.curves import (
    DRAWN,
    MIXED,
    MODES,
    PHOTOGRAPHS,
    Sized,
    SizedDatabase,
)
from blcf_utils.ground.settings import digest_of
from blcf_utils.results.tables import Measurement
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

TABLE = "x09_scaling"
# Times the dataset's size up to which drawn images alone stand around the wanted ones.
_COMPARED = 10


def measure_scaling(database: SizedDatabase, largest: int) -> dict[str, list[Sized]]:
    """Measure databases up to a size; return what stands around the wanted images to its sizes.

    The dataset's photographs come first, then drawn images. To tell how like photographs drawn
    images are as distractors, small databases are measured with drawn ones alone too, and with as
    many photographs as there are.
    """
    sizes, own = database.sizes(largest), database.photographs.shape[0]
    among = database.sizes(own, len(database.wanted), each_decade=8)
    drawn = sorted({*among, *(n for n in sizes if n <= _COMPARED * own)})
    return {
        PHOTOGRAPHS: database.measure(among, PHOTOGRAPHS),
        DRAWN: database.measure(drawn, DRAWN),
        MIXED: database.measure(sizes, MIXED),
    }


def scaling_table(
    study: Study, bench: Pipeline, database: SizedDatabase, found: Mapping[str, Sequence[Sized]]
) -> pd.DataFrame:
    """Write what was measured at every size (table x09); nothing in it is extrapolated.

    Rows are sizes, columns the dataset's costs, and its mAP for what stands around the images that
    queries look for.
    """
    cells, name = [], bench.name
    measured = [(around, one) for around, sizes in found.items() for one in sizes]
    for around, one in sorted(measured, key=lambda pair: pair[1].images):
        row, only = f"{one.images:,} images", "" if around == MIXED else f", {around} only"
        digest = digest_of([bench.config_digest(), vars(database.law), around, one.images])
        costs = {
            "photographs": one.real,
            "entries": one.entries,
            "index (bytes)": one.bytes,
            "build (s)": round(one.build_seconds, 6),
            **{f"{mode}, postings of a query": one.touched[mode] for mode in MODES},
            **{f"{mode}, ms per query": round(one.milliseconds[mode], 6) for mode in MODES},
        }
        if around == MIXED:
            cells += [
                Measurement(row, f"{name}/{what}", value, config_digest=digest)
                for what, value in costs.items()
            ]
        cells += [
            Measurement(
                row,
                f"{name}/{mode}{only}",
                one.map(mode),
                seconds=round(one.seconds[mode], 4),
                config_digest=digest,
                per_query=one.aps[mode],
            )
            for mode in MODES
        ]
    return study.results.table(TABLE, cells)


def among_own(found: Mapping[str, Sequence[Sized]]) -> pd.DataFrame:
    """Return the mAP among the dataset's own photographs and among as many drawn images.

    One row a size; the columns say what stands around the images that queries look for.
    """
    columns = {
        f"{mode}, {around}": {one.images: one.map(mode) for one in found[around]}
        for mode in MODES
        for around in (PHOTOGRAPHS, DRAWN)
    }
    return pd.DataFrame(columns).dropna().rename_axis("images")
