"""Encoded photographs on disk, up to 64 a file, so that a killed indexing loses little.

A shard is an npz file. Each column (words, weights, thumbnail ...) is one flat array of all its
photographs, beside where each photograph ends in it. A shard says itself of which contents it is
and what made each column, so that it can be used when the manifest is lost or the words are new.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from blcf_utils.ground.artefacts import atomic_path
from blcf_utils.ground.errors import StudyError

THUMBNAIL = 200  # pixels of the longest side
PER_SHARD = 64
_CONTENTS, _MADE = "contents", "made"


def thumbnail_of(pixels: np.ndarray) -> bytes:
    """Return a small JPEG of an image (H, W, 3) uint8."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def shard_path(home: Path, name: str) -> Path:
    """Return where a shard of an index lies."""
    return home / "shards" / f"{name}.npz"


def write_shard(
    path: Path, photographs: Mapping[str, Mapping[str, np.ndarray]], made: Mapping[str, str]
) -> None:
    """Write photographs, which have the same columns of any shapes, atomically.

    Args:
        path: the file.
        photographs: digest of the content to its columns.
        made: column to a digest of what determined it beside the content.
    """
    arrays = {_CONTENTS: np.array(list(photographs)), _MADE: np.array(json.dumps(made))}
    rows = list(photographs.values())
    for column in rows[0]:
        values = [np.ravel(one[column]) for one in rows]
        arrays[column] = np.concatenate(values)
        arrays[f"{column} ends"] = np.cumsum([len(value) for value in values])
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def read_column(path: Path, column: str) -> list[np.ndarray]:
    """Return the flat values of each photograph of a shard.

    Raises:
        StudyError: the file is not as it was written.
    """
    with _opened(path) as arrays:
        return np.split(arrays[column], arrays[f"{column} ends"][:-1])


def read_made(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return contents and what made the columns, as for :func:`write_shard`; read all the file.

    Raises:
        StudyError: the file is not as it was written.
    """
    with _opened(path) as arrays:
        whole = {name: arrays[name] for name in arrays.files}  # which compares checksums
        return whole[_CONTENTS].tolist(), json.loads(str(whole[_MADE]))


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with np.load(path) as arrays:
            yield arrays
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise StudyError(
            f"{path}: is not as it was written ({error!r}); run blcf index on the folder, which "
            "makes it again"
        ) from None
