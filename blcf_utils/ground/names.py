"""Names of files: bytes to the system, letters to people, who may write the same ones otherwise."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

# Control characters, line separators, and bytes that are no UTF-8 (surrogates to Python).
_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Return ``text`` in one line of valid characters; others become ``\\n``, ``\\xe9`` ..."""

    def escaped(match: re.Match) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # Python's form of a byte that is no UTF-8 (PEP 383)
            return f"\\x{code - 0xDC00:02x}"
        return match[0].encode("unicode_escape").decode()

    return _UNSHOWN.sub(escaped, text)


def composed(name: str) -> str:
    """Return a name with composed letters (NFC): equal for names that look the same."""
    return unicodedata.normalize("NFC", name)


def same_name(name: str, names: Iterable[str]) -> str | None:
    """Return what ``names`` calls ``name``: itself, or the only one that looks the same."""
    names = names if isinstance(names, set | dict) else dict.fromkeys(names)
    if name in names:
        return name
    alike = [one for one in names if composed(one) == composed(name)]
    return alike[0] if len(alike) == 1 else None


def typed_path(path: Path | str) -> Path:
    """Return the path that a person means who typed one.

    It is taken as it is where it exists. Otherwise ``~`` is the home folder, as far as there is
    one, and composed and decomposed letters (as macOS writes names) are the same.
    """
    path = Path(path)
    if not os.path.lexists(path):
        try:
            path = path.expanduser()
        except RuntimeError:  # ~name, and no user of that name
            return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if not (part.isascii() or os.path.lexists(found / part)):
            try:
                part = same_name(part, os.listdir(found)) or part
            except OSError:
                return path
        found /= part
    return found


def file_label(name: str, length: int = 100) -> str:
    """Return of ``name`` what may be part of a longer file name: printable, ``length`` bytes."""
    return printable(name).encode()[:length].decode(errors="ignore")


def as_argument(path: Path | str) -> str:
    """Return a path as a command takes it: one that begins with ``-`` is no option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
