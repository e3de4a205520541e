"""Verdicts: measured beside published values of the same dataset and network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from blcf_utils.results.published import TableInfo, dataset_of, table_info
from blcf_utils.results.tables import read_table

VERDICT = ("row", "column", "published", "measured", "difference", "tolerance", "verdict", "reason")


def _network(label: str) -> tuple[str, str]:
    """Split ``vgg16 conv5_1 (torchvision)`` into network and layer, and origin of the weights."""
    name, _, origin = label.partition(" (")
    return name.strip(), origin.rstrip(") ")


def _not_comparable(
    info: TableInfo, row: str, column: str, context: Mapping[str, str]
) -> str | None:
    for key in (row, column, dataset_of(column)):
        if key in info.not_comparable:
            return info.not_comparable[key]
    published = info.row_backbones.get(row, info.backbone)
    if published is None:
        return None
    if published == "unknown":
        return "the slides do not name the network and layer"
    if "backbone" not in context:
        return "the run's backbone was not given"
    # A row that was published with the layer of the full resolution is measured with it, too.
    labels = context["backbone"], context.get("full resolution", context["backbone"])
    label = labels[1] if _network(labels[1])[0] == published else labels[0]
    name, origin = _network(label)
    if name != published:
        return f"measured with {label}, published with {published}"
    if origin in ("random", "embedded"):
        return f"measured with {origin} weights, published with ImageNet weights"
    return None


def _verdict(difference: float, tolerance: float) -> str:
    # Published values have three digits: a hair beyond the tolerance in binary is not beyond it.
    excess = abs(difference) - 1e-9
    return (
        "reproduced" if excess <= tolerance else "close" if excess <= 3 * tolerance else "differs"
    )


def verdicts(table_id: str, folder: Path, context: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Compare measured with published, like with like only: same dataset and same backbone.

    Args:
        table_id: id of a table in ``folder``.
        folder: the profile's results folder.
        context: what the run used, ``{"backbone": "vgg16 conv5_1 (torchvision)"}``
            (``BackboneConfig.label``), and ``full resolution`` where large images are pooled with
            another layer.

    Returns:
        Columns row, column, published, measured, difference, tolerance, verdict, reason. The
        verdict is reproduced (absolute difference up to the tolerance), close (up to 3 tolerances),
        differs, ``not run: <why>`` or ``not comparable: <why>``; the reason is the tolerance's.
    """
    info = table_info(table_id)
    lines = []
    for row, column, published, measured, status in read_table(table_id, folder)[
        ["row", "column", "published", "measured", "status"]
    ].itertuples(index=False):
        difference = tolerance = math.nan
        reason = ""
        if status != "measured":
            verdict = status
        elif pd.isna(published):
            verdict = "not comparable: the slides have no value for this cell"
        elif why := _not_comparable(info, row, column, context or {}):
            verdict = f"not comparable: {why}"
        elif isinstance(published, float) and isinstance(measured, float):
            difference = measured - published
            tolerance = info.tolerance * (abs(published) if info.relative else 1.0)
            verdict, reason = _verdict(difference, tolerance), info.tolerance_reason
        else:
            verdict = "reproduced" if measured == published else "differs"
            reason = "compared as text"
        lines.append((row, column, published, measured, difference, tolerance, verdict, reason))
    return pd.DataFrame(lines, columns=list(VERDICT))
