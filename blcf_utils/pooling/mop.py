"""MOP: orderless pooling of fully connected activations at three scales.

The whole image's activation, and VLAD over the activations of patches at two smaller scales, side
by side. Gong, Wang, Guo and Lazebnik, "Multi-scale orderless pooling of deep convolutional
activation features", ECCV 2014: of 256 pixels a side, 25 patches of 128 and 49 of 64, stride 32;
patch activations reduced to 500 values by PCA; 100 words; power and L2 normalisation.

What differs: patches are windows of the stored feature map (see ``patches``); activations are
L2-normalised; a patch goes to its nearest word alone, not to five by a Gaussian kernel whose width
belongs to unnormalised activations; and the three parts are reduced together, by whoever whitens
the descriptor, not each by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.neural_codes import Encode
from blcf_utils.pooling.patches import grid_windows, window_grid
from blcf_utils.pooling.vlad import joined, nearest_words, residual_sums
from blcf_utils.search.windows import Window
from blcf_utils.words.kmeans import fit_kmeans

# Of the two smaller scales: which part of a side a window has, and how many stand along it.
SCALES = ((2, 5), (4, 7))
POWER = 0.5
MOP_DIMENSIONS = 500  # values that a patch's activation keeps


@dataclass(frozen=True)
class MopBooks:
    """What MOP's two smaller scales have learned.

    Attributes:
        centroids: (K, D) words of each scale.
        grid: cells a side of what is encoded.
        means: (F,) of each scale's L2-normalised patch activations; () where F was not above the
            wanted D, and nothing is reduced.
        directions: (F, D) principal directions of each scale; () where a scale keeps its codes.
    """

    centroids: tuple[np.ndarray, ...]
    grid: int
    means: tuple[np.ndarray, ...] = ()
    directions: tuple[np.ndarray, ...] = ()

    def reduced(self, codes: np.ndarray, scale: int) -> np.ndarray:
        """Return activations (..., F) of a scale in its principal directions, (..., D).

        Raises:
            StudyError: activations of another length than those that taught.
        """
        taught = self.directions[scale].T if self.directions else self.centroids[scale]
        length = taught.shape[1]
        if codes.shape[-1] != length:
            raise StudyError(
                f"MOP: expected patch activations of {length} values as those the words were "
                f"learned on, found {codes.shape[-1]}; use the same layers"
            )
        if not self.directions:
            return codes
        return (codes - self.means[scale]) @ self.directions[scale]


def mop_windows(shape: tuple[int, int], scale: int) -> np.ndarray:
    """Return the windows of one of the smaller scales, (P, 4) int64: 25, or 49.

    Args:
        shape: (h, w) in cells.
        scale: 0 or 1, of ``SCALES``.
    """
    part, count = SCALES[scale]
    return grid_windows(shape, tuple(round(n / part) for n in shape), count)


def mop_pool(
    maps: np.ndarray,
    weights: np.ndarray | None = None,
    box: Window | None = None,
    *,
    encode: Encode,
    books: MopBooks,
) -> np.ndarray:
    """Return the MOP vector: (C, h, w) to (F + 2 K D,), (B, C, h, w) to (B, ...).

    Unlike most pooled vectors each of the three parts has unit length.

    Args:
        maps, weights, box: as for ``maps.positions``; weights multiply the map.
        encode: windows max-pooled to (N, C, grid, grid) to activations (N, F).
        books: learned on another dataset.

    Raises:
        StudyError: activations of another length than those that taught.
    """
    single = np.ndim(maps) == 3
    batch = maps[None] if single else maps
    y0, y1, x0, x1 = (0, batch.shape[-2], 0, batch.shape[-1]) if box is None else box
    shape = (y1 - y0, x1 - x0)
    whole = np.array([[0, shape[0], 0, shape[1]]])
    parts = [_codes(batch, whole, encode, books.grid, weights, box)[:, 0]]
    for scale, centroids in enumerate(books.centroids):
        codes = _codes(batch, mop_windows(shape, scale), encode, books.grid, weights, box)
        codes = np.ascontiguousarray(books.reduced(codes, scale))
        sums = residual_sums(codes, nearest_words(codes, centroids), None, centroids)
        parts.append(joined(sums, POWER, intra=False))
    pooled = np.concatenate(parts, axis=1)
    return pooled[0] if single else pooled


def learn_mop(
    batches: Iterable[np.ndarray],
    encode: Encode,
    grid: int,
    *,
    words: int = 100,
    dimensions: int = MOP_DIMENSIONS,
    iterations: int = 20,
    max_patches: int = 10_000,
    seed: int = 0,
) -> MopBooks:
    """Learn the principal directions and words of the two smaller scales.

    Args:
        batches: maps (B, C, h, w) of another dataset's database images.
        encode: as for :func:`mop_pool`.
        grid: cells a side of what is encoded.
        words: K of each scale.
        dimensions: the most values that a patch's activation keeps.
        iterations: of k-means, at most.
        max_patches: a seeded uniform sample of so many is used, at each scale.
        seed: of the samples, of PCA and of the first draw.

    Raises:
        StudyError: fewer patches than words or dimensions.
    """
    samples = [_Sample(max_patches, seed + scale) for scale in range(len(SCALES))]
    for maps in batches:
        for scale, sample in enumerate(samples):
            codes = _codes(maps, mop_windows(maps.shape[2:], scale), encode, grid)
            sample.add(codes.reshape(-1, codes.shape[2]))
    patches = [sample.rows() for sample in samples]
    fewest, length = min(map(len, patches)), patches[0].shape[1] if len(patches[0]) else 0
    if fewest < max(words, dimensions if length > dimensions else 0):
        raise StudyError(
            f"MOP: {words} words, and {dimensions} directions where activations are longer, cannot "
            f"be learned from {fewest} patches; lower comparison.vlad_words or learn on more images"
        )
    means, directions = [], []
    if length > dimensions:
        for scale, rows in enumerate(patches):
            pca = PCA(dimensions, svd_solver="randomized", random_state=seed).fit(rows)
            means.append(pca.mean_.astype(np.float32))
            directions.append(np.ascontiguousarray(pca.components_.T, np.float32))
            patches[scale] = (rows - means[-1]) @ directions[-1]
    centroids = (fit_kmeans(rows, words, iterations, seed=seed)[0] for rows in patches)
    return MopBooks(tuple(centroids), grid, tuple(means), tuple(directions))


def save_books(folder: Path, books: MopBooks) -> None:
    """Write books into an artefact's folder."""
    arrays = {f"{name}_{k}": part for name in _PARTS for k, part in enumerate(getattr(books, name))}
    np.savez(folder / "books.npz", grid=books.grid, **arrays)


