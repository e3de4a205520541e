"""From a box in an image to cells of a feature or assignment map."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from blcf_utils.datasets.base import Box, Query
from blcf_utils.datasets.images import read_image
from blcf_utils.datasets.views import AS_IT_IS, View
from blcf_utils.ground.errors import StudyError, known

Projection = Literal["edges", "mask"]
Mode = Literal["gs", "ls"]


def query_cells(
    query: Query,
    size: tuple[int, int],
    shape: tuple[int, int],
    mode: Mode,
    projection: Projection = "edges",
    view: View = AS_IT_IS,
) -> np.ndarray:
    """Return which cells of the query's map take part in the search, boolean (h, w).

    Global search (``gs``) takes them all, local search (``ls``) those of the query's mask or box;
    none, when a ``view`` of the query image shows nothing of its box.

    Raises:
        StudyError: an unknown mode, a query image that was left out, a box outside the image.
    """
    if mode not in ("gs", "ls"):
        raise known("search mode", mode, ("gs", "ls"))
    if 0 in shape:
        raise StudyError(
            f"query {query.id}: its image {query.image.name} did not decode and was left out; "
            "replace the file and run again"
        )
    if mode == "gs":
        return np.ones(shape, bool)
    if query.mask is not None:
        return mask_cells(query.mask, shape, view)
    check_box(query.box, tuple(size))
    if not view.sees(query.box, tuple(size)):
        return np.zeros(shape, bool)
    return box_cells(view.box(query.box, tuple(size)), tuple(size), shape, projection)


def check_box(box: Box | None, size: tuple[int, int]) -> None:
    """Check that a box (x1, y1, x2, y2) has an area inside an image of ``size``.

    Raises:
        StudyError: it has none.
    """
    if box is None:
        return
    try:
        x1, y1, x2, y2 = box
        inside = x1 < x2 and y1 < y2 and x1 < size[0] and y1 < size[1] and x2 > 0 and y2 > 0
    except (TypeError, ValueError):  # not four, or no numbers
        inside = False
    if not inside:
        raise StudyError(
            f"box {box}: expected x1 < x2 and y1 < y2 inside an image of {size[0]}x{size[1]} pixels"
        )


def read_box(text: str) -> Box | None:
    """Read a box ``x1,y1,x2,y2`` in pixels; blank for the whole image.

    Raises:
        StudyError: not four numbers.
    """
    if not text.strip():
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ValueError
    except ValueError:
        raise StudyError(
            f"box {text!r}: expected x1,y1,x2,y2, four numbers in pixels of the image"
        ) from None
    return x1, y1, x2, y2


def box_cells(
    box: Box | None, size: tuple[int, int], shape: tuple[int, int], projection: Projection = "edges"
) -> np.ndarray:
    """Return which cells of a map belong to a box, as a boolean (h, w) array.

    Args:
        box: (x1, y1, x2, y2) in pixels of an image of ``size``; None for the whole image.
        size: (width, height) of that image in pixels.
        shape: (h, w) of the map.
        projection: ``edges`` takes the cells from floor(x1 w / W) to ceil(x2 w / W), every cell
            that the box touches (the ICMR 2016 code); ``mask`` the cells half covered or more along
            both sides, where the box's pixels, resized bilinearly to the map, are at least a half
            (the CBMI 2018 code), which can lose a very small box: then the nearest cell is taken.

    Returns:
        At least one cell is always True.

    Raises:
        StudyError: a box outside the image, or without area.
    """
    height, width = shape
    if box is None:
        return np.ones((height, width), bool)
    check_box(box, size)
    x1, y1, x2, y2 = box
    left, right = np.clip([x1, x2], 0, size[0]) * (width / size[0])
    top, bottom = np.clip([y1, y2], 0, size[1]) * (height / size[1])
    if projection == "edges":
        # A border that misses a cell's edge by rounding noise does not touch the cell.
        columns = _between(np.floor(left + 1e-6), np.ceil(right - 1e-6), width)
        rows = _between(np.floor(top + 1e-6), np.ceil(bottom - 1e-6), height)
        return np.logical_and.outer(rows, columns)
    rows, columns = _overlap(top, bottom, height), _overlap(left, right, width)
    return _keep_one(np.logical_and.outer(rows >= 0.5, columns >= 0.5), np.outer(rows, columns))


def mask_cells(mask: Path, shape: tuple[int, int], view: View = AS_IT_IS) -> np.ndarray:
    """Return the cells of a map that belong to a binary mask image, boolean (h, w).

    Used for TRECVID topics. As in the ICMR 2016 code the mask is read at the map's positions, whose
    corners are its own, and interpolated bilinearly; what is above 0 counts, which widens the mask
    by less than a pixel. A mask that lies between all positions keeps the one nearest to its
    middle.

    Raises:
        StudyError: an unreadable or an empty mask.
    """
    pixels = read_image(mask, alpha="drop").max(axis=2) > 0
    if not pixels.any():
        raise StudyError(f"{mask}: expected a mask with at least one pixel above 0, found none")
    left, top, right, bottom = (round(edge) for edge in view.part(pixels.shape[::-1]))
    pixels = pixels[top:bottom, left:right]
    pixels = pixels[:, ::-1] if view.flip else pixels
    factors = np.divide(shape, pixels.shape)
    cells = ndimage.zoom(pixels.astype(np.float32), factors, order=1) > 0
    if pixels.any() and not cells.any():
        steps = np.subtract(shape, 1) / np.maximum(np.subtract(pixels.shape, 1), 1)
        cells[tuple(np.round(np.argwhere(pixels).mean(axis=0) * steps).astype(int))] = True
    return cells


def _between(first: float, end: float, cells: int) -> np.ndarray:
    first = min(int(first), cells - 1)
    positions = np.arange(cells)
    return (positions >= first) & (positions < max(int(end), first + 1))


def _overlap(low: float, high: float, cells: int) -> np.ndarray:
    """Return the share of each unit cell that the interval (low, high) covers."""
    edges = np.arange(cells)
    return np.clip(np.minimum(high, edges + 1) - np.maximum(low, edges), 0, 1)


def _keep_one(cells: np.ndarray, covered: np.ndarray) -> np.ndarray:
    if not cells.any():
        cells.flat[covered.argmax()] = True
    return cells
