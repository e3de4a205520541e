"""Training a network on mined triplets: sampling, steps, checkpoints, early stopping.

Everything random follows from the seed and the number of the step, so a training that was killed
ends with the weights of one that was not (on one machine, with one number of threads).
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils import get_total_norm as total_norm

from blcf_utils.config.finetuning import FinetuneTrainingConfig
from blcf_utils.features.forward import exact_convolutions
from blcf_utils.finetuning.descriptors import describe_inputs
from blcf_utils.finetuning.loss import triplet_loss
from blcf_utils.finetuning.networks import BehindFrozen, DescriptorNetwork
from blcf_utils.finetuning.training_run import (
    cosine_rate,
    read_checkpoint,
    torch_threads,
    training_device,
    training_precision,
)
from blcf_utils.finetuning.triplets import Triplets
from blcf_utils.finetuning.validation import Validation
from blcf_utils.ground.artefacts import atomic_path, write_text
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import canonical_json

log = logging.getLogger("blcf")

CHECKPOINT, CURVE = "checkpoint.pt", "curve.csv"
# Where a training runs and how often it is written down does not change what is learned.
SPEED_ONLY = ("device", "checkpoint_every")
COLUMNS = ("step", "loss", "active", "rate", "validation")
# Batches loaded ahead, each by a thread. Beside a GPU the processor has nothing else to do.
_AHEAD = 2


class Inputs(Protocol):
    """What gives the varied inputs of images, the same ones for the same seed."""

    def load(self, images, seed: int) -> list[torch.Tensor]:
        """Return one input (C, h, w) per image."""


def triplets_of_step(step: int, *, triplets: int, batch: int, seed: int) -> np.ndarray:
    """Return the numbers of the triplets of a batch; each epoch visits every triplet once.

    The last, smaller batch of an epoch is filled up with the first of the next one.
    """
    places = np.arange(step * batch, (step + 1) * batch)
    epochs = {
        int(epoch): np.random.default_rng([seed, int(epoch)]).permutation(triplets)
        for epoch in np.unique(places // triplets)
    }
    return np.array([epochs[int(p // triplets)][p % triplets] for p in places])


class Trainer:
    """A network, its optimiser, and the number of steps done.

    Args:
        network: in eval mode (batch statistics stay as they are); it is trained in place.
        triplets: what it learns from.
        inputs: gives the varied inputs of images.
        config: settings.
        seed: of the order of triplets and of the variations.
        validation: held-out queries; None for none.
        document: what the training is of, kept in checkpoints.
        frozen: layers between the inputs and the network, when the inputs are pixels.
    """

    def __init__(
        self,
        network: DescriptorNetwork,
        triplets: Triplets,
        inputs: Inputs,
        config: FinetuneTrainingConfig,
        seed: int,
        validation: Validation | None = None,
        document: dict | None = None,
        frozen: nn.Module | None = None,
    ):
        self.config, self.seed, self.inputs, self.triplets = config, seed, inputs, triplets
        self.validation = validation if validation and validation.queries else None
        if config.patience and self.validation is None:
            log.warning(
                "fine-tuning: no query is held out, so finetuning.training.patience cannot stop it "
                "and the last weights are kept; set finetuning.folds to 2 or more and "
                "finetuning.validation above 0"
            )
        self.device = training_device(config.device)
        self.precision = training_precision(config.precision, self.device)
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.describer = self.network
        if frozen is not None and len(frozen):
            frozen = frozen.requires_grad_(False).to(self.device, memory_format=torch.channels_last)
            self.describer = BehindFrozen(frozen, self.network)
        settings = {k: v for k, v in config.document().items() if k not in SPEED_ONLY}
        self.document = canonical_json({"seed": seed, **(document or {}), **settings})
        groups = [{"params": list(network.trunk.parameters()), "share": 1.0}]
        if network.projection is not None:
            projection = list(network.projection.parameters())
            groups.append({"params": projection, "share": config.projection_rate})
        self.optimizer = self._optimizer(groups)
        self.step, self.history, self.stopped = 0, [], False
        self.best: dict | None = None
        self.best_score, self.since_best = -math.inf, 0

    def _optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        c = self.config
        settings = {"lr": c.learning_rate, "weight_decay": c.weight_decay}
        if c.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=c.momentum, **settings)
        return torch.optim.AdamW(groups, **settings)

    def batches(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the images (batch, 3) and the seed of every batch still to come."""
        c = self.config
        for number in range(self.step * c.accumulate, c.steps * c.accumulate):
            chosen = triplets_of_step(
                number, triplets=len(self.triplets), batch=c.batch, seed=self.seed
            )
            yield self.triplets.images[chosen], self.seed * 1_000_003 + number

    def loaded(self) -> Iterator[list[torch.Tensor]]:
        """Yield the inputs of every batch still to come, loaded while the one before is used."""
        most = _AHEAD
        if self.device.type != "cpu":
            most = max(_AHEAD, pool_threads())
        with ThreadPoolExecutor(most) as pool:
            ahead = []
            for images, seed in self.batches():
                ahead.append(pool.submit(self.inputs.load, images.T.ravel().tolist(), seed))
                if len(ahead) > most:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()

    def advance(self, loaded: Iterator[list[torch.Tensor]]) -> None:
        """Do one step of training.

        Raises:
            StudyError: loss, gradient or new weights are not finite; nothing of it is written.
        """
        c, losses, active = self.config, 0.0, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(c.accumulate):
            inputs = next(loaded)
            with exact_convolutions():
                vectors = describe_inputs(self.describer, inputs, self.device, self.precision)
                loss = triplet_loss(*vectors.float().chunk(3), c.margin, c.distance)
                (loss.mean() / c.accumulate).backward()
            losses += float(loss.detach().mean()) / c.accumulate
            active += float((loss.detach() > 0).float().mean()) / c.accumulate
        if not math.isfinite(losses):
            raise self._diverged("loss", losses)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        # A loss can be finite where its gradient is not, and a step too long gives weights that
        # the next checkpoint must not hold.
        gradient = float(total_norm([p.grad for p in weights if p.grad is not None]))
        if not math.isfinite(gradient):
            raise self._diverged("gradient", gradient)
        rate = cosine_rate(self.step, c.steps, c.warmup, c.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        length = float(total_norm([p.detach() for p in weights]))
        if not math.isfinite(length):
            raise self._diverged("length of the weights after it", length)
        self.step += 1
        self.history.append([self.step, losses, active, rate, ""])

    def _diverged(self, what: str, value: float) -> StudyError:
        return StudyError(
            f"fine-tuning: the {what} of step {self.step} is {value}; lower "
            "finetuning.training.learning_rate (the last checkpoint is intact) or look for "
            "images without any feature"
        )

    def validate(self) -> None:
        """Score the held-out queries and remember the weights if they are the best so far."""
        if self.validation is None:
            return
        score = self.validation.score(self.network, self.device)
        if not self.history:
            self.history.append([0, "", "", "", ""])
        self.history[-1][-1] = score
        if self.step == 0:
            return  # where it began is in the curve; what is kept has learned something
        if score > self.best_score:
            self.best_score, self.since_best = score, 0
            state = self.network.state_dict()
            self.best = {key: value.detach().cpu().clone() for key, value in state.items()}
        else:
            self.since_best += 1
            self.stopped = bool(self.config.patience) and self.since_best >= self.config.patience

    def run(self, folder: Path, stop_after: int | None = None) -> bool:
        """Train on, from the checkpoint in ``folder`` if there is one.

        Args:
            folder: gets ``checkpoint.pt`` and ``curve.csv``, both as often as
                ``checkpoint_every`` says.
            stop_after: leave after so many steps of this call.

        Returns:
            Whether the training is finished; the network then has the weights to keep.

        Raises:
            StudyError: a checkpoint of another training, or one that diverges.
        """
        c, checkpoint = self.config, folder / CHECKPOINT
        with torch_threads(c.threads):
            if checkpoint.is_file():
                self._load(checkpoint)
            else:
                self.validate()
            last = min(c.steps, self.step + stop_after) if stop_after else c.steps
            with progress(label="fine-tuning", total=c.steps, unit="step") as bar:
                bar.update(self.step)
                loaded = self.loaded()
                while self.step < last and not self.stopped:
                    self.advance(loaded)
                    bar.update(1)
                    if self.step % c.validate_every == 0 or self.step == c.steps:
                        self.validate()
                    if self.step % c.checkpoint_every == 0 or self.step == last or self.stopped:
                        self._save(checkpoint)
                loaded.close()
        write_text(folder / CURVE, self.curve())
        if self.step < c.steps and not self.stopped:
            return False
        if self.best is not None and c.keep == "best":
            self.network.load_state_dict(self.best)
        self.network.to("cpu")
        return True

    def curve(self) -> str:
        """Return the curve as CSV: step, loss, share of triplets with a loss, rate, validation."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self.history)
        return out.getvalue()

    def _save(self, path: Path) -> None:
        state = {
            "config": self.document,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "best": self.best,
            "best_score": self.best_score,
            "since_best": self.since_best,
            "stopped": self.stopped,
        }
        with atomic_path(path) as partial:
            torch.save(state, partial)
        write_text(path.with_name(CURVE), self.curve())  # to be looked at while it trains

    def _load(self, path: Path) -> None:
        state = read_checkpoint(path, self.document)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], [list(row) for row in state["history"]]
        self.best, self.best_score = state["best"], state["best_score"]
        self.since_best, self.stopped = state["since_best"], state["stopped"]
