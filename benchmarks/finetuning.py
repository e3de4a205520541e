"""Triplets a second of a training, and of a bare forward and backward loop on one fixed batch.

The training loads and varies its inputs, draws its triplets, groups shapes, warms up its rate and
keeps its curve. The bare loop repeats forward, loss, backward and the optimiser's step on inputs
that lie ready; both do the same steps in turns, with the same network, loss and optimiser.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from pictures import picture_paths
from side_by_side import interleave, machine, median, report, speed_ratio

from blcf_utils.config.finetuning import FinetuneTrainingConfig, ProjectionConfig
from blcf_utils.config.profile import BackboneConfig, FeatureConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.forward import exact_convolutions
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.networks.weight_files import EMBEDDED_FROZEN
from blcf_utils.finetuning.descriptors import describe_inputs
from blcf_utils.finetuning.inputs import Photographs, PixelMaps, StoredMaps
from blcf_utils.finetuning.loss import triplet_loss
from blcf_utils.finetuning.networks import build_network, split_trunk
from blcf_utils.finetuning.training import Trainer
from blcf_utils.finetuning.triplets import Triplets
from blcf_utils.ground.artefacts import ArtefactStore

NETWORK = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="embedded")


def main() -> None:
    """Measure both kinds of inputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs; rendered when absent")
    parser.add_argument("--number", type=int, default=48)
    parser.add_argument("--longest-side", type=int, default=340)
    parser.add_argument("--frozen", default=EMBEDDED_FROZEN)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    start, rows, agree = machine(), [], True
    with tempfile.TemporaryDirectory() as folder:
        paths = picture_paths(given.images, Path(folder), given.number)
        dataset = Dataset("pictures", Path(folder), tuple(paths), ())
        for kind in ("maps", "pixels"):
            config = FinetuneTrainingConfig(
                frozen=given.frozen,
                inputs=kind,
                batch=given.batch,
                device="cpu",
                precision="float32",
                size=max(32, given.longest_side * 2 // 3),
            )
            store = ArtefactStore(Path(folder) / "cache")
            row, same = compare(dataset, NETWORK, config, given, store)
            rows.append(row)
            agree &= same
    settings = {key: value for key, value in vars(given).items() if key != "images"}
    report(
        "finetuning",
        rows,
        agree,
        start,
        otherwise="the training and the bare loop learned different weights from one batch",
        **settings,
    )


def compare(
    dataset: Dataset,
    network: BackboneConfig,
    config: FinetuneTrainingConfig,
    given: argparse.Namespace,
    store: ArtefactStore,
) -> tuple[dict, bool]:
    """Return a row of the table, and whether both loops learn the same from the same inputs.

    Args:
        dataset: pictures; which three are a triplet is drawn.
        network: what is trained, behind ``config.frozen``.
        config: of the training; its number of steps does not count.
        given: ``longest_side``, ``steps`` a turn and ``repeats``.
        store: where maps of the frozen layers are kept.
    """
    backbone, frozen = load_backbone(network), None
    config = config.model_copy(update={"steps": 10**6, "threads": 0})
    if config.inputs == "maps":
        layer = network.model_copy(update={"layer": config.frozen})
        features = FeatureConfig(
            backbone=layer, longest_side=given.longest_side, device=config.device
        )
        inputs = StoredMaps(extract_features(dataset, features, store), config)
    else:
        frozen, _ = split_trunk(backbone, config.frozen)
        inputs = Photographs(PixelMaps(dataset, backbone, given.longest_side), config)
    draw = np.random.default_rng(0)
    images = draw.integers(0, len(dataset.images), (200, 3)).astype(np.int32)
    triplets = Triplets(images, np.zeros((200, 2), np.float32))

    def trainer() -> Trainer:
        made = build_network("A", backbone, config.frozen, ProjectionConfig())
        return Trainer(made, triplets, inputs, config, seed=0, frozen=frozen)

    ours, bare = trainer(), trainer()
    loaded = ours.loaded()
    ready = next(bare.loaded())
    once = trainer()
    once.advance(iter([ready]))
    bare_step(bare, ready)
    pairs = zip(once.network.parameters(), bare.network.parameters(), strict=True)
    same = all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    seconds = interleave(
        {
            "training": lambda: [ours.advance(loaded) for _ in range(given.steps)],
            "bare loop": lambda: [bare_step(bare, ready) for _ in range(given.steps)],
        },
        given.repeats,
    )
    loaded.close()
    done = given.steps * config.batch
    row = {
        "inputs": config.inputs,
        "training, triplets/s": done / median(seconds["training"]),
        "bare loop, triplets/s": done / median(seconds["bare loop"]),
        "share": speed_ratio(seconds, "training", "bare loop"),
    }
    return row, same


def bare_step(trainer: Trainer, inputs: list[torch.Tensor]) -> None:
    """Do one forward, backward and optimiser's step on inputs that lie ready."""
    config = trainer.config
    trainer.optimizer.zero_grad(set_to_none=True)
    with exact_convolutions():
        vectors = describe_inputs(trainer.describer, inputs, trainer.device, trainer.precision)
        loss = triplet_loss(*vectors.float().chunk(3), config.margin, config.distance).mean()
        loss.backward()
    # The first step's rate of the warm-up, so that both can be compared after one step.
    for group in trainer.optimizer.param_groups:
        group["lr"] = config.learning_rate / config.warmup * group["share"]
    trainer.optimizer.step()
    float(loss.detach())  # a GPU has done all of it


if __name__ == "__main__":
    main()
