"""Bags of SIFT words: an own codebook, the word of every keypoint, histograms and search.

Burstiness: a word that repeats in an image (a window of a façade) says less each time, so counts
enter by their square root (Jegou et al., CVPR 2009). Words are weighted by their inverse document
frequency on both sides, database and query.
"""

from __future__ import annotations

import os

import numpy as np
from scipy import sparse

from blcf_utils.config.profile import SiftConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.rows import sample_rows
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.search.boxes import Mode
from blcf_utils.search.index.inverted_file import InvertedFile, build_index, invert
from blcf_utils.search.query import Ranking
from blcf_utils.search.sift.keypoints import DIMENSIONS, SiftFeatures, query_keypoints
from blcf_utils.words.codebook import DESCRIPTORS, Codebook, read_codebook, train_words
from blcf_utils.words.histograms import Sparse
from blcf_utils.words.kmeans import CHUNK, write_descriptors

CODEBOOK = Stage("sift_codebook", version=1)
WORDS = Stage("sift_words", version=1)


class SiftWords:
    """The visual word of every keypoint of a dataset's images.

    Attributes:
        features: keypoints and descriptors.
        key: artefact key.
        n_words: K, the size of the codebook.
        n_database: the first ``n_database`` images are the database.
        sizes: (n, 2) width and height in pixels of each stored image.
    """

    def __init__(self, artefact: Artefact, features: SiftFeatures, n_words: int):
        self.artefact, self.key = artefact, artefact.key
        self.features, self.n_words = features, n_words
        self.n_database, self.sizes = features.n_database, features.sizes
        self._offsets = np.concatenate([[0], np.cumsum(features.counts)])
        self._words = np.load(artefact / "words.npy")

    def __len__(self) -> int:
        return len(self.features)

    def words(self, image: int) -> np.ndarray:
        """Return the words of an image's keypoints, (m,) uint16."""
        return self._words[self._offsets[image] : self._offsets[image + 1]]

    def keypoints(self, image: int) -> np.ndarray:
        """Return x, y, size and angle of an image's keypoints, (m, 4) float32."""
        return self.features.keypoints(image)


def learn_sift_codebook(
    features: SiftFeatures, config: SiftConfig, store: ArtefactStore, *, seed: int = 0
) -> Codebook:
    """Learn ``config.words`` visual words on the descriptors of the database images.

    Uses every descriptor, or a seeded uniform sample of ``config.max_descriptors``. Killed, it
    goes on from the last finished iteration.

    Raises:
        StudyError: fewer descriptors than words.
    """
    document = {
        "sift": features.key,
        "words": config.words,
        "iterations": config.iterations,
        "max_descriptors": config.max_descriptors,
        "seed": seed,
        "min_gain": config.min_gain,
    }
    label = f"{features.artefact.label}-K{config.words}"

    def descriptors(folder):
        every = np.arange(features.n_database_descriptors)
        rows = sample_rows(every, config.max_descriptors, seed + 1)
        if len(rows) < config.words:
            raise StudyError(
                f"sift.words: {config.words} words cannot be learned from the {len(rows)} "
                f"descriptors of {features.artefact.label}; lower it or learn on more images"
            )
        return write_descriptors(
            folder / DESCRIPTORS,
            (len(rows), DIMENSIONS),
            lambda first: (
                features.rows(rows[start : start + CHUNK])
                for start in range(first, len(rows), CHUNK)
            ),
        )

    def make(folder):
        asked = config.words, config.iterations, seed
        train_words(folder, descriptors, *asked, min_gain=config.min_gain)

    return read_codebook(store.get_or_make(CODEBOOK, label, document, make))


