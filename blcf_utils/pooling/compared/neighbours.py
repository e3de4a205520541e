"""Dense vectors and their neighbours in the database: augmentation and k-reciprocal re-ranking."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.remembered import remembered
from blcf_utils.pooling.compared.refinement import ranked
from blcf_utils.search.query import Ranking

# Of the k-reciprocal encoding: neighbours, neighbours that are averaged, share of the old distance.
_K1, _K2, _ORIGINAL = 20, 6, 0.3
_CHUNK = 1024  # images whose similarities with all are held at once


def nearest(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the neighbours of each unit vector among all of them, itself first.

    Args:
        vectors: (n, D).
        count: how many others; fewer where there are not so many.

    Returns:
        Their numbers (n, count + 1), nearest first; their cosines, (n, count + 1); the smallest
        cosine that each vector has with any, (n,).
    """
    count = min(count, len(vectors) - 1)
    numbers, cosines, least = [], [], []
    for start in range(0, len(vectors), _CHUNK):
        found = vectors[start : start + _CHUNK] @ vectors.T
        least.append(found.min(axis=1))
        own = np.arange(len(found))
        found[own, start + own] = np.inf  # first, also beside its copies
        order = np.argsort(-found, axis=1, kind="stable")[:, : count + 1]
        numbers.append(order)
        cosines.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(numbers), np.concatenate(cosines), np.concatenate(least)


def augment_database(vectors: np.ndarray, images: int) -> np.ndarray:
    """Return every vector plus those of its nearest ``images``, weighted by rank, (n, D).

    L2(sum of (1 - r / (images + 1)) v_r); v_0 is the vector itself, v_r its r-th neighbour.

    Source: database-side augmentation, Arandjelović and Zisserman, CVPR 2012; weights by rank as in
    Gordo et al., IJCV 2017.
    """
    numbers, _, _ = nearest(vectors, images)
    weights = 1 - np.arange(numbers.shape[1], dtype=np.float32) / (images + 1)
    added = [weights @ vectors[row] for row in numbers]
    return normalise_rows(np.stack(added))


class Reciprocal:
    """A database re-ranked by k-reciprocal encoding.

    An image's encoding weighs the images that are its neighbours while it is theirs, by
    exp(-distance). The distance of a query and an image is .3 of the squared distance of their
    vectors, over the query's largest, and .7 of the Jaccard distance of their encodings. A query
    is judged alone against the database, as the paper's formulas have it; the published code lets
    all queries join the database, which would show each of them its sisters.

    Args:
        vectors: (n, D) unit vectors of the database.

    Source: Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", CVPR
    2017, with its k1 = 20, k2 = 6, lambda = .3.
    """

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors
        self.numbers, self.cosines, self.least = nearest(vectors, _K1)

    @remembered
    def _mutual(self, image: int, count: int) -> np.ndarray:
        """Return the image and those of its ``count`` neighbours that have it among theirs."""
        found = self.numbers[image, : count + 1]
        return found[(self.numbers[found, : count + 1] == image).any(axis=1)]

    def _extended(self, mutual: np.ndarray) -> np.ndarray:
        """Add the closer mutual neighbours of each, where two thirds of them are there already."""
        found = [mutual]
        for each in mutual:
            theirs = self._mutual(int(each), round(_K1 / 2))
            if 3 * np.isin(theirs, mutual).sum() > 2 * len(theirs):
                found.append(theirs)
        return np.unique(np.concatenate(found))

    @cached_property
    def encodings(self) -> sparse.csc_array:
        """The encoding of every image, averaged over its nearest, (n, n); rows add up to 1."""
        count = len(self.vectors)
        members = [self._extended(self._mutual(i, _K1)) for i in range(count)]
        weights = []
        for i, found in enumerate(members):
            distances = _distances(self.vectors[found] @ self.vectors[i], self.least[i])
            weights.append(np.exp(-distances) / np.exp(-distances).sum())
        ends = np.cumsum([0, *map(len, members)])
        own = (np.concatenate(weights), np.concatenate(members), ends)
        first = self.numbers[:, :_K2]
        places = np.arange(0, first.size + 1, first.shape[1])
        mean = (np.full(first.size, 1 / first.shape[1]), first.ravel(), places)
        shape = (count, count)
        averaged = sparse.csr_array(mean, shape=shape) @ sparse.csr_array(own, shape=shape)
        return averaged.tocsc()

    @cached_property
    def _rows(self) -> sparse.csr_array:
        return self.encodings.tocsr()

    def rank(self, query: np.ndarray) -> Ranking:
        """Rank the database for a unit vector (D,); scores are negated distances."""
        cosines = self.vectors @ query
        distances = _distances(cosines, cosines.min())
        order = np.argsort(-cosines, kind="stable")[: self.numbers.shape[1] - 1]
        # It is among an image's neighbours if it is no farther than the last of them.
        mutual = order[cosines[order] >= self.cosines[order, -1]]
        encoding = np.zeros(len(cosines))
        if len(mutual):
            members = self._extended(mutual)
            weights = np.exp(-distances[members])
            encoding[members] = weights / weights.sum()
        near = order[: _K2 - 1]
        encoding = (encoding + self._rows[near].sum(axis=0)) / (len(near) + 1)
        shared = np.zeros(len(cosines))
        columns = self.encodings
        for image in np.flatnonzero(encoding):
            part = slice(columns.indptr[image], columns.indptr[image + 1])
            shared[columns.indices[part]] += np.minimum(columns.data[part], encoding[image])
        jaccard = 1 - shared / (encoding.sum() + 1 - shared)
        return ranked(-(_ORIGINAL * distances + (1 - _ORIGINAL) * jaccard))

    @property
    def nbytes(self) -> int:
        """Memory of the encodings and of the neighbours' cosines."""
        held = self.encodings
        return held.data.nbytes + held.indices.nbytes + self.cosines[:, -1].nbytes


def _distances(cosines: np.ndarray, least: float) -> np.ndarray:
    """Return squared distances of unit vectors over the largest of them."""
    return (1 - cosines) / max(1 - least, 1e-12)
