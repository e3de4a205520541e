"""Photographs that someone uploads: checked before anything else sees them, kept for a session."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from blcf_utils.ground.errors import StudyError

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
MAX_BYTES = 25 * 2**20
MAX_PIXELS = 60_000_000


class Uploads:
    """A temporary folder for the photographs of one session; it goes with the session.

    Nothing of a file's own name becomes part of a path.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS):
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self._folder = tempfile.TemporaryDirectory(prefix="blcf-uploads-")
        self._count = 0

    @property
    def folder(self) -> Path:
        """Where accepted photographs lie."""
        return Path(self._folder.name)

    def accept(self, name: str, content: bytes) -> Path:
        """Check a photograph and keep it.

        Args:
            name: what its sender calls it, for messages.
            content: of the file.

        Raises:
            StudyError: empty, too many bytes or pixels, another format than its first bytes must
                say, or it does not decode to the end.
        """
        shown = _shown(name)
        self.check_size(name, len(content))
        self._count += 1
        path = self.folder / f"{self._count:04d}.unchecked"
        path.write_bytes(content)
        try:
            return path.rename(path.with_suffix(self._checked(path, shown)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def check_size(self, name: str, size: int) -> None:
        """Check how many bytes a photograph has.

        Raises:
            StudyError: none, or too many.
        """
        if not 0 < size <= self.max_bytes:
            raise StudyError(
                f"{_shown(name)}: expected a photograph of at most "
                f"{self.max_bytes / 2**20:.0f} MiB, found {_bytes(size)}; send another file"
            )

    def _checked(self, path: Path, shown: str) -> str:
        """Return the suffix of a photograph's format."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # counted below
                with Image.open(path, formats=list(FORMATS)) as image:
                    width, height = image.size
                    if width * height > self.max_pixels:
                        raise StudyError(
                            f"{shown}: expected at most {self.max_pixels / 1e6:.0f} million "
                            f"pixels, found {width}x{height}; send a smaller version"
                        )
                    image.load()
                    return FORMATS[image.format]
        except UnidentifiedImageError:
            raise StudyError(
                f"{shown}: expected a JPEG, PNG, WebP, BMP or TIFF photograph, found another kind "
                "of file; save it as one of them"
            ) from None
        except Image.DecompressionBombError:
            raise StudyError(f"{shown}: has too many pixels; send a smaller version") from None
        except (OSError, ValueError, SyntaxError) as error:
            raise StudyError(
                f"{shown}: does not decode to the end ({error}); save or send it again"
            ) from None


def _shown(name: str) -> str:
    """Return a sender's file name fit for a message: printable, of bounded length."""
    printable = "".join(c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable())
    return printable[:60] or "upload"


def _bytes(size: int) -> str:
    return "an empty file" if size <= 0 else f"{size / 2**20:.2f} MiB"
