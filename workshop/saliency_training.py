"""Training the width-reduced saliency networks on rendered scenes.

The networks are the study's own classes at a small ``width``, the losses those of their authors
without SalGAN's adversary (``losses``), the targets made from object masks (``scenes``). Batch
normalisation helps while training and is folded into the convolutions afterwards (``folding``).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from blcf_utils.finetuning.training_run import (
    cosine_rate,
    read_checkpoint,
    torch_threads,
    training_device,
    training_precision,
)
from blcf_utils.ground.artefacts import atomic_path, write_json
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import cache_dir
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import Config, canonical_json
from blcf_utils.saliency import quality
from blcf_utils.saliency.base import SaliencyNetwork
from blcf_utils.saliency.networks import salgan, salnet, sam
from blcf_utils.saliency.networks.networks import NETWORKS, load_embedded
from workshop.command import main
from workshop.folding import fold, trainable
from workshop.losses import cross_entropy, sam_loss, squared_error
from workshop.saliency_batches import Canvas, augment, load_step, upright_step
from workshop.scenes import (
    SCENES_VERSION,
    Part,
    SaliencyScenes,
    centre_prior,
    render_scenes,
    targets_of,
)

FIXATIONS = 50  # sampled from a held-out target for NSS


class SaliencyTrainingConfig(Config):
    """Everything that determines the trained weights; None is the network's own default."""

    seed: int = 0
    width: float | None = Field(None, gt=0, le=1, description="share of the published channels")
    scenes: int = Field(3000, ge=2, description="rendered scenes to learn from")
    held_out: int = Field(300, ge=1, description="rendered scenes to judge the network on")
    steps: int | None = Field(None, ge=1)
    batch: int = Field(16, ge=2, description="scenes a step")
    small: float = Field(0.5, gt=0, le=1, description="size of the first inputs, by official size")
    final_share: float = Field(0.2, ge=0, le=1, description="share of steps at the official size")
    learning_rate: float = Field(2e-3, gt=0, description="highest rate of the cosine schedule")
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(1e-4, ge=0)
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    threads: int = Field(1, ge=0, description="torch threads; 0 leaves torch's choice")
    workers: int = Field(0, ge=0, description="rendering processes; 0 is one a core")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"


@dataclass(frozen=True)
class _Recipe:
    """What differs between the networks' trainings.

    Attributes:
        width: keeps the file under 3 MB and a forward pass under 70 ms on one core.
        steps: what about ten to twenty minutes of one core allow.
        size: official height and width of the input.
        canvas: how ``prepare`` treats other shapes.
        mean: subtracted from the BGR channels, in [0, 255].
        scale: multiplied afterwards.
        loss: of raw saliency and targets.
    """

    width: float
    steps: int
    size: tuple[int, int]
    canvas: Canvas
    mean: tuple[float, ...]
    scale: float
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_SAM = ((sam.INPUT_HEIGHT, sam.INPUT_WIDTH), "padded", tuple(sam.MEAN_BGR.tolist()), 1.0, sam_loss)
RECIPES = {
    "salnet": _Recipe(0.125, 800, (240, 320), "free", salnet.MEAN_BGR, salnet.SCALE, squared_error),
    "salgan": _Recipe(
        0.2,
        1800,
        (salgan.INPUT_HEIGHT, salgan.INPUT_WIDTH),
        "squashed",
        salgan.MEAN_BGR,
        1.0,
        cross_entropy,
    ),
    "sam-vgg": _Recipe(0.15, 1700, *_SAM),
    "sam-resnet": _Recipe(0.125, 1800, *_SAM),
}


def _resolved(name: str, config: SaliencyTrainingConfig) -> SaliencyTrainingConfig:
    """Return the settings with the network's own defaults filled in."""
    recipe = RECIPES[name]
    own = {"width": recipe.width, "steps": recipe.steps}
    return config.model_copy(
        update={key: value for key, value in own.items() if getattr(config, key) is None}
    )


def normalised(inputs: torch.Tensor, name: str) -> torch.Tensor:
    """Return RGB inputs (N, 3, h, w) in [0, 255] as ``prepare`` of a network would give them."""
    recipe = RECIPES[name]
    mean = torch.tensor(recipe.mean, device=inputs.device, dtype=inputs.dtype)[:, None, None]
    return ((inputs.flip(1) - mean) * recipe.scale).contiguous(memory_format=torch.channels_last)


