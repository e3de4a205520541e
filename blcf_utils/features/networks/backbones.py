"""Convolutional backbones: a trunk cut at a named layer, with weights of known origin.

Adding one is an entry in ``BACKBONES``. A trunk keeps the parameter names of the full torchvision
model, so any state dict in torchvision's layout loads, whether or not it holds the classifier.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks import efficientnet_lite0, timm_networks
from blcf_utils.features.networks.efficientnet_lite0 import EfficientNetLite0
from blcf_utils.features.networks.folding import folded
from blcf_utils.features.networks.weight_files import TIMM, choose_weights
from blcf_utils.features.networks.weights import (
    IMAGENET,
    MeanAndStd,
    asked_normalisation,
    load_state,
    read_weights,
)
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.torchvision_compat import ensure_torchvision

log = logging.getLogger("blcf")


@dataclass(frozen=True)
class Cut:
    """Where a layer ends: the modules before ``stop``; ReLU at ``stop`` when ``has_relu``.

    With ``part`` the layer ends inside the module at ``stop``, behind its child of that name, which
    is a convolution, its normalisation and, when ``has_relu``, a ReLU in one sequence; with "" it
    is such a sequence itself.
    """

    stop: int
    has_relu: bool = False
    part: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A registry entry.

    Attributes:
        build: returns the full model (built on the meta device: no memory, no initialisation).
        stages: ``build()``'s ordered top-level modules that form the trunk; for a VGG-style
            network the single ``features``.
        layers: layer name to cut, in the order of the network.
        normalisation: mean and deviation of RGB in [0, 1], for weights that say no other.
        renamed: gives the tensors of a published file the names of ``build()``'s.
    """

    build: Callable[[], nn.Module]
    stages: Callable[[nn.Module], OrderedDict[str, nn.Module]]
    layers: Callable[[nn.Module], dict[str, Cut]]
    normalisation: MeanAndStd = IMAGENET
    renamed: Callable[[dict], dict] = dict


@dataclass
class Backbone:
    """A ready trunk.

    Attributes:
        config: what was asked for.
        module: (B, 3, H, W) normalised pixels to (B, C, h, w) feature maps, in eval mode.
        weights_digest: SHA-256 of the weights file, or ``random-<seed>``.
        origin: where the weights came from, for people.
        mean, std: normalisation of RGB in [0, 1].
    """

    config: BackboneConfig
    module: nn.Module
    weights_digest: str
    origin: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    _shapes: dict = field(default_factory=dict, repr=False)
    _folded: nn.Module | None = field(default=None, repr=False)

    @property
    def channels(self) -> int:
        """Number of channels C of the feature maps."""
        return self.output_shape(224, 224)[0]

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the feature map of an image of ``height`` x ``width`` pixels."""
        if (height, width) not in self._shapes:
            with torch.inference_mode():  # of no image: no memory, no arithmetic
                shape = self.module(torch.empty(0, 3, height, width)).shape
            self._shapes[height, width] = tuple(shape[1:])
        return self._shapes[height, width]

    def on(self, device: torch.device | str) -> nn.Module:
        """Return the trunk on a device, as it is fastest to forward (made once, then moved)."""
        if self._folded is None:
            self._folded = folded(self.module)
        return self._folded.to(device)

    def document(self) -> dict:
        """What determines the feature maps, for artefact keys."""
        return {
            "name": self.config.name,
            "layer": self.config.layer,
            "relu": self.config.relu,
            "weights": self.weights_digest,
            "mean": self.mean,
            "std": self.std,
        }


def caffe_layers(features: nn.Sequential) -> dict[str, Cut]:
    """Name the layers of a VGG-style ``features`` as Caffe does: conv1_1 ... conv5_3, pool1 ..."""
    cuts: dict[str, Cut] = {}
    block, number = 1, 0
    for position, module in enumerate(features):
        if isinstance(module, nn.Conv2d):
            number += 1
            following = features[position + 1] if position + 1 < len(features) else None
            cuts[f"conv{block}_{number}"] = Cut(position + 1, isinstance(following, nn.ReLU))
        elif isinstance(module, nn.MaxPool2d):
            cuts[f"pool{block}"] = Cut(position + 1)
            block, number = block + 1, 0
    return cuts


def _alexnet_layers(features: nn.Sequential) -> dict[str, Cut]:
    convs = [i for i, module in enumerate(features) if isinstance(module, nn.Conv2d)]
    cuts = {f"conv{n}": Cut(i + 1, True) for n, i in enumerate(convs, 1)}
    return {**cuts, "pool5": Cut(len(features))}


def _squeezenet_layers(features: nn.Sequential) -> dict[str, Cut]:
    fires = [i for i, module in enumerate(features) if type(module).__name__ == "Fire"]
    return {"conv1": Cut(1, True), **{f"fire{n}": Cut(i + 1) for n, i in enumerate(fires, 2)}}


def _features_only(model: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(features=model.features)


def _resnet_stages(model: nn.Module) -> OrderedDict[str, nn.Module]:
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return OrderedDict((name, getattr(model, name)) for name in names)


def _resnet_layers(stages: OrderedDict) -> dict[str, Cut]:
    return {name: Cut(i + 1) for i, name in enumerate(stages) if name.startswith("layer")}


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        ensure_torchvision()
        import torchvision

        return getattr(torchvision.models, name)(weights=None)

    return build


def _efficientnet_layers(features: nn.Sequential) -> dict[str, Cut]:
    """Name the stem, each block's inner convolutions and its end, and the last convolution."""
    cuts = {"stem": Cut(0, True, "")}
    for position, block in enumerate(features[1:-1], 1):
        name = f"block{position - 1}"
        inner = [part for part, _ in block.named_children() if part != "project"]
        cuts |= {f"{name}_{part}": Cut(position, True, part) for part in inner}
        cuts[name] = Cut(position + 1)
    return {**cuts, "head": Cut(len(features) - 1, True, "")}


