"""Descriptors of a network for images of any shape, and for the images and queries of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blcf_utils.datasets.base import Dataset
from blcf_utils.features.forward import exact_convolutions
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
def trunk_maps(
    network: DescriptorNetwork, features: Maps, images: np.ndarray, device: torch.device
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield (numbers, trained maps (B, C, h, w)) of images, those of one shape together.

    Images that were left out are not among them.
    """
    for numbers, maps in features.batches(np.asarray(images)):
        values = torch.from_numpy(np.asarray(maps, np.float32)).to(device)
        with exact_convolutions():
            made = network.trunk(values.contiguous(memory_format=torch.channels_last))
        yield numbers, made.float()


@torch.inference_mode()
def describe_images(
    network: DescriptorNetwork, features: Maps, images: np.ndarray, device: torch.device
) -> np.ndarray:
    """Describe images from the stored maps of the frozen layers: (m, D) in the order given.

    An image that was left out has a descriptor of zeros.
    """
    place = {int(image): k for k, image in enumerate(images)}
    made = np.zeros((len(images), network.dimensions), np.float32)
    for numbers, maps in trunk_maps(network, features, images, device):
        made[[place[int(i)] for i in numbers]] = network.pool(maps).cpu().numpy()
    return made


@torch.inference_mode()
def describe_dataset(
    network: DescriptorNetwork,
    dataset: Dataset,
    features: Maps,
    projection: Projection,
    device: torch.device,
) -> Descriptors:
    """Describe a dataset's database and its queries, each image going through the trunk once.

    Local search pools the cells of the query's box, as for plain sums; global search all of them.

    Args:
        network: A or B.
        dataset: images and queries.
        features: maps of the network's frozen layers for all of its images.
        projection: projection of boxes to cells.
        device: where to compute.

    Raises:
        StudyError: a query image that was left out.
    """
    with torch.inference_mode(False):  # parameters moved inside it could never learn again
        network = network.to(device)
    # Images with the same bytes are described once.
    firsts = dataset.distinct
    asked: dict[int, list[int]] = {}
    for place, query in enumerate(dataset.queries):
        image = int(firsts[dataset.image_index[query.image]])
        query_cells(query, features.sizes[image], tuple(features.shapes[image]), "gs")  # is there
        asked.setdefault(image, []).append(place)
    needed = np.union1d(firsts[: features.n_database], np.array(list(asked), np.int64))
    images = np.zeros((len(firsts), network.dimensions), np.float32)
    boxes = np.zeros((len(dataset.queries), network.dimensions), np.float32)
    parts = np.array_split(needed, max(1, len(needed) // 256))
    for part in progress(parts, label=f"descriptors of {dataset.name}", unit="part"):
        for numbers, maps in trunk_maps(network, features, part, device):
            images[numbers] = network.pool(maps).cpu().numpy()
            for image, values in zip(numbers.tolist(), maps, strict=True):
                for place in asked.get(image, ()):
                    query, shape = dataset.queries[place], tuple(values.shape[1:])
                    cells = query_cells(query, features.sizes[image], shape, "ls", projection)
                    inside = torch.from_numpy(np.ascontiguousarray(cells)).to(device)
                    boxes[place] = network.pool((values * inside)[None]).cpu().numpy()[0]
    with torch.inference_mode(False):
        network.to("cpu")
    whole = images[[firsts[dataset.image_index[query.image]] for query in dataset.queries]]
    return Descriptors(images[firsts[: features.n_database]], {"gs": whole, "ls": boxes})
