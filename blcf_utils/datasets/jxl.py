"""JPEG XL, with the reader of the extra ``jxl``: how many pixels a file has before it is decoded.

The reader decodes a file when it is opened, so that Pillow's limit on pixels comes too late.
"""

from __future__ import annotations

import struct

from PIL import Image
from pillow_jxl import JpegXLImagePlugin

_BARE, _BOXED = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER = 14  # bytes of a codestream, in which its size is told
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))

# Photographs are read several at once already.
JpegXLImagePlugin.DECODE_THREADS = 0


class _Reader(JpegXLImagePlugin.JXLImageFile):
    def _open(self) -> None:
        width, height = told_size(self.fp.read())
        if width * height > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):  # Pillow's own limit
            raise Image.DecompressionBombError(f"{width}x{height} pixels are too many")
        self.fp.seek(0)
        try:
            super()._open()
        except RuntimeError:  # whose text is about how its library is built
            raise ValueError("cut or broken JPEG XL") from None


Image.register_open("JXL", _Reader, lambda start: start.startswith((_BARE, _BOXED)))


def told_size(content: bytes) -> tuple[int, int]:
    """Return (width, height) that the header of a file tells (ISO/IEC 18181-1, SizeHeader).

    They are those before the picture is turned.

    Raises:
        ValueError: it is no JPEG XL.
    """
    bits = int.from_bytes(_codestream(content)[len(_BARE) : _HEADER], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    in_eights = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if in_eights else 1 + take((9, 13, 18, 30)[take(2)])

    height, ratio = side(), take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _codestream(content: bytes) -> bytes:
    """Return the first bytes of the codestream, which may lie in boxes (ISO/IEC 18181-2)."""
    found, start = content if content.startswith(_BARE) else b"", 0
    while len(found) < _HEADER and start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        inside = start + 8
        if size == 1 and inside + 8 <= len(content):
            (size,) = struct.unpack_from(">Q", content, inside)
            inside += 8
        end = start + size if size else len(content)
        if end < inside:
            break
        if kind in (b"jxlc", b"jxlp"):  # a part begins with its number
            found += content[inside + 4 * (kind == b"jxlp") : end]
        start = end
    if not found.startswith(_BARE):
        raise ValueError("no picture in it")
    return found
