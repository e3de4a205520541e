"""A model of what a database costs, fitted on measured sizes, and what it says beyond them.

Everything here that is not measured is called extrapolated, and stands in tables of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from blcf_utils.experiments.drawn.curves import MODES, TOP, Sized
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.boxes import Mode

# Of one result that a shard sends: the image's number and its score.
_RESULT_BYTES = 12


@dataclass(frozen=True)
class Line:
    """``fixed + slope * x``; both at least 0."""

    fixed: float
    slope: float

    def at(self, x):
        """Return the line's value at x."""
        return self.fixed + self.slope * np.asarray(x, float)

    def worst(self, x: Sequence[float], y: Sequence[float]) -> float:
        """Return the largest relative error at measured points."""
        return float(np.abs(self.at(x) / np.asarray(y, float) - 1).max())


@dataclass(frozen=True)
class Power:
    """``fixed + factor * x ** exponent``, with an exponent of at most 1."""

    fixed: float
    factor: float
    exponent: float

    def at(self, x):
        """Return the curve's value at x."""
        return self.fixed + self.factor * np.asarray(x, float) ** self.exponent


@dataclass(frozen=True)
class CostModel:
    """What a database of n images costs.

    Attributes:
        size: bytes of the inverted file against images.
        build: seconds of building it against images.
        postings: mode to the entries of a query's words per image of the database.
        linear: mode to milliseconds of a query against those entries: every one costs the same.
        sublinear: mode to milliseconds against entries with an exponent of their own: what a
            search that skips entries does on the measured sizes.
        measured: largest size measured.
        errors: what was fitted to the largest relative error at a measured size.
    """

    size: Line
    build: Line
    postings: dict[Mode, float]
    linear: dict[Mode, Line]
    sublinear: dict[Mode, Power]
    measured: int
    errors: dict[str, float]


@dataclass(frozen=True)
class Machine:
    """One shard's machine and the network between shards; what the extrapolation assumes.

    Attributes:
        memory: bytes of the index that a shard holds.
        round_trip: milliseconds from the one that asks to a shard and back.
        bandwidth: bytes per second that the one that asks can receive.
        cores: queries that a shard answers at a time.
    """

    memory: float = 48e9
    round_trip: float = 0.5
    bandwidth: float = 1.25e9
    cores: int = 16


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a line of least squared relative errors, so that no size outvotes the others.

    Raises:
        StudyError: fewer than two sizes.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) < 2:
        raise StudyError(
            "scaling: expected at least two measured sizes to fit a line; raise the largest size"
        )
    scale = x.max()  # both unknowns of one magnitude
    system = np.stack([1 / y, x / scale / y], axis=1)
    fixed, slope = nnls(system, np.ones(len(y)))[0]
    return Line(float(fixed), float(slope / scale))


