"""Search by the aggregated selective match kernel (row ``asmk``), with its authors' package.

``asmk`` is an optional extra: pip compiles a part of it.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.maps import FeatureMaps
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path
from blcf_utils.ground.progress import progress
from blcf_utils.pooling.compared.refinement import ranked
from blcf_utils.search.boxes import Mode, Projection, query_cells
from blcf_utils.search.query import Ranking
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import Whitening

STAGE = Stage("asmk", version=1)
# The settings of Tolias et al., ECCV 2020; a descriptor of a query has so many words.
_EXPONENT, _THRESHOLD, _QUERY_WORDS = 3.0, 0.0, 5


def asmk_missing() -> str:
    """Return why the package cannot be used, or ""."""
    if find_spec("asmk"):
        return ""
    return "needs the package asmk; install it with pip install 'blcf-study[asmk]'"


class AsmkSearch:
    """A dataset's local descriptors under the aggregated selective match kernel.

    The cells of the feature map that words are made of, not interpolated, with the same whitening
    and words: of an image's descriptors with one word the sum of their differences to the word is
    kept, one bit a dimension.

    Args:
        dataset: images and queries.
        features, whitening, codebook: what its words are made of.
        projection: of boxes to cells.
        store: where artefacts live.

    Source: Tolias, Avrithis and Jégou, ICCV 2013; Tolias, Jenicek and Chum, ECCV 2020.
    """

    def __init__(
        self,
        dataset: Dataset,
        features: FeatureMaps,
        whitening: Whitening,
        codebook: Codebook,
        projection: Projection,
        store: ArtefactStore,
    ):
        self.dataset, self.features, self.whitening = dataset, features, whitening
        self.codebook, self.projection, self.store = codebook, projection, store

    @cached_property
    def _kernel(self):
        from asmk.codebook import Codebook as Words
        from asmk.index import FaissL2Index
        from asmk.kernel import ASMKKernel

        words = Words(FaissL2Index(), size=self.codebook.words)
        words.index(self.codebook.centroids)
        return ASMKKernel(words, binary=True)

    def aggregate(self, cells: np.ndarray, words: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes (m, D / 32) uint32 and the words (m,) of local descriptors (n, C)."""
        white = self.whitening.apply(cells)
        numbers = self._kernel.codebook.quantize(white, multiple_assignment=words)
        return self._kernel.aggregate_image(*numbers)

    @cached_property
    def aggregated(self) -> Artefact:
        """The codes of every database image and word: files codes, words and images."""

        def make(folder: Path) -> None:
            parts, features = [], self.features
            label = f"ASMK of {self.dataset.name}"
            for i in progress(range(features.n_database), label=label, unit="image"):
                if features.shapes[i].all():
                    codes, words = self.aggregate(features.descriptors(i), 1)
                    parts.append((codes, words, np.full(len(words), i)))
            codes, words, images = (np.concatenate(part) for part in zip(*parts, strict=True))
            with atomic_path(folder / "aggregated.npz") as path:
                np.savez(path, codes=codes, words=words, images=images)

        document = {
            "features": self.features.key,
            "whitening": self.whitening.key,
            "codebook": self.codebook.key,
        }
        return self.store.get_or_make(STAGE, self.features.artefact.label, document, make)

    @cached_property
    def index(self):
        """The package's inverted file of the database."""
        from asmk.inverted_file import IVF

        found = IVF.initialize_empty(codebook_size=self.codebook.words, use_idf=False)
        with np.load(self.aggregated / "aggregated.npz") as held:
            found.add(held["codes"], held["words"], held["images"])
        return found

    @property
    def entries(self) -> int:
        """How many codes the index has."""
        return int(self.index.counts.sum())

    @property
    def nbytes(self) -> int:
        """Memory of its codes and of their images' numbers, four bytes each."""
        return self.entries * (4 * -(-self.whitening.dimensions // 32) + 4)

    def describe(self, query: Query, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes and the words of a query."""
        i, features = self.dataset.image_index[query.image], self.features
        shape = tuple(features.shapes[i])
        cells = query_cells(query, tuple(features.sizes[i]), shape, mode, self.projection)
        return self.aggregate(features.descriptors(i)[cells.ravel()], _QUERY_WORDS)

    def search(self, codes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return the score of every database image, (n,)."""

        def similarity(code: np.ndarray, codes: np.ndarray, images: np.ndarray):
            return self._kernel.similarity(
                code, codes, images, alpha=_EXPONENT, similarity_threshold=_THRESHOLD
            )

        images, found = self.index.search(codes, words, similarity_func=similarity, topk=None)
        scores = np.zeros(self.features.n_database)
        scores[images] = found
        return scores

    def rank(self, mode: Mode = "ls") -> dict[str, Ranking]:
        """Return the rankings of the whole database for every query."""
        queries = progress(self.dataset.queries, label="ASMK", unit="query")
        return {q.id: ranked(self.search(*self.describe(q, mode))) for q in queries}
