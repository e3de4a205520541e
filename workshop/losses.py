"""What the saliency networks minimise: the losses of their authors, without SalGAN's adversary.

Maps and targets are (B, 1, h, w) on the grid of the stored densities; each target sums to 1.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def squared_error(saliency: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance to targets scaled to [-1, 1] (SalNet).

    Pan et al., "Shallow and deep convolutional networks for saliency prediction", CVPR 2016: the
    Euclidean loss, on maps whose values are about those that the authors' output has.
    """
    return functional.mse_loss(saliency, 2 * _highest_one(targets) - 1)


def cross_entropy(saliency: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the pixel-wise binary cross-entropy with targets scaled to a maximum of 1 (SalGAN).

    Pan et al., "SalGAN: visual saliency prediction with generative adversarial networks", 2017;
    the adversarial part of their loss is left out.
    """
    return functional.binary_cross_entropy(saliency.clamp(1e-6, 1 - 1e-6), _highest_one(targets))


def sam_loss(saliency: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return 10 KL - 2 CC - NSS of maps that are at least 0 (SAM), the mean over the batch.

    Cornia et al., TIP 2018. There are no fixations here: NSS is what fixations
    drawn from the target would have on average, sum T (S - mean S) / std S.

    Args:
        saliency: (B, 1, h, w).
        targets: (B, 1, h, w), each summing to 1.
    """
    maps, targets = saliency.flatten(1), targets.flatten(1)
    share = (maps + 1e-6) / (maps + 1e-6).sum(1, keepdim=True)
    kl = (targets * torch.log((targets + 1e-9) / (share + 1e-9))).sum(1)
    centred = maps - maps.mean(1, keepdim=True)
    scores = centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)
    spread = targets - targets.mean(1, keepdim=True)
    cc = (scores * spread / (spread.square().mean(1, keepdim=True).sqrt() + 1e-9)).mean(1)
    nss = (scores * targets).sum(1)
    return (10 * kl - 2 * cc - nss).mean()


def _highest_one(targets: torch.Tensor) -> torch.Tensor:
    return targets / targets.amax((-2, -1), keepdim=True)