def fit_power(x: Sequence[float], y: Sequence[float]) -> Power:
    """Fit a curve of least squared relative errors, with an exponent from 0.3 to 0.95, or 1.

    What a call costs anyway would pass for a small exponent, so it counts only where at least four
    measured points cost twice the least one; otherwise, and where it comes out above 0.95, which
    timings do not tell from 1, the curve is a line.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    telling = int((y >= 2 * y.min()).sum())
    best: tuple[float, Power] | None = None
    for exponent in np.linspace(0.3, 1, 71) if telling >= 4 else (1.0,):
        line = fit_line(x**exponent, y)
        error = float(((line.at(x**exponent) / y - 1) ** 2).sum())
        if best is None or error < best[0]:
            best = error, Power(line.fixed, line.slope, float(exponent))
    if best[1].exponent > 0.95:
        line = fit_line(x, y)
        return Power(line.fixed, line.slope, 1.0)
    return best[1]


def fit_costs(found: Sequence[Sized]) -> CostModel:
    """Fit the model to what was measured at several sizes."""
    images = [one.images for one in found]
    touched = {mode: [one.touched[mode] for one in found] for mode in MODES}
    times = {mode: [one.milliseconds[mode] for one in found] for mode in MODES}
    largest = max(found, key=lambda one: one.images)
    sizes, builds = [one.bytes for one in found], [one.build_seconds for one in found]
    size, build = fit_line(images, sizes), fit_line(images, builds)
    linear = {mode: fit_line(touched[mode], times[mode]) for mode in MODES}
    errors = {"size": size.worst(images, sizes), "build": build.worst(images, builds)}
    errors |= {mode: linear[mode].worst(touched[mode], times[mode]) for mode in MODES}
    return CostModel(
        size=size,
        build=build,
        postings={mode: largest.touched[mode] / largest.images for mode in MODES},
        linear=linear,
        sublinear={mode: fit_power(touched[mode], times[mode]) for mode in MODES},
        measured=largest.images,
        errors=errors,
    )


def extrapolate(
    model: CostModel,
    sizes: Sequence[int] = (10_000_000, 100_000_000, 1_000_000_000),
    machine: Machine | None = None,
) -> pd.DataFrame:
    """Return what databases of sizes that were not measured would cost, one row a size.

    Shards are machines of one kind that each hold an equal part of the images in memory and are
    asked at once, so a query takes the time of one shard, a round trip, and the receipt of every
    shard's first 100 images. Merging them is not counted: it is a sort of shards * 100 numbers.

    Returns:
        Columns: index (GB), shards, images a shard, build (min) of one shard on one core; for each
        mode, on one core of every shard, ``<mode> (ms)`` where every entry is read and, if less
        was measured, ``<mode>, skipping (ms)`` where that exponent goes on; network (ms) is
        contained in both.
    """
    machine = machine or Machine()
    lines = {}
    for size in sizes:
        total = float(model.size.at(size))
        shards = max(1, int(np.ceil(total / machine.memory)))
        held = size / shards
        network = machine.round_trip + 1e3 * shards * TOP * _RESULT_BYTES / machine.bandwidth
        line = {
            "index (GB)": total / 1e9,
            "shards": shards,
            "images a shard": round(held),
            "build (min)": float(model.build.at(held)) / 60,
            "network (ms)": network,
        }
        for mode in MODES:
            entries = model.postings[mode] * held
            read = float(model.linear[mode].at(entries))
            line[f"{mode} (ms)"] = read + network
            if model.sublinear[mode].exponent < 1:
                skipping = float(model.sublinear[mode].at(entries))
                line[f"{mode}, skipping (ms)"] = skipping + network
            line[f"{mode} queries/s"] = 1e3 * machine.cores / read
        lines[size] = line
    table = pd.DataFrame(lines).T.rename_axis("images, extrapolated")
    return table.astype({"shards": int, "images a shard": int})


def assumptions(model: CostModel, machine: Machine | None = None) -> str:
    """Return what an extrapolation rests on, one line each, for printing beside it."""
    machine = machine or Machine()
    lines = {
        "measured up to": f"{model.measured:,} images; everything beyond is extrapolated",
        "size": f"{model.size.slope:,.0f} bytes an image, as measured: words an image and their "
        "law stay, whatever else is photographed",
        "query": "words of a query stay as they are; each meets the same share of the images",
        "every entry read": ", ".join(
            f"{mode}: {1e6 * model.linear[mode].slope:.2f} ns an entry" for mode in MODES
        ),
        "skipping": _skipping(model),
        "worst fit": ", ".join(f"{what}: {error:.0%}" for what, error in model.errors.items())
        + " off at a measured size",
        "shard": f"{machine.memory / 1e9:.0f} GB of index in memory, {machine.cores} cores with "
        "bandwidth of memory for all of them",
        "network": f"{machine.round_trip} ms a round trip, {machine.bandwidth / 1e9:.2f} GB/s to "
        "the one that asks; no shard is late",
    }
    return "\n".join(f"{what:17} {assumed}" for what, assumed in lines.items())


def _skipping(model: CostModel) -> str:
    fitted = {mode: model.sublinear[mode].exponent for mode in MODES}
    if min(fitted.values()) == 1:
        return "none was measured: time follows the entries"
    powers = ", ".join(
        f"{mode}: entries to the power {power:.2f}" for mode, power in fitted.items()
    )
    return f"{powers}, as fitted on measured sizes; nothing proves that it goes on"
