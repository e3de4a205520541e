"""Drawing bags of words from a law: seeded, in chunks, the same however many are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from scipy import sparse

from blcf_utils.experiments.drawn.law import BagLaw
from blcf_utils.ground.progress import progress

CHUNK = 10_000
# Draws per distinct word after which the commonest words that are missing fill an image up. A law
# that is measured never comes near it.
_PATIENCE = 200


def synthetic_bags(
    law: BagLaw, number: int, *, seed: int = 0, order: np.ndarray | None = None
) -> Iterator[sparse.csr_array]:
    """Yield L2-normalised histograms of ``number`` drawn images, (<= 10,000, K) float32 a time.

    The images of a seed are a sequence: the first 1,000 of 1,000,000 are those of 1,000.

    Args:
        law: what they follow.
        number: how many.
        seed: of the draws.
        order: (K,) the word of each rank, most frequent first; the ranks themselves when None.
    """
    draw = _Drawing(law, seed, order)
    for start in range(0, number, CHUNK):
        count = min(CHUNK, number - start)
        starts = draw.starts(start // CHUNK, count)
        indices, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        draw.fill(start // CHUNK, starts, indices, values)
        yield sparse.csr_array((values, indices, starts), shape=(count, law.words))


def synthetic_database(
    law: BagLaw,
    number: int,
    *,
    seed: int = 0,
    order: np.ndarray | None = None,
    before: sparse.csr_array | None = None,
) -> sparse.csr_array:
    """Return one matrix (n, K) float32: real histograms, then as many drawn images as are missing.

    Every array has its final size before the first image is drawn, so memory is that of the
    result: eight bytes a pair of an image and a word.

    Args:
        law, seed, order: as for :func:`synthetic_bags`.
        number: n, how many rows in all.
        before: real histograms of the same K; its first ``number`` rows are taken.
    """
    draw = _Drawing(law, seed, order)
    kept = 0 if before is None else min(number, before.shape[0])
    chunks = range(-(-(number - kept) // CHUNK))
    counts = [min(CHUNK, number - kept - k * CHUNK) for k in chunks]
    parts = [draw.starts(k, count) for k, count in zip(chunks, counts, strict=True)]
    real = int(before.indptr[kept]) if kept else 0
    total = real + sum(int(part[-1]) for part in parts)
    indices, values = np.empty(total, np.int32), np.empty(total, np.float32)
    starts = np.zeros(number + 1, np.int64)
    if kept:
        indices[:real], values[:real] = before.indices[:real], before.data[:real]
        starts[: kept + 1] = before.indptr[: kept + 1]
    row, entry = kept, real
    for k, part in zip(progress(chunks, label="synthetic images"), parts, strict=True):
        end = entry + int(part[-1])
        draw.fill(k, part, indices[entry:end], values[entry:end])
        starts[row + 1 : row + len(part)] = entry + part[1:]
        row, entry = row + len(part) - 1, end
    return sparse.csr_array((values, indices, starts), shape=(number, law.words))


def first_rows(histograms: sparse.csr_array, number: int) -> sparse.csr_array:
    """Return the first rows of a matrix without copying it."""
    number = min(number, histograms.shape[0])
    last = histograms.indptr[number]
    parts = histograms.data[:last], histograms.indices[:last], histograms.indptr[: number + 1]
    rows = sparse.csr_array(parts, shape=(number, histograms.shape[1]))
    rows.has_canonical_format = True
    return rows


class _Drawing:
    """What every chunk of one seed draws from."""

    def __init__(self, law: BagLaw, seed: int, order: np.ndarray | None):
        self.law, self.seed = law, seed
        self.keep, self.alias = _alias_table(law.probabilities())
        self.order = np.arange(law.words, dtype=np.int32) if order is None else order
        self.order = np.ascontiguousarray(self.order, np.int32)
        self.log_repeats = np.empty(law.words)
        self.log_repeats[self.order] = law.log_repeats()

    def starts(self, chunk: int, count: int) -> np.ndarray:
        """Return where each image's words begin, (count + 1,) int64."""
        law = self.law
        rng = np.random.default_rng((self.seed, chunk))
        drawn = rng.beta(*law.beta(), size=CHUNK)[:count] * law.most
        distinct = np.clip(np.rint(drawn), 1, law.most).astype(np.int64)
        return np.concatenate([[0], np.cumsum(distinct)])

    def fill(self, chunk: int, starts: np.ndarray, indices: np.ndarray, values: np.ndarray):
        """Draw the words and weights of a chunk."""
        state = np.random.SeedSequence((self.seed, chunk, 1)).generate_state(1)[0]
        law = self.law
        _draw(
            state, starts, self.keep, self.alias, self.order, self.log_repeats, law.spread,
            law.positions, indices, values,
        )  # fmt: skip


def _alias_table(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Walker's alias table: a draw costs one uniform number whatever K is (Vose, 1991)."""
    k = len(probabilities)
    scaled, alias = probabilities * k, np.arange(k)
    small, large = list(np.flatnonzero(scaled < 1)), list(np.flatnonzero(scaled >= 1))
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    scaled[small + large] = 1
    return scaled, alias


@njit(cache=True, nogil=True)
def _draw(state, starts, keep, alias, order, log_repeats, spread, positions, indices, values):
    """Fill in the words (rising) and unit-length weights of every image of a chunk."""
    np.random.seed(state)
    k = len(keep)
    seen = np.full(k, -1, np.int64)  # the last image that drew each word
    for image in range(len(starts) - 1):
        first, last = starts[image], starts[image + 1]
        found, left = first, _PATIENCE * (last - first)
        while found < last and left > 0:
            left -= 1
            place = np.random.random() * k
            rank = int(place)
            if place - rank >= keep[rank]:
                rank = alias[rank]
            word = order[rank]
            if seen[word] != image:
                seen[word] = image
                indices[found] = word
                found += 1
        rank = 0
        while found < last:
            word = order[rank]
            if seen[word] != image:
                seen[word] = image
                indices[found] = word
                found += 1
            rank += 1
        indices[first:last].sort()
        squares = 0.0
        for entry in range(first, last):
            drawn = np.exp(log_repeats[indices[entry]] + spread * np.random.standard_normal())
            count = min(max(np.rint(drawn), 1.0), positions)
            values[entry] = count
            squares += count * count
        norm = np.sqrt(squares)
        for entry in range(first, last):
            values[entry] /= norm
