"""R-MAC read as a spatial weighting: where its windows lie, and what normalising regions adds.

With sums in place of maxima, R-MAC adds every position once for each region that covers it:

    F = sum_r s_r = sum_ij alpha(i, j) f(i, j),   s_r the sum of region r,

where alpha(i, j) is the number of regions over (i, j), the *window location* factor. L2
normalisation of each region's sum, the first part of *region post-processing*, keeps this form
with alpha(i, j) = sum over the regions r over (i, j) of 1 / |s_r|. PCA whitening of a normalised
sum is P^T (s_r / |s_r| - m), so before its second normalisation F = P^T (sum_ij alpha f) - R P^T m:
the same alpha, projected, less a constant; the second normalisation multiplies each region's
1 / |s_r|, and its constant, by 1 / |P^T (s_r / |s_r| - m)|. What no alpha can give is the
maximum.

Source: Mohedano, "Deep image representations for instance search", chapter 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.rmac import rmac_pool, rmac_regions
from blcf_utils.words.whitening import Whitening


@dataclass(frozen=True)
class Decomposition:
    """R-MAC of one feature map and its reading as a weighting.

    Attributes:
        coverage: (h, w), the window location factor.
        alpha: (h, w), with the L2 normalisation of regions.
        by_coverage: (C,), the sum under ``coverage``.
        by_alpha: (C,), the sum under ``alpha``.
        rmac: (C,), maxima of regions, L2-normalised and added.
        cosine_sum, cosine_coverage, cosine_alpha: of ``rmac`` with the plain sum and the two.
    """

    coverage: np.ndarray
    alpha: np.ndarray
    by_coverage: np.ndarray
    by_alpha: np.ndarray
    rmac: np.ndarray
    cosine_sum: float
    cosine_coverage: float
    cosine_alpha: float


def location_weights(shape: tuple[int, int], levels: int = 3) -> np.ndarray:
    """Return how many R-MAC regions cover each cell, (h, w): the window location factor."""
    return _covered(shape, levels, np.ones(len(rmac_regions(shape, levels))))


def _covered(shape: tuple[int, int], levels: int, gains: np.ndarray) -> np.ndarray:
    """Return the sum, for each cell, of the gains of the regions that cover it."""
    total = np.zeros(shape)
    for (y0, y1, x0, x1), gain in zip(rmac_regions(shape, levels), gains, strict=True):
        total[y0:y1, x0:x1] += gain
    return total


def region_sums(feature_map: np.ndarray, levels: int = 3) -> np.ndarray:
    """Return the sum of each R-MAC region, (C, h, w) to (R, C), through an integral image."""
    read = positions(feature_map)
    rows = read.values[0].reshape(*read.shape, -1).astype(np.float64)
    total = np.pad(rows.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    y0, y1, x0, x1 = rmac_regions(read.shape, levels).T
    return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]


def region_gains(
    feature_map: np.ndarray, levels: int = 3, whitening: Whitening | None = None
) -> np.ndarray:
    """Return what post-processing multiplies each region's sum by, (R,).

    1 / |s_r|; with a whitening also 1 / |P^T (s_r / |s_r| - m)|. A region without any activation
    has 0.
    """
    sums = region_sums(feature_map, levels)
    norms = np.linalg.norm(sums, axis=1)
    gains = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 1e-12)
    if whitening is not None:
        white = (sums * gains[:, None] - whitening.mean) @ whitening.projection
        gains = gains / np.maximum(np.linalg.norm(white, axis=1), 1e-12)
    return gains


def rmac_alpha(
    feature_map: np.ndarray, levels: int = 3, whitening: Whitening | None = None
) -> np.ndarray:
    """Return the weight of each position under location and post-processing, (h, w).

    Without a whitening, sum_ij alpha f is exactly the sum of the L2-normalised region sums. With
    one, P^T sum_ij alpha f is the sum of the post-processed regions plus a constant that does not
    depend on the position.
    """
    shape = feature_map.shape[1:]
    return _covered(shape, levels, region_gains(feature_map, levels, whitening))


def region_share(feature_map: np.ndarray, levels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return each region's share of all norms, before and after its L2 normalisation, (R,) each."""
    norms = np.linalg.norm(region_sums(feature_map, levels), axis=1)
    after = (norms > 1e-12).astype(float)
    return norms / max(norms.sum(), 1e-12), after / max(after.sum(), 1)


def decompose(feature_map: np.ndarray, levels: int = 3) -> Decomposition:
    """Return R-MAC of a feature map (C, h, w) beside its reading as a weighting."""
    coverage = location_weights(feature_map.shape[1:], levels)
    alpha = rmac_alpha(feature_map, levels)
    by_coverage, by_alpha = (
        np.tensordot(feature_map, weights, axes=2) for weights in (coverage, alpha)
    )
    rmac = rmac_pool(feature_map, levels=levels)
    plain = feature_map.sum(axis=(1, 2))
    return Decomposition(
        coverage,
        alpha,
        by_coverage,
        by_alpha,
        rmac,
        *(_cosine(rmac, other) for other in (plain, by_coverage, by_alpha)),
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
