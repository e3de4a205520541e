"""Unpacking archives from other people's servers: nothing escapes the folder, all or nothing."""

from __future__ import annotations

import errno
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress as progress_bar

MARKER = ".unpacked.json"
MAX_FILES = 1_000_000
# Photographs do not compress and ground-truth text shrinks about tenfold; bombs start at 1,000.
MAX_EXPANSION = 50
EXPANSION_FLOOR = 64 * 2**20
CHUNK = 2**20


@dataclass(frozen=True)
class Unpacked:
    """What lies in a folder after unpacking.

    Attributes:
        folder: the folder.
        files: how many files it holds.
        bytes: their total size.
        skipped: True when it was complete already and nothing was written.
    """

    folder: Path
    files: int
    bytes: int
    skipped: bool


@dataclass(frozen=True)
class _Member:
    """One entry of an archive: a file, folder, link or hard link (with its target)."""

    name: str
    kind: str
    info: tarfile.TarInfo | zipfile.ZipInfo
    link: str = ""


def _count(folder: Path) -> tuple[int, int]:
    files = total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            if name != MARKER or Path(here) != folder:
                files += 1
                total += (Path(here) / name).lstat().st_size
    return files, total


def _marker(folder: Path) -> dict | None:
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def unpacked(folder: Path) -> Unpacked | None:
    """Return what ``unpack`` left in ``folder``, or None where it is absent or incomplete.

    Complete means that as many files and bytes lie there as the marker ``.unpacked.json``
    recorded when the folder got its name.
    """
    marker = _marker(folder)
    if not isinstance(marker, dict):
        return None
    files, total = _count(folder)
    if (files, total) != (marker.get("files"), marker.get("bytes")):
        return None
    return Unpacked(folder, files, total, skipped=True)


def placed_by_hand(folder: Path) -> bool:
    """Return whether ``folder`` holds something that ``unpack`` did not put there."""
    return folder.is_dir() and not (folder / MARKER).exists() and any(folder.iterdir())


def _refuse(archive: Path, name: str, why: str) -> StudyError:
    return StudyError(
        f"{archive}: member {name!r} {why}, so the archive was not unpacked; expected plain files "
        "below one folder, so fetch it again from its official address or unpack it by hand"
    )


def _safe_name(archive: Path, name: str) -> PurePosixPath | None:
    """Return a member's relative path, or None for the archive's own root."""
    if "\0" in name or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        raise _refuse(archive, name, "has an absolute path")
    if ".." in re.split(r"[/\\]", name):
        raise _refuse(archive, name, "climbs out of its folder with '..'")
    if "\\" in name:
        raise _refuse(archive, name, "has a backslash in its name")
    path = PurePosixPath(name)
    return None if path == PurePosixPath(".") else path


def _safe_link(archive: Path, name: str, target: str) -> str:
    # Targets that only descend cannot leave the folder however links are chained; a '..' can,
    # once it is resolved behind another link.
    if not target or PurePosixPath(target).is_absolute() or re.match(r"[A-Za-z]:|\\", target):
        raise _refuse(archive, name, f"is a link to the absolute path {target!r}")
    if ".." in re.split(r"[/\\]", target):
        raise _refuse(archive, name, f"is a link that climbs with '..' to {target!r}")
    return target


def _tar_members(archive: Path, tar: tarfile.TarFile, into: Path) -> Iterator[_Member]:
    for info in tar:
        if info.isdir():
            kind = "folder"
        elif info.isreg():
            kind = "file"
        elif info.issym() or info.islnk():
            kind = "link" if info.issym() else "hard link"
        else:
            raise _refuse(archive, info.name, "is a device or pipe")
        _safe_name(archive, info.name)
        if kind in ("link", "hard link"):
            _safe_link(archive, info.name, info.linkname)
        try:
            tarfile.data_filter(info, str(into))
        except tarfile.FilterError as error:
            raise _refuse(archive, info.name, f"is unsafe ({error})") from None
        yield _Member(info.name, kind, info, info.linkname)


