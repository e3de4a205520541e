"""What an index knows of the photographs of its folder, in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from blcf_utils.config.profile import Profile
from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute, cache_dir, shortened
from blcf_utils.ground.settings import digest_of

VERSION = 3
FILE = "manifest.json"


def home_of(folder: Path | str) -> Path:
    """Return where the index of a folder lies, made or not.

    Raises:
        StudyError: there is no such folder.
    """
    folder = absolute(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; name the folder that holds the photographs")
    folder = folder.resolve()
    return cache_dir() / "collections" / f"{shortened(folder.name)}-{digest_of(str(folder))[:8]}"


@dataclass
class Manifest:
    """The state of an index. What is computed belongs to a content, not to the name of a file.

    Attributes:
        folder: the photographs.
        profile: the settings they are indexed with.
        weightings: what can be searched with beside no weighting.
        files: relative path to [bytes, time of change in ns, digest of the content].
        contents: digest to [shard, place in it], or to why the content does not decode.
        searched: relative path to digest, of what can be searched, in the order of the paths.
    """

    folder: str
    profile: Profile
    weightings: list[str]
    files: dict[str, list] = field(default_factory=dict)
    contents: dict[str, list | str] = field(default_factory=dict)
    searched: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path) -> Manifest | None:
        """Read the manifest of an index; None where there is none.

        Raises:
            StudyError: another version of the study wrote it.
        """
        path = home / FILE
        if not path.exists() and not (home / "settings.json").exists():  # of version 1
            return None
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if record.pop("version", 1) != VERSION:
            raise StudyError(
                f"{home}: indexed by another version of the study; index the folder with --anew"
            )
        return cls(**record | {"profile": Profile.model_validate(record["profile"])})

    def save(self, home: Path) -> None:
        """Write the manifest, atomically."""
        record = {"version": VERSION, **vars(self), "profile": self.profile.document()}
        # Without indentation, which takes ten times as long and is written after every shard.
        write_text(home / FILE, json.dumps(record))

    def decoded(self) -> dict[str, str]:
        """Return path to digest of the files whose content is encoded, sorted by path."""
        return {
            name: digest
            for name, (*_, digest) in sorted(self.files.items())
            if isinstance(self.contents.get(digest), list)
        }
