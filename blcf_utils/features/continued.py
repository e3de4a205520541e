"""Feature maps made from stored maps of an earlier layer instead of from pixels.

Networks that differ behind a frozen layer only share what lies before it: the maps of that layer
are stored once, and each network forwards them through the few layers that are its own.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

from blcf_utils.datasets.base import Dataset
from blcf_utils.features.forward import exact_convolutions, refuse_overflow
from blcf_utils.features.maps import FeatureMaps
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.features.rows import copies_of
from blcf_utils.features.stored import DONE, SKIPPED, Features, lay_out
from blcf_utils.ground.artefacts import ArtefactStore, Stage, write_json

STAGE = Stage("features-continued", version=1)


def continue_features(
    dataset: Dataset,
    below: FeatureMaps,
    rest: nn.Module,
    backbone: Backbone,
    store: ArtefactStore,
    device: torch.device,
) -> Features:
    """Forward the stored maps of an earlier layer through the layers behind it, and store those.

    Args:
        dataset: whose maps they are.
        below: maps of the layer that ``rest`` starts from; float16, as they are stored.
        rest: maps (B, c, h', w') to (B, C, h, w), in eval mode.
        backbone: the whole network that ``rest`` ends, with its weights.
        store: where artefacts live.
        device: where to compute.

    Raises:
        StudyError: maps that overflow float16.
    """
    document = {"below": below.key, "backbone": backbone.document()}

    @torch.inference_mode()
    def forwarded(maps: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(np.asarray(maps, np.float32)).to(device)
        with exact_convolutions():
            return rest(values.contiguous(memory_format=torch.channels_last))

    def make(folder: Path) -> None:
        rest.to(device)
        paths, copies = dataset.all_images, copies_of(dataset.distinct)
        shapes = np.zeros_like(below.shapes)
        there = below.shapes.prod(axis=1) > 0
        for shape in np.unique(below.shapes[there], axis=0):
            one = forwarded(np.zeros((1, below.channels, *shape), np.float32)).shape
            shapes[(below.shapes == shape).all(axis=1)] = one[2:]
        status = np.where(there, DONE, SKIPPED).astype(np.uint8)
        with h5py.File(folder / "features.h5", "w") as file:
            lay_out(file, below.sizes, shapes, status, below.n_database, backbone.channels)
            rows, offsets = file["descriptors"], file["offset"][:]
            for numbers, maps in below.batches(np.unique(dataset.distinct)):
                found = forwarded(maps).flatten(2).transpose(1, 2).to(torch.float16).cpu().numpy()
                for image, values in zip(numbers.tolist(), found, strict=True):
                    refuse_overflow(paths[image], values, backbone)
                    for copy in copies[image]:
                        rows[offsets[copy] : offsets[copy] + len(values)] = values
        write_json(folder / "skipped.json", list(below.skipped))
        rest.to("cpu")

    label = f"{dataset.name}-{backbone.config.name}-{backbone.config.layer}"
    made = store.get_or_make(STAGE, label, document, make)
    return store.once(made.key, lambda: Features(made, dataset.distinct))
