"""The forward pass: pictures of one size through a network's trunk, on the CPU or a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from blcf_utils.config.profile import Alpha, FeatureConfig, Resize
from blcf_utils.datasets.images import UnreadableImage, read_image
from blcf_utils.datasets.views import View
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.ground.errors import StudyError

# A batch: paths, and the width and height that each picture is resized to.
Pictures = tuple[tuple[Path, tuple[int, int]], ...]


def batches_of_one_size(inputs: np.ndarray, distinct: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the numbers of images that go through a network together, by their first one.

    Images of one input size, in order, are a batch; of images with the same bytes only the first.
    What a network gives depends on the batch in its last bits, so whoever forwards images uses
    these.

    Args:
        inputs: (n, 2) width and height that each image is resized to; 0 leaves it out.
        distinct: (n,) number of the first image with the same bytes.
        most: images of a batch.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (width, height) in enumerate(inputs.tolist()):
        if width and distinct[i] == i:
            groups.setdefault((width, height), []).append(i)
    batches = [
        np.array(group[k : k + most])
        for group in groups.values()
        for k in range(0, len(group), most)
    ]
    return sorted(batches, key=lambda batch: batch[0])


def resolve_device(name: str) -> torch.device:
    """Return the torch device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        StudyError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise StudyError(
            f"features.device: expected auto, cpu, cuda or cuda:N, found {name!r}"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StudyError(f"features.device: {name} asks for a GPU and there is none; use auto")
    return device


def resolve_precision(config: FeatureConfig, device: torch.device) -> str:
    """Return ``float32`` or ``bfloat16``, in which a network runs on a device."""
    if config.precision == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    return config.precision


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device is a GPU that multiplies bfloat16 itself, not in float32's place."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def exact_convolutions() -> AbstractContextManager:
    """Return a context in which a GPU's float32 is float32, and the same bits every time.

    By default cuDNN rounds a convolution's inputs to 10 bits (TF32) and may add up in any order.
    """
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


@torch.inference_mode()
def forward_images(
    backbone: Backbone, images: np.ndarray, device: torch.device, dtype=torch.float32
) -> np.ndarray:
    """Return the local descriptors of equally sized images, (B, H, W, 3) uint8 to (B, h*w, C).

    Args:
        backbone: the trunk.
        images: RGB pixels.
        device: where the network runs.
        dtype: of its arithmetic; the descriptors are float16 always, as they are stored.
    """
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in (backbone.mean, backbone.std)
    )
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
    pixels.div_(255).sub_(mean).div_(std)  # channels lie last, as in the images
    with exact_convolutions(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        maps = backbone.on(device)(pixels)
    return maps.flatten(2).transpose(1, 2).to(torch.float16).cpu().numpy()


def refuse_overflow(path: Path, rows: np.ndarray, backbone: Backbone) -> None:
    """Refuse descriptors that are not finite in float16.

    Raises:
        StudyError: they are not.
    """
    if not np.isfinite(rows).all():
        raise StudyError(
            f"{path}: feature values exceed float16; {backbone.config.label} seems to have wrong "
            "weights or normalisation"
        )


@dataclass(frozen=True)
class ForwardPass:
    """How a batch of pictures becomes descriptors, here or on a worker.

    Attributes:
        backbone: the trunk.
        device: as the configuration names it; a worker has its own GPU, or none.
        dtype: of the arithmetic.
        exif: whether pictures are turned as their EXIF tag says.
        view: what of each picture the network sees.
        resize: how pictures are resized.
        alpha: how transparent ones are shown.
    """

    backbone: Backbone
    device: str
    dtype: torch.dtype
    exif: bool
    view: View
    resize: Resize
    alpha: Alpha

    def to_send(self) -> ForwardPass:
        """Return the same without what a worker has no use for."""
        return replace(self, backbone=replace(self.backbone, _folded=None))

    def decode(self, batch: Pictures) -> list[np.ndarray | UnreadableImage]:
        """Return the pixels of each picture (H, W, 3), or why it has none."""
        decoded = []
        for path, size in batch:
            try:
                decoded.append(
                    read_image(
                        path,
                        size,
                        exif_orientation=self.exif,
                        view=self.view,
                        resize=self.resize,
                        alpha=self.alpha,
                    )
                )
            except UnreadableImage as error:
                decoded.append(error)
        return decoded

    def forward(self, decoded: list) -> list[np.ndarray | UnreadableImage]:
        """Return the descriptors of each picture (h*w, C) float16, or why it has none."""
        found = list(decoded)
        good = [k for k, image in enumerate(decoded) if not isinstance(image, UnreadableImage)]
        if good:
            device = resolve_device(self.device)
            pixels = np.stack([decoded[k] for k in good])
            for k, rows in zip(
                good, forward_images(self.backbone, pixels, device, self.dtype), strict=True
            ):
                found[k] = rows
        return found


def _forward_pictures(network: ForwardPass, batch: Pictures) -> list[np.ndarray | UnreadableImage]:
    return network.forward(network.decode(batch))
