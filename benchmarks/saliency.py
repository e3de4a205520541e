"""Saliency models per image on one core, and Boolean maps flooded one by one with OpenCV.

The networks are timed with random weights at the published width (``--width 1``): weights do not
change the time, and the official ones need not be here.

The flood one by one is the way of the authors' code: threshold, find the regions that do not touch
the border, dilate, divide by the length, add. It replaces the attention maps only; colours and
post-processing are the same for both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from pictures import picture_paths
from side_by_side import interleave, machine, median, report, speed_ratio

from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.saliency.bms import BmsConfig, attention, bms, feature_channels
from blcf_utils.saliency.itti_koch import IttiKochConfig, itti_koch
from blcf_utils.saliency.models import predictor
from blcf_utils.saliency.networks.networks import NETWORKS

Model = Callable[[np.ndarray], np.ndarray]

ATTENTION, ONE_BY_ONE = "BMS, attention only", "BMS, attention map by map (OpenCV)"
MODELS: dict[str, Model] = {
    "Itti-Koch": itti_koch,
    "Itti-Koch, iterative": partial(itti_koch, config=IttiKochConfig(normalisation="iterative")),
    "BMS": bms,
    "BMS, ICCV 2013": partial(bms, config=BmsConfig(version="iccv")),
}


def surrounded(part: np.ndarray) -> np.ndarray:
    """Return the 8-connected regions of a binary map that do not touch the border."""
    number, labels = cv2.connectedComponents(part, connectivity=8)
    inner = np.ones(number, np.uint8)
    inner[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = 0
    inner[0] = 0
    return inner[labels]


def attention_one_by_one(channels: list[np.ndarray], config: BmsConfig) -> np.ndarray:
    """Return what ``attention`` returns for the TPAMI version, map by map."""
    total = np.zeros(channels[0].shape)
    side = config.scaled(config.omega)
    square = np.ones((side, side), np.uint8)
    for channel in channels:
        for threshold in range(int(channel.min()), int(channel.max()), config.delta):
            above = (channel > threshold).astype(np.uint8)
            for part in (above, 1 - above):
                wide = cv2.dilate(surrounded(part), square)
                total += wide / max(np.sqrt(np.count_nonzero(wide)), 1)
    return total


def over(model: Callable, inputs: list) -> Callable[[], list]:
    """Return a call that applies the model to every input."""
    return lambda: [model(value) for value in inputs]


def compare(options, images: list[np.ndarray]) -> tuple[list[dict], bool]:
    """Time all models on the same images."""
    config = BmsConfig()
    channels = [feature_channels(image, config) for image in images]
    ours, theirs = partial(attention, config=config), partial(attention_one_by_one, config=config)
    agree = all(np.allclose(ours(c), theirs(c), rtol=0, atol=1e-9) for c in channels)
    calls = {name: over(model, images) for name, model in MODELS.items()}
    calls |= {ATTENTION: over(ours, channels), ONE_BY_ONE: over(theirs, channels)}
    torch.manual_seed(0)
    networks = {
        f"{n}, width {options.width:g}": make(options.width) for n, make in NETWORKS.items()
    }
    calls |= {name: over(predictor(network), images[:1]) for name, network in networks.items()}
    seconds = interleave(calls, options.repeats)
    rows = []
    for name, times in seconds.items():
        count = 1 if name in networks else len(images)
        row = {"model": name, "ms/image": 1e3 * median(times) / count}
        row["speed / map by map"] = (
            speed_ratio(seconds, name, ONE_BY_ONE) if name in (ATTENTION, ONE_BY_ONE) else None
        )
        rows.append(row)
    return rows, agree


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs; generated when absent")
    parser.add_argument("--number", type=int, default=12, help="of images")
    parser.add_argument("--longest-side", type=int, default=400, help="pixels of the images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=float, default=1.0, help="of the networks")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    start = machine()
    with tempfile.TemporaryDirectory() as scratch:
        paths = picture_paths(options.images, Path(scratch), options.number)
        images = [read_image(p, resized_size(image_size(p), options.longest_side)) for p in paths]
    rows, agree = compare(options, images)
    settings = {**vars(options), "images": str(options.images or "generated")}
    report("saliency", rows, agree, start, **settings)


if __name__ == "__main__":
    main()
