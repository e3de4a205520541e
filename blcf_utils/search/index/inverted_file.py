"""The inverted file: for each visual word, the images that hold it and with what weight.

A query reads only what is stored of its own words, so its cost does not follow the size of the
codebook. It takes about two bytes for each pair of an image and a word, and is memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.search.index.quantisation import STEPS, quantised
from blcf_utils.search.index.scoring import best_images, score_all
from blcf_utils.search.index.segments import pack_block
from blcf_utils.words.histograms import inverse_document_frequency, scale_words

# The scores of a block stay in the processor's cache while words are added to them.
BLOCK_SIZE = 65_536
# Words that a larger share of the images hold are added up last, four at a time.
FREQUENT_SHARE = 0.2
# How many images are quantised at once, so that this takes little memory.
PART = 8_192
MAPPED = ("offsets", "data")
# The version goes up, too, when the layout of the files changes.
STAGE = Stage("index", version=4)


@dataclass(frozen=True)
class InvertedFile:
    """An inverted file over n images and K words.

    A weight is a whole *level* times the scale of its image (and of its word, where words have
    scales). Levels are stored by blocks of ``block_size`` images, within a block by words
    (:mod:`blcf_utils.search.index.segments`).

    Attributes:
        offsets: (blocks, K + 1) uint32 or uint64; in a block, word w is stored in
            ``data[offsets[block, w] : offsets[block, w + 1]]``.
        data: (units,) uint16.
        holders: (K,) uint32 images that hold each word.
        scales: (n,) float32.
        block_size: images in a block.
        word_scales: (K,) float32, or None for 1 each.
        factors: (K,) float32 applied to query histograms (idf), or None.
    """

    offsets: np.ndarray
    data: np.ndarray
    holders: np.ndarray
    scales: np.ndarray
    block_size: int
    word_scales: np.ndarray | None = None
    factors: np.ndarray | None = None

    def __post_init__(self):
        # Files are mapped read-only; with arrays alike, the loops are compiled once for both.
        for name in MAPPED:
            getattr(self, name).flags.writeable = False

    @classmethod
    def from_histograms(
        cls,
        histograms: sparse.csr_array,
        factors: np.ndarray | None = None,
        *,
        block_size: int = BLOCK_SIZE,
        weights: str = "exact",
    ) -> InvertedFile:
        """Build from histograms (n, K), one row an image.

        Histograms of counts, of any length and also with each word scaled by its factor, are kept
        exactly: a level is a count. If an image has other weights, they are rounded by less than
        2e-6 of the histogram's length; scores change by about 1e-6. Weights that are, or round to,
        zero are left out.

        Args:
            histograms: weights of at least 0.
            factors: (K,) applied to query histograms (idf).
            block_size: images in a block, 1 to 65536.
            weights: ``uint8`` rounds weights that are no counts to 255ths of the image's largest,
                one byte each.

        Raises:
            StudyError: a negative or infinite weight, or a block size out of range.
        """
        word_scales = None
        if factors is not None:
            factors = np.asarray(factors, np.float32)
            if not _whole(histograms, None) and _whole(histograms, factors):
                word_scales = factors
        return cls.from_chunks(
            [histograms],
            histograms.shape[1],
            block_size=block_size,
            weights=weights,
            word_scales=word_scales,
            factors=factors,
        )

    @classmethod
    def from_chunks(
        cls,
        chunks: Iterable[sparse.csr_array],
        words: int,
        *,
        block_size: int = BLOCK_SIZE,
        weights: str = "exact",
        word_scales: np.ndarray | None = None,
        factors: np.ndarray | None = None,
    ) -> InvertedFile:
        """Build from histograms that come in chunks, (m, K) each, in the order of the images.

        Needs memory for the index and one block of histograms. Arguments and errors are those of
        :meth:`from_histograms`; ``words`` is K, ``word_scales`` and ``factors`` are stored.
        """
        if not 1 <= block_size <= 65536:
            raise StudyError(f"index: expected a block size of 1 to 65536, found {block_size}")
        if weights not in STEPS:
            raise known("weights of an index", weights, STEPS)
        offsets, scales = [], [np.empty(0, np.float32)]
        data, holders = np.empty(0, np.uint16), np.zeros(words, np.uint32)
        blocks = _packed(chunks, words, block_size, word_scales, STEPS[weights])
        for begins, packed, counts, block_scales in blocks:
            offsets.append(len(data) + begins)
            data.resize(len(data) + len(packed), refcheck=False)  # large arrays grow in place
            data[len(data) - len(packed) :] = packed
            holders += counts.astype(np.uint32)
            scales += block_scales
        kind = np.uint32 if len(data) < 2**32 else np.uint64
        return cls(
            offsets=np.array(offsets, kind).reshape(-1, words + 1),
            data=data,
            holders=holders,
            scales=np.concatenate(scales),
            block_size=block_size,
            word_scales=word_scales,
            factors=factors,
        )

    @classmethod
    def open(cls, folder: Path) -> InvertedFile:
        """Open a saved index; ``offsets`` and ``data`` stay on disk until a query reads them."""
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
    def entries(self) -> int:
        """Number of pairs of an image and a word it holds."""
        return int(self.holders.sum())

    def touched(self, words: np.ndarray) -> int:
        """Return how many of the :attr:`entries` belong to the (distinct) ``words`` of a query."""
        return int(self.holders[words].sum())

    def scores(self, words: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the dot product of a sparse query with every image, (n,) float32.

        Args:
            words: (m,) distinct visual words.
            values: (m,) their weights in the query histogram.

        Raises:
            StudyError: a word of another codebook.
        """
        scores = np.empty(self.n_images, np.float32)
        score_all(*self._stored, *self._query(words, values), scores)
        return scores

    @cached_property
    def _stored(self) -> tuple:
        """What the compiled loops read."""
        return self.data, self.offsets, self.scales, self.block_size

    @cached_property
    def _frequent(self) -> np.ndarray:
        """Whether each word is frequent, (K,) bool."""
        return (self.holders > 0) & (self.holders >= FREQUENT_SHARE * self.n_images)

    def _query(self, words: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return words and values in the order of adding up, and which are frequent words'."""
        words = np.ascontiguousarray(words, np.int64)
        values = np.ascontiguousarray(values, np.float32)
        # The compiled loops do not check bounds.
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
        # Small terms first: a sum that starts with large terms rounds them more.
        order = np.argsort(values, kind="stable")
        words, values = words[order], values[order]
        return words, values, self._frequent[words]

    def search(
        self, words: np.ndarray, values: np.ndarray, top: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the images for a sparse query.

        Equal scores are ordered by image number, so a ranking never depends on chance.

        Args:
            words, values: as for :meth:`scores`.
            top: length of the ranking; every image when None.

        Returns:
            Image numbers (int32) and scores (float32), best first.

        Raises:
            StudyError: a word of another codebook, or ``top`` below 1.
        """
        if top is not None and top < 1:
            raise StudyError(f"index: expected top of at least 1, found {top}")
        if top is not None and top < self.n_images:
            room = np.empty(min(self.block_size, self.n_images), np.float32)
            scores = np.empty(top, np.float32)
            images = best_images(*self._stored, *self._query(words, values), room, scores)
            order = np.lexsort((images, -scores))
            return images[order], scores[order]
        scores = self.scores(words, values)
        # int32, because rankings of whole databases are kept for every query.
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        return order, scores[order]


def _packed(
    chunks: Iterable[sparse.csr_array],
    words: int,
    block_size: int,
    word_scales: np.ndarray | None,
    steps: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Yield what :func:`pack_block` returns of each block of images, and their scales in parts."""
    levels, scales, images = [], [], 0
    for chunk in chunks:
        if chunk.shape[1] != words:
            raise StudyError(
                f"index: expected histograms of {words} words, found {chunk.shape[1]}; "
                "encode all images with one codebook"
            )
        start = 0
        while start < chunk.shape[0]:
            part = chunk[start : start + min(PART, block_size - images)]
            part_levels, part_scales, _ = quantised(part, word_scales, steps)
            levels.append(part_levels)
            scales.append(part_scales)
            start, images = start + part.shape[0], images + part.shape[0]
            if images == block_size:
                yield *pack_block(levels), scales
                levels, scales, images = [], [], 0
    if levels:
        yield *pack_block(levels), scales


def _whole(histograms: sparse.csr_array, word_scales: np.ndarray | None) -> bool:
    """Whether each image's weights, divided by the words' scales, are multiples of one number."""
    starts = range(0, histograms.shape[0], PART)
    parts = (histograms[start : start + PART] for start in starts)
    return all(quantised(part, word_scales, STEPS["exact"])[2] for part in parts)


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

    def make(folder):
        build().save(folder)

    artefact = store.get_or_make(STAGE, label, document, make, quiet)
    return store.once(artefact.key, lambda: InvertedFile.open(artefact.folder))


def invert(histograms: sparse.csr_array, idf: bool, weights: str = "exact") -> InvertedFile:
    """Return the inverted file of histograms (n, K).

    Args:
        histograms: one row an image.
        idf: whether words are weighted by their rarity.
        weights: ``exact`` or ``uint8``, what is kept of weights that are no counts.
    """
    if not idf:
        return InvertedFile.from_histograms(histograms, weights=weights)
    factors = inverse_document_frequency(histograms)
    scaled = scale_words(histograms, factors)
    return InvertedFile.from_histograms(scaled, factors, weights=weights)
