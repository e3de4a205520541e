"""Lloyd's k-means over descriptors in memory or in a file, with the same bits as ``faiss.Kmeans``.

``faiss.Kmeans`` holds every descriptor in memory. Here descriptors are read in chunks, in order,
once an iteration. Chunks are whole blocks of faiss' matrix product, and sums are added up in
float32 in the order of the descriptors, as faiss does. The centroids therefore equal those of
faiss to the bit; below some tens of dimensions, where faiss has other kernels, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise, zip_longest
from pathlib import Path

import numba
import numpy as np
import torch

from blcf_utils.ground.artefacts import atomic_path
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.words.assignment import Searcher, TorchSearcher, make_searcher

# VLFeat's default, which the original pipeline ran with: stop when an iteration lowers the
# objective by less than this share of all it has gained so far.
MIN_GAIN = 1e-4
CHUNK = 32_768  # rows written at a time
# Rows read at a time, a multiple of the 4,096 rows of a block of faiss' product. A few rows alone
# go through another kernel of faiss, so the last chunk takes what is left over.
_READ = 16_384
# faiss adds the objective up in float32. Above so many descriptors its rounding would reach
# MIN_GAIN, and the sum is in float64.
_FLOAT32_SUM_UP_TO = 1_000_000
_STATE = ("centroids", "objective", "words")  # what is saved after an iteration
_FAISS_SEED = 1234  # of the random numbers with which faiss chooses clusters to split


class DescriptorFile:
    """Descriptors (N, D) float32 in a flat file; rows are read when they are asked for.

    It is not a memory map, whose pages would count as the process' memory once read.

    Args:
        path: the file.
        shape: (N, D).
    """

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path, self.shape = path, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the rows of a slice (without a step) or of an array of numbers, (n, D)."""
        if not isinstance(rows, slice):
            return np.concatenate([self[int(row) : int(row) + 1] for row in rows])
        (start, stop, _), dimensions = rows.indices(len(self)), self.shape[1]
        values = np.fromfile(
            self.path, np.float32, (stop - start) * dimensions, offset=4 * start * dimensions
        )
        return values.reshape(stop - start, dimensions)


def write_descriptors(
    path: Path, shape: tuple[int, int], chunks: Callable[[int], Iterable[np.ndarray]]
) -> DescriptorFile:
    """Write descriptors chunk by chunk; after a kill, go on after the last whole chunk.

    Args:
        path: the file; what a killed run left of it is used.
        shape: (N, D).
        chunks: function from a row number, a multiple of ``CHUNK``, to the chunks from there on,
            ``CHUNK`` rows each but the last.
    """
    row_bytes = 4 * shape[1]
    with open(path, "ab") as file:
        done = file.tell() // row_bytes
        if done < shape[0]:
            done -= done % CHUNK
            file.truncate(done * row_bytes)
            for rows in chunks(done):
                file.write(np.ascontiguousarray(rows, np.float32))
    return DescriptorFile(path, shape)


