"""The grid of windows that re-ranking slides over an assignment map."""

import numpy as np
import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.search.windows import quarters, window_box, window_grid, window_plan

SIZES = (1.0, 0.5, 0.25)


@pytest.mark.parametrize("shape", [(42, 32), (32, 42), (48, 36), (21, 16)])
def test_the_default_grid_has_121_windows_of_the_sizes_asked_for(shape):
    grid = window_grid(shape, SIZES)
    assert grid.shape == (121, 4)
    assert len(np.unique(grid, axis=0)) == 121
    assert tuple(grid[0]) == (0, shape[0], 0, shape[1])
    for first, cells in ((0, shape[0]), (2, shape[1])):
        sides = (grid[:, first + 1] - grid[:, first]) / cells
        nearest = np.abs(sides[:, None] - SIZES).min(axis=1)
        assert nearest.max() <= 1 / cells + 1e-9  # each edge is rounded by at most half a cell
        edges = grid[:, first : first + 2] * 8 / cells
        assert (
            np.abs(edges - np.rint(edges)).max() <= 4 / cells + 1e-9
        )  # an eighth of the map apart


def test_windows_of_one_size_overlap_by_half():
    grid = window_grid((40, 16), (0.5,))
    assert [tuple(w) for w in grid[:4]] == [
        (0, 20, 0, 8),
        (0, 20, 4, 12),
        (0, 20, 8, 16),
        (10, 30, 0, 8),
    ]
    assert len(grid) == 9


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 7), (5, 4), (13, 9), (42, 31)])
@pytest.mark.parametrize("size", [1.0, 0.7, 0.5, 0.3, 0.25, 0.04])
def test_windows_of_every_size_cover_the_map_and_lie_in_it(shape, size):
    grid = window_grid(shape, (size,))
    seen = np.zeros(shape, int)
    for y0, y1, x0, x1 in grid:
        assert 0 <= y0 < y1 <= shape[0]
        assert 0 <= x0 < x1 <= shape[1]
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1
    assert len(np.unique(grid, axis=0)) == len(grid)


def test_a_map_of_one_cell_has_one_window():
    assert window_grid((1, 1), SIZES).tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize("sizes", [(), (0.0,), (0.5, 1.5), (-0.5,), (float("nan"),)])
def test_sizes_out_of_range_are_an_error(sizes):
    with pytest.raises(StudyError, match=r"reranking\.sizes: expected shares"):
        window_grid((4, 4), sizes)


def test_quarters_split_at_the_middle():
    assert quarters(np.array([[2, 6, 1, 4]]))[0].tolist() == [
        [2, 4, 1, 2],
        [2, 4, 2, 4],
        [4, 6, 1, 2],
        [4, 6, 2, 4],
    ]


def test_a_window_becomes_a_box_in_pixels():
    assert window_box((0, 21, 8, 32), (42, 32), (1024, 768)) == (256.0, 0.0, 1024.0, 384.0)
    assert window_box((10, 11, 0, 1), np.array([20, 4]), np.array([10, 30])) == (0, 15, 2.5, 16.5)


@pytest.mark.parametrize("sizes", [SIZES, (0.5, 0.3)])
@pytest.mark.parametrize("shape", [(42, 32), (5, 3)])
def test_a_plan_names_every_window_and_quarter_by_its_blocks(shape, sizes):
    plan = window_plan(shape, sizes, True)
    assert plan.windows[: plan.n_grid].tolist() == window_grid(shape, sizes).tolist()
    assert plan.windows[plan.whole].tolist() == [0, shape[0], 0, shape[1]]
    region_of = np.repeat(np.arange(len(plan.corners)), np.diff(plan.starts))
    assert len(np.unique(plan.corners, axis=0)) == len(plan.corners)
    for window, parts in zip(plan.windows, plan.parts, strict=True):
        for role, part in enumerate(parts):
            assert plan.roles[part] == role
            top, bottom, left, right = plan.corners[region_of[part]]
            rows = np.flatnonzero((plan.rows >= top) & (plan.rows < bottom))
            columns = np.flatnonzero((plan.columns >= left) & (plan.columns < right))
            y0, y1, x0, x1 = window if role == 0 else quarters(window[None])[0][role - 1]
            assert rows.tolist() == list(range(y0, y1))
            assert columns.tolist() == list(range(x0, x1))
