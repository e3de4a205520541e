"""Reading the weights of a backbone: tensors by torchvision's names, and their normalisation."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.weight_files import (
    file_digest,
    published_weights,
    weights_file,
)
from blcf_utils.ground.errors import StudyError

log = logging.getLogger("blcf")

MeanAndStd = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: MeanAndStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The ported Caffe weights expect RGB in 0..255 minus the mean; the same, for pixels in [0, 1].
CAFFE: MeanAndStd = ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))
NORMALISATIONS = {"imagenet": IMAGENET, "caffe": CAFFE}

# What tells the two VGG-16 of ImageNet apart: the first biases of conv1_1, with the norm of its
# first filter. Sizes alone do not: the filters of both have norms about 1, though the pixels of
# Caffe's are 57 times larger.
_CAFFE_VGG16 = ((0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249), 1.6836)
_TORCHVISION_VGG16 = ((0.4034, 0.3778, 0.4644, -0.3228, 0.3940, -0.3953, 0.3951, -0.5496), 1.9507)
_SAME = 0.1  # relative difference; fine-tuning moves the first layer by less
# Networks whose Caffe weights are handed around in torchvision's layout.
_PORTED = ("vgg16", "vgg19")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict (.pth, .pt or .safetensors) as float32 tensors.

    ``module.`` is dropped from names; ``encoder.N``, as NetVLAD's PyTorch checkpoints call the
    layers of VGG-16, becomes ``features.N``.

    Raises:
        StudyError: the file is not a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with torch.serialization.safe_globals(_numbers()):
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
    return {_torchvision_name(key): value.float() for key, value in state.items()}


def _torchvision_name(key: str) -> str:
    return re.sub(r"^encoder\.(?:module\.)?(?=\d)", "features.", key.removeprefix("module."))


def _numbers() -> list:
    """Return what NumPy's scalars are made of: checkpoints keep their scores beside the tensors."""
    scalar = np._core.multiarray.scalar
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def read_weights(
    config: BackboneConfig, stated: MeanAndStd = IMAGENET
) -> tuple[dict[str, torch.Tensor], Path, str, MeanAndStd]:
    """Read the file of a backbone's weights.

    Args:
        config: a backbone whose weights are a file.
        stated: the normalisation of the network's weights that say no other.

    Returns:
        Its tensors, the file, its digest (SHA-256, 16 hex digits), and mean and deviation.

    Raises:
        StudyError: there is no such file, it is no state dict, or its normalisation is not known.
    """
    path = weights_file(config)
    state, status = read_state(path), path.stat()
    digest = file_digest(path, status.st_size, status.st_mtime_ns)
    return state, path, digest, _normalisation(config, path, digest, state, stated)


def asked_normalisation(config: BackboneConfig) -> MeanAndStd | None:
    """Return the mean and deviation that the settings name; None for ``auto``."""
    asked = config.normalisation
    if asked == "auto":
        return None
    return NORMALISATIONS[asked] if isinstance(asked, str) else (asked.mean, asked.std)


def _normalisation(
    config: BackboneConfig, path: Path, digest: str, state: dict, stated: MeanAndStd
) -> MeanAndStd:
    if asked := asked_normalisation(config):
        return asked
    if path.suffix == ".safetensors" and (said := _said_normalisation(path)):
        return said
    for source in published_weights().values():
        checksum = source.file.checksum.removeprefix("sha256:")
        if source.kind == "backbone" and checksum and digest.startswith(checksum[:16]):
            return NORMALISATIONS[source.normalisation]
    if config.name not in _PORTED:
        return stated
    kind = _kind_of_vgg16(path, state) if config.name == "vgg16" else ""
    if not kind:
        raise StudyError(
            f"{path}: nothing says which pixels these weights of {config.name} expect; set "
            "features.backbone.normalisation to imagenet or caffe, or (for a row of "
            "comparison.weights) save the file as safetensors with the metadata "
            'normalisation {"mean": [...], "std": [...]}'
        )
    log.info("%s: recognised as weights for pixels normalised as %s's", path.name, kind)
    return NORMALISATIONS[kind]


def _kind_of_vgg16(path: Path, state: dict[str, torch.Tensor]) -> str:
    """Return whose pixels a VGG-16 expects, known by its conv1_1; "" where that is undecided.

    Raises:
        StudyError: Caffe's weights whose conv1_1 still reads blue first.
    """
    weight, bias = state.get("features.0.weight"), state.get("features.0.bias")
    if weight is None or bias is None or weight.shape != (64, 3, 3, 3):
        return ""  # what is wrong with the file is said when it is loaded
    first, size = weight[0], float(weight[0].norm())
    # Where the scale of pixels was folded into conv1_1, its filters are that much larger.
    folded = 255 * float(np.mean(IMAGENET[1]))
    for kind, (biases, norm), scales in (
        ("caffe", _CAFFE_VGG16, {1.0: "caffe", folded: "imagenet"}),
        ("imagenet", _TORCHVISION_VGG16, {1.0: "imagenet", 1 / folded: "caffe"}),
    ):
        known = torch.tensor(biases)
        if (bias[: len(known)] - known).norm() > _SAME * known.norm():
            continue
        # The first filter of Caffe's network weighs red a little more than blue.
        if kind == "caffe" and first[0].norm() < first[2].norm():
            raise StudyError(
                f"{path}: Caffe's VGG-16 whose conv1_1 reads BGR, expected RGB; save it with "
                "features.0.weight.flip(1)"
            )
        for scale, expects in scales.items():
            if abs(size / (norm * scale) - 1) < _SAME:
                return expects
    return ""


def _said_normalisation(path: Path) -> MeanAndStd | None:
    """Return mean and std that a weights file names, as fine-tuned ones do, or None."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("normalisation", "null"))
    except (SafetensorError, ValueError):
        return None  # what is wrong with the file is said when its tensors are read
    return (tuple(said["mean"]), tuple(said["std"])) if said else None


def load_state(
    trunk: nn.Module, given: dict[str, torch.Tensor], path: Path, every_name: set[str]
) -> None:
    """Give a trunk the tensors of a file.

    Args:
        trunk: cut at its layer.
        given: tensors by torchvision's names.
        path: of their file, for messages.
        every_name: the parameters of the whole trunk; what is not among them is mentioned.

    Raises:
        StudyError: tensors are missing, or have another shape.
    """
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
    others = ("classifier.", "fc.", "head.", "pool.")
    unknown = [k for k in given if k not in every_name and not k.startswith(others)]
    if unknown:
        log.warning("%s: %d tensors not used, first %s", path.name, len(unknown), unknown[0])
    for key, value in needed.items():
        if key.endswith("num_batches_tracked") and key not in given:
            given[key] = torch.zeros_like(value, device="cpu")
    trunk.load_state_dict({key: given[key] for key in needed})
