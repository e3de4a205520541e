"""Reading photographs: decode, orient, resize so that the longest side has a given length."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from blcf_utils.config.profile import Resize
from blcf_utils.datasets.base import Box
from blcf_utils.datasets.views import AS_IT_IS, View
from blcf_utils.ground.errors import StudyError

EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF values that swap width and height
_READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class UnreadableImage(StudyError):
    """An image file that is missing, empty, cut short or of an unknown format.

    Attributes:
        reason: why, in a few words, for those who have their own advice.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason or message


def _unreadable(path: Path, error: Exception) -> UnreadableImage:
    reason = str(error) or repr(error)
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
    elif isinstance(error, UnidentifiedImageError):  # whose text is the path once more
        reason = "not of a known image format"
    return UnreadableImage(
        f"{path}: expected an image that decodes ({reason}); replace the file, or set "
        "features.on_corrupt: skip to leave such images out",
        reason,
    )


def image_size(path: Path, *, exif_orientation: bool = False) -> tuple[int, int]:
    """Return (width, height) in pixels from the file's header, without decoding it.

    Raises:
        UnreadableImage: no such file, or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow turns a TIFF by itself, and its header's size is that of the turned image.
            turnable = exif_orientation and image.format != "TIFF"
            if turnable and image.getexif().get(EXIF_ORIENTATION) in _TURNED:
                return height, width
            return width, height
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from None


def resized_size(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Return (width, height) scaled so that the longest side is ``longest_side`` pixels.

    The aspect ratio is kept up to rounding and small images are enlarged, as the original
    pipeline does; it truncates, which can miss ``longest_side`` by one, so sides are rounded here.
    """
    scale = longest_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_image(
    path: Path,
    size: tuple[int, int] | None = None,
    *,
    exif_orientation: bool = False,
    view: View = AS_IT_IS,
    resize: Resize = "antialias",
) -> np.ndarray:
    """Decode an image to RGB, uint8, (H, W, 3), resized to ``size`` = (width, height) if given.

    A ``view`` other than the image as it is shows its centre, or its mirror image, at the same
    size. Resizing is bilinear: ``antialias`` weighs all pixels below a new one, ``plain`` reads the
    four around its centre, whatever lies between (OpenCV's INTER_LINEAR, with which the original
    pipelines reduce images); its centre of a view begins and ends with whole pixels.

    Raises:
        UnreadableImage: no such file, or it does not decode to the end.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image) if exif_orientation else image
            image = _to_rgb(image)
            size = size or image.size
            if image.size != size or view.zoom != 1:
                part = view.part(image.size)
                image = _resized(image, size, part, resize)
            pixels = np.asarray(image)
            return np.ascontiguousarray(pixels[:, ::-1]) if view.flip else pixels
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from None


def _resized(image: Image.Image, size: tuple[int, int], part: Box, resize: Resize):
    if resize == "antialias":
        return image.resize(size, Image.Resampling.BILINEAR, box=part)
    left, top, right, bottom = (round(edge) for edge in part)
    return cv2.resize(np.asarray(image)[top:bottom, left:right], size)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow cuts grey values above 255 off, which turns a 16-bit photograph white.
    if image.mode.startswith("I;16"):
        grey = np.round(np.asarray(image, np.float32) / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known white; save 8 or 16 bits")
    return image.convert("RGB")
