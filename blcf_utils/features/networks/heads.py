"""What stands behind a trunk in a classifier: its linear layer, or its fully connected layers.

CAM reads the linear layer that follows global average pooling; Neural Codes, MOP and patches of
fully connected features read the layers between the last pooling and the classes. Where the
trunk's weights have no classifier, ``features.backbone.classifier`` names second ones of the same
network. A classifier fits no other trunk than its own, so these methods then run on the whole
second network.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import architecture_of, layer_names
from blcf_utils.features.networks.weight_files import (
    candidate_files,
    embedded_file,
    published_source,
    weights_file,
    with_classifier,
)
from blcf_utils.features.networks.weights import read_state
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import embedded_dir

Kind = Literal["linear", "fully_connected"]
EMBEDDED_HEADS = "vgg-mini-heads.safetensors"
_GRID = 4  # of vgg-mini's fully connected layers


@dataclass(frozen=True)
class ClassifierHead:
    """The layers behind a trunk.

    Attributes:
        layer: the layer of the trunk whose maps they read.
        linear: (classes, C) float32, where it follows global average pooling; else None.
        bias: (classes,) of it.
        fully_connected: (N, C * g * g) to activations; None where the network has none.
        grid: g, cells a side of what ``fully_connected`` reads.
        digest: of the weights.
        origin: the file, for people.
    """

    layer: str
    linear: np.ndarray | None
    bias: np.ndarray | None
    fully_connected: nn.Module | None
    grid: int
    digest: str
    origin: str

    def has(self, kind: Kind) -> bool:
        """Return whether it has a linear layer, or fully connected ones."""
        return (self.linear if kind == "linear" else self.fully_connected) is not None


def vgg_mini_layers(classes: int, channels: int = 256, width: int = 256) -> nn.ModuleDict:
    """Return the layers of vgg-mini's two heads, as they are trained and stored."""
    return nn.ModuleDict(
        {
            "fc": nn.Linear(channels, classes),
            "fc6": nn.Linear(channels * _GRID * _GRID, width),
            "fc7": nn.Linear(width, width),
            "fc8": nn.Linear(width, classes),
        }
    )


def missing_head(config: BackboneConfig, kind: Kind) -> str:
    """Return why a network's classifier cannot be read here, or "" when it can.

    Nothing is downloaded.
    """
    if config.name == "vgg-mini":
        here = config.weights == "embedded" and (embedded_dir() / EMBEDDED_HEADS).is_file()
        return "" if here else "needs vgg-mini with its embedded weights, which have a classifier"
    if not config.classifier and config.weights == "torchvision" and not candidate_files(config):
        return f"needs the weights of {config.name}, which are not downloaded yet"
    try:
        head = load_head(config)
    except StudyError as error:
        return str(error)
    if not head.has(kind):
        what = "linear layer after average pooling" if kind == "linear" else "fully connected layer"
        return f"needs a network with a {what}, which {config.name} has not"
    return ""


def load_head(config: BackboneConfig) -> ClassifierHead:
    """Read the classifier that stands behind a backbone, from the same weights.

    Args:
        config: the backbone; any torchvision classifier that ends in ``fc`` or ``classifier``. Its
            second weights are read where it names some.

    Raises:
        StudyError: random weights, or a file without a (finite) classifier.
    """
    config = with_classifier(config)
    if config.weights == "random":
        raise StudyError(
            f"needs the classifier of {config.name}, and random weights have none; {_mend(config)}"
        )
    architecture, layer = architecture_of(config.name), layer_names(config.name)[-1]
    if config.name == "vgg-mini":
        return _embedded(config, layer)
    path = weights_file(config)
    model = architecture.build()
    given, needed = read_state(path), model.state_dict()
    names = [key for key in needed if key.startswith(("fc.", "classifier."))]
    absent = [key for key in names if key not in given or not torch.isfinite(given[key]).all()]
    if absent or not names:
        raise StudyError(
            f"needs the classifier of {config.name}, which {path.name} does not hold "
            f"({absent[0] if absent else 'fc or classifier'}); {_mend(config)}"
        )
    state = {**needed, **{key: given[key] for key in names}}
    model.load_state_dict(state)
    digest = hashlib.sha256()
    for key in names:
        digest.update(given[key].numpy().tobytes())
    linear, connected = _parts(model)
    weight = bias = None
    if linear is not None:
        weight = linear.weight.detach().flatten(1).numpy()
        bias = linear.bias.detach().numpy()
    grid = int(model.avgpool.output_size[0]) if connected is not None else 1
    return ClassifierHead(layer, weight, bias, connected, grid, digest.hexdigest()[:16], path.name)


def _mend(config: BackboneConfig) -> str:
    name = f"{config.name}-classifier"
    fetch = f"`blcf weights fetch {name if published_source(name) else config.name}` and " * (
        published_source(config.name) is not None
    )
    value = "torchvision" if fetch else "the path of a whole state dict"
    return f"{fetch}--set features.backbone.classifier={value}"


def _parts(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """Return the linear layer after average pooling, or the layers up to the last ReLU."""
    behind = getattr(model, "fc", None) or model.classifier
    modules = [behind] if isinstance(behind, nn.Linear) else list(behind)
    weighted = [m for m in modules if isinstance(m, nn.Linear | nn.Conv2d)]
    if len(weighted) == 1:
        return weighted[0], None
    last = max(k for k, module in enumerate(modules) if isinstance(module, nn.ReLU))
    return None, nn.Sequential(*modules[: last + 1]).eval().requires_grad_(False)


def _embedded(config: BackboneConfig, layer: str) -> ClassifierHead:
    from safetensors.torch import load_file

    path = embedded_dir() / EMBEDDED_HEADS
    if config.weights != "embedded" or not path.is_file():
        raise StudyError(missing_head(config, "linear"))
    trunk = embedded_file(config.name)
    known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if known["trunk"] != _digest(trunk):
        raise StudyError(
            f"{path}: trained behind another {trunk.name} than lies beside it; train it again with "
            "`python -m workshop.head_training --out data/embedded`"
        )
    state = {key: value.float() for key, value in load_file(path).items()}
    layers = vgg_mini_layers(len(state["fc.weight"]))
    layers.load_state_dict(state)
    connected = nn.Sequential(layers["fc6"], nn.ReLU(), layers["fc7"], nn.ReLU())
    return ClassifierHead(
        layer,
        layers["fc"].weight.detach().numpy(),
        layers["fc"].bias.detach().numpy(),
        connected.eval().requires_grad_(False),
        _GRID,
        _digest(path),
        path.name,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
