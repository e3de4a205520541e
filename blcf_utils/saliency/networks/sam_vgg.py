"""SAM-VGG: the saliency attentive model on a dilated VGG-16 (Cornia et al., TIP 2018)."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from blcf_utils.saliency.base import channels
from blcf_utils.saliency.networks.sam import OfficialLayer, Sam


class SamVgg(Sam):
    """SAM-VGG; 51,835,841 parameters at width 1.

    Args:
        width: share of the published number of channels in every hidden layer.
    """

    def __init__(self, width: float = 1.0):
        super().__init__(_dilated_vgg(width), width)

    def backbone_layers(self) -> list[OfficialLayer]:
        """Return the 13 convolutions."""
        return [
            OfficialLayer(name, module)
            for name, module in self.backbone.named_children()
            if isinstance(module, nn.Conv2d)
        ]


class TheanoSamePool(nn.Module):
    """Max-pooling over 2x2 windows that start one row and column outside (B, C, h, w).

    Keras 1 pads both sides for ``border_mode='same'`` on Theano, then crops the end.

    Args:
        stride: rows and columns from one window to the next.
    """

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maxima (B, C, ceil(h / stride), ceil(w / stride))."""
        height, width = (-(-size // self.stride) for size in maps.shape[-2:])
        return F.max_pool2d(maps, 2, self.stride, padding=1)[..., :height, :width]


def _dilated_vgg(width: float) -> nn.Sequential:
    """Return VGG-16 without its last pooling, reduced eight times, its modules named as Keras'."""
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(2), TheanoSamePool(2), TheanoSamePool(1)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for block, (count, published) in enumerate(
        [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1
    ):
        dilation = 2 if block == 5 else 1
        outputs = channels(published, width)
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            layers[name] = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
            layers[f"{name}_relu"] = nn.ReLU(inplace=True)
            inputs = outputs
        if block <= len(pools):
            layers[f"block{block}_pool"] = pools[block - 1]
    return nn.Sequential(layers)
