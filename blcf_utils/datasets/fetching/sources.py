"""Where the benchmarks come from: addresses, terms and layout of each, read from sources.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import datasets_dir, project_root
from blcf_utils.ground.settings import Config


def found(folder: Path, pattern: str) -> bool:
    """Return whether something below ``folder`` matches, not looking at hidden folders."""
    matches = (path.relative_to(folder).parts for path in folder.glob(pattern))
    return any(not any(part.startswith(".") for part in parts) for parts in matches)


class FileSource(Config):
    """One file somebody hosts.

    Attributes:
        name: the local file name.
        urls: addresses, tried in order (http, https, ftp).
        bytes: the published size; a file of another size is refused.
        about_bytes: a size somebody reported; shown, never enforced.
        sha256: the published checksum, where there is one.
        md5: the published checksum, where there is only that.
        page: where a person reads about the file.
    """

    name: str
    urls: tuple[str, ...] = ()
    bytes: int | None = Field(None, ge=0)
    about_bytes: int | None = Field(None, ge=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    page: str = ""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
            raise ValueError("expected a plain file name")
        return name


class Unpacking(Config):
    """Archives that fill one folder of a dataset.

    Attributes:
        archives: names among the dataset's files.
        into: the folder, below the dataset's.
        gives: glob pattern of what comes out; where it matches already nothing is fetched.
        flatten: drop the folders inside the archives.
        files: how many files come out, where that is known.
        max_files, max_bytes: limits against archive bombs.
    """

    archives: tuple[str, ...] = Field(min_length=1)
    into: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    gives: str
    flatten: bool = False
    files: int | None = None
    max_files: int | None = None
    max_bytes: int | None = None


class DatasetSource(Config):
    """How a dataset comes to this machine.

    Attributes:
        title: its full name.
        kind: ``download``, or ``manual`` where only its authors hand it out.
        page: its home page.
        terms: what its authors allow, in short.
        citation: the paper to cite.
        files: what is downloaded; files that no rule unpacks go into the dataset's folder.
        unpack: which archives fill which folders.
        uses: other datasets that it needs.
        folder: name of its folder, when not its own name.
        also: further registry names that it serves.
        expects: glob patterns of what its folder holds when it is complete, beyond ``gives`` and
            the files that are not unpacked.
        layout: the same for people.
        instructions: what to do when ``kind`` is manual.
        after: what is left to do by hand after the download.
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
        return [pattern for pattern in patterns if not found(folder, pattern)]

    @property
    def size(self) -> int | None:
        """Bytes to download, as far as they are known; None when none is."""
        sizes = [file.bytes or file.about_bytes for file in self.files]
        return sum(filter(None, sizes)) if any(sizes) else None


def _expand(entry: Any) -> Any:
    """Write out files with ``parts: N``: ``{part:02d}`` runs from 1 to N in name and addresses."""
    if not isinstance(entry, dict) or not isinstance(entry.get("files"), list):
        return entry
    files = []
    for file in entry["files"]:
        file = {"page": entry.get("page", ""), **file}
        parts = file.pop("parts", None)
        if parts is None:
            files.append(file)
            continue
        for part in range(1, parts + 1):
            urls = [url.format(part=part) for url in file["urls"]]
            files.append({**file, "name": file["name"].format(part=part), "urls": urls})
    return {**entry, "files": files}


def read_entries(path: Path, what: str) -> dict:
    """Return the mapping of ``what`` to sources that a YAML file of the project holds.

    Raises:
        StudyError: the file is missing, not YAML or no mapping.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}; restore it from the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, dict):
        raise StudyError(f"{path}: expected a mapping from {what} to their sources")
    return entries


def dataset_sources(path: Path | None = None) -> dict[str, DatasetSource]:
    """Read ``data/sources.yaml``: dataset name to source, in the file's order.

    Raises:
        StudyError: the file is missing or an entry is not valid.
    """
    path = path or project_root() / "data" / "sources.yaml"
    sources = {}
    for name, entry in read_entries(path, "dataset names").items():
        try:
            sources[name] = DatasetSource.model_validate(_expand(entry))
        except (ValidationError, TypeError, KeyError, AttributeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {}
            key = ".".join(str(part) for part in (name, *first.get("loc", ())))
            raise StudyError(f"{path}: {key}: {first.get('msg', error)}; mend the entry") from None
    return sources


def describe_sources(root: Path | None = None) -> list[dict[str, str]]:
    """Return one row per dataset for ``blcf data list``.

    Args:
        root: the folder of all datasets, default BLCF_DATA.

    Returns:
        Rows with dataset, title, how (download or ask its authors), size, state and terms.
    """
    root = datasets_dir() if root is None else root
    sources = dataset_sources()
    lacks = {n: source.missing(root / (source.folder or n)) for n, source in sources.items()}
    rows = []
    for name, source in sources.items():
        missing = [*lacks[name], *(needed for needed in source.uses if lacks[needed])]
        files = len(source.files)
        how = f"download, {files} file{'s' * (files != 1)}" if files else "with the ones it needs"
        size = f"about {source.size / 1e9:.2g} GB" if source.size else "not known"
        rows.append(
            {
                "dataset": name,
                "title": source.title,
                "how": how if source.kind == "download" else "ask its authors",
                "size": size if files else "",
                "state": f"missing {', '.join(missing)}" if missing else "here",
                "terms": source.terms,
            }
        )
    return rows
