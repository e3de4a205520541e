"""Views of query augmentation: pixels, boxes and masks seen mirrored and zoomed alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blcf_utils.config.profile import AugmentationConfig
from blcf_utils.datasets.base import Query
from blcf_utils.datasets.images import read_image
from blcf_utils.datasets.views import AS_IT_IS, View, augmented_views
from blcf_utils.search.boxes import mask_cells, query_cells


@pytest.fixture
def picture(tmp_path):
    """A photograph of noise with a red rectangle, and the rectangle's box."""
    pixels = np.random.default_rng(0).integers(0, 120, (60, 90, 3), np.uint8)
    pixels[20:40, 30:50] = (250, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", (30, 20, 50, 40)


@pytest.mark.parametrize(
    "view", [AS_IT_IS, View(True), View(zoom=1.5), View(True, 1.5), View(True, 2)]
)
def test_a_box_moves_with_the_pixels(picture, view):
    path, box = picture
    seen = read_image(path, view=view)
    assert seen.shape == (60, 90, 3)
    x1, y1, x2, y2 = view.box(box, (90, 60))
    inside = np.zeros((60, 90), bool)
    inside[round(y1) : round(y2), round(x1) : round(x2)] = True
    red = (seen[..., 0] > 200) & (seen[..., 1] < 60)
    assert (red == inside).mean() > 0.97
    assert (red & inside).sum() > 0.85 * inside.sum()


@given(st.floats(0, 80), st.floats(0, 50), st.floats(1, 40), st.floats(1, 30), st.floats(1, 3))
def test_boxes_stay_inside_and_mirroring_twice_is_nothing(x, y, width, height, zoom):
    size, box = (100, 70), (x, y, min(x + width, 100), min(y + height, 70))
    zoomed = View(zoom=zoom)
    if not zoomed.sees(box, size):
        return
    x1, y1, x2, y2 = zoomed.box(box, size)
    assert -1e-6 <= x1 <= x2 <= 100 + 1e-6
    assert -1e-6 <= y1 <= y2 <= 70 + 1e-6
    mirrored = View(True, zoom).box(box, size)
    assert mirrored == pytest.approx((100 - x2, y1, 100 - x1, y2))
    assert View(True).box(View(True).box(box, size), size) == pytest.approx(box)


def test_a_box_at_the_edge_is_not_seen_zoomed(tmp_path):
    query = Query("q", tmp_path / "q.jpg", (0, 0, 10, 8), (1,))
    seen = query_cells(query, (100, 70), (7, 10), "ls", view=View(zoom=2))
    assert not seen.any()
    assert query_cells(query, (100, 70), (7, 10), "gs", view=View(zoom=2)).all()
    assert query_cells(query, (100, 70), (7, 10), "ls", view=View(flip=True))[0, -1]


def test_masks_are_seen_like_boxes(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 15:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    plain = mask_cells(tmp_path / "mask.png", (4, 6))
    mirrored = mask_cells(tmp_path / "mask.png", (4, 6), View(True))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    zoomed = mask_cells(tmp_path / "mask.png", (4, 6), View(zoom=2))
    assert zoomed[0, 0]
    assert zoomed[:2, :3].all()
    assert not zoomed[2:].any()


def test_which_views_are_added():
    views = augmented_views(AugmentationConfig())
    assert views == (View(True), View(zoom=1.5), View(True, 1.5))
    assert augmented_views(AugmentationConfig(flip=False)) == (View(zoom=1.5),)
    assert augmented_views(AugmentationConfig(flip=False, zoom=1)) == ()
    assert [view.name for view in views] == ["mirrored", "zoom 1.5", "zoom 1.5 mirrored"]
