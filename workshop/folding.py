"""What helps a saliency network to learn from scratch and leaves no trace in its weights.

Batch normalisation between a convolution and its ReLU is, once trained, an affine map that the
convolution absorbs. And the attention of SAM sums to one over all positions, so that its ConvLSTM
sees inputs about a thousand times smaller than the features; trained from random weights it
would ignore them. While training, these inputs are multiplied by the number of positions;
afterwards the kernels are, for the number of positions at the network's official input size.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn

from blcf_utils.saliency.base import SaliencyNetwork
from blcf_utils.saliency.networks.sam import INPUT_HEIGHT, INPUT_WIDTH, Sam

# The features of SAM are an eighth of its input.
SAM_POSITIONS = (INPUT_HEIGHT // 8) * (INPUT_WIDTH // 8)


class NormalisedConvolution(nn.Module):
    """A convolution and the batch normalisation of its output."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self.normalisation = nn.BatchNorm2d(convolution.out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) as the convolution does, then normalise."""
        return self.normalisation(self.convolution(maps))

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return the convolution that does the same in evaluation mode."""
        norm, conv = self.normalisation, copy.deepcopy(self.convolution)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
        return conv


class RescaledConvolution(nn.Module):
    """A convolution of maps multiplied by their number of positions."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) as the convolution does, h times w times as large."""
        return self.convolution(maps * (maps.shape[-2] * maps.shape[-1]))

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return the convolution that does the same at SAM's official input size."""
        conv = copy.deepcopy(self.convolution)
        conv.weight.mul_(SAM_POSITIONS)
        return conv


def trainable(network: SaliencyNetwork) -> SaliencyNetwork:
    """Return the network prepared for training: normalised and rescaled, in place."""
    for module in list(network.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        children = list(module.named_children())
        for (name, conv), (_, after) in pairwise(children):
            # A single normalised output channel could not say how salient an image is.
            final = isinstance(network, Sam) and module is network.out
            if isinstance(conv, nn.Conv2d) and isinstance(after, nn.ReLU) and not final:
                setattr(module, name, NormalisedConvolution(conv))
    if isinstance(network, Sam):
        network.lstm.w = RescaledConvolution(network.lstm.w)
    return network


def fold(trained: SaliencyNetwork) -> SaliencyNetwork:
    """Return the plain network that equals the trained one in evaluation mode."""
    network = copy.deepcopy(trained)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (NormalisedConvolution, RescaledConvolution)):
                setattr(module, name, child.folded())
    return network.eval()
