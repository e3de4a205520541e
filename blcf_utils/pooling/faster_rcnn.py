"""Region features of a detector: Faster R-CNN's maps, pooled over the image or over its proposals.

Proposals come from the detector's own region proposal network. torchvision's compiled operators are
not used (they do not exist beside a CPU build of torch): suppression of overlapping boxes is done
here, and a proposal is described by the maxima of its window of the map. Source: Salvador, Giró-i-
Nieto, Marqués and Satoh, "Faster R-CNN features for instance search", CVPR workshops 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blcf_utils.features.networks.weights import IMAGENET, read_state
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.torchvision_compat import ensure_torchvision
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.patches import patch_maxima

_LEVEL = "2"  # stride 16
_BEFORE, _KEPT, _OVERLAP, _SMALLEST = 1000, 300, 0.7, 16.0  # proposals; pixels


@dataclass(frozen=True)
class Detected:
    """What a detector sees in an image.

    Attributes:
        map: (C, h, w) float32, stride 16.
        boxes: (n, 4) proposals x1, y1, x2, y2 in pixels, most likely first.
        scores: (n,) their objectness, logits.
        size: (width, height) of the image.
    """

    map: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    size: tuple[int, int]

    def windows(self) -> np.ndarray:
        """Return the proposals as windows of the map, (n, 4) of y0, y1, x0, x1."""
        scale = np.array(self.map.shape[2:0:-1]) / self.size
        low = np.floor(self.boxes[:, :2] * scale + 1e-6).astype(np.int64)
        high = np.ceil(self.boxes[:, 2:] * scale - 1e-6).astype(np.int64)
        most = np.array(self.map.shape[2:0:-1])
        low = np.clip(low, 0, most - 1)
        high = np.clip(high, low + 1, most)
        return np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], axis=1)


def load_detector(weights: Path | None = None, seed: int = 0) -> nn.Module:
    """Build torchvision's ``fasterrcnn_resnet50_fpn`` with the weights of a state dict.

    Args:
        weights: the state dict; random weights when None.
        seed: of random weights.

    Raises:
        StudyError: the file is not a state dict of this detector.
    """
    ensure_torchvision()
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    if weights is not None:
        try:
            state = read_state(weights)
            # The classes it was trained for do not matter: only proposals and maps are read.
            state = {k: v for k, v in state.items() if not k.startswith("roi_heads.box_predictor")}
            missing = model.load_state_dict(state, strict=False)
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise StudyError(
                f"{weights}: expected the weights of fasterrcnn_resnet50_fpn, found others ({said})"
            ) from None
        lost = [k for k in missing.missing_keys if k.startswith(("backbone.", "rpn."))]
        if lost:
            raise StudyError(
                f"{weights}: expected the weights of fasterrcnn_resnet50_fpn, found none for "
                f"{lost[0]}; give the detector's whole state dict"
            )
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def detect(model: nn.Module, image: np.ndarray) -> Detected:
    """Return the stride-16 map and the proposals of an image (H, W, 3) uint8."""
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    height, width = image.shape[:2]
    mean, std = (torch.tensor(part)[:, None, None] for part in IMAGENET)
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - mean) / std
    pixels = nn.functional.pad(pixels[None], (0, -width % 32, 0, -height % 32))
    maps = model.backbone(pixels)
    levels = list(maps.values())
    logits, deltas = model.rpn.head(levels)
    anchors = model.rpn.anchor_generator(ImageList(pixels, [(height, width)]), levels)
    scores, deltas = concat_box_prediction_layers(logits, deltas)
    boxes = model.rpn.box_coder.decode(deltas, anchors)[:, 0].numpy()
    boxes = np.clip(boxes, 0, [width, height, width, height])
    scores = scores[:, 0].numpy()
    real = (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST).all(axis=1)
    boxes, scores = boxes[real], scores[real]
    order = np.argsort(-scores, kind="stable")[:_BEFORE]
    kept = order[suppressed(boxes[order])][:_KEPT]
    found = maps[_LEVEL][0, :, : -(-height // 16), : -(-width // 16)].numpy()
    return Detected(found, boxes[kept], scores[kept], (width, height))


def suppressed(boxes: np.ndarray, overlap: float = _OVERLAP) -> np.ndarray:
    """Return the numbers of the boxes that no better one overlaps, greedily, best first.

    Args:
        boxes: (n, 4) of x1, y1, x2, y2, best first.
        overlap: most intersection over union of two kept boxes.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left, kept = np.arange(len(boxes)), []
    while len(left):
        first, rest = left[0], left[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        left = rest[shared <= overlap * (areas[first] + areas[rest] - shared)]
    return np.array(kept, np.int64)


def image_vector(seen: Detected) -> np.ndarray:
    """Return the image's vector: maxima over the map, unit length, (C,) (image-wise pooling)."""
    return normalise_rows(mac_pool(seen.map)[None])[0]


def region_vectors(seen: Detected) -> np.ndarray:
    """Return each proposal's vector: maxima over its window, unit length, (n, C)."""
    if not len(seen.boxes):
        return np.zeros((0, len(seen.map)), np.float32)
    return normalise_rows(patch_maxima(seen.map, seen.windows()))
