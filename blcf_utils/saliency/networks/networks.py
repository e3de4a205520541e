"""The saliency networks by their short names, and the width-reduced ones that the study ships."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.base import SaliencyNetwork
from blcf_utils.saliency.networks.salgan import SalGan
from blcf_utils.saliency.networks.salnet import SalNet
from blcf_utils.saliency.networks.sam_resnet import SamResNet
from blcf_utils.saliency.networks.sam_vgg import SamVgg

NETWORKS: dict[str, type[SaliencyNetwork]] = {
    "salnet": SalNet,
    "salgan": SalGan,
    "sam-vgg": SamVgg,
    "sam-resnet": SamResNet,
}


def load_embedded(path: Path) -> SaliencyNetwork:
    """Return a width-reduced network with the weights that ``workshop.saliency_training`` wrote.

    Args:
        path: a safetensors file whose metadata ``about`` names ``network`` and ``width``.

    Raises:
        StudyError: no such file, not of this kind, or weights that do not fit.
    """
    expected = "expected weights that workshop.saliency_training wrote (.safetensors)"
    if not path.is_file():
        raise StudyError(f"{path}: {expected}, found no file")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network, width = NETWORKS[about["network"]], float(about["width"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{path}: {expected}, found another file ({error!r})") from None
    with torch.device("meta"):
        made = network(width)
    made = made.to_empty(device="cpu")
    try:
        made.load_state_dict(state)
    except RuntimeError:
        raise StudyError(
            f"{path}: the tensors are not those of {about['network']} at width {width}; train it "
            "again with python -m workshop.saliency_training"
        ) from None
    return made.eval()
