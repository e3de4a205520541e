"""Reading photographs: decode, orient, resize so that the longest side has a given length."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from blcf_utils.config.profile import Alpha, Resize
from blcf_utils.datasets.base import Box
from blcf_utils.datasets.formats import open_image
from blcf_utils.datasets.views import AS_IT_IS, View
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable

EXIF_ORIENTATION = 0x0112
# What shows an image upright, by its EXIF orientation; those from 5 on swap width and height.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(StudyError):
    """An image file that is missing, empty, cut short or of an unknown format.

    Attributes:
        reason: why, in a few words, for those who have their own advice.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason or message


def _unreadable(path: Path, error: Exception) -> UnreadableImage:
    reason = printable(str(error)) or repr(error)
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
    elif isinstance(error, OSError) and error.strerror:  # without the path once more
        reason = error.strerror
    elif isinstance(error, UnidentifiedImageError):  # whose text is the path
        reason = "not of a known image format"
    return UnreadableImage(
        f"{path}: expected an image that decodes ({reason}); replace the file, or set "
        "features.on_corrupt: skip to leave such images out",
        reason,
    )


@contextmanager
def _decoding(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever a decoder raises in the block is this file's error.

    Raises:
        UnreadableImage: instead of an error of any type.
    """
    try:
        # A pipe would be waited for, and a device may have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("no regular file")
        with open_image(path) as image:
            yield image
    except Exception as error:  # decoders have errors of many types
        raise _unreadable(path, error) from None


def orientation_of(image: Image.Image) -> int:
    """Return how an opened image has to be turned, as EXIF counts (1 to 8); 1 is not at all.

    A tag that cannot be read turns nothing, as in a viewer. Pillow turns a TIFF by itself, and
    the reader of JPEG XL what is no JPEG within; their sizes are those of the turned images.
    """
    if image.format == "TIFF" or (image.format == "JXL" and not image.jpeg):
        return 1
    try:
        found = image.getexif().get(EXIF_ORIENTATION)
        return found if found in _UPRIGHT else 1
    except Exception:  # of any type, as EXIF may hold anything
        return 1


def image_size(path: Path, *, exif_orientation: bool = False) -> tuple[int, int]:
    """Return (width, height) in pixels from the file's header, without decoding it.

    Raises:
        UnreadableImage: no such file, or not an image.
    """
    with _decoding(path) as image:
        turned = exif_orientation and orientation_of(image) >= 5
        return image.size[::-1] if turned else image.size


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
    alpha: Alpha = "white",
) -> np.ndarray:
    """Decode an image to RGB, uint8, (H, W, 3), resized to ``size`` = (width, height) if given.

    A ``view`` other than the image as it is shows its centre, or its mirror image, at the same
    size. Resizing is bilinear: ``antialias`` weighs all pixels below a new one, ``plain`` reads the
    four around its centre, whatever lies between (OpenCV's INTER_LINEAR, with which the original
    pipelines reduce images); its centre of a view begins and ends with whole pixels.

    Where an image is transparent, ``alpha`` shows it on ``white``, as a viewer does, or leaves
    (``drop``) the colours that lie below, which no viewer shows.

    Raises:
        UnreadableImage: no such file, or it does not decode to the end.
    """
    with _decoding(path) as opened:
        opened.load()
        upright = _UPRIGHT.get(orientation_of(opened)) if exif_orientation else None
        image = _to_rgb(opened, alpha)
        # Pixels only: to rewrite the EXIF as well fails on tags of odd types.
        image = image if upright is None else image.transpose(upright)
    size = size or image.size
    if image.size != size or view.zoom != 1:
        image = _resized(image, size, view.part(image.size), resize)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[:, ::-1]) if view.flip else pixels


def _resized(image: Image.Image, size: tuple[int, int], part: Box, resize: Resize):
    if resize == "antialias":
        return image.resize(size, Image.Resampling.BILINEAR, box=part)
    left, top, right, bottom = (round(edge) for edge in part)
    return cv2.resize(np.asarray(image)[top:bottom, left:right], size)


def _to_rgb(image: Image.Image, alpha: Alpha) -> Image.Image:
    # Pillow cuts grey values above 255 off, which turns a 16-bit photograph white.
    if image.mode.startswith("I;16"):
        grey = np.round(np.asarray(image, np.float32) / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known white; save 8 or 16 bits")
    if alpha == "white" and image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return image.convert("RGB")
