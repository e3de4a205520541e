"""Product quantisation of dense vectors: one byte, or less, for each part of a vector.

Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI 2011; the
codebooks and the tables are faiss'.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from blcf_utils.errors import StudyError

_POINTS_A_CENTROID = 4  # fewer, and a code's centroids are the vectors themselves


@dataclass(frozen=True)
class Quantised:
    """Coded vectors.

    Attributes:
        codes: (n, bytes) uint8.
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

        Asymmetric: only the database is coded. For each part a table holds the products of the
        query's part with all its centroids, and a code looks them up.
        """
        tables = self.quantiser.tables(np.ascontiguousarray(queries, np.float32))
        numbers = self.quantiser.numbers(self.codes)
        scores = np.zeros((len(queries), len(numbers)), np.float32)
        for part in range(numbers.shape[1]):
            scores += tables[:, part, numbers[:, part]]
        return scores


@dataclass(frozen=True)
class Quantiser:
    """Learned codebooks of a vector's parts.

    Attributes:
        centroids: (parts, 2^bits, D / parts) float32.
        bits: of each part's code.
    """

    product: faiss.ProductQuantizer
    centroids: np.ndarray
    bits: int

    def encode(self, vectors: np.ndarray) -> Quantised:
        """Code vectors (n, D)."""
        return Quantised(self.product.compute_codes(np.ascontiguousarray(vectors, "f4")), self)

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Return each part's centroid number: (n, bytes) to (n, parts) int64."""
        if self.bits == 8:
            return codes.astype(np.int64)
        bits = np.unpackbits(codes, axis=1, bitorder="little")
        bits = bits[:, : len(self.centroids) * self.bits].reshape(len(codes), -1, self.bits)
        return bits.astype(np.int64) @ (1 << np.arange(self.bits))

    def tables(self, queries: np.ndarray) -> np.ndarray:
        """Return the products of each query's parts with all centroids, (q, parts, 2^bits)."""
        parts = queries.reshape(len(queries), len(self.centroids), -1)
        return np.einsum("qpd,pkd->qpk", parts, self.centroids, optimize=True)


def learn_quantiser(vectors: np.ndarray, parts: int, *, bits: int = 8, seed: int = 0) -> Quantiser:
    """Learn a product quantiser.

    Args:
        vectors: (n, D) training vectors.
        parts: of each vector; D must be a multiple.
        bits: of each part's code, 1 to 8; lowered until there are four vectors a centroid.
        seed: of k-means.

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
    if not 1 <= bits <= 8 or count < 2 * _POINTS_A_CENTROID:
        raise StudyError(
            f"product quantisation: expected 1 to 8 bits and at least {2 * _POINTS_A_CENTROID} "
            f"training vectors, found {bits} and {count}; learn on more images"
        )
    bits = min(bits, int(np.log2(count / _POINTS_A_CENTROID)))
    product = faiss.ProductQuantizer(dimensions, parts, bits)
    product.cp.seed = seed + 1  # faiss takes 0 for "no seed"
    product.cp.min_points_per_centroid = 1
    product.train(np.ascontiguousarray(vectors, np.float32))
    centroids = faiss.vector_to_array(product.centroids)
    return Quantiser(product, centroids.reshape(parts, 1 << bits, -1).copy(), bits)
