"""Every saliency model by its name in the tables: hand-made, official and embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from blcf_utils.config.saliency import SaliencyConfig
from blcf_utils.features.forward import exact_convolutions
from blcf_utils.features.networks.published import find_weights
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import embedded_dir
from blcf_utils.saliency.base import SaliencyModel, SaliencyNetwork
from blcf_utils.saliency.bms import bms
from blcf_utils.saliency.itti_koch import itti_koch
from blcf_utils.saliency.networks.networks import NETWORKS, load_embedded

# Goes up when a model's maps of the same image, settings and weights change.
VERSION = 1
# Row of the tables -> short name, as `blcf weights fetch` and the embedded files have it.
OFFICIAL = {
    "SalNet": "salnet",
    "SalGAN": "salgan",
    "SAM-VGG": "sam-vgg",
    "SAM-ResNet": "sam-resnet",
}
EMBEDDED = tuple(f"{short}-mini" for short in OFFICIAL.values())
HAND_MADE = ("Itti-Koch", "BMS")
MODELS = (*HAND_MADE, *OFFICIAL, *EMBEDDED)


def missing_weights(name: str, config: SaliencyConfig) -> str:
    """Return why a model cannot run here, or "" when it can."""
    if name not in OFFICIAL:
        return ""
    try:
        found = find_weights(OFFICIAL[name], config.weights.get(name, ""))
    except StudyError as error:  # one bad file must not stop the models that do not need it
        return str(error)
    missing = f"the official weights are not here; run blcf weights fetch {OFFICIAL[name]}"
    return "" if found else missing


def load_model(name: str, config: SaliencyConfig, device: str = "cpu") -> SaliencyModel:
    """Return a saliency model that is ready to run.

    Args:
        name: ``Itti-Koch``, ``BMS``, an official network such as ``SalGAN``, or an embedded one
            such as ``salgan-mini``.
        config: settings of the hand-made models, paths of official weights.
        device: of the networks.

    Raises:
        StudyError: unknown name, or weights that are missing or another network's.
    """
    if name == "Itti-Koch":
        return _hand_made(name, itti_koch, config.itti_koch)
    if name == "BMS":
        return _hand_made(name, bms, config.bms)
    if name in EMBEDDED:
        path = embedded_dir() / f"{name}.safetensors"
        return network_model(name, load_embedded(path), path, device)
    if name not in OFFICIAL:
        raise known("saliency model", name, MODELS)
    short = OFFICIAL[name]
    path = find_weights(short, config.weights.get(name, ""))
    if path is None:
        raise StudyError(f"{name}: {missing_weights(name, config)}")
    network = NETWORKS[short]()
    network.load_official(path)
    return network_model(name, network, path, device)


def _hand_made(name: str, function: Callable, config) -> SaliencyModel:
    document = {"model": name, "version": VERSION, **config.document()}
    return SaliencyModel(name, lambda image: function(image, config), document)


def network_model(
    name: str, network: SaliencyNetwork, path: Path, device: str = "cpu"
) -> SaliencyModel:
    """Return a network with its weights as a saliency model; ``path`` is the weights' file."""
    weights = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    document = {"model": name, "version": VERSION, "weights": weights}
    return SaliencyModel(name, predictor(network, device), document)


def predictor(network: SaliencyNetwork, device: str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
    """Return a network's way from an image (H, W, 3) uint8 to its map (H, W) uint8."""
    # Channels last: a fifth to a third faster on a CPU, the same maps within one grey level.
    layout = torch.channels_last
    network.to(device, memory_format=layout).eval().requires_grad_(False)

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), exact_convolutions():
            output = network(network.prepare(image).to(device, memory_format=layout))
        height, width = image.shape[:2]
        return network.finish(output[0, 0].float().cpu().numpy(), height, width)

    return predict
