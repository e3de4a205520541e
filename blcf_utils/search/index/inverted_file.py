"""The inverted file: for each visual word, the images that hold it and with what weight.

A query reads only what is stored of its own words, so its cost does not follow the size of the
codebook. About two bytes for each pair of an image and a word; memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.index.building import Builder, levels_of_saved, scales_of_words
from blcf_utils.search.index.scoring import best_images, score_all
from blcf_utils.words.histograms import inverse_document_frequency, scale_words

# The scores of a block stay in the processor's cache while words are added to them.
BLOCK_SIZE = 65_536
# Words of more images are added up last, four at a time.
FREQUENT_SHARE = 0.2
MAPPED = ("offsets", "data")
STAGE = Stage("index", version=3)


@dataclass(frozen=True)
class InvertedFile:
    """An inverted file over n images and K words.

    A weight is a whole *level* times the scale of its image (and of its word, where words have
    scales). Levels are stored by blocks of ``block_size`` images, within a block by words, as rows
    or as lists, whichever is smaller (:mod:`blcf_utils.search.index.segments`).

    Attributes:
        offsets: (blocks, K + 1) uint32 or uint64; in a block, word w's segment is
            ``data[offsets[block, w] : offsets[block, w + 1]]``.
        data: (units,) uint16, all segments.
        frequent: (r,) int32 words, rising, whose products are added to a score last.
        holders: (K,) uint32 images that hold each word.
        scales: (n,) float32.
        block_size: images in a block.
        word_scales: (K,) float32, or None for 1 each.
        factors: (K,) float32 applied to query histograms (idf), or None.
    """

    offsets: np.ndarray
    data: np.ndarray
    frequent: np.ndarray
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
        frequent_share: float = FREQUENT_SHARE,
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
            frequent_share: share of the images from which a word is frequent.
            weights: ``uint8`` rounds weights that are no counts to 255ths of the image's largest,
                one byte each.

        Raises:
            StudyError: a negative or infinite weight, or a block size out of range.
        """
        factors = None if factors is None else np.asarray(factors, np.float32)
        if not histograms.has_canonical_format:
            histograms = histograms.copy()
            histograms.sum_duplicates()
        word_scales = scales_of_words(histograms, factors)
        builder = Builder(histograms.shape[1], block_size, word_scales, weights)
        builder.add(histograms)
        return cls._built(builder, frequent_share, factors)

    @classmethod
    def from_chunks(
        cls,
        chunks: Iterable[sparse.csr_array],
        words: int,
        *,
        block_size: int = BLOCK_SIZE,
        frequent_share: float = FREQUENT_SHARE,
        weights: str = "exact",
    ) -> InvertedFile:
        """Build from the histograms of some images after the other, (m, K) each.

        Never holds more than the index, a block of histograms and a chunk; otherwise as
        :meth:`from_histograms`, whose bytes it gives, without factors.

        Args:
            chunks: histograms of the first images, of the next ones and so on.
            words: K.
            block_size, frequent_share, weights: as for :meth:`from_histograms`.

        Raises:
            StudyError: a negative or infinite weight, or a block size out of range.
        """
        builder = Builder(words, block_size, None, weights)
        for chunk in chunks:
            builder.add(chunk)
        return cls._built(builder, frequent_share, None)

    @classmethod
    def _built(cls, builder: Builder, frequent_share: float, factors) -> InvertedFile:
        offsets, data, holders, scales = builder.finish()
        frequent = (holders > 0) & (holders >= frequent_share * len(scales))
        return cls(
            offsets=offsets,
            data=data,
            frequent=np.flatnonzero(frequent).astype(np.int32),
            holders=holders,
            scales=scales,
            block_size=builder.block_size,
            word_scales=builder.word_scales,
            factors=factors,
        )

    @classmethod
    def open(cls, folder: Path) -> InvertedFile:
        """Open a saved index; its segments stay on disk until a query reads them.

        One that an earlier version saved, as lists and rows, is packed anew in memory.
        """
        if (folder / "row_words.npy").exists():
            return cls._repacked(folder)
        arrays = {}
        for field in fields(cls):
            path = folder / f"{field.name}.npy"
            if path.exists():
                # Plain views of the maps: compiled functions take them up faster.
                mode = "r" if field.name in MAPPED else None
                arrays[field.name] = np.asarray(np.load(path, mmap_mode=mode))
        return cls(**{**arrays, "block_size": int(arrays["block_size"])})

    @classmethod
    def _repacked(cls, folder: Path) -> InvertedFile:
        saved = {path.stem: np.load(path) for path in folder.glob("*.npy")}
        word_scales = saved.get("word_scales")
        builder = Builder(saved["offsets"].shape[1] - 1, BLOCK_SIZE, word_scales)
        builder.add_levels(levels_of_saved(saved), saved["scales"])
        return cls._built(builder, FREQUENT_SHARE, saved.get("factors"))

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
        scores = np.empty(self.n_images, np.float32)
        score_all(*self._stored, *self._query(words, values), scores)
        return scores

    @cached_property
    def _stored(self) -> tuple:
        """What the compiled loops read."""
        octets = self.data.view(np.uint8)
        return self.data, octets, self.offsets, self.scales, self.block_size

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
        # Small terms first, as later they would drown in the rounding of the sum.
        order = np.argsort(values, kind="stable")
        words, values = words[order], values[order]
        places = np.searchsorted(self.frequent, words)
        frequent = np.append(self.frequent, -1)[places] == words
        return words, values, np.flatnonzero(frequent)

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
            images, scores = best_images(*self._stored, *self._query(words, values), top, room)
            return images.astype(np.int32), scores
        scores = self.scores(words, values)
        # Half of int64: rankings of whole databases are kept for every query.
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        return order, scores[order]


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