def untrained(name: str, width: float, seed: int) -> SaliencyNetwork:
    """Return a network with random weights, ready for training."""
    torch.manual_seed(seed)
    network = NETWORKS[name](width)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels > 1:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    if isinstance(network, sam.Sam):
        for conv in (network.lstm.w_a, network.lstm.u_a, network.lstm.w, network.lstm.u):
            nn.init.xavier_normal_(conv.weight)
        if hasattr(network.backbone, "bn_conv1"):
            # Its variances, of inputs up to 130, have to fit into float16.
            network.backbone.conv1.weight.data.mul_(0.25)
        # A last ReLU that starts below zero never learns.
        nn.init.ones_(network.out[0].bias)
    if isinstance(network, salnet.SalNet):
        _interpolating(network.layers.deconv1)
    return trainable(network)


def _interpolating(deconvolution: nn.ConvTranspose2d) -> None:
    """Let a deconvolution enlarge bilinearly, from which it may depart."""
    size, stride = deconvolution.kernel_size[0], deconvolution.stride[0]
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / stride
    deconvolution.weight.data[:] = ramp[:, None] * ramp[None, :]


class _Trainer:
    """Network, optimiser and the number of steps done."""

    def __init__(self, name: str, config: SaliencyTrainingConfig):
        self.name, self.config, self.recipe = name, config, RECIPES[name]
        self.device = training_device(config.device)
        self.precision = training_precision(config.precision, self.device)
        self.network = untrained(name, config.width, config.seed)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step, self.seconds, self.losses = 0, 0.0, []

    def rate(self) -> float:
        """Return the learning rate of the current step."""
        c = self.config
        return cosine_rate(self.step, c.steps, c.warmup, c.learning_rate)

    def size(self) -> tuple[int, int]:
        """Return height and width of the current step's inputs; small ones first, to save time."""
        c = self.config
        height, width = self.recipe.size
        if self.step < c.steps * (1 - c.final_share):
            # SalGAN needs multiples of 16; half the official size of the others is none.
            grid = 16 if self.recipe.canvas == "squashed" else 8
            height, width = (
                max(grid, round(side * c.small / grid) * grid) for side in (height, width)
            )
        upright = upright_step(self.step, c.seed, self.recipe.canvas)
        return (width, height) if upright else (height, width)

    def advance(self, scenes: SaliencyScenes) -> None:
        """Do one step of training."""
        c, began = self.config, time.perf_counter()
        images, densities = load_step(
            scenes.images, scenes.densities, self.step, batch=c.batch, seed=c.seed
        )
        # The seed of a step depends on the step alone, so a resumed training sees the same.
        inputs, targets = augment(
            images.to(self.device),
            densities.to(self.device),
            self.size(),
            self.recipe.canvas,
            seed=c.seed * 1_000_003 + self.step,
        )
        inputs = normalised(inputs, self.name)
        with torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            maps = self.network(inputs)
        maps = functional.interpolate(maps.float(), targets.shape[-2:], mode="area")
        loss = self.recipe.loss(maps, targets)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Attention and recurrence now and then give a gradient that would undo many steps.
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        self.seconds += time.perf_counter() - began

    def _document(self) -> str:
        return canonical_json({"network": self.name, **self.config.document()})

    def save(self, path: Path) -> None:
        """Write everything needed to continue."""
        state = {
            "config": self._document(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        with atomic_path(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            StudyError: the checkpoint belongs to another network or configuration.
        """
        state = read_checkpoint(path, self._document())
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses = list(state["losses"])


def train_saliency(
    name: str, config: SaliencyTrainingConfig, folder: Path, *, stop_after: int | None = None
) -> Path:
    """Render scenes, train a width-reduced saliency network on them and write its weights.

    A checkpoint in ``folder`` is continued; on one machine with one number of threads the
    continued training gives the same bytes as an uninterrupted one.

    Args:
        name: salnet, salgan, sam-vgg or sam-resnet.
        config: settings.
        folder: gets ``<name>-mini.safetensors`` (float16) and ``<name>-mini.json``.
        stop_after: leave after this many steps of this call with a checkpoint, unfinished.

    Returns:
        Path of the weights; of the checkpoint when the training was left unfinished.

    Raises:
        StudyError: unknown network, fewer scenes than a batch needs, or an interrupted training
            with other settings lies in ``folder``.
    """
    if name not in RECIPES:
        raise known("saliency network", name, RECIPES)
    if config.scenes < config.batch:
        raise StudyError(
            f"saliency training: expected at least batch = {config.batch} scenes, found "
            f"{config.scenes}; lower batch or raise scenes"
        )
    config = _resolved(name, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = _scenes(config, config.scenes, "training")
    checkpoint = folder / f"{name}-mini.checkpoint.pt"
    with torch_threads(config.threads):
        trainer = _Trainer(name, config)
        if checkpoint.is_file():
            trainer.load(checkpoint)
        trainer.network.train()
        last = min(config.steps, trainer.step + stop_after) if stop_after else config.steps
        with progress(label=f"training {name}-mini", total=config.steps, unit="step") as bar:
            bar.update(trainer.step)
            while trainer.step < last:
                trainer.advance(scenes)
                bar.update(1)
                if trainer.step % config.checkpoint_every == 0 or trainer.step == last:
                    trainer.save(checkpoint)
        if trainer.step < config.steps:
            return checkpoint
        path = _export(trainer, folder)
    checkpoint.unlink(missing_ok=True)
    return path


def _scenes(config: SaliencyTrainingConfig, count: int, part: Part) -> SaliencyScenes:
    name = f"v{SCENES_VERSION}-{count}-{part}-seed{config.seed}"
    return render_scenes(
        cache_dir() / "saliency-scenes" / name,
        scenes=count,
        seed=config.seed,
        part=part,
        workers=config.workers or None,
    )


def held_out_quality(predict: Callable[[np.ndarray], np.ndarray], scenes: SaliencyScenes) -> dict:
    """Return how well maps agree with the targets of scenes, beside the centre prior alone.

    Args:
        predict: RGB image (H, W, 3) uint8 to its saliency map (H, W).
        scenes: scenes that no network was trained on.

    Returns:
        ``network`` and ``centre_prior``: the means of cc, sim, kl and nss over the scenes.
    """
    scores: dict[str, list] = {"network": [], "centre_prior": []}
    for i, image in enumerate(scenes.images):
        target = targets_of(torch.from_numpy(scenes.densities[i].astype(np.float32))).numpy()
        fixations = quality.sample_fixations(target, FIXATIONS, i)
        saliency = cv2.resize(
            predict(np.asarray(image)).astype(np.float32),
            target.shape[::-1],
            interpolation=cv2.INTER_AREA,
        )
        for who, found in (("network", saliency), ("centre_prior", _prior(target.shape))):
            scores[who].append(
                [
                    quality.cc(found, target),
                    quality.sim(found, target),
                    quality.kl(found, target),
                    quality.nss(found, fixations),
                ]
            )
    return {
        who: dict(
            zip(("cc", "sim", "kl", "nss"), np.mean(rows, axis=0).round(4).tolist(), strict=True)
        )
        for who, rows in scores.items()
    }


def _prior(shape: tuple[int, int]) -> np.ndarray:
    return centre_prior(*shape).numpy()


def _export(trainer: _Trainer, folder: Path) -> Path:
    config, name = trainer.config, trainer.name
    network = fold(trainer.network.cpu().eval())
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    window = trainer.losses[-min(100, len(trainer.losses)) :]
    facts = {
        "name": f"{name}-mini",
        "network": name,
        "width": config.width,
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": config.steps,
        "scenes": config.scenes,
        "scenes_seen": config.steps * config.batch,
        "scenes_version": SCENES_VERSION,
        "seed": config.seed,
        "seconds": round(trainer.seconds, 1),
        "input_size": list(trainer.recipe.size),
        "loss": trainer.recipe.loss.__name__,
        "final_loss": round(sum(window) / len(window), 4),
        "loss_every_100_steps": [
            round(float(np.mean(trainer.losses[i : i + 100])), 4)
            for i in range(0, len(trainer.losses), 100)
        ],
        "precision": str(trainer.precision).removeprefix("torch."),
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "config": config.document(),
    }
    path = folder / f"{name}-mini.safetensors"
    kept = ("name", "network", "width", "seed", "steps", "input_size", "final_loss")
    with atomic_path(path) as partial:
        # One key: safetensors writes several in an order that changes from run to run.
        about = canonical_json({key: facts[key] for key in kept})
        save_file(tensors, partial, metadata={"about": about})
    facts["held_out"] = _judged(path, config)
    write_json(folder / f"{name}-mini.json", facts)
    return path


def _judged(path: Path, config: SaliencyTrainingConfig) -> dict:
    """Judge the weights as they were written, with the network's own input and output."""
    network = load_embedded(path)

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = network(network.prepare(image))
        return network.finish(output[0, 0].numpy(), *image.shape[:2])

    found = held_out_quality(predict, _scenes(config, config.held_out, "held-out"))
    return {"scenes": config.held_out, **found}


if __name__ == "__main__":
    trainings = {f"{name}-mini": partial(train_saliency, name) for name in RECIPES}
    main("Train a small saliency network.", SaliencyTrainingConfig, trainings)
