"""The inverted file: for each visual word, the images that hold it and with what weight.

A query reads only what is stored of its own words, so its cost does not follow the size of the
codebook. About three bytes for each pair of an image and a word; memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy import sparse

from blcf_utils.artefacts import ArtefactStore
from blcf_utils.errors import StudyError
from blcf_utils.index_kernels import add_up, best, count_holders, count_postings, fill, quantise

# The scores of a block stay in the processor's cache while the lists are added to them.
BLOCK_SIZE = 32_768
# From 0.1 to 0.3 the speed is the same; lower takes more bytes, higher more random writes.
ROW_SHARE = 0.2
MAPPED = ("offsets", "images", "levels", "rows")


@dataclass(frozen=True)
class InvertedFile:
    """An inverted file over n images and K words.

    A weight is a whole *level* times the scale of its image (and of its word, where words have
    scales). The levels of a word that many images hold are a row of n numbers; those of the others
    are lists of postings (image, level), one list a block of ``block_size`` images. What a level
    has above the highest number of its type follows as further postings.

    Attributes:
        offsets: (blocks, K + 1) uint32 or uint64; in a block, word w's postings are
            ``offsets[block, w]`` to ``offsets[block, w + 1]``.
        images: (postings,) uint16 image numbers within the block, rising within a list.
        levels: (postings,) uint8 if all levels are counts, else uint16.
        rows: (r, n) levels of the words ``row_words``, same type; 0 without the word.
        row_words: (r,) int32, rising.
        holders: (K,) uint32 images that hold each word.
        scales: (n,) float32.
        block_size: images in a block.
        word_scales: (K,) float32, or None for 1 each.
        factors: (K,) float32 applied to query histograms (idf), or None.
    """

    offsets: np.ndarray
    images: np.ndarray
    levels: np.ndarray
    rows: np.ndarray
    row_words: np.ndarray
    holders: np.ndarray
    scales: np.ndarray
    block_size: int
    word_scales: np.ndarray | None = None
    factors: np.ndarray | None = None

    def __post_init__(self):
        # As the maps of files are; the loops are compiled once for both.
        for name in MAPPED:
            getattr(self, name).flags.writeable = False

    @classmethod
    def from_histograms(
        cls,
        histograms: sparse.csr_array,
        factors: np.ndarray | None = None,
        *,
        block_size: int = BLOCK_SIZE,
        row_share: float = ROW_SHARE,
    ) -> InvertedFile:
        """Build from histograms (n, K), one row an image.

        Histograms of counts, of any length and also with each word scaled by its factor, are kept
        exactly: a level is a count, in one byte. If an image has other weights, levels take two
        bytes and its weights are rounded by less than 2e-6 of the histogram's length; scores
        change by about 1e-6. Weights that are, or round to, zero are left out.

        Args:
            histograms: weights of at least 0.
            factors: (K,) applied to query histograms (idf).
            block_size: images in a block, 1 to 65536.
            row_share: share of the images from which a word has a row.

        Raises:
            StudyError: a negative or infinite weight, or a block size out of range.
        """
        if not 1 <= block_size <= 65536:
            raise StudyError(f"index: expected a block size of 1 to 65536, found {block_size}")
        if not histograms.has_canonical_format:
            histograms = histograms.copy()
            histograms.sum_duplicates()
        n, k = histograms.shape
        starts = histograms.indptr.astype(np.int64, copy=False)
        words = histograms.indices.astype(np.int32, copy=False)
        factors = None if factors is None else np.asarray(factors, np.float32)
        levels, scales, word_scales, dtype = _levels(starts, words, histograms.data, n, factors)
        top = np.iinfo(dtype).max

        holders = np.zeros(k, np.uint32)
        count_holders(words, levels, holders)
        row_words = np.flatnonzero((holders > 0) & (holders >= row_share * n)).astype(np.int32)
        row_of_word = np.full(k, -1, np.int32)
        row_of_word[row_words] = np.arange(len(row_words))
        counts = np.zeros((-(-n // block_size), k), np.int64)
        count_postings(starts, words, levels, row_of_word, block_size, top, counts)
        postings = int(counts.sum())
        offsets = np.zeros((len(counts), k + 1), np.uint32 if postings < 2**32 else np.uint64)
        offsets[:, 1:] = np.cumsum(counts).reshape(counts.shape)
        offsets[1:, 0] = offsets[:-1, -1]

        images, listed = np.empty(postings, np.uint16), np.empty(postings, dtype)
        rows = np.zeros((len(row_words), n), dtype)
        fill(starts, words, levels, row_of_word, block_size, top, offsets, images, listed, rows)
        return cls(
            offsets=offsets,
            images=images,
            levels=listed,
            rows=rows,
            row_words=row_words,
            holders=holders,
            scales=scales,
            block_size=block_size,
            word_scales=word_scales,
            factors=factors,
        )

    @classmethod
    def open(cls, folder: Path) -> InvertedFile:
        """Open a saved index; lists and rows stay on disk until a query reads them."""
        arrays = {}
        for field in fields(cls):
            path = folder / f"{field.name}.npy"
            if path.exists():
                # Plain views of the maps: compiled functions take them up faster.
                mode = "r" if field.name in MAPPED else None
                arrays[field.name] = np.asarray(np.load(path, mmap_mode=mode))
        return cls(**{**arrays, "block_size": int(arrays["block_size"])})

    def save(self, folder: Path) -> None:
        """Write the arrays into ``folder``, one file each."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                np.save(folder / f"{field.name}.npy", value)

    @property
    def words(self) -> int:
        """K."""
        return self.offsets.shape[1] - 1

    @property
    def n_images(self) -> int:
        """n."""
        return len(self.scales)

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes, all its arrays together."""
        values = [getattr(self, field.name) for field in fields(self)]
        return sum(np.asarray(value).nbytes for value in values if value is not None)

    @property
    def list_lengths(self) -> np.ndarray:
        """How many images hold each word, (K,) int64."""
        return self.holders.astype(np.int64)

    @property
    def entries(self) -> int:
        """Number of pairs of an image and a word it holds."""
        return int(self.list_lengths.sum())

    def touched(self, words: np.ndarray) -> int:
        """Return how many of the :attr:`entries` belong to the (distinct) ``words`` of a query."""
        return int(self.list_lengths[words].sum())

    def scores(self, words: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the dot product of a sparse query with every image, (n,) float32.

        Args:
            words: (m,) distinct visual words.
            values: (m,) their weights in the query histogram.

        Raises:
            StudyError: a word of another codebook.
        """
        words = np.ascontiguousarray(words, np.int64)
        values = np.ascontiguousarray(values, np.float32)
        # The compiled loop does not check bounds.
        if len(words) and not 0 <= words.min() <= words.max() < self.words:
            raise StudyError(
                f"index: expected query words 0 to {self.words - 1}, found {words.min()} to "
                f"{words.max()}; encode the query with the codebook of the index"
            )
        if self.factors is not None:
            values = values * self.factors[words]
            values /= max(float(np.sqrt((values * values).sum())), 1e-12)
        if self.word_scales is not None:
            values = values * self.word_scales[words]
        # Small terms first, as later they would drown in the rounding of the sum.
        order = np.argsort(values, kind="stable")
        words, values = words[order], values[order]
        numbers = np.searchsorted(self.row_words, words)
        has_row = np.append(self.row_words, -1)[numbers] == words
        scores = np.empty(self.n_images, np.float32)
        add_up(
            self.offsets,
            self.images,
            self.levels,
            self.rows,
            self.scales,
            self.block_size,
            words,
            values,
            numbers[has_row],
            values[has_row],
            scores,
        )
        return scores

    def search(
        self, words: np.ndarray, values: np.ndarray, top: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the images for a sparse query.

        Equal scores are ordered by image number, so a ranking never depends on chance.

        Args:
            words, values: as for :meth:`scores`.
            top: length of the ranking; every image when None.

        Returns:
            Image numbers (int64) and scores (float32), best first.

        Raises:
            StudyError: a word of another codebook, or ``top`` below 1.
        """
        if top is not None and top < 1:
            raise StudyError(f"index: expected top of at least 1, found {top}")
        scores = self.scores(words, values)
        if top is None or top >= self.n_images:
            order = np.argsort(-scores, kind="stable")
        else:
            order = best(scores, top)
        return order, scores[order]


def _levels(starts, words, weights, n, factors):
    """Return levels (weights,), scales (n,), word scales (K,) or None, and a type for levels."""
    weights = np.asarray(weights, np.float32)
    if len(weights) and not 0 <= weights.min() <= weights.max() < np.inf:
        raise StudyError(
            f"index: expected finite histogram weights of at least 0, found {weights.min()} to "
            f"{weights.max()}; check the weight maps and factors of the histograms"
        )
    levels, scales = np.empty(len(weights), np.uint32), np.empty(n, np.float32)
    none = np.empty(0, np.float32)
    if quantise(starts, words, weights, none, levels, scales):
        return levels, scales, None, np.uint8
    if factors is not None:
        if quantise(starts, words, weights, factors, levels, scales):
            return levels, scales, factors, np.uint8
        quantise(starts, words, weights, none, levels, scales)
    return levels, scales, None, np.uint16


def build_index(
    document: dict,
    label: str,
    store: ArtefactStore,
    build: Callable[[], InvertedFile],
    quiet: bool = False,
) -> InvertedFile:
    """Store the inverted file that ``build`` returns and open it memory-mapped.

    Args:
        document: what determines the histograms: key of the assignment maps, weighting, idf.
        label: for people.
        store: where artefacts live.
        build: called only when no such index is stored.
        quiet: say nothing to the reader.
    """
    document = {"version": 2, **document}

    def make(folder):
        build().save(folder)

    artefact = store.get_or_make("index", label, document, make, quiet)
    return InvertedFile.open(artefact.folder)
