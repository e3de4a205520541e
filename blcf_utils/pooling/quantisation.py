"""Product quantisation of dense vectors: one byte, or less, for each part of a vector.

Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI 2011. The
codebooks are faiss'. Queries are not coded; their products with coded vectors are sums of looked-up
values.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numba
import numpy as np

from blcf_utils.ground.errors import StudyError

_LEAST_A_CENTROID = 4  # training vectors; with fewer, centroids are the vectors themselves


@dataclass(frozen=True)
class Quantised:
    """Coded vectors.

    Attributes:
        codes: (n, bytes) uint8; part p is the bits from p * bits on, lowest first.
        quantiser: what coded them.
    """

    codes: np.ndarray
    quantiser: Quantiser

    @property
    def bytes_per_vector(self) -> int:
        """Memory of one vector."""
        return self.codes.shape[1]

    def search(self, queries: np.ndarray) -> np.ndarray:
        """Return the products of whole queries with the coded vectors: (q, D) to (q, n) float32.

        A part's centroid is the mean of what it stands for, so that the product is an unbiased
        guess of the cosine of unit vectors. Their squared distance with the bias corrected, the
        paper's section 3.3, is 2 minus twice this, and ranks alike.

        Raises:
            StudyError: queries of another length than the vectors.
        """
        tables = self.quantiser.tables(queries)
        scores = np.empty((len(tables), len(self.codes)), np.float32)
        _add_looked_up(tables, self.codes, self.quantiser.bits, scores)
        return scores


@dataclass(frozen=True)
class Quantiser:
    """Learned codebooks of a vector's parts.

    Attributes:
        product: faiss' quantiser.
        centroids: (parts, 2^bits, D / parts) float32.
        bits: of each part's code.
    """

    product: faiss.ProductQuantizer
    centroids: np.ndarray
    bits: int

    @property
    def dimensions(self) -> int:
        """D, the length of a whole vector."""
        return self.product.d

    def encode(self, vectors: np.ndarray) -> Quantised:
        """Code vectors (n, D): each part by its nearest centroid.

        Raises:
            StudyError: vectors of another length.
        """
        return Quantised(self.product.compute_codes(self._checked(vectors)), self)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return what codes (n, bytes) stand for, (n, D) float32."""
        return self.product.decode(np.ascontiguousarray(codes))

    def tables(self, queries: np.ndarray) -> np.ndarray:
        """Return the products of each query's parts with all centroids, (q, parts, 2^bits).

        Raises:
            StudyError: queries of another length.
        """
        parts = self._checked(queries).reshape(len(queries), len(self.centroids), -1)
        products = np.matmul(parts.transpose(1, 0, 2), self.centroids.transpose(0, 2, 1))
        return np.ascontiguousarray(products.transpose(1, 0, 2))

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        if np.ndim(vectors) != 2 or np.shape(vectors)[1] != self.dimensions:
            raise StudyError(
                f"product quantisation: expected vectors (n, {self.dimensions}) as those it was "
                f"learned on, found {np.shape(vectors)}; describe both by one method"
            )
        return np.ascontiguousarray(vectors, np.float32)


def learn_quantiser(vectors: np.ndarray, parts: int, *, bits: int = 8, seed: int = 0) -> Quantiser:
    """Learn a product quantiser; the same vectors and seed give the same one.

    Args:
        vectors: (n, D) training vectors.
        parts: of each vector; D must be a multiple.
        bits: of each part's code, 1 to 8. Where there are fewer than four vectors for each of the
            2^bits centroids it is lowered until there are: 8 bits need 1024 vectors.
        seed: of k-means and, beyond 256 vectors for each centroid, of the sample it takes.

    Raises:
        StudyError: parts that do not divide D, bits out of range, or fewer than eight vectors.
    """
    count, dimensions = vectors.shape
    if parts < 1 or dimensions % parts:
        valid = [p for p in range(1, dimensions + 1) if dimensions % p == 0]
        nearest = min(valid, key=lambda p: abs(p - parts))
        raise StudyError(
            f"product quantisation: {parts} parts do not divide {dimensions} dimensions; take "
            f"{nearest}"
        )
    if not 1 <= bits <= 8:
        raise StudyError(f"product quantisation: expected 1 to 8 bits a part, found {bits}")
    if count < 2 * _LEAST_A_CENTROID:
        raise StudyError(
            f"product quantisation: expected at least {2 * _LEAST_A_CENTROID} training vectors, "
            f"found {count}; learn on more images"
        )
    bits = min(bits, (count // _LEAST_A_CENTROID).bit_length() - 1)
    product = faiss.ProductQuantizer(dimensions, parts, bits)
    product.cp.seed = seed
    product.cp.min_points_per_centroid = 1
    product.train(np.ascontiguousarray(vectors, np.float32))
    centroids = faiss.vector_to_array(product.centroids)
    return Quantiser(product, centroids.reshape(parts, 1 << bits, -1).copy(), bits)


@numba.njit(cache=True, nogil=True)
def _add_looked_up(tables, codes, bits, scores):
    """Write each query's sum of the table entries that each code names.

    Args:
        tables: (q, parts, 2^bits) float32.
        codes: (n, bytes) uint8.
        bits: of a part's code, 1 to 8.
        scores: (q, n) float32, written.
    """
    parts, mask = tables.shape[1], (1 << bits) - 1
    numbers = np.empty(parts, np.int64)
    for i in range(codes.shape[0]):
        for p in range(parts):
            first, shift = (p * bits) >> 3, (p * bits) & 7
            value = np.int64(codes[i, first]) >> shift
            if shift + bits > 8:
                value |= np.int64(codes[i, first + 1]) << (8 - shift)
            numbers[p] = value & mask
        for q in range(tables.shape[0]):
            total = np.float32(0)
            for p in range(parts):
                total += tables[q, p, numbers[p]]
            scores[q, i] = total
