"""Lloyd's k-means over descriptors that need not fit into memory.

Descriptors are read in chunks, in order, once an iteration; what is held is two chunks, the
centroids and their sums. Chunks are whole blocks of faiss' matrix product and sums are added up in
the order of the descriptors, in float32, as faiss does: the centroids equal those of
``faiss.Kmeans``, which holds everything in memory, to the bit (up to rounding where there are less
than some tens of dimensions, for which faiss has kernels of another kind).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numba
import numpy as np
import torch

from blcf_utils.ground.artefacts import atomic_path
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.assignment import Searcher, make_searcher

# VLFeat's default, which the original pipeline ran with: stop when an iteration lowers the
# objective by less than this share of all it has gained so far.
MIN_GAIN = 1e-4
CHUNK = 32_768  # rows written at a time
# Rows read at a time. faiss' product takes blocks of 4,096 rows, and another kernel for few of few
# dimensions: what is left at the end joins the last whole chunk.
_READ = 16_384
# faiss adds the objective up in float32. Above so many descriptors its rounding would reach
# MIN_GAIN, and the sum is in float64.
_FLOAT32_SUM_UP_TO = 1_000_000
_SCORES_AT_ONCE = 32_000_000  # float32 values: 128 MB


class DescriptorFile:
    """Descriptors (N, D) float32 in a flat file, read and not mapped.

    Pages that are mapped count as the process' memory and, on a full disk, end it.

    Args:
        path: the file.
        shape: (N, D).
    """

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path, self.shape = path, shape

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the descriptors at ``numbers``, (n, D)."""
        found = np.empty((len(numbers), self.shape[1]), np.float32)
        with open(self.path, "rb", buffering=0) as file:
            for row, number in zip(found, numbers, strict=True):
                file.seek(int(number) * row.nbytes)
                file.readinto(row)
        return found

    def chunks(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row number, rows (n, D)) from row ``first`` on, read one chunk ahead."""
        spans = list(_spans(len(self), first))
        with open(self.path, "rb", buffering=0) as file, ThreadPoolExecutor(1) as pool:

            def read(start: int, end: int) -> np.ndarray:
                rows = np.empty((end - start, self.shape[1]), np.float32)
                file.seek(start * self.shape[1] * rows.itemsize)
                view, got = memoryview(rows).cast("B"), 0
                while got < len(view):  # one call reads at most 2 GiB
                    count = file.readinto(view[got:])
                    if not count:
                        raise StudyError(f"{self.path}: cut short; delete its folder and run again")
                    got += count
                return rows

            ahead = pool.submit(read, *spans[0]) if spans else None
            for k, (start, _) in enumerate(spans):
                rows = ahead.result()
                if k + 1 < len(spans):
                    ahead = pool.submit(read, *spans[k + 1])
                yield start, rows


def write_descriptors(
    path: Path, shape: tuple[int, int], chunks: Callable[[int], Iterable[np.ndarray]]
) -> DescriptorFile:
    """Write descriptors chunk by chunk; killed, it goes on after the last whole chunk.

    Args:
        path: the file; what a killed run left of it is used.
        shape: (N, D).
        chunks: function from a row number, a multiple of ``CHUNK``, to the chunks from there on,
            ``CHUNK`` rows each but the last.
    """
    total, row_bytes = shape[0], shape[1] * np.dtype(np.float32).itemsize
    path.touch()
    done = path.stat().st_size // row_bytes
    if done < total:
        done -= done % CHUNK
        os.truncate(path, done * row_bytes)
        with open(path, "ab", buffering=0) as file:
            for rows in chunks(done):
                view = memoryview(np.ascontiguousarray(rows, np.float32)).cast("B")
                while view:
                    view = view[file.write(view) :]
    return DescriptorFile(path, shape)


def _spans(total: int, first: int) -> Iterator[tuple[int, int]]:
    while first < total:
        end = first + _READ if total - first >= 2 * _READ else total
        yield first, end
        first = end


def _chunks(data, first: int) -> Iterator[tuple[int, np.ndarray]]:
    if isinstance(data, DescriptorFile):
        yield from data.chunks(first)
        return
    for start, end in _spans(len(data), first):
        yield start, np.ascontiguousarray(data[start:end], np.float32)


@dataclass
class KMeansState:
    """Where k-means stands, between two chunks.

    Attributes:
        centroids: (K, D) float32, as the current iteration began.
        objective: of each finished iteration.
        words: (N,) int32, the word that approximate assignment last gave each descriptor; None
            when it is exact.
        row: how many descriptors the current iteration has seen.
        sums: (K, D) float32 of the descriptors it has given to each word; None before the first.
        counts: (K,) float32, how many these are.
        total: of their squared distances.
    """

    centroids: np.ndarray
    objective: list[float] = field(default_factory=list)
    words: np.ndarray | None = None
    row: int = 0
    sums: np.ndarray | None = None
    counts: np.ndarray | None = None
    total: float = 0.0

    def save(self, path: Path) -> None:
        """Write everything, atomically."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)

    @classmethod
    def load(cls, path: Path) -> KMeansState:
        """Read what :meth:`save` wrote."""
        with np.load(path) as saved:
            values = {name: saved[name] for name in saved.files}
        values["objective"] = values["objective"].tolist()
        values["row"], values["total"] = int(values.get("row", 0)), float(values.get("total", 0))
        return cls(**values)


