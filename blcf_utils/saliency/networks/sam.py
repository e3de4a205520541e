"""What SAM-VGG and SAM-ResNet share: attention, learned priors, head, input and output.

Cornia, Baraldi, Serra, Cucchiara: Predicting human eye fixations via an LSTM-based saliency
attentive model, IEEE TIP 2018. The arithmetic is that of the authors' code (Keras 1.1 on Theano),
which differs from the paper's letters in places; each such place is marked below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.base import SaliencyNetwork, channels, check_finite
from blcf_utils.saliency.official.keras1 import read_keras1

GAUSSIANS = 16
STEPS = 4
UPSAMPLING = 16
INPUT_HEIGHT, INPUT_WIDTH = 240, 320
MEAN_BGR = np.array([103.939, 116.779, 123.68])
BLUR_SIGMA = 7
_KERAS_EPSILON = 1e-7


@dataclass(frozen=True)
class OfficialLayer:
    """A layer with weights, as the authors' files hold it.

    Attributes:
        name: its name in the files; None where Keras numbered it by itself, so that the name
            depends on what else the session had built.
        module: a convolution, a batch normalisation or a module with ``official_arrays``.
    """

    name: str | None
    module: nn.Module


class AttentiveConvLSTM(nn.Module):
    """Convolutional LSTM which attends to its one input at every step (section III-B).

    As in the authors' code W_a acts on the hidden state and U_a on the input, the opposite of the
    paper's letters; the attention sums to one over all positions and is not rescaled.

    Args:
        features: channels of input, attention, hidden state and output.
    """

    def __init__(self, features: int):
        super().__init__()
        self.w_a = _conv3(features, features)
        self.u_a = _conv3(features, features)
        self.v_a = _conv3(features, 1, bias=False)
        # The gates i, f, c, o side by side: one convolution of 4n channels instead of four.
        self.w = _conv3(features, 4 * features)
        self.u = _conv3(features, 4 * features)
        nn.init.zeros_(self.v_a.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last hidden state (B, C, h, w) for features ``x`` (B, C, h, w)."""
        attended_input = self.u_a(x)
        cell = hidden = None
        for _ in range(STEPS):
            # A convolution of the zeros before the first step is its bias.
            seen = _bias(self.w_a) if hidden is None else self.w_a(hidden)
            recurrent = _bias(self.u) if hidden is None else self.u(hidden)
            energy = self.v_a(torch.tanh(seen + attended_input))
            attention = energy.flatten(1).softmax(1).view_as(energy)
            i, f, c, o = (self.w(x * attention) + recurrent).chunk(4, dim=1)
            update = torch.sigmoid(i) * torch.tanh(c)
            cell = update if cell is None else torch.sigmoid(f) * cell + update
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return hidden

    def official_arrays(self) -> list[tuple[int, ...]]:
        """Return the shapes of the file's 21 arrays: W_a U_a V_a, then W and U of i, f, c, o."""
        n = self.w_a.out_channels
        kernel, bias = (n, n, 3, 3), (n,)
        return [kernel, bias, kernel, bias, (1, n, 3, 3), *[kernel, bias] * 8]

    def official_state(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the parameters that the file's arrays stand for."""
        gates = arrays[5:]
        return {
            "w_a.weight": _flipped(arrays[0]),
            "w_a.bias": arrays[1],
            "u_a.weight": _flipped(arrays[2]),
            "u_a.bias": arrays[3],
            "v_a.weight": _flipped(arrays[4]),
            "w.weight": _flipped(np.concatenate(gates[0::4])),
            "w.bias": np.concatenate(gates[1::4]),
            "u.weight": _flipped(np.concatenate(gates[2::4])),
            "u.bias": np.concatenate(gates[3::4]),
        }


class LearningPrior(nn.Module):
    """Sixteen Gaussians over the image whose places and extents are learned (section III-C).

    The parameter holds mu_x, mu_y, sigma_x, sigma_y of all Gaussians in that order, in units of the
    image's width; they are clipped to the authors' ranges where they are used. Each map is divided
    by its maximum over the grid.
    """

    _RANGES = ((0.25, 0.75), (0.35, 0.65), (0.1, 0.9), (0.2, 0.8))

    def __init__(self):
        super().__init__()
        means = torch.empty(2 * GAUSSIANS).uniform_(0.3, 0.7)
        deviations = torch.empty(2 * GAUSSIANS).uniform_(0.05, 0.3)
        self.weight = nn.Parameter(torch.cat([means, deviations]))

    def forward(self, height: int, width: int) -> Tensor:
        """Return the maps (1, 16, height, width), each with maximum 1."""
        mu_x, mu_y, sigma_x, sigma_y = (
            part.clamp(low, high).view(-1, 1)
            for part, (low, high) in zip(self.weight.chunk(4), self._RANGES, strict=True)
        )
        extent = height / width
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        x = torch.linspace(0, 1, width, **place)
        y = torch.linspace((1 - extent) / 2, (1 + extent) / 2, height, **place)
        across = (x - mu_x) ** 2 / (2 * sigma_x**2 + _KERAS_EPSILON)
        down = (y - mu_y) ** 2 / (2 * sigma_y**2 + _KERAS_EPSILON)
        maps = torch.exp(-(across[:, None, :] + down[:, :, None]))
        return (maps / maps.amax(dim=(1, 2), keepdim=True))[None]

    def official_arrays(self) -> list[tuple[int, ...]]:
        """Return the shapes of the file's arrays."""
        return [tuple(self.weight.shape)]

    def official_state(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the parameters that the file's arrays stand for."""
        return {"weight": arrays[0]}


class Sam(SaliencyNetwork):
    """A saliency attentive model on any backbone.

    Args:
        backbone: images (B, 3, h, w) to non-negative features (B, channels(512, width), h/8, w/8).
        width: share of the published number of channels in every hidden layer; the priors keep
            their 16 Gaussians each.
    """

    def __init__(self, backbone: nn.Module, width: float):
        super().__init__(width)
        features = channels(512, width)
        self.backbone = backbone
        self.lstm = AttentiveConvLSTM(features)
        self.prior1 = LearningPrior()
        self.dilated1 = _dilated(features)
        self.prior2 = LearningPrior()
        self.dilated2 = _dilated(features)
        self.out = nn.Sequential(nn.Conv2d(features, 1, 1), nn.ReLU(inplace=True))

    def backbone_layers(self) -> list[OfficialLayer]:
        """Return the backbone's layers with weights in the topological order of Keras."""
        raise NotImplementedError

    def prepare(self, image: np.ndarray) -> Tensor:
        """Return the network's input (1, 3, 240, 320): BGR minus its mean.

        The image is fitted, centred, into a black canvas before the mean is subtracted, as the
        authors do, so that the borders hold minus the mean.

        Args:
            image: RGB (H, W, 3) uint8.
        """
        canvas = np.zeros((INPUT_HEIGHT, INPUT_WIDTH, 3), np.uint8)
        height, width = image.shape[:2]
        # The authors' code fails where less than one pixel would remain of the shorter side.
        if height / INPUT_HEIGHT > width / INPUT_WIDTH:
            rows, columns = INPUT_HEIGHT, max(1, width * INPUT_HEIGHT // height)
        else:
            rows, columns = max(1, height * INPUT_WIDTH // width), INPUT_WIDTH
        top, left = (INPUT_HEIGHT - rows) // 2, (INPUT_WIDTH - columns) // 2
        resized = cv2.resize(np.ascontiguousarray(image[..., ::-1]), (columns, rows))
        canvas[top : top + rows, left : left + columns] = resized
        centred = (canvas - MEAN_BGR).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(centred.transpose(2, 0, 1)))[None]

    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (B, 3, h, w) to raw saliency (B, 1, 2h, 2w), at least 0."""
        features = self.lstm(self.backbone(images))
        features = self.dilated1(_with_prior(features, self.prior1))
        features = self.dilated2(_with_prior(features, self.prior2))
        return bilinear_upsampling(self.out(features))

    def finish(self, output: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the map (height, width) uint8 of the raw output (h', w') of one image.

        The output is resized to cover the image, its borders are cropped off, and the rest is
        blurred (sigma of 7 pixels) and scaled to a maximum of 255. An output that is zero on the
        whole image gives a map of zeros; the authors' code divides by zero there.
        """
        output = np.asarray(output, np.float32)
        peak = output.max()
        if not peak > 0:
            return np.zeros((height, width), np.uint8)
        saliency = _cover(output / peak * 255, height, width)
        saliency = gaussian_filter(saliency, sigma=BLUR_SIGMA)
        peak = saliency.max()
        if not peak > 0:
            return np.zeros((height, width), np.uint8)
        return (saliency / peak * 255).astype(np.uint8)

    def load_official(self, path: Path) -> None:
        """Take the weights of the authors' Keras-1 file (``.pkl`` by name, HDF5 in fact).

        Keras loads by the order of layers, not by name, and so does this, checking every shape.
        Only the layers that the authors named themselves (``res3a_branch2b``, ``block1_conv1``)
        are looked up by name first; a file without these names is read in Keras' order. Theano's
        convolution turns kernels around, torch's does not: they are turned here. A network built
        on torch's meta device comes out on the processor.

        Raises:
            StudyError: not such a file, or one of another network.
        """
        layers = read_keras1(path)
        targets = [
            *self.backbone_layers(),
            OfficialLayer(None, self.lstm),
            OfficialLayer(None, self.prior1),
            OfficialLayer(None, self.dilated1[0]),
            OfficialLayer(None, self.prior2),
            OfficialLayer(None, self.dilated2[0]),
            OfficialLayer(None, self.out[0]),
        ]
        if len(layers) != len(targets):
            raise StudyError(
                f"{path}: expected {len(targets)} layers with weights for {type(self).__name__},"
                f" found {len(layers)}; give the weights of this network"
            )
        prefixes = {module: f"{name}." for name, module in self.named_modules()}
        current = self.state_dict(keep_vars=True)
        state = {}
        for target, (name, named_arrays) in _matched(targets, layers):
            arrays = [array for _, array in named_arrays]
            _check(path, name, _shapes(target.module), arrays)
            for key, array in _state(target.module, arrays).items():
                key = prefixes[target.module] + key
                tensor = torch.from_numpy(np.array(array, np.float32, order="C"))
                state[key] = tensor.to(_home(current[key]))
        for key, value in current.items():
            if key.endswith("num_batches_tracked"):
                state[key] = torch.zeros((), dtype=torch.long, device=_home(value))
        self.load_state_dict(state, assign=True)


def bilinear_upsampling(maps: Tensor) -> Tensor:
    """Enlarge maps (B, C, h, w) to (B, C, 16h, 16w) as Theano's function of that name does.

    Output place j reads its source at (j - 7) / 16, clamped to the map: half an output pixel away
    from ``interpolate(align_corners=False)``.
    """
    height, width = maps.shape[-2:]
    return _interpolation(height, maps) @ maps @ _interpolation(width, maps).T


def _interpolation(size: int, like: Tensor) -> Tensor:
    """Return the matrix (16 size, size) of linear interpolation along one axis."""
    places = torch.arange(UPSAMPLING * size, device=like.device, dtype=like.dtype)
    places = ((places - (UPSAMPLING // 2 - 1)) / UPSAMPLING).clamp(0, size - 1)
    sources = torch.arange(size, device=like.device, dtype=like.dtype)
    return (1 - (places[:, None] - sources).abs()).clamp(min=0)


def _with_prior(features: Tensor, prior: LearningPrior) -> Tensor:
    count, _, height, width = features.shape
    return torch.cat([features, prior(height, width).expand(count, -1, -1, -1)], dim=1)


def _cover(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a map, keeping its aspect, to cover (height, width), and crop the middle."""
    rows, columns = saliency.shape
    # Cropping between the two passes of the separable resize changes values by rounding at most,
    # and saves the memory of a whole enlarged map where the image is very long and thin.
    if height / rows > width / columns:
        columns = columns * height // rows
        left = (columns - width) // 2
        wide = cv2.resize(saliency, (columns, rows))[:, left : left + width]
        return cv2.resize(np.ascontiguousarray(wide), (width, height))
    rows = rows * width // columns
    top = (rows - height) // 2
    tall = cv2.resize(saliency, (columns, rows))[top : top + height]
    return cv2.resize(np.ascontiguousarray(tall), (width, height))


def _conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _dilated(features: int) -> nn.Sequential:
    conv = nn.Conv2d(features + GAUSSIANS, features, 5, padding=8, dilation=4)
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.bias.view(1, -1, 1, 1)


def _flipped(kernels: np.ndarray) -> np.ndarray:
    return kernels[:, :, ::-1, ::-1]


def _home(tensor: Tensor) -> torch.device:
    """Return the device of a parameter's new value."""
    return torch.device("cpu") if tensor.is_meta else tensor.device


def _matched(targets: list[OfficialLayer], layers: list) -> list[tuple[OfficialLayer, tuple]]:
    """Pair layers by the authors' own names where the file has them all, the rest by order."""
    own_names = {target.name for target in targets if target.name}
    named = [layer for layer in layers if layer[0] in own_names]
    by_name = {layer[0]: layer for layer in named}
    if not len(named) == len(by_name) == len(own_names):
        return list(zip(targets, layers, strict=True))
    others = iter([layer for layer in layers if layer[0] not in own_names])
    return [(target, by_name[target.name] if target.name else next(others)) for target in targets]


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Return the shapes of a layer's arrays in a file."""
    if isinstance(module, nn.Conv2d):
        return [tuple(module.weight.shape), tuple(module.bias.shape)]
    if isinstance(module, nn.BatchNorm2d):
        return [(module.num_features,)] * 4
    return module.official_arrays()


def _state(module: nn.Module, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(module, nn.Conv2d):
        return {"weight": _flipped(arrays[0]), "bias": arrays[1]}
    if isinstance(module, nn.BatchNorm2d):
        # What the file calls running_std is the variance.
        return dict(zip(("weight", "bias", "running_mean", "running_var"), arrays, strict=True))
    return module.official_state(arrays)


def _check(path: Path, name: str, shapes: list[tuple[int, ...]], arrays: list[np.ndarray]) -> None:
    found = [array.shape for array in arrays]
    if found != shapes:
        expected, got = (" ".join(map(str, each)) for each in _difference(shapes, found))
        raise StudyError(
            f"{path}: expected arrays of shape {expected} in layer {name}, found {got};"
            " give the weights of this network and width"
        )
    for array in arrays:
        check_finite(path, f"layer {name}", array)


def _difference(shapes: list, found: list) -> tuple[list, list]:
    """Return both lists, or only where they differ if they are equally long."""
    if len(shapes) != len(found):
        return shapes, found
    differing = [at for at, shape in enumerate(shapes) if shape != found[at]]
    return [shapes[at] for at in differing], [found[at] for at in differing]
