"""Networks A and B: a convolutional trunk, a sum over positions, and a random projection.

Network A is the descriptor of plain sum pooling: f(x) = s / |s| with s the sum of the local
descriptors. Network B projects it to a higher dimension, g(x) = W f(x) / |W f(x)|, with W drawn at
random. The slides show both as pictures only: what they leave open (the dimension, whether B
rectifies, whether it projects before or after the sum) are settings.

What a *linear* W can do by itself is known: random projections preserve cosines (Johnson and
Lindenstrauss, 1984), and rectified ones a rising function of them (Cho and Saul, "Kernel methods
for deep learning", NIPS 2009), so projecting the pooled descriptor cannot change a ranking beyond
chance. Rectified projections of *local* descriptors are another kernel and can.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from blcf_utils.config.finetuning import ProjectionConfig
from blcf_utils.features.networks.backbones import Backbone, cut_position
from blcf_utils.ground.artefacts import atomic_path
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.settings import canonical_json

NETWORKS = ("A", "B")
TRUNK, PROJECTION = "trunk.safetensors", "projection.safetensors"


class Projection(nn.Module):
    """A random projection of descriptors to a higher dimension.

    Args:
        channels: C of the descriptors.
        config: dimension, place, ReLU and seed.
    """

    def __init__(self, channels: int, config: ProjectionConfig):
        super().__init__()
        self.place, self.relu = config.place, config.relu
        draw = torch.Generator().manual_seed(config.seed)
        weight = torch.randn(config.dimensions, channels, generator=draw)
        # Lengths are kept on average: |W x|^2 has the expectation |x|^2.
        self.weight = nn.Parameter(weight / config.dimensions**0.5)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Project the last axis: (..., C) to (..., dimensions)."""
        projected = functional.linear(rows, self.weight)
        return functional.relu(projected) if self.relu else projected


class DescriptorNetwork(nn.Module):
    """Network A, or B when it has a projection.

    Args:
        trunk: what turns inputs (pixels, or the maps of the frozen layers) into feature maps.
        channels: C of the trunk's maps.
        projection: of network B; None for network A.
    """

    def __init__(self, trunk: nn.Module, channels: int, projection: Projection | None = None):
        super().__init__()
        self.trunk, self.projection, self.channels = trunk, projection, channels

    @property
    def dimensions(self) -> int:
        """D of the descriptors."""
        return self.channels if self.projection is None else len(self.projection.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Describe inputs (B, c, h, w) of one shape: unit vectors (B, D) float32.

        Under autocast only the trunk computes in the short type: the loss compares differences of
        distances between vectors that are nearly the same.
        """
        maps = self.trunk(inputs)
        with torch.autocast(maps.device.type, enabled=False):
            return self.pool(maps.float())

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Describe feature maps (B, C, h, w): unit vectors (B, D).

        Positions to be left out are zero in every channel.
        """
        local = self.projection is not None and self.projection.place == "local"
        if local:
            rows = functional.normalize(maps.flatten(2).transpose(1, 2), dim=2)
            return functional.normalize(self.projection(rows).sum(1), dim=1)
        pooled = functional.normalize(maps.sum((2, 3)), dim=1)
        if self.projection is None:
            return pooled
        return functional.normalize(self.projection(pooled), dim=1)


class BehindFrozen(nn.Module):
    """A network behind its frozen layers, for inputs that are pixels.

    Args:
        frozen: layers that do not learn.
        network: what learns from their maps.
    """

    def __init__(self, frozen: nn.Module, network: DescriptorNetwork):
        super().__init__()
        self.frozen, self.network = frozen, network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Describe pixels (B, 3, H, W) of one shape: unit vectors (B, D)."""
        with torch.no_grad():
            maps = self.frozen(pixels)
        return self.network(maps)


def split_trunk(backbone: Backbone, frozen: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Return copies of a trunk's layers up to and including ``frozen``, and of those behind it.

    Args:
        backbone: a trunk with weights.
        frozen: a layer before its last one; "" leaves the first part empty.

    Raises:
        StudyError: no such layer before the trunk's end.
    """
    module = copy.deepcopy(backbone.module)
    inside = "features" if list(dict(module.named_children())) == ["features"] else ""
    layers = OrderedDict((module.features if inside else module).named_children())
    stop = cut_position(backbone.config, frozen) if frozen else 0
    if stop >= len(layers):
        raise StudyError(
            f"finetuning.training.frozen: expected a layer before {backbone.config.layer}, the "
            f"last of {backbone.config.label}, found {frozen}; freeze fewer layers"
        )
    names = list(layers)
    parts = (names[:stop], names[stop:])
    return tuple(nn.Sequential(OrderedDict((name, layers[name]) for name in p)) for p in parts)


def build_network(
    name: str, backbone: Backbone, frozen: str, projection: ProjectionConfig
) -> DescriptorNetwork:
    """Return network A or B behind the frozen layers, with the backbone's weights.

    Batch normalisation and dropout stay as in testing: a triplet's few images are no statistics.

    Args:
        name: ``A`` or ``B``.
        backbone: a trunk with weights; it is copied.
        frozen: the layer whose maps are the network's input; "" for pixels.
        projection: of network B.
    """
    if name not in NETWORKS:
        raise known("fine-tuned network", name, NETWORKS)
    _, trunk = split_trunk(backbone, frozen)
    made = Projection(backbone.channels, projection) if name == "B" else None
    return DescriptorNetwork(trunk.requires_grad_(True), backbone.channels, made).eval()


def save_network(network: DescriptorNetwork, backbone: Backbone, folder: Path) -> None:
    """Write a trained network: the whole trunk under torchvision's names, and the projection.

    ``trunk.safetensors`` is a backbone's weights like any other (``features.backbone.weights``).
    """
    whole = backbone.module.state_dict()
    inside = "features." if all(key.startswith("features.") for key in whole) else ""
    trained = {f"{inside}{key}": value for key, value in network.trunk.state_dict().items()}
    tensors = {k: trained.get(k, v).detach().cpu().contiguous() for k, v in whole.items()}
    normalisation = canonical_json({"mean": list(backbone.mean), "std": list(backbone.std)})
    with atomic_path(folder / TRUNK) as path:
        # One key: safetensors writes several in an order that changes from run to run.
        save_file(tensors, path, metadata={"normalisation": normalisation})
    if network.projection is not None:
        with atomic_path(folder / PROJECTION) as path:
            save_file({"weight": network.projection.weight.detach().cpu().contiguous()}, path)


def load_network(
    name: str, backbone: Backbone, frozen: str, projection: ProjectionConfig, folder: Path
) -> DescriptorNetwork:
    """Return a network that :func:`save_network` wrote.

    Args:
        name, backbone, frozen, projection: as for :func:`build_network`.
        folder: where its files are.
    """
    network = build_network(name, backbone, frozen, projection)
    trunk = load_file(folder / TRUNK)
    network.trunk.load_state_dict(
        {key: trunk.get(key, trunk.get(f"features.{key}")) for key in network.trunk.state_dict()}
    )
    if network.projection is not None:
        network.projection.load_state_dict(load_file(folder / PROJECTION))
    return network.requires_grad_(False)
