"""SalNet: the deep convolutional network of Pan et al. (CVPR 2016), published for Caffe."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.base import SaliencyNetwork, channels, check_finite
from blcf_utils.saliency.official.caffemodel import read_caffemodel

# Output channels and kernel size of conv1 to conv8; conv9 and deconv1 always have one channel.
HIDDEN = ((96, 7), (256, 5), (512, 3), (512, 5), (512, 5), (256, 7), (128, 11), (32, 11))
MEAN_BGR = (100.0, 110.0, 118.0)
SCALE = 0.0078431372549  # 1 / 127.5, as the authors write it
LONGEST_SIDE = 320
# The second pooling has nothing left to pool below this.
SHORTEST_SIDE = 4


class SalNet(SaliencyNetwork):
    """Nine convolutions and a deconvolution, fully convolutional, with a linear output.

    The layers have the names and the arithmetic of the authors' ``deploy.prototxt``: pooling with
    Caffe's ceiling, normalisation across channels. 25,806,209 parameters at width 1.
    """

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = 3
        for number, (published, kernel) in enumerate(HIDDEN, 1):
            outputs = channels(published, width)
            layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if number == 1:
                layers["norm1"] = _AcrossChannels()
            if number <= 2:
                layers[f"pool{number}"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            inputs = outputs
        layers["conv9"] = nn.Conv2d(inputs, 1, 13, padding=6)
        layers["deconv1"] = nn.ConvTranspose2d(1, 1, 8, stride=4, padding=2, bias=False)
        self.layers = nn.Sequential(layers)

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """Fit an image into 320 x 320 (never enlarged), to BGR, centred, in about [-1, 1].

        Args:
            image: RGB (H, W, 3) uint8.

        Returns:
            (1, 3, h, w) float32, h and w at most 320; at least 4, which only changes images that
            the authors' network cannot take.
        """
        height, width = image.shape[:2]
        scale = min(1.0, LONGEST_SIDE / width, LONGEST_SIDE / height)
        pixels = image.astype(np.float32)
        if scale * min(height, width) >= SHORTEST_SIDE:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale)
        else:
            size = (max(SHORTEST_SIDE, round(side * scale)) for side in (width, height))
            pixels = cv2.resize(pixels, tuple(size))
        pixels = (pixels[:, :, ::-1] - np.float32(MEAN_BGR)) * np.float32(SCALE)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map prepared images (B, 3, h, w) to saliency (B, 1, h', w'), about [-1, 1] and linear.

        h' is h rounded up by two poolings and enlarged four times: h, or a few pixels from it.
        """
        return self.layers(images)

    def finish(self, output: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the map (height, width) uint8: to 0..255, enlarged, blurred, maximum to 255.

        Args:
            output: raw saliency (h', w') of one image.
            height: of the map, in pixels; the original image's.
            width: of the map, in pixels.
        """
        saliency = np.clip(output.astype(np.float32) * 128 + 127, 0, 255)
        saliency = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_CUBIC)
        saliency = np.clip(cv2.GaussianBlur(saliency, (5, 5), 0), 0, 255)
        highest = saliency.max()
        if highest > 0:
            saliency = saliency / highest * np.float32(255)
        return saliency.astype(np.uint8)

    def load_official(self, path: Path) -> None:
        """Take the weights of the authors' ``deep_net_model.caffemodel``.

        Raises:
            StudyError: not a Caffe model, or the model of another network.
        """
        found = read_caffemodel(path)
        state = {}
        for name, module in self.layers.named_children():
            wanted = [(f"layers.{name}.{key}", value) for key, value in module.named_parameters()]
            if not wanted:
                continue
            shapes = [tuple(value.shape) for _, value in wanted]
            blobs = found.get(name, [])
            if len(blobs) != len(wanted) or any(map(_differs, blobs, shapes)):
                raise StudyError(
                    f"{path}: expected the Caffe model of SalNet, whose layer {name} has blobs "
                    f"{_listed(shapes)}, found {_listed([b.shape for b in blobs])}; download "
                    "deep_net_model.caffemodel again"
                )
            for (key, _), blob, shape in zip(wanted, blobs, shapes, strict=True):
                check_finite(path, f"layer {name}", blob)
                state[key] = torch.from_numpy(np.array(blob, np.float32).reshape(shape))
        self.load_state_dict(state, assign=next(self.parameters()).is_meta)


class _AcrossChannels(nn.Module):
    """Caffe's normalisation across channels: x / (1 + 1e-4 / 5 * sum of 5 neighbours squared)^0.75.

    The sum over neighbouring channels is a 1x1 convolution with a band of ones, several times
    faster on a CPU than torch's ``LocalResponseNorm``, which pools in three dimensions.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Normalise maps (B, C, h, w)."""
        number = torch.arange(maps.shape[1], device=maps.device)
        near = ((number[:, None] - number).abs() <= 2).to(maps.dtype)
        root = (functional.conv2d(maps * maps, near[:, :, None, None] * (1e-4 / 5)) + 1).sqrt()
        return maps / (root * root.sqrt())


def _differs(blob: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Compare as Caffe does: older files give every blob four dimensions, the first ones 1."""
    return blob.shape not in (shape, (1,) * (4 - len(shape)) + shape)


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes) or "none"
