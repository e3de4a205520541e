"""Classifiers behind trunks: reading them, CAM, Neural Codes."""

import numpy as np
import pytest
import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import BACKBONES, load_backbone
from blcf_utils.features.networks.heads import ClassifierHead, load_head, missing_head
from blcf_utils.pooling.cam import (
    cam_descriptor,
    cam_pool,
    class_activation_maps,
    predicted_classes,
)
from blcf_utils.pooling.crow import crow_channel_weights
from blcf_utils.pooling.neural_codes import neural_codes

EMBEDDED = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="embedded")


def whole_model(name, folder, spoil=False):
    """A torchvision classifier with random weights, and its backbone's configuration."""
    torch.manual_seed(0)
    model = BACKBONES[name].build().eval()
    state = model.state_dict()
    if spoil:
        state["classifier.6.weight"][0, 0] = float("nan")
    path = folder / f"{name}.pth"
    torch.save(state, path)
    last = {"resnet18": "layer4", "squeezenet1_1": "fire9", "alexnet": "pool5"}[name]
    return model, BackboneConfig(name=name, layer=last, weights=str(path))


def trunk_map(config, pixels):
    return load_backbone(config).module(pixels)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_trunk_and_linear_layer_are_the_whole_classifier(name, tmp_path):
    model, config = whole_model(name, tmp_path)
    assert missing_head(config, "linear") == ""
    assert missing_head(config, "fully_connected") == ""
    head, pixels = load_head(config), torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        scores, maps = model(pixels).numpy(), trunk_map(config, pixels).numpy()
    each = np.einsum("bchw,kc->bkhw", maps, head.linear) + head.bias[:, None, None]
    if name == "squeezenet1_1":  # its scores are cut off at zero before the average
        each = np.maximum(each, 0)
    np.testing.assert_allclose(each.mean(axis=(2, 3)), scores, rtol=1e-3, atol=1e-4)
    if name == "resnet18":
        expected = np.argsort(-scores, axis=1)[:, :3]
        np.testing.assert_array_equal(predicted_classes(maps, head, 3), expected)


def test_trunk_and_fully_connected_layers_are_the_whole_classifier(tmp_path):
    model, config = whole_model("alexnet", tmp_path)
    assert "linear layer after average pooling" in missing_head(config, "linear")
    head, pixels = load_head(config), torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        maps = trunk_map(config, pixels)
        expected = model.classifier[:6](model.avgpool(model.features(pixels)).flatten(1)).numpy()
    assert maps.shape[2:] == (6, 6)  # nothing is left for the pooling to do
    codes = neural_codes(maps.numpy(), head=head)
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        neural_codes(maps[1].numpy(), head=head), codes[1], rtol=1e-4, atol=1e-6
    )
    boxed = neural_codes(maps.numpy(), box=(0, 6, 0, 6), head=head)
    np.testing.assert_allclose(boxed, codes, rtol=1e-4, atol=1e-6)


def test_files_without_a_classifier(tmp_path, shared_weights, monkeypatch):
    monkeypatch.setenv("BLCF_WEIGHTS", str(shared_weights))
    for name, layer in (("squeezenet1_1", "fire9"), ("resnet18", "layer3")):
        config = BackboneConfig(name=name, layer=layer, weights="local")
        assert f"needs the classifier of {name}, which" in missing_head(config, "linear")


def test_what_cannot_be_read_is_said(tmp_path):
    _, config = whole_model("alexnet", tmp_path, spoil=True)
    # torchvision's port of the Caffe VGG-16 has such a classifier.
    assert "classifier.6.weight" in missing_head(config, "fully_connected")
    random = BackboneConfig(name="alexnet", layer="pool5", weights="random")
    assert "random weights have none" in missing_head(random, "fully_connected")


def test_the_embedded_network_classifies_and_its_codes_are_what_the_classifier_reads():
    assert missing_head(EMBEDDED, "linear") == missing_head(EMBEDDED, "fully_connected") == ""
    head = load_head(EMBEDDED)
    assert (head.layer, head.linear.shape, head.grid) == ("head", (1000, 1280), 7)
    maps = np.random.default_rng(0).random((3, 1280, 7, 7), np.float32)
    # A grid of the size of a 224-pixel input's map is averaged as it is.
    np.testing.assert_allclose(
        neural_codes(maps, head=head), maps.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6
    )


def a_head(channels=3, classes=4):
    rng = np.random.default_rng(0)
    linear = rng.normal(size=(classes, channels)).astype(np.float32)
    return ClassifierHead(
        "last", linear, np.zeros(classes, np.float32), nn.Identity(), 1, "d", "here"
    )


def test_cam_against_loops():
    rng, head = np.random.default_rng(1), a_head()
    maps = np.maximum(rng.normal(size=(2, 3, 4, 5)), 0).astype(np.float32)
    weights = rng.random((4, 5)).astype(np.float32)
    classes = np.array([[2, 0], [3, 1]])
    found = cam_pool(maps, weights, head=head, classes=classes)
    for one, chosen, vectors in zip(maps, classes, found, strict=True):
        rarity = crow_channel_weights(one, weights)
        for k, c in enumerate(chosen):
            seen = np.zeros((4, 5))
            for y in range(4):
                for x in range(5):
                    seen[y, x] = max(0, head.linear[c] @ one[:, y, x])
            seen /= seen.max()
            np.testing.assert_allclose(
                class_activation_maps(one, head.linear, [c])[0], seen, rtol=1e-4
            )
            expected = rarity * (one * seen * weights).sum(axis=(1, 2))
            np.testing.assert_allclose(vectors[k], expected, rtol=1e-4, atol=1e-5)
    unit = found / np.linalg.norm(found, axis=2, keepdims=True)
    np.testing.assert_allclose(cam_descriptor(found), unit.sum(axis=1), rtol=1e-4)


def test_a_class_that_is_nowhere_weighs_nothing():
    head = a_head()
    assert not cam_pool(np.zeros((3, 4, 4)), head=head, classes=[1]).any()
