"""A sheet of mined triplets, so that whoever opens the artefact sees how good they are."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.finetuning.triplets import Triplets, judge

# Colour-blind safe (Okabe and Ito), as in the figures of the notebooks.
_ANCHOR, _SAME, _OTHER, _UNKNOWN = "#0072b2", "#009e73", "#d55e00", "#888888"
_SIDE, _FRAME, _LINE, _COLUMNS = 112, 3, 14, 10


def triplet_sheet(dataset: Dataset, triplets: Triplets, count: int = 40) -> Image.Image:
    """Draw ``count`` triplets spread over all: anchor, positive and negative below one another.

    A frame says what the ground truth knows: blue, an anchor; green, the same instance as the
    anchor; orange, another one or none; grey, nothing is known of the anchor. Below positives and
    negatives stands their fused score.
    """
    chosen = np.unique(np.linspace(0, len(triplets) - 1, count).astype(int))
    judged, same = judge(dataset, triplets)
    columns = min(_COLUMNS, len(chosen))
    bands = -(-len(chosen) // columns)
    cell, band = _SIDE + 2 * _FRAME + 4, 3 * (_SIDE + 2 * _FRAME) + 3 * _LINE
    sheet = Image.new("RGB", (columns * cell, bands * (band + 10)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for place, k in enumerate(chosen):
        x, y = (place % columns) * cell, (place // columns) * (band + 10)
        for row, image in enumerate(triplets.images[k].tolist()):
            truth = (_SAME if same[k, row - 1] else _OTHER) if judged[k] else _UNKNOWN
            picture = _thumbnail(dataset, image)
            width, height = (side + 2 * _FRAME for side in picture.size)
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=truth if row else _ANCHOR)
            sheet.paste(picture, (x + _FRAME, y + _FRAME))
            if row:
                score = f"{'+-'[row - 1]} {triplets.scores[k, row - 1]:.2f}"
                draw.text((x + 1, y + height), score, "black", font)
            y += _SIDE + 2 * _FRAME + _LINE
    return sheet


def _thumbnail(dataset: Dataset, image: int) -> Image.Image:
    path, exif = dataset.images[image], dataset.exif_orientation
    size = resized_size(image_size(path, exif_orientation=exif), _SIDE)
    return Image.fromarray(read_image(path, size, exif_orientation=exif))
