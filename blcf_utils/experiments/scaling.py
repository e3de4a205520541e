"""Table x09: a database that grows from photographs to drawn bags of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from blcf_utils.experiments.drawn.curves import MODES, Sized, SizedDatabase
from blcf_utils.ground.settings import digest_of
from blcf_utils.results.tables import Measurement
from blcf_utils.study.study import Study

TABLE = "x09_scaling"
MIXED, DRAWN, PHOTOGRAPHS = "photographs, then synthetic", "synthetic", "photographs"
# Sizes up to which drawn images alone stand around the wanted ones, beside photographs.
_COMPARED = 10


def measure_scaling(
    database: SizedDatabase, largest: int, each_decade: int = 2
) -> dict[str, list[Sized]]:
    """Measure databases up to a size; what stands around the wanted images to its sizes.

    The dataset's photographs come first, then drawn images. To tell how like photographs drawn
    images are as distractors, small databases are measured with drawn ones alone too, and with as
    many photographs as there are.
    """
    sizes = database.sizes(largest, each_decade=each_decade)
    own = database.photographs.shape[0]
    among = sorted({*database.sizes(own, len(database.wanted), 4 * each_decade), own})
    found = {
        PHOTOGRAPHS: database.measure([n for n in among if n <= own], PHOTOGRAPHS),
        DRAWN: database.measure(
            sorted({*among, *(n for n in sizes if n <= _COMPARED * own)}), DRAWN
        ),
    }
    database.release()
    found[MIXED] = database.measure(sizes, MIXED)
    database.release()
    return found


def scaling_table(
    study: Study, name: str, database: SizedDatabase, found: Mapping[str, Sequence[Sized]]
) -> pd.DataFrame:
    """Write what was measured at every size (table x09); nothing in it is extrapolated.

    Rows are sizes, columns the dataset's costs, and its mAP for what stands around the images that
    queries look for.
    """
    cells = []
    for around, sizes in found.items():
        for one in sizes:
            row = f"{one.images:,} images"
            digest = digest_of([study.config_digest(name), vars(database.law), around, one.images])
            if around == MIXED:
                cells += _costs(row, name, one, digest)
            for mode in MODES:
                column = f"{name}/{mode}" if around == MIXED else f"{name}/{mode}, {around} only"
                cells.append(
                    Measurement(
                        row,
                        column,
                        one.map(mode),
                        "measured",
                        round(one.seconds[mode], 4),
                        digest,
                        one.aps[mode],
                    )
                )
    cells.sort(key=lambda cell: int(cell.row.split()[0].replace(",", "")))
    return study.write_table(TABLE, cells)


def among_own(found: Mapping[str, Sequence[Sized]]) -> pd.DataFrame:
    """Return the mAP among the dataset's own photographs and among as many drawn images.

    One row a size; the columns say what stands around the images that queries look for.
    """
    lines = {}
    for one in found[PHOTOGRAPHS]:
        drawn = next(other for other in found[DRAWN] if other.images == one.images)
        line = {}
        for mode in MODES:
            line[f"{mode}, photographs"] = one.map(mode)
            line[f"{mode}, synthetic"] = drawn.map(mode)
        lines[one.images] = line
    return pd.DataFrame(lines).T.rename_axis("images")


def _costs(row: str, name: str, one: Sized, digest: str) -> list[Measurement]:
    costs = {
        "photographs": one.real,
        "entries": one.entries,
        "index (bytes)": one.bytes,
        "build (s)": round(one.build_seconds, 6),
        **{f"{mode}, postings of a query": one.touched[mode] for mode in MODES},
        **{f"{mode}, ms per query": round(one.milliseconds[mode], 6) for mode in MODES},
    }
    return [
        Measurement(row, f"{name}/{what}", value, config_digest=digest)
        for what, value in costs.items()
    ]
