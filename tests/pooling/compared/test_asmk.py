"""ASMK through the authors' package against plain loops; without it the row says so."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.pooling.compared.asmk_search import AsmkSearch
from blcf_utils.pooling.compared.rows import row
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import Whitening


def aggregated(white, centroids, count):
    """The signs of each word's summed differences, as word to +1 or -1 a dimension."""
    sums = {}
    for vector in white:
        squared = ((centroids - vector) ** 2).sum(axis=1)
        for word in np.argsort(squared)[:count]:
            sums[word] = sums.get(word, 0) + vector - centroids[word]
    return {word: np.where(total > 0, 1, -1) for word, total in sums.items()}


def test_scores_are_those_of_the_kernel(tmp_path):
    pytest.importorskip("asmk", reason="needs the extra asmk")
    rng = np.random.default_rng(0)
    shapes = np.array([(3, 4), (0, 0), (5, 2), (4, 4), (3, 3), (2, 5)])
    maps = [rng.random((h * w, 40)).astype(np.float32) for h, w in shapes]
    paths = tuple(tmp_path / f"{i}.png" for i in range(6))
    query = Query("q", paths[3], (0, 0, 20, 40), (0,))
    features = SimpleNamespace(
        shapes=shapes,
        sizes=np.array([(40, 40)] * 6),
        n_database=6,
        key="maps",
        artefact=SimpleNamespace(label="drawn"),
        descriptors=lambda i: maps[i],
    )
    projection = rng.normal(size=(40, 32)).astype(np.float32)
    whitening = Whitening(np.full(40, 0.15, np.float32), projection, np.ones(40), 9, "white")
    centroids = normalise_rows(rng.normal(size=(12, 32)).astype(np.float32))
    book = Codebook(centroids, np.zeros(1), 9, "words")
    dataset = Dataset("drawn", tmp_path, paths, (query,))
    search = AsmkSearch(dataset, features, whitening, book, "edges", ArtefactStore(tmp_path))

    whites = [whitening.apply(cells) for cells in maps]
    box = whites[3].reshape(4, 4, 32)[:, :2].reshape(-1, 32)  # its left half
    for mode, white in (("ls", box), ("gs", whites[3])):
        mine, expected = aggregated(white, centroids, 5), np.zeros(6)
        for i in (0, 2, 3, 4, 5):
            theirs = aggregated(whites[i], centroids, 1)
            similarities = [mine[w] @ theirs[w] / 32 for w in mine if w in theirs]
            total = sum(s**3 for s in similarities if s >= 0)
            expected[i] = total / np.sqrt(len(mine) * len(theirs))
        found = search.rank(mode)["q"]
        np.testing.assert_allclose(found.scores, expected[found.images], rtol=1e-5)
        assert found.scores[0] > 0
    entries = sum(len(aggregated(white, centroids, 1)) for white in whites if len(white))
    assert (search.entries, search.nbytes) == (entries, 8 * entries)


def test_without_the_package_the_row_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "asmk", None)
    profile = SimpleNamespace(datasets=("toy",))
    at = SimpleNamespace(bench=SimpleNamespace(name="toy", profile=profile))
    assert "pip install 'blcf-study[asmk]'" in row("asmk").unavailable_because(at)
    at.bench.name = "toy105k"
    assert "60 KB of an image" in row("asmk").unavailable_because(at)
