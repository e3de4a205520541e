"""Where the instance is in a database image: what saliency maps are judged against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from blcf_utils.datasets.base import Box, Dataset
from blcf_utils.datasets.images import UnreadableImage, image_size
from blcf_utils.ground.errors import StudyError


def object_masks(dataset: Dataset) -> dict[int, Callable[[], np.ndarray]]:
    """Return what reads the mask (H, W) bool of every database image whose instance is known.

    A mask is ``masks/<image>.png`` in the dataset's folder (rendered sets: the visible part of the
    instance), or else the known boxes: that of the one instance which the image shows, or those
    that queries draw in it. Boxes that cover the whole image say nothing about where to look and
    are left out.
    """
    masks: dict[int, Callable[[], np.ndarray]] = {}
    boxes = {image: [box] for image, box in dataset.boxes.items()}
    for query in dataset.queries:
        image = dataset.image_index[query.image]
        if query.box is not None and image not in dataset.boxes:
            boxes.setdefault(image, []).append(query.box)
    for i, path in enumerate(dataset.images):
        drawn = dataset.root / "masks" / f"{path.stem}.png"
        if drawn.is_file():
            masks[i] = partial(_read_mask, drawn)
        elif i in boxes:
            try:
                width, height = image_size(path, exif_orientation=dataset.exif_orientation)
            except UnreadableImage:  # left out, as features.on_corrupt: skip leaves it out
                continue
            mask = _box_mask(boxes[i], height, width)
            if mask.any() and not mask.all():
                masks[i] = partial(_box_mask, boxes[i], height, width)
    return masks


def _read_mask(path: Path) -> np.ndarray:
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise StudyError(f"{path}: expected a mask (PNG) that decodes; put it there again")
    return mask > 127


def _box_mask(boxes: list[Box], height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for box in boxes:
        x1, y1, x2, y2 = (round(edge) for edge in box)
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
    return mask
