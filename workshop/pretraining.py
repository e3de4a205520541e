"""Training ``vgg-mini`` by instance discrimination on rendered views.

The trained descriptor is the one the study uses: ``conv5_1`` after ReLU, summed over the map and
L2-normalised. Two losses act on it: NT-Xent between the two views of each instance (Chen et al.,
"A simple framework for contrastive learning", ICML 2020) and a normalised softmax over one proxy
an instance (Zhai and Wu, "Classification is a strong baseline for deep metric learning", BMVC
2019). That a few photographs under strong augmentation are enough to learn early layers was
shown by Asano et al., "A critical analysis of self-supervision", ICLR 2020.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from blcf_utils.features.networks.vgg_mini import BLOCKS, VggMiniTraining, fold_batch_norm
from blcf_utils.finetuning.training_run import (
    cosine_rate,
    read_checkpoint,
    torch_threads,
    training_device,
    training_precision,
)
from blcf_utils.ground.artefacts import atomic_path, write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import Config, canonical_json
from workshop.command import main
from workshop.pretraining_batches import augment, load_step
from workshop.pretraining_set import (
    PRETRAINING_VERSION,
    render_pretraining_set,
)

NAME = "vgg-mini"


class PretrainingConfig(Config):
    """Everything that determines the trained weights, and where the time goes."""

    seed: int = 0
    instances: int = Field(4000, ge=2, description="rendered instances")
    views: int = Field(8, ge=2, description="rendered views of each instance")
    view_size: int = Field(128, ge=32, description="side of a rendered view, pixels")
    crop: int = Field(64, ge=32, description="side of a training image, pixels")
    final_crop: int = Field(96, ge=32, description="side towards the end, pixels")
    final_share: float = Field(0.3, ge=0, le=1, description="share of the steps at final_crop")
    steps: int = Field(2400, ge=1)
    batch: int = Field(64, ge=2, description="instances a step; two views of each")
    learning_rate: float = Field(2e-3, gt=0, description="highest rate of the cosine schedule")
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(1e-4, ge=0)
    temperature: float = Field(0.1, gt=0, description="of NT-Xent")
    proxy_scale: float = Field(16.0, gt=0, description="inverse temperature of the proxy softmax")
    proxy_weight: float = Field(0.5, ge=0, description="weight of the proxy loss")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    threads: int = Field(1, ge=0, description="torch threads; 0 leaves torch's choice")
    workers: int = Field(0, ge=0, description="rendering processes; 0 is one a core")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the NT-Xent loss of L2-normalised descriptors of paired views, (N, D) each."""
    both = torch.cat([first, second])
    logits = both @ both.T / temperature
    logits.fill_diagonal_(float("-inf"))
    n = len(first)
    partner = torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(logits.device)
    return functional.cross_entropy(logits, partner)


