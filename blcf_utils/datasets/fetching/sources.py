"""Where the benchmarks come from: addresses, terms and layout of each, read from sources.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import datasets_dir, project_root
from blcf_utils.ground.settings import Config

PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"
Source = TypeVar("Source", bound=Config)


class FileSource(Config):
    """One file somebody hosts.

    Attributes:
        name: the local file name.
        urls: addresses, tried in order (http, https, ftp).
        bytes: the published size; a file of another size is refused.
        about_bytes: a size somebody reported; shown, never enforced.
        checksum: the published one, where there is one, as ``sha256:...`` or ``md5:...``; of a
            SHA-256 its first eight digits or more.
    """

    name: str = Field(pattern=PLAIN_NAME)
    urls: tuple[str, ...] = ()
    bytes: int | None = Field(None, ge=0)
    about_bytes: int | None = Field(None, ge=0)
    checksum: str = Field("", pattern=r"^(sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32})?$")

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Smallest and largest size in bytes that the file may have, or None."""
        return None if self.bytes is None else (self.bytes, self.bytes)


class Unpacking(Config):
    """Archives that fill one folder of a dataset.

    Attributes:
        archives: names among the dataset's files.
        into: the folder, below the dataset's.
        gives: glob pattern of what comes out; where it matches already nothing is fetched.
        flatten: drop the folders inside the archives.
    """

    archives: tuple[str, ...] = Field(min_length=1)
    into: str = Field(pattern=PLAIN_NAME)
    gives: str
    flatten: bool = False


class DatasetSource(Config):
    """How a dataset comes to this machine.

    Attributes:
        title: its full name.
        kind: ``download``, or ``manual`` where only its authors hand it out.
        page: its home page.
        terms: what its authors allow, in short.
        citation: the paper to cite.
        files: what is downloaded; files that no rule unpacks go into the dataset's folder. An
            entry with ``parts: N`` stands for N files: ``{part:02d}`` in its name and addresses
            runs from 1 to N.
        unpack: which archives fill which folders.
        uses: other datasets that it needs.
        folder: name of its folder, when not its own name.
        also: further registry names that it serves.
        expects: glob patterns of what its folder holds when it is complete, beyond ``gives`` and
            the files that are not unpacked.
        layout: the same for people.
        instructions: what to do when ``kind`` is manual.
        after: what is left to do by hand after the download.
        note: what sets this copy apart from the one that papers used.
    """

    title: str
    kind: Literal["download", "manual"] = "download"
    page: str
    terms: str
    citation: str
    files: tuple[FileSource, ...] = ()
    unpack: tuple[Unpacking, ...] = ()
    uses: tuple[str, ...] = ()
    folder: str = ""
    also: tuple[str, ...] = ()
    expects: tuple[str, ...] = ()
    layout: str
    instructions: str = ""
    after: str = ""
    note: str = ""

    @field_validator("files", mode="before")
    @classmethod
    def _each_part(cls, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        written = []
        for file in files:
            for part in range(1, file.get("parts", 1) + 1):
                one = {key: value for key, value in file.items() if key != "parts"}
                if "parts" in file:
                    one["name"] = file["name"].format(part=part)
                    one["urls"] = [url.format(part=part) for url in file["urls"]]
                written.append(one)
        return written

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSource:
        names = [file.name for file in self.files]
        packed = [name for rule in self.unpack for name in rule.archives]
        if len(set(names)) != len(names) or not set(packed) <= set(names):
            raise ValueError("files need different names and unpack may only name these files")
        if self.kind == "manual" and not (self.instructions and self.expects):
            raise ValueError("a manual dataset needs instructions and what it expects")
        if self.kind == "download" and not all(file.urls for file in self.files):
            raise ValueError("every file needs an address")
        return self

    @property
    def plain_files(self) -> tuple[FileSource, ...]:
        """The files that are not unpacked."""
        packed = {name for rule in self.unpack for name in rule.archives}
        return tuple(file for file in self.files if file.name not in packed)

    def missing(self, folder: Path) -> list[str]:
        """Return what a complete folder has and ``folder`` has not, as glob patterns."""
        plain = () if self.after else [file.name for file in self.plain_files]
        patterns = (*self.expects, *(rule.gives for rule in self.unpack), *plain)
        return [pattern for pattern in patterns if not exists_below(folder, pattern)]


def exists_below(folder: Path, pattern: str) -> bool:
    """Return whether something below ``folder`` matches, not looking at hidden folders."""
    matches = (path.relative_to(folder).parts for path in folder.glob(pattern))
    return any(not any(part.startswith(".") for part in parts) for parts in matches)


def read_sources(path: Path, kind: type[Source]) -> dict[str, Source]:
    """Read a YAML file of the project that maps names to sources, in the file's order.

    Raises:
        StudyError: the file is missing or an entry is not valid.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, kind]).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "expected names and their sources"
        why = f"{key}: {first['msg']}"
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        why = f"not valid YAML ({' '.join(str(error).split())})"
    except OSError as error:
        why = error.strerror
    raise StudyError(f"{path}: {why}; mend it or restore it from the repository")


def dataset_sources(path: Path | None = None) -> dict[str, DatasetSource]:
    """Read ``data/sources.yaml``: dataset name to source.

    Raises:
        StudyError: the file is missing or an entry is not valid.
    """
    return read_sources(path or project_root() / "data" / "sources.yaml", DatasetSource)


def describe_sources(root: Path | None = None) -> list[dict[str, str]]:
    """Return one row per dataset for ``blcf data list``.

    Rows have dataset, title, how (download or ask its authors), size, state and terms.

    Args:
        root: the folder of all datasets, default BLCF_DATA.
    """
    root = datasets_dir() if root is None else root
    sources = dataset_sources()
    lacks = {n: source.missing(root / (source.folder or n)) for n, source in sources.items()}
    rows = []
    for name, source in sources.items():
        missing = [*lacks[name], *(needed for needed in source.uses if lacks[needed])]
        files = len(source.files)
        how = f"download, {files} file{'s' * (files != 1)}" if files else "with the ones it needs"
        size = sum(file.bytes or file.about_bytes or 0 for file in source.files)
        known = f"about {size / 1e9:.2g} GB" if size else "not known"
        rows.append(
            {
                "dataset": name,
                "title": source.title,
                "how": how if source.kind == "download" else "ask its authors",
                "size": known if files else "",
                "state": f"missing {', '.join(missing)}" if missing else "here",
                "terms": source.terms,
            }
        )
    return rows
