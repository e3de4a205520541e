"""Feature maps of query boxes that are cut out of their images before a network sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blcf_utils.config.profile import FeatureConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.images import read_image, resized_size
from blcf_utils.datasets.views import AS_IT_IS
from blcf_utils.features.forward import (
    ForwardPass,
    refuse_overflow,
    resolve_device,
    resolve_precision,
)
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path
from blcf_utils.ground.progress import progress

STAGE = Stage("query-crops", version=1)
_LEAST = 64  # pixels of a crop's shorter side: AlexNet's pool5 needs 63


def crop_maps(
    dataset: Dataset, config: FeatureConfig, store: ArtefactStore, backbone: Backbone
) -> dict[str, np.ndarray]:
    """Return the feature map (C, h, w) float32 of each query's box, by the query's name.

    The box, rounded to whole pixels, is cut out of the stored image and resized as its image is, so
    that things keep the size that they have in the database; a box of which fewer than 64 pixels
    would be left is enlarged to them. A query without a box has none, nor has one with a drawn
    mask, which is no rectangle.

    Source: the published code of CroW (Kalantidis et al., 2016) and R-MAC (Tolias et al., 2016).
    """
    boxed = [query for query in dataset.queries if query.box and not query.mask]
    precision = resolve_precision(config, resolve_device(config.device))
    settings = config.model_dump(exclude={"backbone", "batch_size", "device", "on_corrupt"})
    document = {
        "images": dataset.manifest,
        "queries": dataset.ground_truth_digest,
        "backbone": backbone.document(),
        "exif_orientation": dataset.exif_orientation,
        **settings,
        "precision": precision,
    }

    def make(folder: Path) -> None:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        seen = False, AS_IT_IS, config.resize, config.alpha
        network = ForwardPass(backbone, config.device, dtype, *seen)
        rows, shapes = [], []
        try:
            for query in progress(boxed, label=f"crops of {dataset.name}", unit="query"):
                path = folder / "crop.png"  # decoded and resized as every other image is
                size = _cut(query, path, config.longest_side, dataset.exif_orientation)
                rows += network.forward(network.decode(((path, size),)))
                refuse_overflow(query.image, rows[-1], backbone)
                shapes.append(backbone.output_shape(size[1], size[0])[1:])
                path.unlink()
        finally:
            backbone.on("cpu")
        with atomic_path(folder / "maps.npz") as path:
            np.savez(path, rows=np.concatenate(rows), shapes=np.array(shapes))

    if not boxed:
        return {}
    label = f"{dataset.name}-{config.backbone.name}-{config.backbone.layer}"
    with np.load(store.get_or_make(STAGE, label, document, make) / "maps.npz") as held:
        rows, shapes = held["rows"].astype(np.float32), held["shapes"]
    parts = np.split(rows, np.cumsum(shapes.prod(axis=1))[:-1])
    return {
        query.id: part.reshape(*shape, -1).transpose(2, 0, 1)
        for query, part, shape in zip(boxed, parts, shapes.tolist(), strict=True)
    }


def _cut(query: Query, path: Path, longest_side: int, exif: bool) -> tuple[int, int]:
    """Write a query's box as an image; return (width, height) that the network shall see it at."""
    pixels = read_image(query.image, exif_orientation=exif)
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(edge) for edge in query.box)
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    crop = pixels[y1 : max(y1 + 1, y2), x1 : max(x1 + 1, x2)]
    Image.fromarray(crop).save(path)
    inputs = resized_size((width, height), longest_side)
    seen = crop.shape[1] * inputs[0] / width, crop.shape[0] * inputs[1] / height
    larger = max(1, _LEAST / min(seen))
    return round(seen[0] * larger), round(seen[1] * larger)