def read_books(folder: Path) -> MopBooks:
    """Read what :func:`save_books` wrote."""
    with np.load(folder / "books.npz") as saved:
        parts = {
            name: tuple(saved[key] for key in sorted(saved.files) if key.startswith(f"{name}_"))
            for name in _PARTS
        }
        return MopBooks(grid=int(saved["grid"]), **parts)


_PARTS = ("centroids", "means", "directions")


def _codes(maps, windows, encode: Encode, grid: int, weights=None, box=None) -> np.ndarray:
    """Return unit activations of windows, (B, P, F)."""
    pooled = window_grid(maps, windows, (grid, grid), weights, box)
    codes = normalise_rows(encode(pooled.reshape(-1, *pooled.shape[2:])))
    return codes.reshape(*pooled.shape[:2], -1)


class _Sample:
    """A uniform sample of rows that come in parts, never more of them than asked for."""

    def __init__(self, most: int, seed: int):
        self.most, self.random = most, np.random.default_rng(seed)
        self.drawn, self.kept = np.empty(0), None

    def add(self, rows: np.ndarray) -> None:
        """Draw a number for each row and keep the rows of the lowest."""
        drawn = np.concatenate([self.drawn, self.random.random(len(rows))])
        kept = rows if self.kept is None else np.concatenate([self.kept, rows])
        if len(drawn) > self.most:
            lowest = np.sort(np.argpartition(drawn, self.most)[: self.most])
            drawn, kept = drawn[lowest], kept[lowest]
        self.drawn, self.kept = drawn, kept

    def rows(self) -> np.ndarray:
        """Return the rows, in the order they came."""
        return np.empty((0, 0), np.float32) if self.kept is None else self.kept
