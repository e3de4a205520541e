"""Small operations on rows of local descriptors, (N, C)."""

from __future__ import annotations

import numpy as np


def copies_of(distinct: np.ndarray) -> dict[int, np.ndarray]:
    """Return the numbers of all copies of each first image (itself among them), sorted.

    Args:
        distinct: (n,) for each image the number of the first one with the same bytes.
    """
    order = np.argsort(distinct, kind="stable")
    firsts, starts = np.unique(distinct[order], return_index=True)
    return dict(zip(firsts.tolist(), np.split(order, starts[1:]), strict=True))


def sample_rows(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return ``rows``, or a seeded uniform sample of ``most`` of them, sorted."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def normalise_rows(rows: np.ndarray) -> np.ndarray:
    """Return ``rows`` (N, D) with unit L2 norm each; zero rows stay zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return rows / np.maximum(norms, 1e-12)[:, None]
