"""Patch grids, windows max-pooled to cells, and the similarity of sets of patches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling import patches
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.patches import (
    grid_windows,
    patch_maxima,
    patch_set_scores,
    patch_windows,
    window_grid,
)

seeds = st.integers(0, 9999)


def some_maps(rng, batch=2, channels=3, height=7, width=9):
    return rng.normal(size=(batch, channels, height, width)).astype(np.float32)


def test_windows_of_a_small_map_by_hand():
    windows = patch_windows((4, 6), 3)
    assert len(windows) == 14
    assert windows[0].tolist() == [0, 4, 0, 6]
    # Level 2: sides 2/3 of 4 and 6, rounded: 3 and 4.
    assert windows[1:5].tolist() == [[0, 3, 0, 4], [0, 3, 2, 6], [1, 4, 0, 4], [1, 4, 2, 6]]
    # Level 3: halves, half a side apart.
    assert windows[5:8].tolist() == [[0, 2, 0, 3], [0, 2, 2, 5], [0, 2, 3, 6]]
    assert windows[-1].tolist() == [2, 4, 3, 6]
    assert len(patch_windows((21, 15), 4)) == 30


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_each_level_covers_the_map_with_windows_of_one_size(height, width, levels):
    windows = patch_windows((height, width), levels)
    first = 0
    for level in range(1, levels + 1):
        part = windows[first : first + level * level]
        first += level * level
        seen = np.zeros((height, width), int)
        for y0, y1, x0, x1 in part:
            assert 0 <= y0 < y1 <= height
            assert 0 <= x0 < x1 <= width
            seen[y0:y1, x0:x1] += 1
        assert seen.all()
        assert len(np.unique(part[:, [1, 3]] - part[:, [0, 2]], axis=0)) == 1
        mirrored = np.stack([height - part[:, 1], height - part[:, 0]], axis=1)
        # As many cells above as below, to a cell of rounding.
        assert np.abs(np.sort(mirrored[:, 0]) - np.sort(part[:, 0])).max() <= 1
    assert first == len(windows)


def test_windows_are_never_larger_than_the_map():
    windows = grid_windows((3, 8), (5, 0), 2)
    assert windows.tolist() == [[0, 3, 0, 1], [0, 3, 7, 8], [0, 3, 0, 1], [0, 3, 7, 8]]


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_parts_are_those_of_adaptive_max_pooling(seed, rows, columns):
    rng = np.random.default_rng(seed)
    maps, windows = some_maps(rng), patch_windows((7, 9), 4)
    found = window_grid(maps, windows, (rows, columns))
    assert (found.shape, found.dtype) == ((2, 30, 3, rows, columns), np.float32)
    for p, (y0, y1, x0, x1) in enumerate(windows):
        crop = torch.from_numpy(maps[:, :, y0:y1, x0:x1].copy())
        expected = torch.nn.functional.adaptive_max_pool2d(crop, (rows, columns))
        np.testing.assert_array_equal(found[:, p], expected.numpy())


def test_descriptors_hold_their_parts_side_by_side():
    rng = np.random.default_rng(0)
    maps, windows = some_maps(rng), patch_windows((7, 9), 3)
    whole = patch_maxima(maps, windows)
    assert whole.shape == (2, 14, 3)
    for p, window in enumerate(windows):
        np.testing.assert_array_equal(whole[:, p], mac_pool(maps, box=tuple(window)))
    quarters = patch_maxima(maps, windows, (2, 2)).reshape(2, 14, 2, 2, 3)
    grids = window_grid(maps, windows, (2, 2))
    np.testing.assert_array_equal(quarters, np.moveaxis(grids, 2, -1))
    np.testing.assert_array_equal(quarters.max(axis=(2, 3)), whole)


@given(seeds)
def test_batches_boxes_weights_and_channels(seed):
    rng = np.random.default_rng(seed)
    maps = np.abs(some_maps(rng))
    weights = rng.random((2, 7, 9), np.float32)
    y0, x0 = rng.integers(7), rng.integers(9)
    y1, x1 = rng.integers(y0, 7) + 1, rng.integers(x0, 9) + 1
    box, crop = (y0, y1, x0, x1), (..., slice(y0, y1), slice(x0, x1))
    for pool in (patch_maxima, window_grid):
        windows = patch_windows((7, 9), 3)
        every = pool(maps, windows, (2, 2), weights)
        singles = [pool(m, windows, (2, 2), w) for m, w in zip(maps, weights, strict=True)]
        np.testing.assert_array_equal(every, singles)
        weighted = pool(maps * weights[:, None], windows, (2, 2))
        np.testing.assert_array_equal(every, weighted)
        inside = patch_windows((y1 - y0, x1 - x0), 2)
        boxed = pool(maps, inside, (1, 2), weights, box)
        np.testing.assert_array_equal(boxed, pool(maps[crop], inside, (1, 2), weights[crop]))
        moved = inside + np.array([y0, y0, x0, x0])
        np.testing.assert_array_equal(boxed, pool(maps, moved, (1, 2), weights))
    # Positions left out by booleans do not show: nothing here is below 0.
    taking = np.zeros((7, 9), bool)
    taking[crop] = True
    all_of_it = np.array([[0, 7, 0, 9]])
    left = patch_maxima(maps, all_of_it, weights=taking)[:, 0]
    np.testing.assert_array_equal(left, mac_pool(maps[crop]))
    order = rng.permutation(3)
    np.testing.assert_array_equal(
        patch_maxima(maps[:, order], all_of_it), patch_maxima(maps, all_of_it)[..., order]
    )


def unit_sets(rng, *shape):
    rows = rng.normal(size=(int(np.prod(shape[:-1])), shape[-1])).astype(np.float32)
    return normalise_rows(rows).reshape(shape)


def test_similarity_of_two_sets_by_hand():
    query = np.array([[[1, 0], [0, 1]]], np.float32)
    database = np.array([[[1, 0], [0.6, 0.8]], [[0, -1], [-1, 0]]], np.float32)
    # Best of the first image: 1 and .8; of the second: 0 and 0.
    np.testing.assert_allclose(patch_set_scores(query, database), [[0.9, 0]], atol=1e-6)


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.sampled_from([1, 40, 10**6]))
def test_similarities_are_the_slow_loop_in_blocks_of_any_size(seed, images, count, at_once):
    rng = np.random.default_rng(seed)
    database = unit_sets(rng, images, 4, 5)
    queries = [unit_sets(rng, rng.integers(1, 5), 5) for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "_SCORES_AT_ONCE", at_once)
        found = patch_set_scores(queries, database)
    assert (found.shape, found.dtype) == ((count, images), np.float32)
    for i, query in enumerate(queries):
        for j, image in enumerate(database):
            best = [max(float(a @ b) for b in image) for a in query]
            assert found[i, j] == pytest.approx(np.mean(best), abs=1e-5)


def test_an_image_is_most_like_itself():
    rng = np.random.default_rng(2)
    database = unit_sets(rng, 5, 30, 16)
    scores = patch_set_scores(database[:, :14], database)
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-5)
    assert scores.argmax(axis=1).tolist() == list(range(5))


def test_bad_input_is_refused():
    rng = np.random.default_rng(0)
    maps, database = some_maps(rng), unit_sets(rng, 2, 3, 4)
    for shape, levels in (((0, 4), 2), ((3, 4), 0)):
        with pytest.raises(StudyError, match="at least one level"):
            patch_windows(shape, levels)
    for window in ([0, 8, 0, 1], [-1, 2, 0, 1], [2, 2, 0, 1], [0, 1, 5, 4], [0, 1, 0, 10]):
        with pytest.raises(StudyError, match="inside a map of 7 x 9"):
            patch_maxima(maps, np.array([window]))
    with pytest.raises(StudyError, match="inside a map of 2 x 9"):
        patch_maxima(maps, np.array([[0, 3, 0, 1]]), box=(1, 3, 0, 9))
    with pytest.raises(StudyError, match="grid of at least"):
        window_grid(maps, np.array([[0, 2, 0, 2]]), (0, 1))
    with pytest.raises(StudyError, match="same D"):
        patch_set_scores(database[:, :, :3], database)
    with pytest.raises(StudyError, match="same D"):
        patch_set_scores(database[0], database)
    for queries, images in ((database[:, :0], database), (database, database[:, :0])):
        with pytest.raises(StudyError, match="without patches"):
            patch_set_scores(queries, images)
