"""What an index knows of the photographs of its folder and of its own files, in one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.files import content_digest
from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import file_label
from blcf_utils.ground.paths import absolute, cache_dir
from blcf_utils.ground.settings import digest_of

VERSION = 4
FILE = "manifest.json"
# What the manifest says of the settings, once more, for the case that the manifest is lost.
SETTINGS = "settings.json"
_MEND = "run blcf index on the folder, which makes it again"
_ANEW = "index the folder with --anew, and with --profile where it was not mini"


def home_of(folder: Path | str) -> Path:
    """Return where the index of a folder lies, made or not.

    Raises:
        StudyError: there is no such folder.
    """
    folder = absolute(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; name the folder that holds the photographs")
    folder = folder.resolve()
    return cache_dir() / "collections" / f"{file_label(folder.name)}-{digest_of(str(folder))[:8]}"


class DamagedFile(StudyError):
    """A file of an index that is not as it was written."""


@dataclass
class Manifest:
    """The state of an index. What is computed belongs to a content, not to the name of a file.

    Attributes:
        folder: the photographs.
        profile: the settings they are indexed with.
        weightings: what can be searched with beside no weighting.
        files: relative path to [bytes, times of change of content and of status in ns, inode,
            digest of the content]; only files that could be read.
        contents: digest to [shard, place in it], or to why the content does not decode.
        searched: relative path to digest, of what can be searched, in the order of the paths.
        parts: path of each further file of the index, relative to it, to [bytes, digest].
        learned: photographs and mean distance to their words when the words were new.
    """

    folder: str
    profile: Profile
    weightings: list[str]
    files: dict[str, list] = field(default_factory=dict)
    contents: dict[str, list | str] = field(default_factory=dict)
    searched: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list] = field(default_factory=dict)
    learned: list[float] = field(default_factory=list)

    @classmethod
    def read(cls, home: Path) -> Manifest | None:
        """Read the manifest of an index; None where there is none.

        Raises:
            DamagedFile: it is not as it was written, or is gone while its settings are here.
            StudyError: another version of the study wrote it.
        """
        found = _read(home / FILE)
        if found is None and (home / SETTINGS).exists():
            _read(home / SETTINGS)  # of another version, perhaps
            raise _damaged(home / FILE)
        return found

    @classmethod
    def read_settings(cls, home: Path) -> Manifest:
        """Return the manifest of an index of which only the settings are known.

        Raises:
            StudyError: they are not here as they were written, or by another version of the study.
        """
        try:
            found = _read(home / SETTINGS)
        except DamagedFile:
            found = None
        if found is None:
            raise StudyError(f"{home / SETTINGS}: is not as it was written, like {FILE}; {_ANEW}")
        return found

    def save(self, home: Path) -> None:
        """Write the manifest, atomically."""
        _write(home / FILE, {**vars(self), "profile": self.profile.document()})

    def save_settings(self, home: Path) -> None:
        """Write the settings, atomically."""
        settings = {"folder": self.folder, "weightings": self.weightings}
        _write(home / SETTINGS, {**settings, "profile": self.profile.document()})

    def decoded(self) -> dict[str, str]:
        """Return path to digest of the files whose content is encoded, sorted by path."""
        return {
            name: digest
            for name, (*_, digest) in sorted(self.files.items())
            if isinstance(self.contents.get(digest), list)
        }

    def enter(self, home: Path, folder: str) -> None:
        """Note size and digest of the files below a folder of the index, but for those noted."""
        for path in (home / folder).rglob("[!.]*"):
            name = path.relative_to(home).as_posix()
            if path.is_file() and name not in self.parts:
                self.parts[name] = [path.stat().st_size, content_digest(path)]

    def forget(self, home: Path, stale: Iterable[Path]) -> None:
        """Delete files and folders of the index that nothing needs; the manifest goes first."""
        names = [path.relative_to(home).as_posix() for path in stale]
        inside = tuple(f"{name}/" for name in names)
        self.parts = {
            name: part
            for name, part in self.parts.items()
            if name not in names and not name.startswith(inside)
        }
        self.save(home)
        for name in names:
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def damaged(self, home: Path) -> dict[str, str]:
        """Return which parts are not as they were written: path to what is wrong."""
        wrong = {name: _wrong(home / name, *part) for name, part in self.parts.items()}
        return {name: said for name, said in wrong.items() if said}

    def check(self, home: Path) -> None:
        """Check the words and what searches read.

        Raises:
            DamagedFile: a file is not as it was written.
        """
        for name, part in self.parts.items():
            said = "" if name.startswith("shards/") else _wrong(home / name, *part)
            if said:
                raise DamagedFile(f"{home / name}: {said}; {_MEND}")


def _wrong(path: Path, size: int, digest: str) -> str:
    """Return what is wrong with a file; "" where it is as it was written."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size:,} bytes instead of {size:,}"
    return "" if content_digest(path) == digest else "has other content than was written"


def _write(path: Path, record: dict) -> None:
    # Without indentation, which takes ten times as long and is written after every shard.
    text = json.dumps(record)
    whole = f'{{"version": {VERSION}, "digest": "{digest_of(text)}", "record": {text}}}'
    write_text(path, whole)


def _read(path: Path) -> Manifest | None:
    """Return what :func:`_write` was given, as a manifest; None where there is no file."""
    if not path.exists():
        return None
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        version = whole.get("version", 1)
    except (ValueError, AttributeError):
        raise _damaged(path) from None
    other = StudyError(f"{path.parent}: indexed by another version of the study; {_ANEW}")
    if version != VERSION:
        raise other
    record = whole.get("record")
    if whole.get("digest") != digest_of(json.dumps(record)):
        raise _damaged(path)
    try:
        return Manifest(**record | {"profile": Profile.model_validate(record["profile"])})
    except (ValidationError, TypeError, KeyError):  # of settings that this version does not know
        raise other from None


def _damaged(path: Path) -> DamagedFile:
    return DamagedFile(f"{path}: is not as it was written; {_MEND}")
