"""Boxes on feature maps: never empty, whole images whole, larger boxes never smaller."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blcf_utils.datasets.base import Query
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.boxes import box_cells, mask_cells, query_cells

HOW = st.sampled_from(["edges", "mask"])


@st.composite
def boxed_images(draw):
    """(box, size, shape): a box in whole or broken pixels inside an image, and a map."""
    size = draw(st.integers(8, 900)), draw(st.integers(8, 900))
    box = []
    for side in size:
        start = draw(st.integers(0, 4 * side - 4))
        box.append((start / 4, draw(st.integers(start + 1, 4 * side)) / 4))
    (x1, x2), (y1, y2) = box
    return (x1, y1, x2, y2), size, (draw(st.integers(1, 45)), draw(st.integers(1, 45)))


def coverage(box, size, shape):
    """Share of every cell that the box covers, cell by cell."""
    covered = np.zeros(shape)
    cell_w, cell_h = size[0] / shape[1], size[1] / shape[0]
    for row in range(shape[0]):
        for column in range(shape[1]):
            w = min(box[2], (column + 1) * cell_w) - max(box[0], column * cell_w)
            h = min(box[3], (row + 1) * cell_h) - max(box[1], row * cell_h)
            covered[row, column] = max(w, 0) * max(h, 0) / (cell_w * cell_h)
    return covered


@settings(max_examples=150, deadline=None)
@given(boxed_images())
def test_edges_takes_every_cell_the_box_touches_and_mask_those_half_covered(boxed):
    covered = coverage(*boxed)
    edges, mask = (box_cells(*boxed, how) for how in ("edges", "mask"))
    assert edges.shape == mask.shape == boxed[2]
    # Equal but for cells at the very border between in and out.
    unclear = covered < 1e-5
    np.testing.assert_array_equal(edges[~unclear], True)
    assert not edges[covered == 0].any()
    (x1, y1, x2, y2), size, shape = boxed
    sides = [(x1, 0, x2, size[1]), (0, y1, size[0], y2)]
    least = np.minimum(*(coverage(side, size, shape) for side in sides))
    clear = np.abs(least - 0.5) > 1e-9
    if (least[clear] >= 0.5).any():
        np.testing.assert_array_equal(mask[clear], (least >= 0.5)[clear])
    elif clear.all():
        assert mask.sum() == 1
        assert covered[mask][0] == pytest.approx(covered.max())
    assert edges.any()
    assert mask.any()
    assert not (mask & ~edges).any()


def test_mask_is_the_pixel_mask_resized_bilinearly():
    draw, cells, differ = np.random.default_rng(0), 0, 0
    for _ in range(100):
        width, height = draw.integers(400, 1100, 2)
        w, h = draw.integers(40, width // 2), draw.integers(40, height // 2)
        x, y = draw.integers(0, width - w), draw.integers(0, height - h)
        pixels = np.zeros((height, width))
        pixels[y : y + h, x : x + w] = 1
        expected = cv2.resize(pixels, (42, 30)) >= 0.5
        found = box_cells((x, y, x + w, y + h), (width, height), (30, 42), "mask")
        cells, differ = cells + expected.sum(), differ + (found != expected).sum()
    assert differ <= cells / 2000  # borders on a cell's very middle


@given(boxed_images(), HOW)
def test_the_whole_image_is_every_cell(boxed, how):
    _, size, shape = boxed
    assert box_cells(None, size, shape, how).all()
    assert box_cells((0, 0, *size), size, shape, how).all()
    assert box_cells((-3, -1, size[0] + 2, size[1] + 9), size, shape, how).all()


@settings(max_examples=150, deadline=None)
@given(boxed_images(), st.tuples(*[st.integers(0, 200)] * 4))
def test_a_larger_box_takes_no_fewer_cells(boxed, growth):
    (x1, y1, x2, y2), size, shape = boxed
    larger = (x1 - growth[0], y1 - growth[1], x2 + growth[2], y2 + growth[3])
    small, large = (box_cells(box, size, shape, "edges") for box in ((x1, y1, x2, y2), larger))
    assert not (small & ~large).any()
    # Half-covered cells too, but for boxes so small that the nearest cell stands for them.
    if (coverage((x1, y1, x2, y2), size, shape) >= 0.5).any():
        small = box_cells((x1, y1, x2, y2), size, shape, "mask")
        assert not (small & ~box_cells(larger, size, shape, "mask")).any()


def test_hand_worked_boxes():
    # 8 x 4 cells of 10 pixels. x from 15 to 40 touches columns 1 to 3, y from 9 to 26 rows 0 to 2.
    edges = box_cells((15, 9, 40, 26), (80, 40), (4, 8), "edges")
    assert np.argwhere(edges).tolist() == [[r, c] for r in (0, 1, 2) for c in (1, 2, 3)]
    # Column 1 is half covered, columns 2 and 3 are covered; row 0 to 0.1, 1 wholly, 2 to 0.6.
    mask = box_cells((15, 9, 40, 26), (80, 40), (4, 8), "mask")
    assert np.argwhere(mask).tolist() == [[r, c] for r in (1, 2) for c in (1, 2, 3)]
    # A border on a cell's edge does not touch the next cell, also where the scale is not exact.
    assert box_cells((100, 0, 200, 90), (300, 90), (1, 3)).tolist() == [[False, True, False]]
    # A speck keeps its cell.
    assert np.argwhere(box_cells((71, 31, 72, 32), (80, 40), (4, 8), "mask")).tolist() == [[3, 7]]


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 9),
        (9, 5, 5, 9),
        (80, 0, 90, 10),
        (-9, 0, 0, 10),
        (0, 41, 9, 50),
        (float("nan"), 0, 9, 9),
        (1, 2, 3),
        (1, 2, 30, "40"),
        (None,) * 4,
        5,
    ],
)
def test_a_box_outside_or_without_area_is_an_error(box):
    for how in ("edges", "mask"):
        with pytest.raises(StudyError, match="inside an image of 80x40 pixels"):
            box_cells(box, (80, 40), (4, 8), how)


def corner_aligned(values, shape):
    """Bilinear values at positions whose first and last are the first and last pixel."""
    result = np.zeros(shape)
    for row, column in np.ndindex(*shape):
        y, x = (
            k * (old - 1) / (new - 1)
            for k, old, new in zip((row, column), values.shape, shape, strict=True)
        )
        top, left = (min(int(at), old - 2) for at, old in zip((y, x), values.shape, strict=True))
        for down, right in np.ndindex(2, 2):
            share = (1 - abs(y - top - down)) * (1 - abs(x - left - right))
            result[row, column] += share * values[top + down, left + right]
    return result


@pytest.mark.parametrize("shape", [(18, 24), (36, 48), (15, 21), (7, 9)])
def test_masks_are_zoomed_bilinearly_and_count_above_zero(tmp_path, shape):
    y, x = np.mgrid[:144, :192]
    mask = (np.hypot(y - 61, x - 83) < 23).astype(np.uint8)  # any value above 0 counts
    Image.fromarray(mask).save(tmp_path / "m.png")
    cells = mask_cells(tmp_path / "m.png", shape)
    np.testing.assert_array_equal(cells, corner_aligned(mask.astype(float), shape) > 1e-9)
    if shape == (18, 24):  # many fewer than the cells that hold any pixel of the mask
        touched = mask.reshape(18, 8, 24, 8).max(axis=(1, 3)).sum()
        assert cells.sum() < 0.8 * touched


def test_a_mask_without_a_pixel_is_an_error(tmp_path):
    Image.fromarray(np.zeros((40, 80), np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(StudyError, match=r"empty\.png: expected a mask with at least one pixel"):
        mask_cells(tmp_path / "empty.png", (4, 8))


@pytest.mark.parametrize("seed", range(30))
def test_specks_on_maps_of_any_shape_keep_the_nearest_cell(tmp_path, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 70, 2))
    mask = np.zeros((47, 61), np.uint8)
    y, x = rng.integers(0, 47), rng.integers(0, 61)
    mask[y, x] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    cells = mask_cells(tmp_path / "m.png", (height, width))
    assert cells.any()
    rows, columns = np.nonzero(cells)
    # Within one cell, or one pixel where cells are smaller, of the marked pixel.
    assert np.abs((rows + 0.5) * 47 / height - (y + 0.5)).max() <= max(47 / height, 1) + 0.5
    assert np.abs((columns + 0.5) * 61 / width - (x + 0.5)).max() <= max(61 / width, 1) + 0.5


def test_the_mode_chooses_the_cells(tmp_path):
    query = Query("q", tmp_path / "i.jpg", (10.0, 10.0, 20.0, 20.0), (0,))
    assert query_cells(query, (80, 40), (4, 8), "gs").all()
    assert np.argwhere(query_cells(query, (80, 40), (4, 8), "ls")).tolist() == [[1, 1]]
    with pytest.raises(StudyError, match="unknown search mode 'xs': expected one of gs, ls"):
        query_cells(query, (80, 40), (4, 8), "xs")
    with pytest.raises(StudyError, match=r"query q: its image i\.jpg did not decode"):
        query_cells(query, (80, 40), (0, 0), "gs")