def fit_kmeans(
    data: np.ndarray | DescriptorFile,
    words: int,
    iterations: int,
    *,
    seed: int = 0,
    state: KMeansState | None = None,
    on_iteration: Callable[[KMeansState], None] | None = None,
    save: Callable[[KMeansState], None] | None = None,
    save_every: float = 60.0,
    assignment: str = "exact",
    effort: int = 0,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's k-means from randomly drawn descriptors.

    The result is the same however often the run was stopped and went on from a saved state. Empty
    clusters are filled as faiss does: each takes half of a cluster drawn with a probability that
    grows with its size, and the two centroids move apart by a 1024th.

    With approximate assignment a descriptor keeps the word it had if the one found is farther, as
    in VLFeat's ANN k-means, so that the objective does not rise by missing a word.

    Args:
        data: (N, D) float32, in memory or in a file.
        words: K.
        iterations: at most this many; fewer when one gains less than ``MIN_GAIN``.
        seed: of the initial draw.
        state: where to go on; it is changed.
        on_iteration: called with the state after each iteration.
        save: called with the state between two chunks, every ``save_every`` seconds.
        save_every: seconds.
        assignment: ``exact``, ``hnsw`` or ``ivf``; approximate ones run on the CPU.
        effort: of approximate assignment; 0 is its default.
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
    if state is None:
        drawn = np.sort(np.random.default_rng(seed).choice(len(data), words, replace=False))
        state = KMeansState(data.rows(drawn) if isinstance(data, DescriptorFile) else data[drawn])
    if assignment != "exact" and state.words is None:
        state.words = np.zeros(len(data), np.int32)
    while len(state.objective) < iterations and not settled(state.objective):
        if len(data) == words:  # every descriptor is a word
            state.centroids = np.concatenate([rows for _, rows in _chunks(data, 0)])
            state.objective.append(0.0)
        else:
            step = _make_step(state.centroids, assignment, effort, device)
            _iterate(data, state, step, save, save_every)
        if on_iteration:
            on_iteration(state)
    return state.centroids, np.array(state.objective)


def settled(objective: list[float]) -> bool:
    """Whether the last iteration gained too little to go on."""
    if len(objective) < 3:
        return False
    gained = objective[0] - objective[-1]
    return objective[-2] - objective[-1] < MIN_GAIN * max(gained, 1e-12)


def _iterate(data, state: KMeansState, step: _Step, save, save_every: float) -> None:
    """Assign every descriptor and move the words, from where ``state`` stands."""
    if state.sums is None:
        state.sums = np.zeros_like(state.centroids)
        state.counts = np.zeros(len(state.centroids), np.float32)
    step.open(state.sums, state.counts)
    in_float32 = len(data) <= _FLOAT32_SUM_UP_TO
    saved = time.monotonic()
    for start, rows in _chunks(data, state.row):
        if not state.objective and not np.isfinite(rows.sum()):
            raise StudyError(
                "k-means: some descriptors are not finite numbers; check the images and the weights"
            )
        place = slice(start, start + len(rows))
        before = state.words[place] if state.words is not None and state.objective else None
        found, distances = step.add(rows, before)
        if state.words is not None:
            state.words[place] = found
        if in_float32:
            state.total = float(_running_sum(np.float32(state.total), distances))
        else:
            state.total += float(distances.sum(dtype=np.float64))
        state.row = place.stop
        if save and time.monotonic() - saved >= save_every:
            state.sums, state.counts = step.sums()
            save(state)
            saved = time.monotonic()
    sums, counts = step.sums()
    filled = counts > 0
    sums[filled] *= (np.float32(1) / counts[filled])[:, None]
    _fill_empty(sums, counts, len(data))
    state.centroids = sums
    state.objective.append(state.total)
    state.row, state.sums, state.counts, state.total = 0, None, None, 0.0


class _Step:
    """One iteration's assignment and sums on the CPU."""

    def __init__(self, centroids: np.ndarray, searcher: Searcher):
        self.centroids, self.searcher = centroids, searcher

    def open(self, sums: np.ndarray, counts: np.ndarray) -> None:
        """Go on from these sums (K, D) and counts (K,)."""
        self._sums, self._counts = sums, counts

    def add(self, rows, before) -> tuple[np.ndarray, np.ndarray]:
        """Give each row a word; return the words and the squared distances to them."""
        words, distances = self.searcher.search(rows)
        if before is not None:
            words, distances = _kept_if_nearer(rows, self.centroids, before, words, distances)
        _add_rows(rows, words, self._sums, self._counts)
        return words, distances

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and counts so far."""
        return self._sums, self._counts


class _TorchStep:
    """One iteration's exact assignment and sums as torch operations, on a GPU or not."""

    def __init__(self, centroids: np.ndarray, device: str):
        self.device = torch.device(device)
        self.centroids = torch.from_numpy(np.ascontiguousarray(centroids)).to(self.device)
        self.bias = -0.5 * (self.centroids * self.centroids).sum(1)

    def open(self, sums: np.ndarray, counts: np.ndarray) -> None:
        """Go on from these sums (K, D) and counts (K,)."""
        self._sums = torch.from_numpy(sums.copy()).to(self.device)
        self._counts = torch.from_numpy(counts.copy()).to(self.device)

    @torch.inference_mode()
    def add(self, rows, before) -> tuple[np.ndarray, np.ndarray]:
        """Give each row a word; return the words and the squared distances to them."""
        del before
        every = torch.from_numpy(rows).to(self.device)
        words = torch.empty(len(rows), dtype=torch.int64, device=self.device)
        distances = torch.empty(len(rows), device=self.device)
        step = max(1, _SCORES_AT_ONCE // len(self.centroids))
        for start in range(0, len(rows), step):
            part = every[start : start + step]
            best, word = torch.addmm(self.bias, part, self.centroids.T).max(dim=1)
            words[start : start + step] = word
            distances[start : start + step] = ((part * part).sum(1) - 2 * best).clamp_(min=0)
        with _deterministic():  # else a GPU adds up in whatever order its threads come
            self._sums.index_add_(0, words, every)
        self._counts += torch.bincount(words, minlength=len(self.centroids))
        return words.cpu().numpy(), distances.cpu().numpy()

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and counts so far."""
        return self._sums.cpu().numpy().copy(), self._counts.cpu().numpy().copy()


def _make_step(centroids: np.ndarray, assignment: str, effort: int, device: str):
    if assignment == "exact" and device != "cpu":
        return _TorchStep(centroids, device)
    return _Step(centroids, make_searcher(centroids, assignment, effort))


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _kept_if_nearer(rows, centroids, before, words, distances):
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
def _add_rows(rows, words, sums, counts):
    """Add each row to the sum of its word, in order."""
    for i in range(len(rows)):
        word = words[i]
        counts[word] += np.float32(1)
        for j in range(rows.shape[1]):
            sums[word, j] += rows[i, j]


@numba.njit(cache=True, nogil=True)
def _running_sum(total, values):
    """Return float32 ``total`` plus the values, one after the other."""
    for value in values:
        total += value
    return total


def _fill_empty(centroids: np.ndarray, counts: np.ndarray, descriptors: int) -> None:
    """Split large clusters to fill empty ones, in place; the same as faiss' ``split_clusters``.

    faiss walks over the clusters, again and again, and takes the first one for which a random
    number is below (size - 1) / (N - K).
    """
    draws = _Draws()
    room = np.float32(descriptors - len(counts))
    for empty in np.flatnonzero(counts == 0):
        chance = ((counts.astype(np.float64) - 1) / room).astype(np.float32)
        while True:
            hits = np.flatnonzero(draws.peek(len(counts)) < chance)
            if len(hits):
                break
            draws.skip(len(counts))
        large = hits[0]
        draws.skip(large + 1)
        centroids[empty] = centroids[large]
        for row, first, second in ((empty, 1, -1), (large, -1, 1)):
            centroids[row, 0::2] *= np.float32(1 + first / 1024)
            centroids[row, 1::2] *= np.float32(1 + second / 1024)
        counts[empty] = counts[large] / np.float32(2)
        counts[large] -= counts[empty]


class _Draws:
    """faiss' random numbers: a Mersenne twister seeded with 1234, as float32 from 0 to 1."""

    def __init__(self):
        self._source = np.random.MT19937()
        self._source._legacy_seeding(1234)
        self._ready, self._next = np.empty(0, np.float32), 0

    def peek(self, number: int) -> np.ndarray:
        """Return the next ``number`` without using them up."""
        missing = self._next + number - len(self._ready)
        if missing > 0:
            raw = self._source.random_raw(max(missing, 65_536)).astype(np.float32)
            more = raw / np.float32(2**32 - 1)
            self._ready = np.concatenate([self._ready[self._next :], more])
            self._next = 0
        return self._ready[self._next : self._next + number]

    def skip(self, number: int) -> None:
        """Use up the next ``number``."""
        self._next += int(number)