def fit_kmeans(
    data: np.ndarray | DescriptorFile,
    words: int,
    iterations: int,
    *,
    seed: int = 0,
    start: np.ndarray | None = None,
    saved: Path | None = None,
    assignment: str = "exact",
    effort: int = 0,
    min_gain: float = MIN_GAIN,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's k-means.

    Empty clusters are filled as faiss does (:func:`_fill_empty`). With approximate assignment a
    descriptor keeps the word it had if the one found is farther, as in VLFeat's ANN k-means, so
    that the objective does not rise by missing a word.

    Args:
        data: (N, D) float32, in memory or in a file.
        words: K.
        iterations: at most this many; fewer when one gains less than ``min_gain``.
        seed: of the draw of descriptors that k-means starts from.
        start: (K, D) float32 centroids to start from instead.
        saved: file (npz) written after each iteration. If it is there, k-means goes on from it and
            ends as if it had never stopped.
        assignment: ``exact``, ``hnsw`` or ``ivf``; approximate ones run on the CPU.
        effort: of approximate assignment; 0 is its default.
        min_gain: share of all the objective has gained so far.
        device: ``cpu`` (faiss) or ``cuda`` (torch); the two round differently.

    Returns:
        Centroids (K, D) float32 and the objective, the sum of squared distances as each iteration
        assigned the descriptors, before it moved the centroids.

    Raises:
        StudyError: fewer descriptors than words, or descriptors that are not finite.
    """
    if len(data) < words:
        raise StudyError(
            f"codebook.words: {words} words cannot be learned from {len(data)} descriptors; lower "
            "codebook.words or learn on more images"
        )
    if saved and saved.exists():
        with np.load(saved) as found:
            state = {name: found[name] for name in _STATE if name in found}
    else:
        if start is None:
            drawn = np.random.default_rng(seed).choice(len(data), words, replace=False)
            start = data[np.sort(drawn)]
        state = {"centroids": start, "objective": np.zeros(0)}
        if assignment != "exact":  # what a descriptor's word was
            state["words"] = np.zeros(len(data), np.int32)
    with progress(label=f"k-means K={words}", total=iterations, unit="iteration") as bar:
        bar.update(len(state["objective"]))
        while len(state["objective"]) < iterations:
            if _settled(state["objective"], min_gain):
                break
            if len(data) == words:  # every descriptor is a word
                state["centroids"], gained = np.array(data[:], np.float32), 0.0
            else:
                searcher = make_searcher(state["centroids"], assignment, effort, device)
                state["centroids"], gained = _iterate(data, searcher=searcher, **state)
            state["objective"] = np.append(state["objective"], gained)
            if saved:
                with atomic_path(saved) as path:
                    np.savez(path, **state)
            bar.update(1)
    return state["centroids"], state["objective"]


def _settled(objective: np.ndarray, min_gain: float) -> bool:
    """Whether the last iteration gained too little to go on."""
    if len(objective) < 3:
        return False
    gained = objective[0] - objective[-1]
    return objective[-2] - objective[-1] < min_gain * max(gained, 1e-12)


def _iterate(data, centroids, objective, searcher: Searcher, words=None) -> tuple:
    """Assign every descriptor; return the moved centroids and the sum of squared distances.

    Args:
        data, centroids: as for :func:`fit_kmeans`.
        objective: of the iterations before.
        searcher: what finds the nearest of ``centroids``.
        words: (N,) the words of the iteration before, which are replaced; None if not needed.
    """
    sums, counts = np.zeros_like(centroids), np.zeros(len(centroids), np.float32)
    in_torch, total = isinstance(searcher, TorchSearcher), 0.0
    if in_torch:
        sums = torch.from_numpy(sums).to(searcher.device)
    for place, rows in _chunks(data):
        rows = torch.from_numpy(rows).to(searcher.device) if in_torch else rows
        if not len(objective) and not np.isfinite(float(rows.sum())):
            raise StudyError(
                "k-means: some descriptors are not finite numbers; check the images and the weights"
            )
        found, distances = searcher.search(rows)
        if words is not None:
            if len(objective):
                found, distances = _nearer(rows, centroids, words[place], found, distances)
            words[place] = found
        (_add_in_torch if in_torch else _add)(rows, found, sums)
        counts += np.bincount(found, minlength=len(counts))
        if len(data) <= _FLOAT32_SUM_UP_TO:
            distances[0] += np.float32(total)
            total = float(np.cumsum(distances)[-1])  # added up one after the other
        else:
            total += float(distances.sum(dtype=np.float64))
    sums = sums.cpu().numpy() if in_torch else sums
    filled = counts > 0
    sums[filled] *= (np.float32(1) / counts[filled])[:, None]
    _fill_empty(sums, counts, len(data))
    return sums, total


def _chunks(data) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (place, rows (n, D) float32); the next rows are read while these are used."""
    edges = [*range(0, _READ * max(1, len(data) // _READ), _READ), len(data)]
    places = [slice(*edge) for edge in pairwise(edges)]
    with ThreadPoolExecutor(1) as pool:

        def read(place: slice) -> Future:
            return pool.submit(lambda: np.ascontiguousarray(data[place], np.float32))

        ahead = read(places[0])
        for place, following in zip_longest(places, places[1:]):
            rows, ahead = ahead.result(), following and read(following)
            yield place, rows


def _nearer(rows, centroids, before, words, distances):
    """Return words and distances in which a row has its word of ``before`` if that is nearer."""
    words, distances = words.copy(), distances.copy()
    for start in range(0, len(rows), 4_096):
        place = slice(start, start + 4_096)
        difference = rows[place] - centroids[before[place]]
        kept = np.einsum("nd,nd->n", difference, difference)
        nearer = kept < distances[place]
        words[place][nearer] = before[place][nearer]
        distances[place][nearer] = kept[nearer]
    return words, distances


@numba.njit(cache=True, nogil=True)
def _add(rows, words, sums):
    """Add each row to the sum of its word, in order."""
    for i in range(len(rows)):
        word = words[i]
        for j in range(rows.shape[1]):
            sums[word, j] += rows[i, j]


def _add_in_torch(rows, words, sums):
    """Do the same on a GPU, which by itself adds up in whatever order its threads come."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    sums.index_add_(0, torch.from_numpy(words).to(sums.device), rows)
    torch.use_deterministic_algorithms(before)


def _fill_empty(centroids: np.ndarray, counts: np.ndarray, descriptors: int) -> None:
    """Split large clusters to fill empty ones, in place; the same as faiss' ``split_clusters``.

    For each empty cluster faiss walks over all clusters, again and again, and takes the first one
    for which a random number is below (size - 1) / (N - K). The empty cluster gets half of it, and
    the two centroids move apart by a 1024th.
    """
    source, draws = np.random.RandomState(_FAISS_SEED), np.empty(0, np.float32)
    room, walk = np.float32(descriptors - len(counts)), len(counts)
    for empty in np.flatnonzero(counts == 0):
        chance = ((counts.astype(np.float64) - 1) / room).astype(np.float32)
        while True:
            if len(draws) < walk:
                more = source.randint(2**32, size=walk + 65_536, dtype=np.uint32)
                draws = np.append(draws, more.astype(np.float32) / np.float32(2**32 - 1))
            hits = np.flatnonzero(draws[:walk] < chance)
            if len(hits):
                break
            draws = draws[walk:]
        large = hits[0]
        draws = draws[large + 1 :]
        centroids[empty] = centroids[large]
        for row, first, second in ((empty, 1, -1), (large, -1, 1)):
            centroids[row, 0::2] *= np.float32(1 + first / 1024)
            centroids[row, 1::2] *= np.float32(1 + second / 1024)
        counts[empty] = counts[large] / np.float32(2)
        counts[large] -= counts[empty]