def _zip_members(archive: Path, file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        # zipfile replaces the separators of the machine it runs on; the stored name is judged.
        _safe_name(archive, info.orig_filename)
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refuse(archive, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refuse(archive, info.filename, "is encrypted")
        yield _Member(info.filename, "folder" if info.is_dir() else "file", info)


class _Writer:
    """Writes members of one or more archives into a folder that nobody else sees yet."""

    def __init__(self, folder: Path, flatten: bool, max_files: int, max_bytes: int):
        self.folder, self.flatten = folder, flatten
        self.max_files, self.max_bytes = max_files, max_bytes
        self.files = self.bytes = 0
        self.links: set[PurePosixPath] = set()

    def add(self, archive: Path, member: _Member, source: IO[bytes] | None) -> None:
        path = _safe_name(archive, member.name)
        if path is None or (self.flatten and member.kind == "folder"):
            return
        if self.links.intersection([path, *path.parents]):
            raise _refuse(archive, member.name, "would be written through a link")
        self.files += member.kind != "folder"
        if self.files > self.max_files:
            raise StudyError(
                f"{archive}: holds more than {self.max_files:,} files, which is more than expected "
                "of it, so it was not unpacked; check where it comes from or unpack it by hand"
            )
        target = self.folder / (path.name if self.flatten else path)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            return
        if self.flatten and (target.exists() or member.kind != "file"):
            why = "exists twice" if member.kind == "file" else "is a link"
            raise _refuse(archive, member.name, f"{why} and all files go into one folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if member.kind == "link":
            target.symlink_to(member.link)
            self.links.add(path)
        elif member.kind == "hard link":
            linked = PurePosixPath(member.link)
            original = self.folder / linked
            if self.links.intersection([linked, *linked.parents]) or not original.is_file():
                raise _refuse(archive, member.name, f"is a link to {member.link!r}, not a file")
            os.link(original, target)
        else:
            self._copy(archive, source, target)

    def _copy(self, archive: Path, source: IO[bytes], target: Path) -> None:
        with target.open("xb") as out:
            while block := source.read(CHUNK):
                self.bytes += len(block)
                if self.bytes > self.max_bytes:
                    raise StudyError(
                        f"{archive}: unpacks to more than {self.max_bytes:,} bytes, which is more "
                        "than expected of it, so it was not unpacked; check where it comes from "
                        "or unpack it by hand"
                    )
                out.write(block)


def _unpack_one(archive: Path, writer: _Writer, bar) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            for member in _zip_members(archive, file):
                if member.kind == "file":
                    with file.open(member.info) as source:
                        writer.add(archive, member, source)
                else:
                    writer.add(archive, member, None)
                bar.update(member.kind == "file")
        return
    with tarfile.open(archive, "r:*") as tar:
        for member in _tar_members(archive, tar, writer.folder):
            source = tar.extractfile(member.info) if member.kind == "file" else None
            writer.add(archive, member, source)
            bar.update(member.kind == "file")


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def unpack(
    archives: Sequence[Path],
    folder: Path,
    *,
    flatten: bool = False,
    files: int | None = None,
    max_files: int | None = None,
    max_bytes: int | None = None,
    progress: bool = True,
) -> Unpacked:
    """Unpack tar (plain, gz, bz2, xz) and zip archives into one folder, all or nothing.

    Everything is written to a hidden sibling folder that gets its final name when all archives
    are complete. Owners, permissions and special bits are not restored. A folder that an earlier
    call completed is left alone; one that it left incomplete is made again; a folder that came
    from elsewhere is never touched.

    Args:
        archives: paths; later archives add to the same folder.
        folder: where the content goes.
        flatten: drop the folders inside the archives; a file name that occurs twice is refused.
        files: how many files there must be in the end, where that is known.
        max_files: limit against archive bombs, default one million.
        max_bytes: limit on the unpacked size, default 50 times the archives' size.
        progress: show a progress bar.

    Returns:
        The folder with counts; ``skipped`` is True when it was complete before.

    Raises:
        StudyError: a missing, broken or unsafe archive, a limit passed, too few or too many
            files, a full disk, or a folder in the way.
    """
    done = unpacked(folder)
    if done:
        print(f"{folder}: already unpacked, {done.files:,} files; skipped")
        return done
    if placed_by_hand(folder):
        raise StudyError(
            f"{folder}: exists and was not unpacked here; expected no such folder or one from an "
            f"earlier run, so move it away and run again"
        )
    for archive in archives:
        if not archive.is_file():
            raise StudyError(f"{archive}: no such archive; fetch it or put it there by hand")
    packed = sum(archive.stat().st_size for archive in archives)
    names = " + ".join(archive.name for archive in archives)
    building = folder.with_name(f".{folder.name}.unpacking")
    _clear(building)
    building.mkdir(parents=True)
    writer = _Writer(
        building,
        flatten,
        MAX_FILES if max_files is None else max_files,
        max(packed * MAX_EXPANSION, EXPANSION_FLOOR) if max_bytes is None else max_bytes,
    )
    archive = archives[0]
    bar = progress_bar(label=f"unpacking {names}", unit="file") if progress else tqdm(disable=True)
    try:
        with bar:
            for archive in archives:
                _unpack_one(archive, writer, bar)
        found, total = _count(building)
        if files is not None and found != files:
            raise StudyError(
                f"{names}: unpacked to {found:,} files, expected {files:,}; delete the archive and "
                "fetch it again"
            )
        record = {"archives": [a.name for a in archives], "files": found, "bytes": total}
        (building / MARKER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _clear(folder)
        building.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StudyError(
                f"{folder}: the disk is full after {writer.bytes:,} unpacked bytes of {names} "
                f"({packed:,} bytes packed); free some space there or set BLCF_DATA to another "
                "disk, then run again"
            ) from None
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise StudyError(
                f"{archive}: holds a file and a folder of the same name, so it was not unpacked; "
                "delete it and fetch it again"
            ) from None
        if error.errno is None:  # gzip's own errors are OSErrors without a number
            raise _broken(archive, error) from None
        raise
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _broken(archive, error) from None
    finally:
        _clear(building)
    print(f"{folder}: unpacked {found:,} files from {names}")
    return Unpacked(folder, found, total, skipped=False)


def _broken(archive: Path, error: Exception) -> StudyError:
    what = str(error) or type(error).__name__
    return StudyError(
        f"{archive}: not a complete tar or zip archive ({what}); delete it and fetch it again"
    )
