"""Descriptors of a network for images of any shape, and for the images and queries of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.finetuning.inputs import Maps
from blcf_utils.finetuning.networks import DescriptorNetwork
from blcf_utils.ground.progress import progress
from blcf_utils.search.boxes import Mode, Projection, query_cells


@dataclass(frozen=True)
class Descriptors:
    """Unit vectors of one dataset.

    Attributes:
        database: (n, D) float32; zero for an image that was left out.
        queries: ``gs`` and ``ls`` to (q, D) float32 in the order of the queries.
        key: digest of what made them.
    """

    database: np.ndarray
    queries: dict[Mode, np.ndarray]
    key: str = ""


def describe_inputs(
    network: nn.Module, inputs: Sequence[torch.Tensor], device: torch.device, precision: torch.dtype
) -> torch.Tensor:
    """Describe inputs (C, h, w) of different shapes, those of one shape together: (B, D)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, values in enumerate(inputs):
        groups.setdefault(tuple(values.shape), []).append(i)
    order = torch.tensor([i for group in groups.values() for i in group])
    parts = []
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        for group in groups.values():
            batch = torch.stack([inputs[i] for i in group]).to(device)
            parts.append(network(batch.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts)[order.argsort().to(device)]


@torch.inference_mode()
def describe_images(
    network: DescriptorNetwork, features: Maps, images: np.ndarray, device: torch.device
) -> np.ndarray:
    """Describe images from the stored maps of the frozen layers: (m, D) in the order given.

    An image that was left out has a descriptor of zeros.
    """
    made: np.ndarray | None = None
    place = {int(image): k for k, image in enumerate(images)}
    for numbers, maps in features.batches(np.asarray(images)):
        found = network(_on(maps, device)).cpu().numpy()
        if made is None:
            made = np.zeros((len(images), found.shape[1]), np.float32)
        made[[place[int(i)] for i in numbers]] = found
    return made if made is not None else np.zeros((len(images), 1), np.float32)


@torch.inference_mode()
def describe_queries(
    network: DescriptorNetwork,
    dataset: Dataset,
    features: Maps,
    queries: Sequence[Query],
    mode: Mode,
    projection: Projection,
    device: torch.device,
) -> np.ndarray:
    """Describe queries, (q, D); local search pools the cells of the box, as for plain sums."""
    vectors = []
    for query in queries:
        i = dataset.image_index[query.image]
        maps = network.trunk(_on(features.map(i)[None], device)).float()
        cells = query_cells(query, features.sizes[i], tuple(maps.shape[2:]), mode, projection)
        inside = torch.from_numpy(np.ascontiguousarray(cells)).to(device)
        vectors.append(network.pool(maps * inside).cpu().numpy()[0])
    return np.stack(vectors)


def describe_dataset(
    network: DescriptorNetwork,
    dataset: Dataset,
    features: Maps,
    projection: Projection,
    device: torch.device,
) -> Descriptors:
    """Describe a dataset's database and its queries.

    Args:
        network: A or B.
        dataset: images and queries.
        features: maps of the network's frozen layers for all of its images.
        projection: projection of boxes to cells.
        device: where to compute.
    """
    network = network.to(device)
    # Images with the same bytes are described once.
    firsts, place = np.unique(dataset.distinct[: features.n_database], return_inverse=True)
    parts = np.array_split(firsts, max(1, len(firsts) // 256))
    bar = progress(parts, label=f"descriptors of {dataset.name}", unit="part")
    found = [describe_images(network, features, part, device) for part in bar]
    database = np.concatenate(found)[place]
    asked = network, dataset, features, dataset.queries
    queries = {mode: describe_queries(*asked, mode, projection, device) for mode in ("gs", "ls")}
    network.to("cpu")
    return Descriptors(database, queries)


def _on(maps: np.ndarray, device: torch.device) -> torch.Tensor:
    values = torch.from_numpy(np.asarray(maps, np.float32)).to(device)
    return values.contiguous(memory_format=torch.channels_last)
