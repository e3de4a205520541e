"""Feature extraction against a bare torch forward loop.

Extraction reads the headers, hashes the files, decodes, resizes, normalises, forwards and stores.
The loop only forwards: the same module over the same pixels, decoded, normalised and batched
beforehand. Goal: extraction reaches 0.9 of the loop's throughput. The loop is run with its
batches in both of torch's memory formats and the faster one is the yardstick. Where OpenVINO is
installed (extra ``yardstick``) its forward pass, in float32, stands beside them.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pictures import as_dataset, picture_paths
from side_by_side import fastest, interleave, machine, median, report, speed_ratio

from blcf_utils.config.profile import BackboneConfig, FeatureConfig
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import ArtefactStore

NETWORKS = {"vgg16": "conv5_1", "efficientnet_lite0": "block11_expand"}
LOOPS, OPENVINO = ("loop", "loop, channels last"), "OpenVINO"


def batches_of(paths, backbone: Backbone, config: FeatureConfig) -> tuple[list, list[int]]:
    """Return the images decoded, resized, normalised and batched by size.

    Returns:
        Batches (B, 3, H, W) float32, and the image numbers in the order of the batches.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, path in enumerate(paths):
        groups.setdefault(resized_size(image_size(path), config.longest_side), []).append(i)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    batches = []
    for size, group in groups.items():
        read = [read_image(paths[i], size, resize=config.resize) for i in group]
        pixels = torch.from_numpy(np.stack(read))
        pixels = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
        batches += pixels.contiguous().split(config.batch_size)
    return batches, [i for group in groups.values() for i in group]


@torch.inference_mode()
def forward_all(module: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    """The bare loop: forward every batch and forget the maps."""
    for batch in batches:
        module(batch)


def openvino_loop(module: torch.nn.Module, batches: list[torch.Tensor]) -> Callable[[], None]:
    """Return the same loop in OpenVINO."""
    import openvino

    model = openvino.convert_model(module, example_input=batches[0])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixels = [batch.numpy() for batch in batches]

    def forward() -> None:
        for batch in pixels:
            compiled(batch)

    return forward


@contextmanager
def extracted(paths, config: FeatureConfig, backbone: Backbone) -> Iterator[Features]:
    """Extract into a store of its own, with nothing found already made or remembered."""
    with tempfile.TemporaryDirectory() as store:
        fresh = replace(backbone, _shapes={})
        yield extract_features(as_dataset(paths), config, ArtefactStore(Path(store)), fresh)


@torch.inference_mode()
def same_maps(
    features: Features, module, batches: list[torch.Tensor], order: list[int], tolerance=1e-3
) -> bool:
    """Whether every stored map is the loop's, up to float16, or ``tolerance`` of the largest."""
    expected = [m.float().cpu().numpy() for batch in batches for m in module(batch)]
    scale = max(np.abs(m).max() for m in expected)
    return all(
        np.allclose(features.map(i), m, rtol=2 * tolerance, atol=tolerance * scale)
        for i, m in zip(order, expected, strict=True)
    )


def compare(paths, name: str, config: FeatureConfig, repeats: int) -> tuple[dict, bool]:
    """Time one network; return its row of the table and whether the maps agree."""
    network = BackboneConfig(name=name, layer=NETWORKS[name], weights="random")
    config = config.model_copy(update={"backbone": network})
    backbone = load_backbone(network)
    batches, order = batches_of(paths, backbone, config)
    channels_last = [b.contiguous(memory_format=torch.channels_last) for b in batches]
    with extracted(paths, config, backbone) as features:
        agree = same_maps(features, backbone.module, batches, order)

    def extract() -> None:
        with extracted(paths, config, backbone):
            pass

    candidates = {
        "extraction": extract,
        LOOPS[0]: lambda: forward_all(backbone.module, batches),
        LOOPS[1]: lambda: forward_all(backbone.module, channels_last),
    }
    if importlib.util.find_spec("openvino"):
        candidates[OPENVINO] = openvino_loop(backbone.module, batches)
    seconds = interleave(candidates, repeats)
    yardstick = fastest(seconds, LOOPS)
    row = {"network": f"{name} {NETWORKS[name]}"}
    row |= {f"{key} (images/s)": len(paths) / median(times) for key, times in seconds.items()}
    row |= {
        "extraction / loop": speed_ratio(seconds, "extraction", LOOPS[0]),
        "extraction / faster loop": speed_ratio(seconds, "extraction", yardstick),
    }
    if OPENVINO in seconds:
        row["extraction / OpenVINO"] = speed_ratio(seconds, "extraction", OPENVINO)
    return row, agree


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--vgg16", type=int, default=8, metavar="N", help="images for VGG-16")
    parser.add_argument("--lite0", type=int, default=96, metavar="N", help="for EfficientNet-Lite0")
    parser.add_argument("--longest-side", type=int, default=340)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    start = machine()
    config = FeatureConfig(
        longest_side=options.longest_side,
        batch_size=options.batch_size,
        device="cpu",
        precision="float32",
    )
    numbers = {"vgg16": options.vgg16, "efficientnet_lite0": options.lite0}
    rows, agree = [], True
    with tempfile.TemporaryDirectory() as scratch:
        paths = picture_paths(options.images, Path(scratch), max(numbers.values()))
        for name, number in numbers.items():
            row, same = compare(paths[:number], name, config, options.repeats)
            rows.append(row)
            agree = agree and same
    settings = {**numbers, "batch_size": options.batch_size, "repeats": options.repeats}
    settings |= {"longest_side": options.longest_side, "torch_threads": torch.get_num_threads()}
    report("extraction", rows, agree, start, **settings)


if __name__ == "__main__":
    main()
