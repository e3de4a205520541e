"""SalGAN: the generator of Pan et al. (2017), published for Lasagne and Theano."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.base import SaliencyNetwork, channels, check_finite
from blcf_utils.saliency.official.lasagne import read_lasagne

# Channels of the 3x3 convolutions of each block, from the image to conv5_3.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MEAN_BGR = (103.939, 116.779, 123.68)
INPUT_HEIGHT, INPUT_WIDTH = 192, 256


class SalGan(SaliencyNetwork):
    """The convolutions of VGG-16 up to conv5_3 and their mirror image, with a sigmoid output.

    The mirrored convolutions enlarge by repetition and have no skips. 31,787,009 parameters at
    width 1. Layers have the authors' names.
    """

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = 3

        def convolve(name: str, outputs: int) -> None:
            nonlocal inputs
            layers[name] = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers[name.replace("conv", "relu")] = nn.ReLU(inplace=True)
            inputs = outputs

        for block, published in enumerate(BLOCKS, 1):
            if block > 1:
                layers[f"pool{block - 1}"] = nn.MaxPool2d(2)
            for number, outputs in enumerate(published, 1):
                convolve(f"conv{block}_{number}", channels(outputs, width))
        for block, published in reversed(list(enumerate(BLOCKS, 1))):
            for number, outputs in reversed(list(enumerate(published, 1))):
                convolve(f"uconv{block}_{number}", channels(outputs, width))
            if block > 1:
                layers[f"upool{block - 1}"] = nn.Upsample(scale_factor=2, mode="nearest")
        layers["output"] = nn.Conv2d(inputs, 1, 1)
        layers["sigmoid"] = nn.Sigmoid()
        self.layers = nn.Sequential(layers)

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """Squash an RGB image (H, W, 3) uint8 to 192 x 256, BGR minus VGG's mean: (1, 3, 192, 256).

        The mean is subtracted here; in the authors' network its first layer does so.
        """
        size = (INPUT_WIDTH, INPUT_HEIGHT)
        pixels = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
        pixels = pixels[:, :, ::-1].astype(np.float32) - np.float32(MEAN_BGR)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map prepared images (B, 3, h, w), h and w multiples of 16, to (B, 1, h, w) in [0, 1].

        The last module is the sigmoid: without it the network gives logits.
        """
        return self.layers(images)

    def finish(self, output: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the map (height, width) uint8: truncated to uint8, enlarged, blurred; no stretch.

        Args:
            output: saliency (h', w') of one image, in [0, 1].
            height: of the map, in pixels; the original image's.
            width: of the map, in pixels.
        """
        saliency = (output.astype(np.float32) * np.float32(255)).astype(np.uint8)
        saliency = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_CUBIC)
        return cv2.GaussianBlur(saliency, (5, 5), 0)

    def load_official(self, path: Path) -> None:
        """Take the weights of the authors' ``gen_modelWeights0090.npz``.

        Lasagne's default convolution, which the decoder uses, flips its kernels; PyTorch's and
        the encoder's do not.

        Raises:
            StudyError: not such a file, or the weights of another network.
        """
        arrays = read_lasagne(path)
        wanted = list(self.named_parameters())
        mend = "download gen_modelWeights0090.npz again"
        if len(arrays) != len(wanted):
            raise StudyError(
                f"{path}: expected the {len(wanted)} arrays of SalGAN's generator, "
                f"found {len(arrays)}; {mend}"
            )
        state = {}
        for number, ((key, value), array) in enumerate(zip(wanted, arrays, strict=True)):
            shape = tuple(value.shape)
            if array.shape != shape:
                raise StudyError(
                    f"{path}: expected arr_{number} of shape {shape} (SalGAN's "
                    f"{key.removeprefix('layers.')}), found {array.shape}; {mend}"
                )
            check_finite(path, f"arr_{number}", array)
            if key.startswith("layers.uconv") and array.ndim == 4:
                array = array[:, :, ::-1, ::-1]
            state[key] = torch.from_numpy(np.array(array, np.float32, order="C"))
        self.load_state_dict(state, assign=next(self.parameters()).is_meta)
