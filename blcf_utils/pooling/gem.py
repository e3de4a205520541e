"""GeM: the generalised mean of each channel, between the mean (p = 1) and the maximum."""

from __future__ import annotations

import numpy as np

from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.maps import positions
from blcf_utils.search.windows import Window

_LEAST = 1e-6  # the authors' floor: activations below it count as it
_SMALLEST = 1e-36  # of a power, beside that of the maximum, 1


def gem_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    p: float = 3.0,
) -> np.ndarray:
    """Return (mean of x^p)^(1/p) of each channel: (C, h, w) to (C,), (B, C, h, w) to (B, C).

    Args:
        maps, weights, box: as for :func:`positions`; with weights the mean is a weighted one.
        p: exponent, at least 1; 1 is the mean, a large one comes near the maximum.

    Raises:
        StudyError: p below 1.

    Source: Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation",
    TPAMI 2019, equation 3.
    """
    if p < 1:
        raise StudyError(f"GeM: p: expected at least 1, found {p}; 1 is the mean")
    read = positions(maps, weights, box)
    values = np.maximum(read.values, _LEAST)
    if read.weights is not None:
        # What weighs nothing sets no scale: beside it the others would vanish.
        values = np.where(read.weights[:, :, None] > 0, values, np.float32(_LEAST))
    most = values.max(axis=1)
    # Relative to the maximum, so that a large p neither overflows nor vanishes.
    # Powers too small to count are kept from becoming subnormal numbers, which are slow.
    values /= most[:, None, :]
    np.maximum(values, np.float32(_SMALLEST ** (1 / p)), out=values)
    values **= np.float32(p)
    if read.weights is None:
        mean = values.mean(axis=1)
    else:
        share = read.weights / np.maximum(read.weights.sum(axis=1, keepdims=True), 1e-12)
        mean = np.matmul(share[:, None, :], values)[:, 0]
    return read.vectors((most * mean ** np.float32(1 / p)).astype(np.float32))
