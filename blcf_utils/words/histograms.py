"""Histograms of visual words, plain and weighted, and their inverse document frequency."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from blcf_utils.words.assignment_maps import (
    AssignmentMaps,
)

# A histogram as (distinct words, int64; their weights, float32).
Sparse = tuple[np.ndarray, np.ndarray]


def histogram(words: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the histogram of words, (size,) float32, not normalised.

    Args:
        words: visual words, any shape.
        size: K.
        weights: what each position adds to its word's bin, same shape; 1 each when None.
    """
    flat = None if weights is None else np.asarray(weights, np.float64).ravel()
    return np.bincount(words.ravel(), flat, minlength=size).astype(np.float32)


def sparse_histogram(words: np.ndarray, weights: np.ndarray | None = None) -> Sparse:
    """Return the histogram of words as (distinct words, unit-length float32 values).

    Words whose weights sum to zero are left out; all of them, if all weights are zero.
    """
    distinct, inverse = np.unique(words.ravel(), return_inverse=True)
    flat = None if weights is None else np.asarray(weights, np.float64).ravel()
    values = np.bincount(inverse, flat, minlength=len(distinct)).astype(np.float64)
    distinct, values = distinct[values > 0], values[values > 0]
    norm = np.sqrt((values * values).sum())
    return distinct.astype(np.int64), (values / max(norm, 1e-12)).astype(np.float32)


def database_histograms(maps: AssignmentMaps, weights=None) -> sparse.csr_array:
    """Return the L2-normalised histograms of the database images, (n_database, K) float32 CSR.

    Args:
        maps: assignment maps.
        weights: function from an image's number to its weight map, same shape as its
            assignment map; None gives every position weight 1.
    """
    indices, values, starts = [], [], [0]
    for i in range(maps.n_database):
        weight = weights(i) if weights is not None else None
        words, value = sparse_histogram(maps.map(i), weight)
        indices.append(words)
        values.append(value)
        starts.append(starts[-1] + len(words))
    return sparse.csr_array(
        (np.concatenate(values), np.concatenate(indices), np.array(starts, np.int64)),
        shape=(maps.n_database, maps.words),
    )


def inverse_document_frequency(histograms: sparse.csr_array) -> np.ndarray:
    """Return log(N / n_w) per word, (K,) float32; 0 for a word no image holds.

    Source: Sivic and Zisserman, ICCV 2003.
    """
    holders = np.bincount(histograms.indices, minlength=histograms.shape[1])
    idf = np.log(histograms.shape[0] / np.maximum(holders, 1))
    return np.where(holders > 0, idf, 0).astype(np.float32)


def scale_words(histograms: sparse.csr_array, factors: np.ndarray) -> sparse.csr_array:
    """Return histograms with each word's column multiplied by its factor, L2-normalised again."""
    values = histograms.data * factors[histograms.indices]
    scaled = sparse.csr_array((values, histograms.indices, histograms.indptr), histograms.shape)
    norms = np.sqrt(np.add.reduceat(np.append(values * values, 0), histograms.indptr[:-1]))
    norms[np.diff(histograms.indptr) == 0] = 0
    repeated = np.repeat(np.maximum(norms, 1e-12), np.diff(histograms.indptr))
    scaled.data = (values / repeated).astype(np.float32)
    return scaled
