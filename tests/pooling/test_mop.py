"""MOP: three scales of fully connected activations, each as the paper pools it."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.mop import (
    MopBooks,
    learn_mop,
    mop_pool,
    mop_windows,
    read_books,
    save_books,
)

GRID, FILTERS = 2, np.random.default_rng(9).normal(size=(5 * 4, 12)).astype(np.float32)


def encode(pooled):
    return np.maximum(pooled.reshape(len(pooled), -1) @ FILTERS, 0)


def some_maps(seed=0, batch=6, height=12, width=16):
    return np.random.default_rng(seed).random((batch, 5, height, width), np.float32)


def code(window):
    """Return the unit activation of a cut-out (C, h, w), pooled cell by cell."""
    cells = np.zeros((5, GRID, GRID), np.float32)
    height, width = window.shape[1:]
    for i in range(GRID):
        for j in range(GRID):
            rows = slice(i * height // GRID, -(-(i + 1) * height // GRID))
            columns = slice(j * width // GRID, -(-(j + 1) * width // GRID))
            cells[:, i, j] = window[:, rows, columns].max(axis=(1, 2))
    found = encode(cells[None])[0]
    return found / np.linalg.norm(found)


def slow_mop(values, books):
    parts = [code(values)]
    for scale, centroids in enumerate(books.centroids):
        total = np.zeros(centroids.shape)
        for y0, y1, x0, x1 in mop_windows(values.shape[1:], scale):
            found = code(values[:, y0:y1, x0:x1])
            if books.directions:
                found = books.directions[scale].T @ (found - books.means[scale])
            word = ((found - centroids) ** 2).sum(axis=1).argmin()
            total[word] += found - centroids[word]
        total = np.sign(total) * np.sqrt(abs(total))
        parts.append(total.ravel() / np.linalg.norm(total))
    return np.concatenate(parts)


@pytest.fixture(scope="module", params=[None, 6], ids=["whole", "reduced"])
def books(request):
    dimensions = request.param or 500
    return learn_mop([some_maps(1)], encode, GRID, words=4, dimensions=dimensions, seed=3)


def test_windows_are_halves_and_quarters_as_in_the_paper():
    # 256 pixels, patches of 128 and 64, stride 32: on 16 cells, sides 8 and 4 and stride 2.
    halves, quarters = (mop_windows((16, 16), scale) for scale in (0, 1))
    assert (len(halves), len(quarters)) == (25, 49)
    assert sorted(set(halves[:, 0])) == [0, 2, 4, 6, 8]
    assert sorted(set(quarters[:, 2])) == [0, 2, 4, 6, 8, 10, 12]
    assert (halves[:, 1] - halves[:, 0] == 8).all()
    assert (quarters[:, 3] - quarters[:, 2] == 4).all()


def test_vectors_are_the_slow_loop(books):
    maps = some_maps(2)
    found = mop_pool(maps, encode=encode, books=books)
    length = books.centroids[0].shape[1]
    assert (found.shape, found.dtype) == ((6, 12 + 2 * 4 * length), np.float32)
    for row, values in zip(found, maps, strict=True):
        # Square roots make the roundings of small sums large.
        np.testing.assert_allclose(row, slow_mop(values, books), atol=2e-3)
    for part in np.split(found, [12, 12 + 4 * length], axis=1):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-5)


def test_singles_boxes_and_weights(books):
    maps, weights = some_maps(2), np.random.default_rng(4).random((6, 12, 16), np.float32)
    every = mop_pool(maps, weights, encode=encode, books=books)
    single = mop_pool(maps[1], weights[1], encode=encode, books=books)
    np.testing.assert_allclose(every[1], single, atol=2e-3)
    weighted = mop_pool(maps * weights[:, None], encode=encode, books=books)
    np.testing.assert_allclose(every, weighted, atol=2e-3)
    boxed = mop_pool(maps, weights, (2, 11, 3, 9), encode=encode, books=books)
    crop = mop_pool(maps[..., 2:11, 3:9], weights[..., 2:11, 3:9], encode=encode, books=books)
    np.testing.assert_allclose(boxed, crop, atol=2e-3)
    assert np.abs(boxed - every).max() > 0.01


def test_what_is_learned_is_pca_and_words_of_unit_activations():
    maps = some_maps(1)
    books = learn_mop([maps[:3], maps[3:]], encode, GRID, words=4, dimensions=6, seed=3)
    codes = [code(m[:, a:b, c:d]) for m in maps for a, b, c, d in mop_windows((12, 16), 1)]
    pca = PCA(6).fit(np.array(codes))
    np.testing.assert_allclose(books.means[1], pca.mean_, atol=1e-5)
    along = np.abs(np.einsum("df,fd->d", pca.components_, books.directions[1]))
    np.testing.assert_allclose(along, 1, atol=1e-2)
    reduced = (np.array(codes) - books.means[1]) @ books.directions[1]
    near = ((reduced[:, None] - books.centroids[1]) ** 2).sum(axis=2).argmin(axis=1)
    for word, centre in enumerate(books.centroids[1]):
        np.testing.assert_allclose(reduced[near == word].mean(axis=0), centre, atol=0.1)
    again = learn_mop([maps[:3], maps[3:]], encode, GRID, words=4, dimensions=6, seed=3)
    for one, other in zip(
        books.centroids + books.means, again.centroids + again.means, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_patches_are_sampled_uniformly_whatever_the_batches():
    maps = some_maps(1, batch=40)
    seen = []

    def watched(pooled):
        seen.append(len(pooled))
        return encode(pooled)

    few = learn_mop([maps], watched, GRID, words=4, max_patches=50, seed=3)
    assert seen == [40 * 25, 40 * 49]
    parts = learn_mop(np.split(maps, 8), encode, GRID, words=4, max_patches=50, seed=3)
    for one, other in zip(few.centroids, parts.centroids, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    whole = learn_mop([maps], encode, GRID, words=4, seed=3)
    assert np.abs(whole.centroids[0] - few.centroids[0]).max() > 1e-4


def test_late_images_are_sampled_as_much_as_early_ones():
    maps = some_maps(1, batch=40)
    maps[:20, :2] = 0
    maps[20:, 3:] = 0
    options = {"words": 4, "dimensions": 6, "seed": 3}
    every, few, early = (
        learn_mop(np.split(given, 4), encode, GRID, max_patches=most, **options).means[0]
        for given, most in ((maps, 10_000), (maps, 300), (maps[:20], 10_000))
    )
    assert np.linalg.norm(few - every) < 0.2 * np.linalg.norm(early - every)


def test_books_survive_their_file(books, tmp_path):
    save_books(tmp_path, books)
    read = read_books(tmp_path)
    assert read.grid == GRID
    for name in ("centroids", "means", "directions"):
        ours, theirs = getattr(books, name), getattr(read, name)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_bad_input_is_refused(books):
    with pytest.raises(StudyError, match="cannot be learned from 25 patches"):
        learn_mop([some_maps(1, batch=1)], encode, GRID, words=30)
    with pytest.raises(StudyError, match="cannot be learned from 0 patches"):
        learn_mop([], encode, GRID)
    with pytest.raises(StudyError, match="10 directions where activations are longer"):
        learn_mop([some_maps(1)], encode, GRID, words=4, dimensions=10, max_patches=8)
    with pytest.raises(StudyError, match="expected patch activations of 12 values"):
        mop_pool(some_maps(), encode=lambda pooled: encode(pooled)[:, :7], books=books)
    with pytest.raises(StudyError, match="box"):
        mop_pool(some_maps(), None, (0, 13, 0, 4), encode=encode, books=books)
    # Words of reduced activations without what reduced them.
    alone = MopBooks(tuple(normalise_rows(c)[:, :3] for c in books.centroids), GRID)
    with pytest.raises(StudyError, match="expected patch activations of 3 values"):
        mop_pool(some_maps(), encode=encode, books=alone)