def assign_sift_words(
    features: SiftFeatures, codebook: Codebook, store: ArtefactStore
) -> SiftWords:
    """Give every keypoint of every image its nearest word, exactly; resumable per image.

    Of images with the same bytes the first one's words are those of its copies.
    """
    document = {"sift": features.key, "codebook": codebook.key}
    size = np.dtype(np.uint16).itemsize
    ends = np.cumsum(features.counts) * size

    def make(folder):
        path = folder / "words.bin"
        path.touch()
        done = int(np.searchsorted(ends, path.stat().st_size, side="right"))
        os.truncate(path, int(ends[done - 1]) if done else 0)
        with open(path, "ab") as file:
            for i in progress(range(done, len(features)), label="sift words", unit="image"):
                first, count = int(features.distinct[i]), int(features.counts[i])
                if first < i:
                    with open(path, "rb") as written:
                        written.seek(int(ends[first]) - count * size)
                        file.write(written.read(count * size))
                elif count:
                    file.write(codebook.assign(features.descriptors(i)).tobytes())
                file.flush()
        np.save(folder / "words.npy", np.fromfile(path, np.uint16))
        path.unlink()

    label = f"{features.artefact.label}-K{codebook.words}"
    artefact = store.get_or_make(WORDS, label, document, make)
    return SiftWords(artefact, features, codebook.words)


def sift_histogram(words: np.ndarray, burstiness: str = "sqrt") -> Sparse:
    """Return the histogram of words as (distinct words int64, unit-length float32 values).

    Args:
        words: (m,) visual words; none give an empty histogram.
        burstiness: ``sqrt`` takes the square root of counts, ``none`` counts as they are.
    """
    distinct, counts = np.unique(words, return_counts=True)
    values = np.sqrt(counts) if burstiness == "sqrt" else counts.astype(np.float64)
    norm = np.sqrt((values * values).sum())
    return distinct.astype(np.int64), (values / max(norm, 1e-12)).astype(np.float32)


def sift_histograms(words: SiftWords, burstiness: str = "sqrt") -> sparse.csr_array:
    """Return the unit-length histograms of the database, (n_database, K) float32, without idf."""
    rows = [sift_histogram(words.words(i), burstiness) for i in range(words.n_database)]
    starts = np.concatenate([[0], np.cumsum([len(distinct) for distinct, _ in rows])])
    indices, values = (np.concatenate(part) for part in zip(*rows, strict=True))
    return sparse.csr_array((values, indices, starts), shape=(words.n_database, words.n_words))


def sift_index(words: SiftWords, config: SiftConfig, store: ArtefactStore) -> InvertedFile:
    """Return the inverted file of the database, weighted as ``config`` says."""

    def build() -> InvertedFile:
        return invert(sift_histograms(words, config.burstiness), config.idf)

    document = {"sift_words": words.key, "burstiness": config.burstiness, "idf": config.idf}
    return build_index(document, words.artefact.label, store, build)


def sift_query(
    dataset: Dataset, query: Query, words: SiftWords, mode: Mode, burstiness: str = "sqrt"
) -> Sparse:
    """Return the query's words and their unit-length weights, (m,) each.

    A box without any keypoint gives no words.

    Args:
        dataset: whose query it is.
        query: the query.
        words: words of the dataset's images.
        mode: ``gs`` takes every keypoint of the image, ``ls`` those in the mask or box.
        burstiness: as the index was built with.

    Raises:
        StudyError: an unknown mode, a query image that was left out, a box outside the image.
    """
    inside = query_keypoints(dataset, query, words.features, mode)
    return sift_histogram(words.words(dataset.image_index[query.image])[inside], burstiness)


def search_sift(
    dataset: Dataset,
    words: SiftWords,
    index: InvertedFile,
    mode: Mode,
    burstiness: str = "sqrt",
    top: int | None = None,
) -> dict[str, Ranking]:
    """Rank the database for every query of ``dataset``.

    A query without any keypoint has no words to search with: every score is 0 and the images come
    in the order of their numbers.

    Args:
        dataset, words, mode, burstiness: as for :func:`sift_query`.
        index: inverted file of the database.
        top: length of the rankings; the whole database when None.

    Returns:
        Query id to ranking.
    """
    rankings = {}
    for query in progress(dataset.queries, label=f"sift search {mode}", unit="query"):
        pair = sift_query(dataset, query, words, mode, burstiness)
        rankings[query.id] = Ranking(*index.search(*pair, top))
    return rankings
