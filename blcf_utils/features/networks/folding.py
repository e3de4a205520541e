"""A trunk as it is fastest to forward: batch normalisation folded, channels last.

In testing a convolution and the batch normalisation behind it are one convolution with other
weights (Jacob et al., "Quantization and Training of Neural Networks", CVPR 2018, equation 14), and
oneDNN reads maps whose channels lie last without copying them first. Maps differ in their last
bits only.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(module: nn.Module) -> nn.Module:
    """Return a copy of a module in eval mode to forward with, which is not to be trained.

    Batch normalisation is folded where a sequence has it right behind its convolution.
    """
    made = copy.deepcopy(module)
    for inner in [*made.modules()]:
        if isinstance(inner, nn.Sequential):
            _fold(inner)
    return made.requires_grad_(False).to(memory_format=torch.channels_last)


def _fold(sequence: nn.Sequential) -> None:
    for (name, one), (after, other) in pairwise([*sequence.named_children()]):
        if isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d):
            sequence.register_module(name, fuse_conv_bn_eval(one, other))
            sequence.register_module(after, nn.Identity())
