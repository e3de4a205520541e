"""Convolutional backbones: a trunk cut at a named layer, with weights of known origin.

Adding one is an entry in ``BACKBONES``. A trunk keeps the parameter names of the full torchvision
model, so any state dict in torchvision's layout loads, whether or not it holds the classifier.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks import efficientnet_lite0
from blcf_utils.features.networks.efficientnet_lite0 import EfficientNetLite0
from blcf_utils.features.networks.weight_files import embedded_file
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import weights_path
from blcf_utils.ground.torchvision_compat import ensure_torchvision

log = logging.getLogger("blcf")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The ported Caffe weights expect RGB in 0..255 minus the mean; the same, for pixels in [0, 1].
CAFFE = ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))


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
        enum: torchvision's weights enum and member, such as ``VGG16_Weights.IMAGENET1K_FEATURES``.
        local: file name patterns looked for in BLCF_WEIGHTS.
        normalisation: mean and deviation of its pixels, for weights that do not say.
        renamed: gives the tensors of a published file the names of ``build()``'s.
    """

    build: Callable[[], nn.Module]
    stages: Callable[[nn.Module], OrderedDict[str, nn.Module]]
    layers: Callable[[nn.Module], dict[str, Cut]]
    enum: str = ""
    local: tuple[str, ...] = ()
    normalisation: tuple[tuple, tuple] = IMAGENET
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
    _meta: nn.Module | None = field(default=None, repr=False)

    @property
    def channels(self) -> int:
        """Number of channels C of the feature maps."""
        return self.output_shape(224, 224)[0]

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the feature map of an image of ``height`` x ``width`` pixels."""
        if (height, width) not in self._shapes:
            if self._meta is None:  # shapes only: no memory, no arithmetic
                self._meta = copy.deepcopy(self.module).to("meta")
            pixels = torch.empty(1, 3, height, width, device="meta")
            with torch.no_grad():
                shape = self._meta(pixels).shape
            self._shapes[height, width] = tuple(shape[1:])
        return self._shapes[height, width]

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


def _vgg(name: str, enum: str) -> Architecture:
    return Architecture(_torchvision(name), _features_only, caffe_layers, enum, (f"{name}[-_.]*",))


def _resnet(name: str, enum: str) -> Architecture:
    return Architecture(
        _torchvision(name), _resnet_stages, _resnet_layers, enum, (f"{name}[-_.]*",)
    )


BACKBONES: dict[str, Architecture] = {
    "vgg16": _vgg("vgg16", "VGG16_Weights.IMAGENET1K_FEATURES"),
    "vgg19": _vgg("vgg19", "VGG19_Weights.IMAGENET1K_V1"),
    "alexnet": Architecture(
        _torchvision("alexnet"),
        _features_only,
        _alexnet_layers,
        "AlexNet_Weights.IMAGENET1K_V1",
        ("alexnet[-_.]*",),
    ),
    "resnet18": _resnet("resnet18", "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet50": _resnet("resnet50", "ResNet50_Weights.IMAGENET1K_V2"),
    "resnet101": _resnet("resnet101", "ResNet101_Weights.IMAGENET1K_V2"),
    "squeezenet1_1": Architecture(
        _torchvision("squeezenet1_1"),
        _features_only,
        _squeezenet_layers,
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
        ("squeezenet1_1[-_.]*",),
    ),
    "efficientnet_lite0": Architecture(
        EfficientNetLite0,
        _features_only,
        _efficientnet_layers,
        local=("efficientnet[-_]lite0[-_.]*",),
        normalisation=efficientnet_lite0.NORMALISATION,
        renamed=efficientnet_lite0.study_names,
    ),
}


def layer_names(name: str) -> list[str]:
    """Return the layers at which backbone ``name`` can be cut, in network order."""
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


def _layers(name: str) -> tuple[OrderedDict[str, nn.Module], dict[str, Cut]]:
    if name not in BACKBONES:
        raise known("backbone", name, BACKBONES)
    architecture = BACKBONES[name]
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


def _trunk(config: BackboneConfig) -> tuple[nn.Sequential, set[str]]:
    """Build the cut trunk on the meta device; also return every parameter name of the full one."""
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


def torchvision_source(name: str) -> tuple[str, Path]:
    """Return where torchvision's weights of a backbone come from, and the file they become.

    Raises:
        StudyError: it has none for this backbone.
    """
    weights = _torchvision_weights(name)
    return weights.url, Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name


def _initialise(trunk: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def _local_file(name: str) -> Path:
    where = weights_path()
    patterns = BACKBONES[name].local
    if where is None:
        raise StudyError(
            f"backbone {name}: weights: local looks in BLCF_WEIGHTS, which is not set; set it to "
            "the folder (or file) that holds the state dict"
        )
    if where.is_file():
        return where
    found = sorted({p for pattern in patterns for p in where.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise StudyError(
            f"backbone {name}: expected one file matching {' or '.join(patterns)} in {where}, "
            f"found {names}; name the file itself in weights:"
        )
    return found[0]


def _torchvision_weights(name: str):
    entry = BACKBONES[name].enum
    if not entry:
        raise StudyError(
            f"backbone {name}: torchvision has no weights for it; use weights: embedded or random"
        )
    ensure_torchvision()
    import torchvision

    enum_name, member = entry.split(".")
    return getattr(torchvision.models, enum_name)[member]


def _torchvision_file(name: str) -> tuple[Path, tuple, tuple]:
    weights = _torchvision_weights(name)
    _, path = torchvision_source(name)
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise StudyError(
            f"backbone {name}: could not download {weights.url} ({error}); fetch it by hand to "
            f"{path}, or use weights: local with BLCF_WEIGHTS, or weights: random"
        ) from None
    transform = weights.transforms()
    return path, tuple(transform.mean), tuple(transform.std)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict (.pth, .pt or .safetensors) as float32 tensors, without ``module.``.

    Raises:
        StudyError: the file is not a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StudyError(
            f"{path}: expected a state dict (.pth, .pt or .safetensors) that loads with "
            f"weights_only, found one that does not ({type(error).__name__})"
        ) from None
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise StudyError(f"{path}: expected a state dict of tensors; save model.state_dict()")
    return {key.removeprefix("module."): value.float() for key, value in state.items()}


def _load_state(trunk: nn.Module, given: dict, path: Path, every_name: set[str]) -> None:
    needed = trunk.state_dict()
    missing = [k for k in needed if k not in given and not k.endswith("num_batches_tracked")]
    if missing:
        raise StudyError(
            f"{path}: {len(missing)} of {len(needed)} tensors are missing, first {missing[0]}; "
            "expected torchvision's names for this backbone up to the chosen layer"
        )
    wrong = [k for k in needed if k in given and given[k].shape != needed[k].shape]
    if wrong:
        raise StudyError(
            f"{path}: {wrong[0]} has shape {tuple(given[wrong[0]].shape)}, expected "
            f"{tuple(needed[wrong[0]].shape)}; these are another network's weights"
        )
    heads = ("classifier.", "fc.", "head.")
    unknown = [k for k in given if k not in every_name and not k.startswith(heads)]
    if unknown:
        log.warning("%s: %d tensors not used, first %s", path.name, len(unknown), unknown[0])
    for key, value in needed.items():
        if key.endswith("num_batches_tracked") and key not in given:
            given[key] = torch.zeros_like(value, device="cpu")
    trunk.load_state_dict({key: given[key] for key in needed})


def weights_file(config: BackboneConfig) -> Path:
    """Return the file of a backbone's weights, downloading torchvision's if need be.

    Raises:
        StudyError: there is none, or it cannot be downloaded.
    """
    return _file_and_normalisation(config)[0]


def _file_and_normalisation(config: BackboneConfig) -> tuple[Path, tuple, tuple]:
    mean, std = BACKBONES[config.name].normalisation
    if config.weights == "torchvision":
        path, mean, std = _torchvision_file(config.name)
    elif config.weights == "embedded":
        path = embedded_file(config.name)
    elif config.weights == "local":
        path = _local_file(config.name)
    else:
        path = Path(config.weights).expanduser()
    if not path.is_file():
        raise StudyError(f"{path}: no such weights file for backbone {config.name}")
    if "amdegroot" in path.name:  # the Caffe port, whoever stored it
        mean, std = CAFFE
    if path.suffix == ".safetensors":
        mean, std = _said_normalisation(path) or (mean, std)
    return path, mean, std


def _said_normalisation(path: Path) -> tuple[tuple, tuple] | None:
    """Return mean and std that a weights file names, as fine-tuned ones do, or None."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("normalisation", "null"))
    except (SafetensorError, ValueError):
        return None  # what is wrong with the file is said when its tensors are read
    return (tuple(said["mean"]), tuple(said["std"])) if said else None


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
    trunk, every_name = _trunk(config)
    trunk = trunk.to_empty(device="cpu")
    mean, std = BACKBONES[config.name].normalisation
    if config.weights == "random":
        _initialise(trunk, config.seed)
        digest, origin = f"random-{config.seed}", f"RANDOM weights (seed {config.seed})"
        log.warning(
            "%s runs with RANDOM weights (seed %d): its numbers measure an untrained network",
            config.name,
            config.seed,
        )
    else:
        path, mean, std = _file_and_normalisation(config)
        given = BACKBONES[config.name].renamed(read_state(path))
        _load_state(trunk, given, path, every_name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        origin = path.name
    trunk.eval().requires_grad_(False)
    return Backbone(config, trunk, digest, origin, mean, std)
