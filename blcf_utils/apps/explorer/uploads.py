"""Photographs that someone uploads: each is checked before anything else reads it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from blcf_utils.datasets.formats import EXPECTED, open_image, usual_ending
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable

MAX_BYTES = 25 * 2**20
MAX_PIXELS = 60_000_000


def accept(folder: Path, name: str, content: bytes) -> Path:
    """Check a photograph and keep it; nothing of its own name becomes part of a path.

    Args:
        folder: where photographs of this session are kept.
        name: what its sender calls it, for messages.
        content: of the file.

    Raises:
        StudyError: empty, too many bytes or pixels, another format than its first bytes must
            say, or it does not decode to the end.
    """
    check_size(name, len(content))
    try:
        with open_image(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _unfit(
                    name,
                    f"expected at most {MAX_PIXELS / 1e6:.0f} million pixels, found "
                    f"{width}x{height}; send a smaller version",
                )
            image.load()
            suffix = usual_ending(image.format)
    except UnidentifiedImageError:
        raise _unfit(
            name,
            f"expected a photograph ({EXPECTED}), found another kind of file; save it as one of "
            "them",
        ) from None
    except Image.DecompressionBombError:
        raise _unfit(name, "has too many pixels; send a smaller version") from None
    except StudyError:
        raise
    except Exception as error:  # decoders have errors of many types
        reason = f"does not decode to the end ({printable(str(error))}); save or send it again"
        raise _unfit(name, reason) from None
    path = folder / f"{len(list(folder.iterdir())) + 1:04d}{suffix}"
    path.write_bytes(content)
    return path


def check_size(name: str, size: int) -> None:
    """Check how many bytes a photograph has.

    Raises:
        StudyError: none, or too many.
    """
    if not 0 < size <= MAX_BYTES:
        found = "an empty file" if size <= 0 else f"{size / 2**20:.2f} MiB"
        limit = f"at most {MAX_BYTES / 2**20:.0f} MiB"
        raise _unfit(name, f"expected a photograph of {limit}, found {found}; send another file")


def _unfit(name: str, reason: str) -> StudyError:
    """Return an error that shows a sender's file name: what is printable of it, not too long."""
    printable = "".join(c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable())
    return StudyError(f"{printable[:60] or 'upload'}: {reason}")
