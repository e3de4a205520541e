"""What marks results of a rehearsal, so that nobody can read them as measurements.

A value that came from stand-in pictures is no table's ``measured``: it stands in the cell's status,
as proof that the pipeline reached it. No values by query are kept, so there is no interval, no
verdict and no claim either. A file in the results folder says what stood in, for whatever writes
or shows results without a study at hand.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError

RESULTS_MARKER = "rehearsal.json"
STATUS = "not run: rehearsal on stand-in pictures"
STAMP = "REHEARSAL: stand-in pictures"


def rehearsed(measurement):
    """Return a ``Measurement`` that is not one: its value in its status, no values by query."""
    if measurement.status != "measured":
        return measurement
    value = measurement.value
    exact = isinstance(value, numbers.Integral) or not isinstance(value, numbers.Real)
    gave = str(value) if exact else f"{float(value):.4g}"
    return replace(
        measurement,
        value=None,
        status=f"{STATUS} (the pipeline gave {gave})",
        seconds=0.0,
        per_query=None,
    )


def banner(names: Iterable[str]) -> str:
    """Return the sentence that stands above what a rehearsal shows."""
    return (
        f"{STAMP}. What is shown here was computed on pictures that stand in for those of "
        f"{', '.join(names)}; nothing in it is a measurement."
    )


def stamp(figure: Figure) -> None:
    """Write across a figure that it is a rehearsal's."""
    figure.text(
        0.5,
        0.5,
        STAMP,
        ha="center",
        va="center",
        rotation=15,
        color="#d55e00",
        alpha=0.55,
        fontsize=min(28, 4.2 * figure.get_figwidth()),
        fontweight="bold",
        zorder=100,
    )


def mark_results(folder: Path, names: Iterable[str]) -> None:
    """Say in a results folder which datasets were stand-ins, beside those it names already."""
    known, path = rehearsed_datasets(folder), folder / RESULTS_MARKER
    names = sorted({*known, *names})
    if names and names != list(known):
        write_json(path, {"what": banner(names), "stand_ins": names})


def unmark_results(folder: Path) -> None:
    """Take the marker away: the datasets are their own again."""
    (folder / RESULTS_MARKER).unlink(missing_ok=True)


def rehearsed_datasets(folder: Path) -> tuple[str, ...]:
    """Return the datasets that were stand-ins in the run that wrote a results folder.

    Raises:
        StudyError: the marker is not one.
    """
    path = Path(folder) / RESULTS_MARKER
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8"))["stand_ins"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError):
        raise StudyError(
            f"{path}: expected the marker of a rehearsal's results; delete the file and run again"
        ) from None
