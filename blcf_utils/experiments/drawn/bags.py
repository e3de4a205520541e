"""Drawing bags of words from a law: seeded, in chunks, the same however many are asked for."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import sparse

from blcf_utils.experiments.drawn.law import BagLaw
from blcf_utils.ground.progress import progress

CHUNK = 10_000
# Draws per distinct word after which the commonest words that are missing fill an image up. A law
# that is measured hardly ever comes near it.
_PATIENCE = 200


def synthetic_database(
    law: BagLaw,
    number: int,
    *,
    seed: int = 0,
    order: np.ndarray | None = None,
    before: sparse.csr_array | None = None,
) -> sparse.csr_array:
    """Return L2-normalised histograms (n, K) float32: real ones, then as many drawn as are missing.

    The drawn images of a seed are a sequence: the first 1,000 of 1,000,000 are those of 1,000. The
    arrays have their final size before words are drawn, so memory is that of the result: eight
    bytes a pair of an image and a word.

    Args:
        law: what the drawn images follow.
        number: n, how many rows in all.
        seed: of the draws.
        order: (K,) the word of each rank, most frequent first; the ranks themselves when None.
        before: real histograms of the same K; its first ``number`` rows are taken.
    """
    if before is None:
        before = sparse.csr_array((0, law.words), dtype=np.float32)
    order = np.arange(law.words) if order is None else order
    order = np.ascontiguousarray(order, np.int32)
    held = np.log(np.maximum(law.held(), 1e-12))
    log_repeats = np.empty(law.words)
    log_repeats[order] = law.repeated + law.repeated_slope * held
    table = _alias_table(law.probabilities())
    kept = min(number, before.shape[0])
    chunks = range(-(-(number - kept) // CHUNK))
    distinct = [np.diff(before.indptr[: kept + 1]), *(_distinct(law, seed, k) for k in chunks)]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(distinct)[:number])]).astype(np.int64)
    indices, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    real = starts[kept]
    indices[:real], values[:real] = before.indices[:real], before.data[:real]
    for chunk in progress(chunks, label="synthetic images"):
        state = np.random.SeedSequence((seed, chunk, 1)).generate_state(1)[0]
        part = starts[kept + chunk * CHUNK : kept + (chunk + 1) * CHUNK + 1]
        _draw(state, part, *table, order, log_repeats, law.spread, law.positions, indices, values)
    return sparse.csr_array((values, indices, starts), shape=(number, law.words))


def first_rows(histograms: sparse.csr_array, number: int) -> sparse.csr_array:
    """Return the first rows of a matrix without copying it."""
    number = min(number, histograms.shape[0])
    last = histograms.indptr[number]
    parts = histograms.data[:last], histograms.indices[:last], histograms.indptr[: number + 1]
    rows = sparse.csr_array(parts, shape=(number, histograms.shape[1]))
    rows.has_canonical_format = True
    return rows


def _distinct(law: BagLaw, seed: int, chunk: int) -> np.ndarray:
    """Return the number of distinct words of each image of a chunk, (CHUNK,) int64."""
    mean, variance = law.mean / law.most, (law.deviation / law.most) ** 2
    total = mean * (1 - mean) / variance - 1  # the two parameters of a beta distribution
    rng = np.random.default_rng((seed, chunk))
    drawn = rng.beta(mean * total, (1 - mean) * total, size=CHUNK) * law.most
    return np.clip(np.rint(drawn), 1, law.most).astype(np.int64)


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
        found, draws, rank = first, 0, 0
        while found < last:
            if draws < _PATIENCE * (last - first):
                place = np.random.random() * k
                drawn = int(place)
                word = order[drawn if place - drawn < keep[drawn] else alias[drawn]]
                draws += 1
            else:
                word = order[rank]
                rank += 1
            if seen[word] != image:
                seen[word] = image
                indices[found] = word
                found += 1
        indices[first:last].sort()
        squares = 0.0
        for entry in range(first, last):
            repeats = np.exp(log_repeats[indices[entry]] + spread * np.random.standard_normal())
            count = min(max(np.rint(repeats), 1.0), positions)
            values[entry] = count
            squares += count * count
        norm = np.sqrt(squares)
        for entry in range(first, last):
            values[entry] /= norm