class _Trainer:
    """Network, proxies, optimiser and the number of steps done."""

    def __init__(self, config: PretrainingConfig):
        self.config = config
        self.device = training_device(config.device)
        self.precision = training_precision(config.precision, self.device)
        torch.manual_seed(config.seed)
        self.network = VggMiniTraining()
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.proxies = nn.Parameter(torch.randn(config.instances, BLOCKS[-1][-1]))
        self.network.to(self.device, memory_format=torch.channels_last)
        self.proxies.data = self.proxies.data.to(self.device)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.network.parameters()},
                # Proxies are normalised: decaying them would only change their step size.
                {"params": [self.proxies], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.step, self.seconds, self.losses = 0, 0.0, []

    def rate(self) -> float:
        """Return the learning rate of the current step."""
        c = self.config
        return cosine_rate(self.step, c.steps, c.warmup, c.learning_rate)

    def size(self) -> int:
        """Return the side of the training images of the current step.

        Small images are cheap; larger ones at the end have cells that padding does not reach.
        """
        c = self.config
        return c.final_crop if self.step >= c.steps * (1 - c.final_share) else c.crop

    def advance(self, views: np.ndarray) -> None:
        """Do one step of training."""
        c, began = self.config, time.perf_counter()
        images, instances = load_step(views, self.step, batch=c.batch, seed=c.seed)
        # The seed of a step depends on the step alone, so a resumed training sees the same.
        inputs = augment(images.to(self.device), self.size(), seed=c.seed * 1_000_003 + self.step)
        with torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            maps = self.network(inputs)
        pooled = functional.normalize(maps.float().sum((2, 3)), dim=1)
        first, second = pooled.chunk(2)
        loss = nt_xent(first, second, c.temperature)
        if c.proxy_weight:
            logits = c.proxy_scale * pooled @ functional.normalize(self.proxies, dim=1).T
            target = instances.to(self.device)
            loss = loss + c.proxy_weight * functional.cross_entropy(logits, target)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        self.seconds += time.perf_counter() - began

    def save(self, path: Path) -> None:
        """Write everything needed to continue."""
        state = {
            "config": canonical_json(self.config.document()),
            "network": self.network.state_dict(),
            "proxies": self.proxies.detach(),
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
            StudyError: the checkpoint belongs to another configuration.
        """
        state = read_checkpoint(path, self.device, canonical_json(self.config.document()))
        self.network.load_state_dict(state["network"])
        self.proxies.data.copy_(state["proxies"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses = list(state["losses"])


def train_vgg_mini(
    config: PretrainingConfig, folder: Path, *, stop_after: int | None = None
) -> Path:
    """Render the pretraining set, train ``vgg-mini`` on it and write its weights.

    A checkpoint in ``folder`` is continued; on one machine with one number of threads the
    continued training gives the same bytes as an uninterrupted one.

    Args:
        config: settings.
        folder: gets ``vgg-mini.safetensors`` (float16) and ``vgg-mini.json``.
        stop_after: leave after this many steps of this call with a checkpoint, unfinished.

    Returns:
        Path of the weights; of the checkpoint when the training was left unfinished.

    Raises:
        StudyError: an interrupted training with other settings lies in ``folder``.
    """
    if config.instances < config.batch:
        raise StudyError(
            f"pretraining: expected at least batch = {config.batch} instances, found "
            f"{config.instances}; lower batch or raise instances"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = f"v{PRETRAINING_VERSION}-{config.instances}x{config.views}-{config.view_size}px"
    rendered = render_pretraining_set(
        cache_dir() / "pretraining" / f"{recipe}-seed{config.seed}",
        instances=config.instances,
        views=config.views,
        size=config.view_size,
        seed=config.seed,
        workers=config.workers or None,
    )
    checkpoint = folder / f"{NAME}.checkpoint.pt"
    with torch_threads(config.threads):
        trainer = _Trainer(config)
        if checkpoint.is_file():
            trainer.load(checkpoint)
        trainer.network.train()
        last = min(config.steps, trainer.step + stop_after) if stop_after else config.steps
        with progress(label="training vgg-mini", total=config.steps, unit="step") as bar:
            bar.update(trainer.step)
            while trainer.step < last:
                trainer.advance(rendered.views)
                bar.update(1)
                if trainer.step % config.checkpoint_every == 0 or trainer.step == last:
                    trainer.save(checkpoint)
        if trainer.step < config.steps:
            return checkpoint
        path = _export(trainer, folder)
    checkpoint.unlink(missing_ok=True)
    return path


def _export(trainer: _Trainer, folder: Path) -> Path:
    config = trainer.config
    network = fold_batch_norm(trainer.network.cpu().eval())
    tensors = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    parameters = sum(v.numel() for v in tensors.values())
    window = trainer.losses[-min(100, len(trainer.losses)) :]
    facts = {
        "name": NAME,
        "parameters": parameters,
        "steps": config.steps,
        "instances": config.instances,
        "views": config.views,
        "seed": config.seed,
        "seconds": round(trainer.seconds, 1),
        "images_seen": config.steps * config.batch * 2,
        "final_loss": round(sum(window) / len(window), 4),
        "loss_every_100_steps": [
            round(float(np.mean(trainer.losses[i : i + 100])), 3)
            for i in range(0, len(trainer.losses), 100)
        ],
        "pretraining_set_version": PRETRAINING_VERSION,
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
    path = folder / f"{NAME}.safetensors"
    about = {k: facts[k] for k in ("name", "steps", "instances", "seed", "final_loss")}
    about["normalisation"] = "RGB in [0,1], ImageNet mean and standard deviation of torchvision"
    with atomic_path(path) as partial:
        # One key: safetensors writes several in an order that changes from run to run.
        save_file(tensors, partial, metadata={"about": canonical_json(about)})
    write_json(folder / f"{NAME}.json", facts)
    return path


if __name__ == "__main__":
    main("Train the backbone vgg-mini.", PretrainingConfig, {NAME: train_vgg_mini})
