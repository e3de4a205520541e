"""SAM-ResNet: the saliency attentive model on a dilated ResNet-50 (Cornia et al., TIP 2018)."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from blcf_utils.saliency.base import channels
from blcf_utils.saliency.networks.sam import OfficialLayer, Sam

# Stage: its blocks, its channels inside, stride of the first block, dilation of every block.
_STAGES = {
    2: ("abc", 64, 1, 1),
    3: ("abcd", 128, 2, 1),
    4: ("abcdef", 256, 1, 2),
    5: ("abc", 512, 1, 4),
}


class SamResNet(Sam):
    """SAM-ResNet; 70,093,441 parameters at width 1, and 53,120 batch statistics.

    Args:
        width: share of the published number of channels in every hidden layer.
    """

    def __init__(self, width: float = 1.0):
        super().__init__(_dilated_resnet(width), width)

    def backbone_layers(self) -> list[OfficialLayer]:
        """Return convolutions and normalisations in Keras' order, ``conv_feat`` last.

        Keras 1 orders layers by their distance from the output, and those equally far by how it
        meets them walking back from the output: a block's shortcut comes beside 2c.
        """
        layers = []
        for name, module in self.backbone.named_children():
            if isinstance(module, Bottleneck):
                layers += module.official_layers(name)
            elif isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                layers.append(OfficialLayer(name if name != "conv_feat" else None, module))
        return layers


class Bottleneck(nn.Module):
    """A residual block of Keras' ResNet-50: biases, and the stride in the first 1x1 convolution.

    Args:
        inputs: channels of the input.
        inner: channels of the first two convolutions.
        outputs: channels of the output.
        projects: whether the shortcut is a convolution with normalisation.
        stride: of the first convolution and the shortcut.
        dilation: of the 3x3 convolution.
    """

    def __init__(
        self, inputs: int, inner: int, outputs: int, projects: bool, stride: int, dilation: int
    ):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, stride),
            _norm(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation),
            _norm(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, outputs, 1),
            _norm(outputs),
        )
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), _norm(outputs))
            if projects
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))

    def official_layers(self, block: str) -> list[OfficialLayer]:
        """Return the layers of a block such as ``3a`` in Keras' order."""
        conv_a, norm_a, _, conv_b, norm_b, _, conv_c, norm_c = self.residual
        ordered = [("res", "2a", conv_a), ("bn", "2a", norm_a)]
        ordered += [("res", "2b", conv_b), ("bn", "2b", norm_b), ("res", "2c", conv_c)]
        if isinstance(self.shortcut, nn.Sequential):
            conv, norm = self.shortcut
            ordered += [("res", "1", conv), ("bn", "2c", norm_c), ("bn", "1", norm)]
        else:
            ordered += [("bn", "2c", norm_c)]
        return [
            OfficialLayer(f"{kind}{block}_branch{branch}", layer) for kind, branch, layer in ordered
        ]


def _norm(maps: int) -> nn.BatchNorm2d:
    # Keras 1.1's epsilon, a hundredth of that of later versions.
    return nn.BatchNorm2d(maps, eps=1e-5)


def _dilated_resnet(width: float) -> nn.Sequential:
    """Return ResNet-50 reduced eight times and the convolution that follows it."""
    inputs = channels(64, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(3, inputs, 7, stride=2, padding=3)
    layers["bn_conv1"] = _norm(inputs)
    layers["conv1_relu"] = nn.ReLU(inplace=True)
    layers["pool1"] = nn.MaxPool2d(3, 2, padding=1)
    for stage, (blocks, published, first_stride, dilation) in _STAGES.items():
        inner, outputs = channels(published, width), channels(4 * published, width)
        for block in blocks:
            stride, projects = (first_stride, True) if block == "a" else (1, False)
            layers[f"{stage}{block}"] = Bottleneck(
                inputs, inner, outputs, projects, stride, dilation
            )
            inputs = outputs
    layers["conv_feat"] = nn.Conv2d(inputs, channels(512, width), 3, padding=1)
    layers["conv_feat_relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)
