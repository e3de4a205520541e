"""The triplet loss of the thesis."""

from __future__ import annotations

from typing import Literal

import torch


def triplet_loss(
    anchor: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    margin: float,
    distance: Literal["squared", "euclidean"] = "squared",
) -> torch.Tensor:
    """Return max(0, D(a, p) - D(a, n) + margin) of every triplet, (B,).

    Args:
        anchor, positive, negative: (B, D) descriptors.
        margin: alpha.
        distance: D, the Euclidean distance or its square; the slides do not say which. Of unit
            vectors the square is 2 - 2 cos, whose gradient does not grow where images are alike.

    Source: slide "Similarity Learning"; Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015.
    """
    near = (anchor - positive).square().sum(1)
    far = (anchor - negative).square().sum(1)
    if distance == "euclidean":
        # The root has no gradient at 0, where two images are the same.
        near, far = (near + 1e-12).sqrt(), (far + 1e-12).sqrt()
    return torch.relu(near - far + margin)
