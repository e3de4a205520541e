"""Lines through what databases cost at measured sizes, and what they say beyond them.

What is not measured is called extrapolated, and stands in a table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from blcf_utils.experiments.drawn.curves import MODES, Sized
from blcf_utils.ground.errors import StudyError

BYTES, BUILD, QUERY = "index (bytes)", "build (s)", {mode: f"{mode} (ms)" for mode in MODES}


def fit_costs(found: Sequence[Sized]) -> pd.DataFrame:
    """Fit a line to each cost of databases of several sizes.

    Both its numbers are at least 0. Relative errors are squared, so that no size outvotes the
    others.

    Returns:
        Rows index (bytes), build (s) and ``<mode> (ms)``, a query's first 100 images; columns
        ``fixed``, ``slope`` (for each image) and ``worst``, the largest relative error at a
        measured size.

    Raises:
        StudyError: fewer than two sizes.
    """
    images = np.array([one.images for one in found], float)
    if len(images) < 2:
        raise StudyError(
            "scaling: expected at least two measured sizes to fit a line; raise the largest size"
        )
    costs = {BYTES: [one.bytes for one in found], BUILD: [one.build_seconds for one in found]}
    costs |= {QUERY[mode]: [one.milliseconds[mode] for one in found] for mode in MODES}
    fitted = {}
    for cost, values in costs.items():
        scale = images.max()  # both unknowns of one magnitude
        system = np.stack([np.ones(len(images)), images / scale], axis=1) / np.c_[values]
        fixed, slope = nnls(system, np.ones(len(images)))[0]
        fitted[cost] = fixed, slope / scale, np.abs(system @ (fixed, slope) - 1).max()
    columns = ["fixed", "slope", "worst"]
    return pd.DataFrame.from_dict(fitted, "index", columns=columns).rename_axis("cost")


def extrapolate(
    costs: pd.DataFrame,
    sizes: Sequence[int] = (10_000_000, 100_000_000, 1_000_000_000),
    memory: float = 48e9,
) -> pd.DataFrame:
    """Return what databases of sizes that were not measured would cost, one row a size.

    Shards are machines of one kind that each hold an equal part of the images in ``memory`` bytes
    and are asked at once, so a query takes the time of one shard. The network and merging the
    shards' answers are not counted.

    Args:
        costs: lines of :func:`fit_costs`.

    Returns:
        Columns index (GB), shards, images a shard, build (min) of one shard, and ``<mode> (ms)``;
        times are those of one core.
    """

    def at(cost: str, images):
        return costs.loc[cost, "fixed"] + costs.loc[cost, "slope"] * images

    table = pd.DataFrame(index=pd.Index(sizes, name="images, extrapolated"))
    table["index (GB)"] = at(BYTES, table.index) / 1e9
    table["shards"] = np.ceil(table["index (GB)"] * 1e9 / memory).astype(int)
    held = table.index / table["shards"]
    table["images a shard"] = held.round().astype(int)
    table["build (min)"] = at(BUILD, held) / 60
    for cost in QUERY.values():
        table[cost] = at(cost, held)
    return table