def _vgg(name: str) -> Architecture:
    return Architecture(_torchvision(name), _features_only, caffe_layers)


def _resnet(name: str) -> Architecture:
    return Architecture(_torchvision(name), _resnet_stages, _resnet_layers)


# Whose weights torchvision publishes is said in data/weights.yaml, under the same names.
BACKBONES: dict[str, Architecture] = {
    "vgg16": _vgg("vgg16"),
    "vgg19": _vgg("vgg19"),
    "alexnet": Architecture(_torchvision("alexnet"), _features_only, _alexnet_layers),
    "resnet18": _resnet("resnet18"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "squeezenet1_1": Architecture(
        _torchvision("squeezenet1_1"), _features_only, _squeezenet_layers
    ),
    "efficientnet_lite0": Architecture(
        EfficientNetLite0,
        _features_only,
        _efficientnet_layers,
        normalisation=efficientnet_lite0.NORMALISATION,
        renamed=efficientnet_lite0.study_names,
    ),
}


def layer_names(name: str) -> list[str]:
    """Return the layers at which backbone ``name`` can be cut, in network order."""
    if name.startswith(TIMM):
        return timm_networks.timm_layers(name)
    with torch.device("meta"):
        return list(_layers(name)[1])


def layer_channels(name: str, layer: str) -> int:
    """Return the number of channels of a layer's feature maps, without any weights.

    Raises:
        StudyError: no such backbone or layer.
    """
    trunk, _ = _trunk(BackboneConfig(name=name, layer=layer))
    with torch.no_grad():
        return trunk(torch.empty(1, 3, 224, 224, device="meta")).shape[1]


def architecture_of(name: str) -> Architecture:
    """Return the registry entry of a backbone.

    Raises:
        StudyError: there is none.
    """
    if name.startswith(TIMM):
        raise StudyError(
            f"{name}: only the study's own backbones can be fine-tuned or read with a classifier; "
            f"choose one of {', '.join(BACKBONES)}"
        )
    if name not in BACKBONES:
        raise known("backbone", name, BACKBONES)
    return BACKBONES[name]


def _layers(name: str) -> tuple[OrderedDict[str, nn.Module], dict[str, Cut]]:
    architecture = architecture_of(name)
    stages = architecture.stages(architecture.build())
    inner = stages["features"] if list(stages) == ["features"] else stages
    return stages, architecture.layers(inner)


def cut_position(config: BackboneConfig, layer: str) -> int:
    """Return how many modules of a trunk belong to the layers up to and including ``layer``.

    Raises:
        StudyError: the network has no such layer.
    """
    with torch.device("meta"):
        _, cuts = _layers(config.name)
    if layer not in cuts:
        raise known(f"layer of {config.name}", layer, cuts)
    cut = cuts[layer]
    if cut.part:
        raise StudyError(
            f"{config.name} {layer}: lies inside a block, and a network is frozen up to the end of "
            f"one; use one of {', '.join(name for name, c in cuts.items() if not c.part)}"
        )
    return cut.stop + (cut.has_relu or cut.part is not None)


def _trunk(config: BackboneConfig) -> tuple[nn.Module, set[str]]:
    """Build the cut trunk on the meta device; also return every parameter name of the full one."""
    if config.name.startswith(TIMM):
        return timm_networks.timm_trunk(config).to("meta"), set()
    with torch.device("meta"):
        stages, cuts = _layers(config.name)
        every_name = set(nn.Sequential(stages).state_dict())
    if config.layer not in cuts:
        raise known(f"layer of {config.name}", config.layer, cuts)
    cut = cuts[config.layer]
    if config.relu == "pre" and not cut.has_relu:
        raise StudyError(
            f"{config.name} {config.layer}: relu: pre needs a layer that ends in a convolution "
            f"followed by ReLU; use relu: post or one of "
            f"{', '.join(n for n, c in cuts.items() if c.has_relu) or '(none here)'}"
        )
    if cut.part is not None:
        kept = _with_part(stages["features"], cut, config.relu)
        return nn.Sequential(OrderedDict(features=kept)), every_name
    stop = cut.stop + (cut.has_relu and config.relu == "post")
    if list(stages) == ["features"]:
        return nn.Sequential(OrderedDict(features=stages["features"][:stop])), every_name
    return nn.Sequential(OrderedDict(list(stages.items())[:stop])), every_name


def _with_part(features: nn.Sequential, cut: Cut, relu: str) -> nn.Sequential:
    """Return the modules up to a part of the one at ``cut.stop``, under the names they have."""
    last = features[cut.stop]
    parts = OrderedDict(last.named_children()) if cut.part else {"": last}
    names = list(parts)
    kept = OrderedDict((n, parts[n]) for n in names[: names.index(cut.part) + 1])
    if relu == "pre":
        kept[cut.part] = kept[cut.part][:-1]
    end = nn.Sequential(kept) if cut.part else kept[""]
    return nn.Sequential(*features[: cut.stop], end)


@torch.no_grad()
def map_sizes(config: BackboneConfig, height: int, width: int) -> tuple[tuple[int, int, int], int]:
    """Return what an image of ``height`` x ``width`` pixels becomes, without weights or arithmetic.

    Returns:
        (C, h, w) of its feature map, and the largest number of values that a module reads and
        writes together on the way there.
    """
    trunk, _ = _trunk(config)
    largest = 0

    def measure(_, inputs, output) -> None:
        nonlocal largest
        largest = max(largest, inputs[0].numel() + output.numel())

    for module in trunk.modules():
        if not list(module.children()):
            module.register_forward_hook(measure)
    shape = trunk.eval()(torch.empty(1, 3, height, width, device="meta")).shape
    return tuple(shape[1:]), largest


def _initialise(trunk: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def load_backbone(config: BackboneConfig) -> Backbone:
    """Build the trunk of ``config`` up to its layer and give it the weights it names.

    Args:
        config: backbone, layer, before or after ReLU, weights.

    Returns:
        The trunk in eval mode on the CPU, with its normalisation and the digest of its weights.

    Raises:
        StudyError: unknown backbone or layer, weights that are missing, cannot be downloaded or
            belong to another network.
    """
    config, _ = choose_weights(config)
    make = _of_timm if config.name.startswith(TIMM) else _of_the_study
    trunk, digest, origin, (mean, std) = make(config)
    if config.weights == "random":
        digest, origin = f"random-{config.seed}", f"RANDOM weights (seed {config.seed})"
        log.warning(
            "%s runs with RANDOM weights (seed %d): its numbers measure an untrained network",
            config.name,
            config.seed,
        )
    trunk.eval().requires_grad_(False)
    return Backbone(config, trunk, digest, origin, mean, std)


def _of_the_study(config: BackboneConfig) -> tuple[nn.Module, str, str, MeanAndStd]:
    """Return trunk, digest and origin of its weights, mean and deviation."""
    trunk, every_name = _trunk(config)
    trunk, architecture = trunk.to_empty(device="cpu"), architecture_of(config.name)
    if config.weights == "random":
        _initialise(trunk, config.seed)
        return trunk, "", "", asked_normalisation(config) or architecture.normalisation
    state, path, digest, normalisation = read_weights(config, architecture.normalisation)
    load_state(trunk, architecture.renamed(state), path, every_name)
    return trunk, digest, path.name, normalisation


def _of_timm(config: BackboneConfig) -> tuple[nn.Module, str, str, MeanAndStd]:
    usual = timm_networks.timm_normalisation(config.name)
    if config.weights in ("random", "timm"):
        build = timm_networks.pretrained if config.weights == "timm" else timm_networks.timm_trunk
        trunk = build(config)
        digest = timm_networks.state_digest(trunk)
        return trunk, digest, config.name, asked_normalisation(config) or usual
    state, path, digest, normalisation = read_weights(config, usual)
    return timm_networks.from_file(config, path, state), digest, path.name, normalisation
