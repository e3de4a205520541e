"""``vgg-mini``: a VGG-style network of nine 3x3 convolutions, stride 16 at ``conv5_1``."""

from __future__ import annotations

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


class VggMini(nn.Module):
    """The network as it is used: convolutions with bias and ReLU, no batch normalisation.

    ``features`` is laid out like torchvision's VGG: (conv, ReLU) pairs with a max pooling after
    each of the first four blocks.
    """

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for block, widths in enumerate(BLOCKS):
            for width in widths:
                modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            if block < len(BLOCKS) - 1:
                modules.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*modules)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (N, 3, H, W) to ``conv5_1`` after ReLU (N, 256, H/16, W/16)."""
        return self.features(images)


class VggMiniTraining(nn.Module):
    """The same network with batch normalisation after each convolution, for training."""

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for block, widths in enumerate(BLOCKS):
            for width in widths:
                modules += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            if block < len(BLOCKS) - 1:
                modules.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*modules)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (N, 3, H, W) to ``conv5_1`` after ReLU (N, 256, H/16, W/16)."""
        return self.features(images)


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
