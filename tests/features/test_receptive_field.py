"""What a position sees: the layers' reach by hand, and squares that hold a share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from blcf_utils.features.networks.receptive_field import pixel_influence, reach


def test_influence_is_the_absolute_gradient_within_the_layers_reach():
    # Two 3x3 convolutions of stride 2 and 1 with ones: 3 + (3 - 1) * 2 = 7 pixels a side.
    convolutions = [nn.Conv2d(3, 1, 3, stride=2, bias=False), nn.Conv2d(1, 1, 3, bias=False)]
    for convolution in convolutions:
        nn.init.ones_(convolution.weight).requires_grad_(False)
    backbone = SimpleNamespace(module=nn.Sequential(*convolutions), mean=(0.5,) * 3, std=(0.5,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (21, 25, 3)).astype(np.uint8)
    with torch.no_grad():
        influence = pixel_influence(backbone, pixels, (2, 3))
    assert influence.shape == (21, 25)
    held = np.argwhere(influence > 0)
    assert held.min(axis=0).tolist() == [4, 6]
    assert held.max(axis=0).tolist() == [10, 12]
    # In how many of the second layer's taps a pixel is seen: 1 1 2 1 2 1 1 a side, three colours.
    side = np.array([1, 1, 2, 1, 2, 1, 1])
    np.testing.assert_array_equal(influence[4:11, 6:13], 3 * np.outer(side, side))


@pytest.mark.parametrize(("share", "side"), [(0.04, 1), (9 / 25, 3), (0.5, 5), (1.0, 5)])
def test_reach_is_the_smallest_square_that_holds_a_share(share, side):
    influence = np.zeros((9, 11))
    influence[2:7, 3:8] = 1  # 25 pixels around the middle of row 4, column 5
    assert reach(influence, (4.5, 5.5), share) == side
