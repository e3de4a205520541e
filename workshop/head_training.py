"""Training the classifier behind the embedded ``vgg-mini``, on frozen maps of rendered views.

Its classes are rendered instances that no benchmark contains. The trunk does not change: CAM,
Neural Codes and the others read the same maps as words do.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch.nn import functional

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.networks.heads import EMBEDDED_HEADS, vgg_mini_layers
from blcf_utils.finetuning.training_run import torch_threads
from blcf_utils.ground.artefacts import atomic_path, write_json
from blcf_utils.ground.paths import cache_dir
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import Config, canonical_json, digest_of
from workshop.command import main
from workshop.pretraining_batches import augment
from workshop.pretraining_set import render_pretraining_set

_AT_ONCE = 64


class HeadTrainingConfig(Config):
    """Everything that determines the trained layers."""

    seed: int = Field(1, description="of instances, views and training")
    instances: int = Field(400, ge=2, description="rendered instances, the classes")
    views: int = Field(16, ge=3, description="rendered views of each")
    held_out: int = Field(3, ge=1, description="views of each that only test")
    rounds: int = Field(2, ge=1, description="augmented versions of each training view")
    view_size: int = Field(128, ge=32, description="side of a view, pixels")
    epochs: int = Field(30, ge=1)
    batch: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1, description="before fc6, fc7 and fc8")
    threads: int = Field(1, ge=0, description="torch threads; 0 leaves torch's choice")
    workers: int = Field(0, ge=0, description="rendering processes; 0 is one a core")


@torch.inference_mode()
def _maps(module, views: np.ndarray, config: HeadTrainingConfig, rounds: range) -> torch.Tensor:
    """Return maps of augmented views, (rounds * n, C, h, w) float16."""
    made = []
    starts = [(k, start) for k in rounds for start in range(0, len(views), _AT_ONCE)]
    for k, start in progress(starts, label="maps of rendered views", unit="batch"):
        pixels = torch.from_numpy(np.array(views[start : start + _AT_ONCE])).permute(0, 3, 1, 2)
        seed = (config.seed * 1_000_003 + k) * 1_000_003 + start
        made.append(module(augment(pixels, config.view_size, seed=seed)).half())
    return torch.cat(made)


def _scores(layers, averages, grids, dropout: float, training: bool):
    """Return the scores of both heads, (N, classes) each."""

    def drop(x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, dropout, training)

    hidden = functional.relu(layers["fc6"](drop(grids)))
    hidden = functional.relu(layers["fc7"](drop(hidden)))
    return layers["fc"](averages), layers["fc8"](drop(hidden))


def train_heads(config: HeadTrainingConfig, out: Path) -> Path:
    """Train both heads of vgg-mini and write weights and what is known about them.

    Args:
        config: instances, views, training.
        out: folder for ``vgg-mini-heads.safetensors`` (float16) and ``vgg-mini-heads.json``.

    Returns:
        The path of the weights.
    """
    started = time.perf_counter()
    recipe = {"instances": config.instances, "views": config.views, "seed": config.seed}
    folder = cache_dir() / "pretraining" / f"heads-{digest_of([recipe, config.view_size])}"
    views = render_pretraining_set(
        folder, **recipe, size=config.view_size, workers=config.workers or None
    ).views
    backbone = load_backbone(BackboneConfig(name="vgg-mini", weights="embedded"))
    with torch_threads(config.threads):
        torch.manual_seed(config.seed)
        known = config.views - config.held_out
        shape = views.shape[2:]
        seen = _maps(
            backbone.module, views[:, :known].reshape(-1, *shape), config, range(config.rounds)
        )
        held = _maps(backbone.module, views[:, known:].reshape(-1, *shape), config, range(-1, 0))
        labels = torch.arange(config.instances)
        layers, accuracy = _train(
            config,
            (seen, labels.repeat_interleave(known).repeat(config.rounds)),
            (held, labels.repeat_interleave(config.held_out)),
        )
    out.mkdir(parents=True, exist_ok=True)
    path = out / EMBEDDED_HEADS
    with atomic_path(path) as temporary:
        save_file({k: v.half().contiguous() for k, v in layers.state_dict().items()}, temporary)
    write_json(
        path.with_suffix(".json"),
        {
            "name": "vgg-mini-heads",
            "config": canonical_json(config.document()),
            "trunk": backbone.weights_digest,
            "accuracy_on_held_out_views": accuracy,
            "chance": 1 / config.instances,
            "seconds": round(time.perf_counter() - started, 1),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        },
    )
    return path


def _train(config: HeadTrainingConfig, seen, held):
    """Return the trained layers and the accuracy of each head on held-out views."""
    maps, labels = seen
    averages, grids = _inputs(maps)
    layers = vgg_mini_layers(config.instances, maps.shape[1])
    optimizer = torch.optim.AdamW(
        layers.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = config.epochs * -(-len(labels) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(config.seed)
    for _ in progress(range(config.epochs), label="classifier heads", unit="epoch"):
        for chosen in torch.randperm(len(labels), generator=draw).split(config.batch):
            inputs = averages[chosen].float(), grids[chosen].float()
            scores = _scores(layers, *inputs, config.dropout, True)
            loss = sum(functional.cross_entropy(s, labels[chosen]) for s in scores)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        inputs = (part.float() for part in _inputs(held[0]))
        scores = _scores(layers, *inputs, 0.0, False)
        right = [float((s.argmax(1) == held[1]).float().mean()) for s in scores]
    return layers, {"fc": round(right[0], 4), "fc8": round(right[1], 4)}


def _inputs(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return global averages (N, C) and what the fully connected layers read (N, C g g)."""
    pooled = [functional.adaptive_max_pool2d(part.float(), 4).half() for part in maps.split(512)]
    return maps.float().mean((2, 3)), torch.cat(pooled).flatten(1)


if __name__ == "__main__":
    main(
        "Train the classifier behind vgg-mini.", HeadTrainingConfig, {"vgg-mini-heads": train_heads}
    )
