"""Unpacking archives from other people's servers: nothing escapes the folder, all or nothing."""

from __future__ import annotations

import errno
import json
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

MARKER = ".unpacked.json"
MAX_FILES = 1_000_000
# Photographs do not compress and ground-truth text shrinks about tenfold; bombs start at 1,000.
MAX_EXPANSION = 50
EXPANSION_FLOOR = 64 * 2**20
CHUNK = 2**20
# RuntimeError: zipfile's word for an encrypted file or an unknown compression.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)


def is_damaged(folder: Path) -> bool:
    """Return whether something is missing of what ``unpack`` put into ``folder``."""
    if not (folder / MARKER).exists():
        return False
    whole = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    return _count(folder) != (whole["files"], whole["bytes"])


def unpack(archives: Sequence[Path], folder: Path, *, flatten: bool = False) -> None:
    """Unpack tar (plain, gz, bz2, xz) and zip archives into one folder, all or nothing.

    Everything is written to a hidden sibling folder that gets its final name when all archives
    are complete, in place of what an earlier call put there. Links are refused; owners,
    permissions and times are not restored.

    Args:
        archives: paths; later archives add to the same folder.
        folder: where the content goes.
        flatten: drop the folders inside the archives.

    Raises:
        StudyError: a broken or unsafe archive, more than a million files, more than 50 times the
            archives' size, two files of one name, a full disk, or a folder from elsewhere in the
            way, which is never touched.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise StudyError(
            f"{folder}: exists and was not unpacked here; expected no such folder or one from an "
            "earlier run, so move it away and run again"
        )
    names = " + ".join(archive.name for archive in archives)
    building = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _write(archives, building, flatten, f"unpacking {names}")
        files, total = _count(building)
        write_json(building / MARKER, {"files": files, "bytes": total})
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StudyError(
            f"{folder}: the disk is full after {_count(building)[1]:,} unpacked bytes of {names}; "
            "free some space there or set BLCF_DATA to another disk, then run again"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    print(f"{folder}: unpacked {files:,} files from {names}")


def _count(folder: Path) -> tuple[int, int]:
    """Return how many files lie below a folder, without the marker, and their bytes."""
    found = [p for p in folder.rglob("*") if p.is_file() and p != folder / MARKER]
    return len(found), sum(path.stat().st_size for path in found)


def _write(archives: Sequence[Path], folder: Path, flatten: bool, label: str) -> None:
    packed = sum(archive.stat().st_size for archive in archives)
    files, left = 0, max(packed * MAX_EXPANSION, EXPANSION_FLOOR)
    with progress(label=label, unit="file") as bar:
        for archive in archives:
            try:
                for name, size, content in _files(archive):
                    files, left = files + 1, left - size
                    if files > MAX_FILES or left < 0:
                        raise _refusal(archive, "unpacks to far more than expected of its size")
                    _copy(archive, name, content, folder, flatten)
                    bar.update()
            except (*_BROKEN, OSError) as error:
                if isinstance(error, OSError) and error.errno:  # the system's, not gzip's own
                    raise
                raise StudyError(
                    f"{archive}: not a complete tar or zip archive ({error!r}); delete it and "
                    "fetch it again"
                ) from None


def _files(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield stored name, unpacked bytes and content of each file; the bytes are no more."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refusal(archive, f"member {info.filename!r} is a link or a device")
                if not info.is_dir():
                    with opened.open(info) as content:
                        # zipfile changes ``filename`` for the machine that it runs on.
                        yield info.orig_filename, info.file_size, content
    else:
        with tarfile.open(archive, "r:*") as opened:
            for info in opened:
                if not (info.isreg() or info.isdir()):
                    raise _refusal(archive, f"member {info.name!r} is a link or a device")
                if info.isreg():
                    yield info.name, info.size, opened.extractfile(info)
            while opened.fileobj.read(CHUNK):  # gzip compares its checksum at the very end
                pass


def _copy(archive: Path, name: str, content: IO[bytes], folder: Path, flatten: bool) -> None:
    try:
        # tarfile's filter finds what leaves the folder, and strips the root of absolute paths.
        inside = tarfile.data_filter(tarfile.TarInfo(name), str(folder)).name == name
    except (tarfile.FilterError, ValueError):
        inside = False
    if not inside or "\\" in name:
        raise _refusal(archive, f"member {name!r} leads out of its folder")
    path = PurePosixPath(name)
    target = folder / (path.name if flatten else path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            shutil.copyfileobj(content, out, CHUNK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _refusal(archive, f"member {name!r} has the name of an earlier one") from None


def _refusal(archive: Path, why: str) -> StudyError:
    return StudyError(
        f"{archive}: {why}, so the archive was not unpacked; expected plain files below one "
        "folder, so fetch it again from its official address or unpack it by hand"
    )
