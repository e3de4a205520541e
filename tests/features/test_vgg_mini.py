"""The embedded network: size, layout, stride, folded batch normalisation, trained weights."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from blcf_utils.features.networks.vgg_mini import (
    LAYERS,
    VggMini,
    VggMiniTraining,
    fold_batch_norm,
)
from blcf_utils.ground.paths import embedded_dir


def test_parameters_and_output_shape():
    network = VggMini().eval()
    assert sum(p.numel() for p in network.parameters()) <= 2_000_000
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 96, 160)).shape == (2, 256, 6, 10)


def test_layers_name_the_convolutions_in_caffe_order():
    features = VggMini().features
    assert list(LAYERS) == [
        "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv4_1", "conv4_2",
        "conv5_1",
    ]  # fmt: skip
    for name, index in LAYERS.items():
        assert isinstance(features[index], nn.Conv2d), name
        assert isinstance(features[index + 1], nn.ReLU), name
    convolutions = [i for i, m in enumerate(features) if isinstance(m, nn.Conv2d)]
    assert convolutions == list(LAYERS.values())
    # The block number in a name counts the poolings before it.
    for name, index in LAYERS.items():
        poolings = sum(isinstance(m, nn.MaxPool2d) for m in features[:index])
        assert int(name[4]) == poolings + 1


def test_folded_network_equals_the_trained_one():
    torch.manual_seed(3)
    trained = VggMiniTraining()
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    trained.train()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are neither zero nor one
            trained(torch.randn(4, 3, 64, 64) * 2 + 0.5)
        trained.eval()
        images = torch.randn(2, 3, 80, 64)
        expected, found = trained(images), fold_batch_norm(trained)(images)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def embedded_network() -> VggMini:
    network = VggMini()
    tensors = load_file(embedded_dir() / "vgg-mini.safetensors")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval()


def test_embedded_weights_are_those_their_description_names():
    facts = json.loads((embedded_dir() / "vgg-mini.json").read_text(encoding="utf-8"))
    path = embedded_dir() / "vgg-mini.safetensors"
    assert path.stat().st_size < 5_000_000
    assert facts["parameters"] == sum(p.numel() for p in embedded_network().parameters())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert {key: facts[key] for key in about if key != "normalisation"} == {
        key: value for key, value in about.items() if key != "normalisation"
    }
