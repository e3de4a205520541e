"""MOP: orderless pooling of fully connected activations at three scales.

The whole image's activation, and VLAD over the activations of patches at two smaller scales, side
by side. Source: Gong et al., "Multi-scale orderless pooling of deep convolutional activation
features", ECCV 2014 (K = 100 words; patches of 128 and 64 of 256 pixels). Patches are windows of
the stored feature map (see ``patches``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from blcf_utils.codebook import fit_kmeans
from blcf_utils.errors import StudyError
from blcf_utils.features import normalise_rows
from blcf_utils.pooling.maps import Window
from blcf_utils.pooling.neural_codes import Encode
from blcf_utils.pooling.patches import patch_windows, window_grid
from blcf_utils.pooling.vlad import residual_sums

# Windows a side of the two smaller scales: half and a quarter of the image, overlapping by half.
SCALES = (3, 7)


@dataclass(frozen=True)
class MopBooks:
    """The words of MOP's two smaller scales.

    Attributes:
        centroids: (K, F) of L2-normalised patch activations, by scale.
        grid: cells a side of what is encoded.
    """

    centroids: tuple[np.ndarray, ...]
    grid: int


def _windows(box: Window, count: int) -> np.ndarray:
    """Return the count x count windows of one scale inside a box, (P, 4)."""
    y0, y1, x0, x1 = box
    every = patch_windows((y1 - y0, x1 - x0), count)
    return every[-count * count :] + np.array([y0, y0, x0, x0])


def _codes(
    maps: np.ndarray, weights: np.ndarray | None, windows: np.ndarray, encode: Encode, grid: int
) -> np.ndarray:
    """Return unit activations of windows, (B, P, F)."""
    pooled = window_grid(maps, windows, (grid, grid), weights)
    codes = normalise_rows(encode(pooled.reshape(-1, *pooled.shape[2:])))
    return codes.reshape(*pooled.shape[:2], -1)


def learn_mop(
    batches: Iterable[np.ndarray],
    encode: Encode,
    grid: int,
    *,
    words: int = 100,
    iterations: int = 20,
    seed: int = 0,
) -> MopBooks:
    """Learn the words of the two smaller scales on the maps of another dataset.

    Args:
        batches: maps (B, C, h, w).
        encode: windows max-pooled to (N, C, grid, grid) to activations (N, F).
        grid: cells a side.
        words: K of each scale.
        iterations: of k-means, at most.
        seed: of the first draw.

    Raises:
        StudyError: fewer patches than words.
    """
    found: list[list[np.ndarray]] = [[] for _ in SCALES]
    for maps in batches:
        for codes, count in zip(found, SCALES, strict=True):
            windows = _windows((0, maps.shape[2], 0, maps.shape[3]), count)
            made = _codes(maps, None, windows, encode, grid)
            codes.append(made.reshape(-1, made.shape[2]))
    patches = [np.concatenate(codes) for codes in found]
    if min(map(len, patches)) < words:
        raise StudyError(
            f"MOP: {words} words cannot be learned from {min(map(len, patches))} patches; lower "
            "comparison.vlad_words or learn on more images"
        )
    centroids = (fit_kmeans(codes, words, iterations, seed=seed)[0] for codes in patches)
    return MopBooks(tuple(centroids), grid)


def mop_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    encode: Encode,
    books: MopBooks,
) -> np.ndarray:
    """Return the MOP vector: (C, h, w) to (F + 2 K F,), (B, C, h, w) likewise; each part unit.

    Args:
        maps, weights, box: as for ``maps.positions``.
        encode: as for :func:`learn_mop`.
        books: learned on another dataset.
    """
    single = maps.ndim == 3
    batch = maps[None] if single else maps
    box = (0, batch.shape[2], 0, batch.shape[3]) if box is None else box
    parts = [_codes(batch, weights, np.array([box]), encode, books.grid)[:, 0]]
    for centroids, count in zip(books.centroids, SCALES, strict=True):
        codes = _codes(batch, weights, _windows(box, count), encode, books.grid)
        nearest = (codes @ centroids.T - 0.5 * (centroids * centroids).sum(axis=1)).argmax(axis=2)
        chosen = (nearest[:, :, None] == np.arange(len(centroids))).astype(np.float32)
        parts.append(residual_sums(codes, chosen, None, centroids))
    pooled = np.concatenate(parts, axis=1)
    return pooled[0] if single else pooled
