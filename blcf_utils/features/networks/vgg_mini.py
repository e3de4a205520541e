"""``vgg-mini``: a VGG-style network of nine 3x3 convolutions, stride 16 at ``conv5_1``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

# Output channels of each convolution, block by block; a 2x2 max pooling follows blocks 1 to 4.
BLOCKS = ((16, 16), (48, 48), (96, 96), (192, 192), (256,))
# RGB in [0, 1], the normalisation of torchvision's ImageNet models.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _layers() -> dict[str, int]:
    layers, index = {}, 0
    for block, widths in enumerate(BLOCKS, 1):
        for number in range(1, len(widths) + 1):
            layers[f"conv{block}_{number}"] = index
            index += 2  # a convolution and its ReLU
        index += 1  # the pooling
    return layers


# Caffe name of a convolution -> its index in ``VggMini.features``.
LAYERS: dict[str, int] = _layers()


def _features(convolution: Callable[[int, int], list[nn.Module]]) -> nn.Sequential:
    """Return the network's modules; ``convolution(inputs, outputs)`` makes those of one layer."""
    modules: list[nn.Module] = []
    channels = 3
    for block, widths in enumerate(BLOCKS):
        for width in widths:
            modules += convolution(channels, width)
            channels = width
        if block < len(BLOCKS) - 1:
            modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules)


def _plain(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]


def _normalised(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class VggMini(nn.Module):
    """The network as it is used: convolutions with bias and ReLU, no batch normalisation.

    ``features`` is laid out like torchvision's VGG: (conv, ReLU) pairs with a max pooling after
    each of the first four blocks.
    """

    convolution = staticmethod(_plain)

    def __init__(self) -> None:
        super().__init__()
        self.features = _features(self.convolution)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (N, 3, H, W) to ``conv5_1`` after ReLU (N, 256, H/16, W/16)."""
        return self.features(images)


class VggMiniTraining(VggMini):
    """The same network with batch normalisation after each convolution, for training."""

    convolution = staticmethod(_normalised)


@torch.no_grad()
def fold_batch_norm(trained: VggMiniTraining) -> VggMini:
    """Return the network with each batch normalisation (evaluation mode) folded into its conv."""
    folded = VggMini()
    convolutions = [m for m in trained.features if isinstance(m, nn.Conv2d)]
    norms = [m for m in trained.features if isinstance(m, nn.BatchNorm2d)]
    targets = [folded.features[index] for index in LAYERS.values()]
    for conv, norm, target in zip(convolutions, norms, targets, strict=True):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        target.weight.copy_(conv.weight * scale[:, None, None, None])
        target.bias.copy_(norm.bias - norm.running_mean * scale)
    return folded
