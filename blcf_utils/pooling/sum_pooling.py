"""Sum pooling of a feature map: the dense baseline of the thesis (no channel weights, no prior)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blcf_utils.config.profile import SumPoolingConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features
from blcf_utils.pooling.maps import positions
from blcf_utils.search.boxes import Mode, Projection, query_cells
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import fit_whitening

# A feature map (C, h, w) and its cells' weights (h, w), or None, to a vector (C,).
Pool = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def sum_pool(
    maps: np.ndarray, weights: np.ndarray | None = None, box: Window | None = None
) -> np.ndarray:
    """Return the sum over positions: (C, h, w) to (C,), (B, C, h, w) to (B, C).

    Args:
        maps, weights, box: as for ``maps.positions``.

    Source: Babenko and Lempitsky, ICCV 2015, without the centre prior (uCroW of Kalantidis et
    al., ECCV 2016).
    """
    read = positions(maps, weights, box)
    if read.weights is None:
        return read.vectors(read.values.sum(axis=1))
    return read.vectors(np.matmul(read.weights[:, None, :], read.values)[:, 0])


def database_sums(
    features: Features,
    weights: Callable[[int], np.ndarray] | None = None,
    pool: Pool = sum_pool,
) -> np.ndarray:
    """Return the summed descriptors of every database image, (n, C).

    Args:
        features: feature maps.
        weights: image number to the weights (h, w) of its positions; 1 each when None.
        pool: how a map becomes a vector.
    """
    if weights is None:  # images with the same bytes have the same sums
        firsts, place = np.unique(features.distinct[: features.n_database], return_inverse=True)
        return np.stack([pool(features.map(i), None) for i in firsts])[place]
    return np.stack([pool(features.map(i), weights(i)) for i in range(features.n_database)])


def query_sums(
    dataset: Dataset,
    features: Features,
    mode: Mode,
    projection: Projection = "edges",
    pool: Pool = sum_pool,
) -> np.ndarray:
    """Return the summed descriptors of every query, (q, C), in query order.

    Local search pools the query's box only, cropped on the feature map.
    """
    sums = []
    for query in dataset.queries:
        i = dataset.image_index[query.image]
        feature_map = features.map(i)
        cells = query_cells(query, features.sizes[i], feature_map.shape[1:], mode, projection)
        sums.append(pool(feature_map, cells))
    return np.stack(sums)


def sum_pooled_vectors(
    database: np.ndarray, queries: np.ndarray, config: SumPoolingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of the database (n, D) and of the queries (q, D), from their sums.

    With ``config.whiten`` the vectors are PCA-whitened, learned on the database's own vectors. A
    whitening cannot have as many directions as vectors taught it: a small database gets fewer,
    and a poor one, since its last directions are mostly chance.
    """
    if not config.whiten:
        return normalise_rows(database), normalise_rows(queries)
    dimensions = min(config.dimensions, database.shape[1], len(database) - 1)
    whitening = fit_whitening([database], dimensions)
    return whitening.apply(database), whitening.apply(queries)
