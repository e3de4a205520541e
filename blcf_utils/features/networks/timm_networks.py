"""Networks of timm as backbones (``timm:NAME``), cut where timm's own feature extraction cuts.

timm is an optional extra (``pip install blcf-study[timm]``). A layer is a module that the network's
``feature_info`` names, such as ``layer3`` or ``stages.2``.

Source: R. Wightman, "PyTorch image models", https://github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.weight_files import plain_name
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.torchvision_compat import ensure_torchvision


def _timm():
    ensure_torchvision()  # timm imports torchvision
    try:
        import timm
    except ImportError:
        raise StudyError(
            "timm is not installed; install it with `pip install blcf-study[timm]` to use a "
            "backbone timm:NAME"
        ) from None
    return timm


class TimmTrunk(nn.Module):
    """Normalised pixels (B, 3, H, W) to the maps (B, C, h, w) of one layer."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the maps of the layer."""
        return self.network(pixels)[0]


def timm_layers(name: str) -> list[str]:
    """Return the layers of ``timm:NAME`` in network order.

    Raises:
        StudyError: timm is missing, has no such network, or cannot cut it.
    """
    return list(_create(name, features_only=True).feature_info.module_name())


def timm_trunk(config: BackboneConfig, **options: Any) -> TimmTrunk:
    """Build a network up to its layer, on the CPU, with weights as ``options`` say.

    Args:
        config: name, layer, and the seed of what is not loaded.
        options: of ``timm.create_model``.

    Raises:
        StudyError: as for ``timm_layers``, an unknown layer, or a network that takes images of
            one size only.
    """
    layers = timm_layers(config.name)
    if config.layer not in layers:
        raise known(f"layer of {config.name}", config.layer, layers)
    if config.relu == "pre":
        raise StudyError(f"{config.name}: relu: pre is not offered for networks of timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        index = (layers.index(config.layer),)
        network = _create(config.name, features_only=True, out_indices=index, **options)
    trunk = TimmTrunk(network).eval()
    try:
        with torch.no_grad():
            shape = trunk(torch.zeros(1, 3, 96, 128)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        raise StudyError(
            f"{config.name}: does not take images of any size ({str(error).splitlines()[0]}); "
            "choose a convolutional network"
        ) from None
    if len(shape) != 4:
        raise StudyError(f"{config.name} {config.layer}: expected maps, found {tuple(shape)}")
    return trunk


def pretrained(config: BackboneConfig) -> TimmTrunk:
    """Return the trunk with the weights that timm publishes, downloading them if need be.

    Raises:
        StudyError: there are none, or they cannot be downloaded.
    """
    return timm_trunk(config, pretrained=True)


def from_file(config: BackboneConfig, path: Path, names: Collection[str]) -> TimmTrunk:
    """Return the trunk with a file of the whole network under timm's names.

    Args:
        config: the backbone.
        path: the file.
        names: of its tensors.

    Raises:
        StudyError: it does not hold this network; its classifier may be missing.
    """
    # timm fills what a file lacks with random numbers when it cuts a network.
    whole = _create(config.name, num_classes=0).state_dict()
    missing = [k for k in whole if k not in names and not k.endswith("num_batches_tracked")]
    if missing:
        raise StudyError(
            f"{path}: {len(missing)} of {len(whole)} tensors of {config.name} are missing, first "
            f"{missing[0]}; expected timm's names"
        )
    return timm_trunk(config, pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def timm_normalisation(name: str) -> tuple[tuple, tuple]:
    """Return mean and deviation that timm names for a network's weights."""
    cfg = _create(name, features_only=True).pretrained_cfg
    return tuple(cfg["mean"]), tuple(cfg["std"])


def state_digest(module: nn.Module) -> str:
    """Return a digest of a module's tensors (SHA-256, 16 hex digits)."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _create(name: str, **options: Any) -> nn.Module:
    timm, name = _timm(), plain_name(name)
    if not timm.is_model(name):
        raise StudyError(f"timm:{name}: timm {timm.__version__} has no such network")
    source = options.get("pretrained_cfg_overlay", {}).get("file") or "its published weights"
    try:
        with torch.device("cpu"):
            return timm.create_model(name, **options)
    except Exception as error:  # timm, its hub and each network raise kinds of their own
        why = str(error).strip().partition("\n")[0]
        if options.get("pretrained"):
            raise StudyError(
                f"timm:{name}: {source} could not be loaded ({why}); put the whole network's state "
                "dict into BLCF_WEIGHTS, or name it in weights:"
            ) from None
        raise StudyError(f"timm:{name}: timm cannot cut this network at layers ({why})") from None
