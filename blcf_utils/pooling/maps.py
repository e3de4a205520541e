"""What pooling methods read: feature maps with optional weights and box, as rows of positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blcf_utils.ground.errors import StudyError
from blcf_utils.search.windows import Window


@dataclass(frozen=True)
class Positions:
    """The local descriptors that take part in pooling, row by row of the window.

    Attributes:
        values: (B, n, C) float32, C-contiguous, n = h * w.
        weights: (B, n) float32; None where every position counts 1.
        shape: (h, w) of the window.
        single: one map was given, without a batch axis.
    """

    values: np.ndarray
    weights: np.ndarray | None
    shape: tuple[int, int]
    single: bool

    def weighted(self) -> np.ndarray:
        """Return the local descriptors times their weights, (B, n, C)."""
        return self.values if self.weights is None else self.values * self.weights[:, :, None]

    def vectors(self, pooled: np.ndarray) -> np.ndarray:
        """Return pooled vectors (B, ...) as they were asked for: without B for a single map."""
        return pooled[0] if self.single else pooled


def positions(
    maps: np.ndarray, weights: np.ndarray | None = None, box: Window | None = None
) -> Positions:
    """Return the positions of feature maps that take part in pooling.

    Args:
        maps: (C, h, w), or (B, C, h, w) for images of one size. Views of position-major memory,
            such as ``Features.map`` gives, are not copied.
        weights: (h, w), or (B, h, w), of the whole map: how much each position counts, of at least
            0; booleans leave positions out.
        box: window (y0, y1, x0, x1) of the map in cells, ends excluded; all of it when None.

    Raises:
        StudyError: another number of axes, weights of another shape, or a box without cells or
            outside the map.
    """
    maps = np.asarray(maps)
    if maps.ndim not in (3, 4):
        raise StudyError(
            f"feature maps: expected (C, h, w) or (B, C, h, w), found shape {maps.shape}; add or "
            "drop axes"
        )
    single = maps.ndim == 3
    batch = maps[None] if single else maps
    count, channels, height, width = batch.shape
    if weights is not None:
        weights = np.asarray(weights, np.float32)
        if weights.shape not in ((height, width), (count, height, width)):
            raise StudyError(
                f"weights: expected {(height, width)} as the feature map has, one map or one per "
                f"image, found {weights.shape}; resize them to the map"
            )
        weights = np.broadcast_to(weights, (count, height, width))
    if box is not None:
        y0, y1, x0, x1 = box
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise StudyError(
                f"box {tuple(int(v) for v in box)}: expected 0 <= y0 < y1 <= {height} and "
                f"0 <= x0 < x1 <= {width}, the cells of the feature map"
            )
        batch = batch[:, :, y0:y1, x0:x1]
        weights = None if weights is None else weights[:, y0:y1, x0:x1]
        height, width = batch.shape[2:]
    rows = batch.transpose(0, 2, 3, 1).reshape(count, height * width, channels)
    rows = np.ascontiguousarray(rows, np.float32)
    if weights is not None:
        weights = np.ascontiguousarray(weights.reshape(count, height * width))
    return Positions(rows, weights, (height, width), single)
