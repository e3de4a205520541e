"""What stands behind a trunk in a classifier: its linear layer, or its fully connected layers.

CAM reads the linear layer that follows global average pooling; Neural Codes, MOP and patches of
fully connected features read what the last layer reads: the activations of the fully connected
layers before it or, where there are none, the average of the last maps. Where the
trunk's weights have no classifier, ``features.backbone.classifier`` names second ones of the same
network. A classifier fits no other trunk than its own, so these methods then run on the whole
second network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import architecture_of, layer_names, map_sizes
from blcf_utils.features.networks.weight_files import (
    candidate_files,
    published_source,
    weights_file,
    with_classifier,
)
from blcf_utils.features.networks.weights import read_state
from blcf_utils.ground.errors import StudyError

Kind = Literal["linear", "fully_connected"]
INPUT_SIDE = 224  # pixels of the images that these networks classify


@dataclass(frozen=True)
class ClassifierHead:
    """The layers behind a trunk.

    Attributes:
        layer: the layer of the trunk whose maps they read.
        linear: (classes, C) float32, where it follows global average pooling; else None.
        bias: (classes,) of it.
        fully_connected: (N, C, g, g) to the activations that the last layer reads, (N, F).
        grid: g, cells a side of what ``fully_connected`` reads.
        digest: of the weights.
        origin: the file, for people.
    """

    layer: str
    linear: np.ndarray | None
    bias: np.ndarray | None
    fully_connected: nn.Module
    grid: int
    digest: str
    origin: str


def missing_head(config: BackboneConfig, kind: Kind) -> str:
    """Return why a network's classifier cannot be read here, or "" when it can.

    Nothing is downloaded.
    """
    if not config.classifier and config.weights == "torchvision" and not candidate_files(config):
        return f"needs the weights of {config.name}, which are not downloaded yet"
    try:
        head = load_head(config)
    except StudyError as error:
        return str(error)
    if kind == "linear" and head.linear is None:
        return f"needs a network with a linear layer after average pooling, unlike {config.name}"
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
    path = weights_file(config)
    model = architecture.build()
    given, needed = architecture.renamed(read_state(path)), model.state_dict()
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
    linear, connected, grid = _parts(model)
    weight = bias = None
    if linear is not None:
        weight = linear.weight.detach().flatten(1).numpy()
        bias = linear.bias.detach().numpy()
        last = config.model_copy(update={"layer": layer, "relu": "post"})
        (_, grid, _), _ = map_sizes(last, INPUT_SIDE, INPUT_SIDE)
        connected = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ClassifierHead(layer, weight, bias, connected, grid, digest.hexdigest()[:16], path.name)


def _mend(config: BackboneConfig) -> str:
    name = f"{config.name}-classifier"
    fetch = f"`blcf weights fetch {name if published_source(name) else config.name}` and " * (
        published_source(config.name) is not None
    )
    value = "torchvision" if fetch else "the path of a whole state dict"
    return f"{fetch}--set features.backbone.classifier={value}"


def _parts(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None, int]:
    """Return the linear layer after average pooling, or the layers up to the last ReLU.

    With the latter the number of cells a side that they read.
    """
    behind = getattr(model, "fc", None) or model.classifier
    modules = [behind] if isinstance(behind, nn.Linear) else list(behind)
    weighted = [m for m in modules if isinstance(m, nn.Linear | nn.Conv2d)]
    if len(weighted) == 1:
        return weighted[0], None, 0
    last = max(k for k, module in enumerate(modules) if isinstance(module, nn.ReLU))
    layers = nn.Sequential(nn.Flatten(), *modules[: last + 1]).eval().requires_grad_(False)
    return None, layers, int(model.avgpool.output_size[0])
