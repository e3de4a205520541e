"""Folded batch normalisation: the same maps from fewer passes over them."""

import numpy as np
import pytest
import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.networks.folding import folded


@torch.inference_mode()
def test_a_convolution_takes_the_normalisation_behind_it():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.25)).eval()
    network[0].weight.fill_(3.0)
    for tensor, value in zip(network[1].state_dict().values(), (2.0, 0.5, 4.0, 2.0), strict=False):
        tensor.fill_(value)  # scale, shift, mean, variance
    made = folded(network)
    # (3 x - 4) / sqrt(2 + 0.25) * 2 + 0.5 = 4 x - 4.8333
    assert float(made[0].weight.squeeze()) == pytest.approx(4.0)
    assert float(made[0].bias) == pytest.approx(0.5 - 8 / 1.5)
    assert float(made(torch.ones(1, 1, 1, 1)).squeeze()) == pytest.approx(4.0 + 0.5 - 8 / 1.5)
    assert isinstance(network[1], nn.BatchNorm2d)  # the network itself stays as it was


@pytest.mark.parametrize(
    ("name", "layer", "weights"),
    [
        ("efficientnet_lite0", "head", "embedded"),
        ("vgg16", "conv2_2", "random"),
        ("resnet18", "layer2", "random"),
    ],
)
@torch.inference_mode()
def test_maps_of_a_folded_trunk_are_those_of_the_network(name, layer, weights):
    backbone = load_backbone(BackboneConfig(name=name, layer=layer, weights=weights))
    draw = np.random.default_rng(0)
    pixels = torch.from_numpy(draw.normal(size=(2, 3, 97, 128)).astype(np.float32))
    expected, ready = backbone.module(pixels), backbone.on("cpu")
    assert ready is backbone.on("cpu")
    assert ready is not backbone.module
    found = ready(pixels.contiguous(memory_format=torch.channels_last))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    left = [m for m in ready.modules() if isinstance(m, nn.BatchNorm2d)]
    # Those of ResNet's blocks are no sequences.
    assert len(left) == {"resnet18": 8}.get(name, 0)
