"""Fetching files that other people host: resumed, verified, from several mirrors, never half.

pooch does the bookkeeping of one file (checksum, temporary name, final name); what it lacks, a
transfer that continues where the last one broke, is ``ResumingDownloader``.
"""

from __future__ import annotations

import contextlib
import errno
import ftplib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pooch
import requests
import urllib3
from tqdm import tqdm

from blcf_utils.datasets.fetching.archives import placed_by_hand, unpack, unpacked
from blcf_utils.datasets.fetching.sources import (
    DatasetSource,
    FileSource,
    Unpacking,
    dataset_sources,
    found,
)
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import datasets_dir
from blcf_utils.ground.progress import progress as progress_bar

ATTEMPTS = 4  # transfers in a row that bring no new byte before a mirror is given up
BACKOFF_SECONDS = 1.0  # doubled after each of them
TIMEOUT_SECONDS = 30.0
CHUNK = 2**16  # what a broken connection may lose
RECORD = "checksums.json"
MEND = "delete it, or put the right file there, and run again"
USER_AGENT = "blcf-study (research; instance search benchmarks)"

pooch.get_logger().setLevel("WARNING")


class _BrokenTransferError(Exception):
    """The transfer stopped early or the server is busy: trying again may help."""


class _MirrorError(Exception):
    """This address cannot give the file: the next one may."""


class ResumingDownloader:
    """A downloader for pooch that continues broken HTTP and FTP transfers.

    Bytes arrive in ``part``; beside it ``<part>.json`` remembers what the server said about the
    file. A later call, also in another process, asks for the rest (``Range`` with ``If-Range``,
    or FTP ``REST``). A server that ignores the range, or whose file has changed, is read from
    the start. Transfers that break are tried again with growing pauses as long as they bring new
    bytes.

    Args:
        part: where unfinished bytes are kept.
        expected_bytes: the published size, checked before and after the transfer.
        plausible: smallest and largest believable size where none is published, checked too.
        progress: show a progress bar.
        variable: the environment variable that moves the folder, for messages.
    """

    def __init__(
        self,
        part: Path,
        *,
        expected_bytes: int | None = None,
        plausible: tuple[int, int] | None = None,
        progress: bool = True,
        variable: str = "BLCF_DATA",
    ):
        self.part = part
        self.expected_bytes = expected_bytes
        self.plausible = plausible
        self.progress = progress
        self.variable = variable
        self._memory = part.with_name(part.name + ".json")

    def __call__(self, url: str, output_file, pooch=None, check_only: bool = False):
        """Download ``url`` to the path ``output_file``; the signature is pooch's.

        Raises:
            StudyError: the disk is full.
            _MirrorError: the address is dead, refuses, sends something else or keeps breaking.
        """
        best, failures = self._held(), 0
        with contextlib.ExitStack() as stack:
            bar = self._bar(stack)
            while True:
                try:
                    self._transfer(url, bar)
                    break
                except _BrokenTransferError as error:
                    held = self._held()
                    failures = 0 if held > best else failures + 1
                    best = max(best, held)
                    if failures >= ATTEMPTS:
                        kept = f", {held:,} bytes kept" if held else ""
                        raise _MirrorError(f"{error}{kept}") from None
                    time.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
        size = self._held()
        if misfit := _misfit(size, self.expected_bytes, self.plausible):
            self.discard()
            raise _MirrorError(f"has {size:,} bytes, expected {misfit}")
        os.replace(self.part, output_file)
        self.discard()

    def discard(self) -> None:
        """Forget what was downloaded so far."""
        self.part.unlink(missing_ok=True)
        self._memory.unlink(missing_ok=True)

    def _bar(self, stack: contextlib.ExitStack) -> tqdm:
        if not self.progress:
            return tqdm(disable=True)
        label = f"downloading {self.part.name.split('.part-')[0]}"
        return stack.enter_context(progress_bar(label=label, unit="B"))

    def _held(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _remembered(self) -> dict:
        try:
            memory = json.loads(self._memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return memory if isinstance(memory, dict) else {}

    def _transfer(self, url: str, bar: tqdm) -> None:
        read = self._read_ftp if urlsplit(url).scheme == "ftp" else self._read_http
        try:
            read(url, bar)
        except requests.exceptions.SSLError as error:
            raise _MirrorError(f"no safe connection ({_short(error)})") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise _MirrorError(f"not a usable address ({_short(error)})") from None
        except requests.RequestException as error:
            raise _BrokenTransferError(f"no connection ({_short(error)})") from None
        except urllib3.exceptions.HTTPError:
            raise self._broke_off(self._remembered().get("bytes")) from None
        except ftplib.error_perm as error:
            raise _MirrorError(f"FTP {_short(error)}") from None
        except (ftplib.Error, EOFError) as error:
            raise _BrokenTransferError(f"FTP {_short(error)}") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._disk_full() from None
            raise _BrokenTransferError(f"no connection ({_short(error)})") from None

    def _read_http(self, url: str, bar: tqdm) -> None:
        offset, memory = self._held(), self._remembered()
        if offset and offset == memory.get("bytes"):
            return
        # Without "identity" some servers announce a .tgz as a compressed .tar and clients unpack.
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if memory.get("validator"):
                headers["If-Range"] = memory["validator"]
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as reply:
            if reply.status_code == 416:
                self.discard()
                raise _BrokenTransferError("the server refused to continue the file")
            self._check_status(reply, url)
            whole = _size(reply.headers.get("Content-Length"))
            if reply.status_code == 206:
                start, whole = _content_range(reply.headers.get("Content-Range", ""))
                if start != offset or whole != memory.get("bytes"):
                    self.discard()
                    raise _BrokenTransferError("the server continued another version of the file")
            else:
                offset = 0
            self._begin(offset, whole, _validator(reply.headers))
            blocks = reply.raw.stream(CHUNK, decode_content=False)
            self._write(blocks, offset, whole, bar)

    @staticmethod
    def _check_status(reply: requests.Response, url: str) -> None:
        status = f"HTTP {reply.status_code} {reply.reason or ''}".rstrip()
        if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
            raise _BrokenTransferError(status)
        if reply.status_code in (401, 403):
            raise _MirrorError(f"{status}, it asks for a permission that its authors give")
        if reply.status_code not in (200, 206):
            raise _MirrorError(status)
        page = reply.headers.get("Content-Type", "").startswith("text/html")
        if page and not urlsplit(url).path.endswith((".html", ".htm")):
            raise _MirrorError("sends a web page instead of the file")

    def _read_ftp(self, url: str, bar: tqdm) -> None:
        parts = urlsplit(url)
        offset, memory = self._held(), self._remembered()
        if offset and offset == memory.get("bytes"):
            return
        with ftplib.FTP(timeout=TIMEOUT_SECONDS) as ftp:
            ftp.connect(parts.hostname, parts.port or ftplib.FTP_PORT)
            ftp.login()
            path = unquote(parts.path)
            ftp.voidcmd("TYPE I")
            whole = ftp.size(path)
            if offset and whole != memory.get("bytes"):
                offset = 0
            self._begin(offset, whole, None)
            with ftp.transfercmd(f"RETR {path}", rest=offset or None) as stream:
                self._write(iter(lambda: stream.recv(CHUNK), b""), offset, whole, bar)
            ftp.voidresp()

    def _begin(self, offset: int, whole: int | None, validator: str | None) -> None:
        """Check size and free space, then remember what the server said."""
        if whole is not None and (misfit := _misfit(whole, self.expected_bytes, self.plausible)):
            self.discard()
            raise _MirrorError(f"announces {whole:,} bytes, expected {misfit}")
        wanted = whole if whole is not None else self.expected_bytes
        free = shutil.disk_usage(self.part.parent).free
        # What a restarted transfer overwrites becomes free again.
        free += self._held() - offset
        if wanted is not None and wanted - offset > free:
            raise self._disk_full(wanted - offset, free)
        memory = {"bytes": whole, "validator": validator}
        self._memory.write_text(json.dumps(memory), encoding="utf-8")

    def _write(self, blocks: Iterator[bytes], offset: int, whole: int | None, bar: tqdm) -> None:
        bar.total = whole
        bar.update(offset - bar.n)
        # Unbuffered, so that a full disk cannot swallow bytes that were counted as written.
        with self.part.open("r+b" if offset else "wb", buffering=0) as out:
            out.seek(offset)
            for block in blocks:
                view = memoryview(block)
                while view:
                    view = view[out.write(view) :]
                bar.update(len(block))
            got = out.tell()
        if whole is not None and got < whole:
            raise self._broke_off(whole)

    def _broke_off(self, whole: int | None) -> _BrokenTransferError:
        of = "" if whole is None else f" of {whole:,}"
        return _BrokenTransferError(f"the transfer broke at byte {self._held():,}{of}")

    def _disk_full(self, needed: int | None = None, free: int | None = None) -> StudyError:
        folder = self.part.parent
        free = shutil.disk_usage(folder).free if free is None else free
        if needed is None:
            whole = self._remembered().get("bytes") or self.expected_bytes
            needed = whole - self._held() if whole else None
        name = self.part.name.split(".part-")[0]
        short = (
            f"{needed - free:,} more bytes are needed in {folder} ({needed:,} to come, {free:,} "
            "free)"
            if needed is not None and needed > free
            else f"the disk of {folder} is full ({free:,} bytes free)"
        )
        return StudyError(
            f"{name}: {short}; free some space there or set {self.variable} to another disk and "
            f"run again, the {self._held():,} bytes already downloaded are kept"
        )


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    cause = re.search(r"\[Errno [^\]]*\] ([^'\")]+)", text)
    return cause.group(1) if cause else text[:120]


def _misfit(size: int, exact: int | None, plausible: tuple[int, int] | None) -> str:
    """Return in words the size that was expected, or nothing where ``size`` fits."""
    if exact is not None:
        return "" if size == exact else f"{exact:,}"
    if plausible is None or plausible[0] <= size <= plausible[1]:
        return ""
    return f"{plausible[0]:,} to {plausible[1]:,}"


def _size(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _content_range(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    return (int(match[1]), _size(match[2])) if match else (None, None)


def _validator(headers) -> str | None:
    """Return what ``If-Range`` may carry: a strong ETag, else the date of change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _write_json(path: Path, value: dict) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _recorded(folder: Path) -> dict:
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(entry) for name, entry in record.items()}
    except (ValueError, AttributeError, TypeError):
        raise StudyError(
            f"{path}: expected JSON that names files with sha256 and bytes, as this command "
            "writes it; mend or delete it"
        ) from None


def _known_hash(source: FileSource, folder: Path) -> tuple[str | None, str]:
    """Return pooch's ``algorithm:digest`` for a file, and who says so."""
    if source.sha256:
        return f"sha256:{source.sha256}", "published"
    if source.md5:
        return f"md5:{source.md5}", "published"
    recorded = _recorded(folder).get(source.name, {}).get("sha256")
    return (f"sha256:{recorded}", f"recorded in {folder / RECORD}") if recorded else (None, "")


def _remember(source: FileSource, target: Path, url: str | None) -> None:
    """Record a verified file, so that a second machine can compare (trust on first use)."""
    folder = target.parent
    record = _recorded(folder)
    first = source.name not in record
    # Whatever is published or recorded was verified before.
    verified = source.sha256 or (None if source.md5 else record.get(source.name, {}).get("sha256"))
    sha256 = verified or pooch.file_hash(str(target), alg="sha256")
    entry = {"sha256": sha256, "bytes": target.stat().st_size}
    entry["from"] = url or record.get(source.name, {}).get("from", "put there by hand")
    if record.get(source.name) != entry:
        _write_json(folder / RECORD, {**record, source.name: entry})
    if first and not (source.sha256 or source.md5):
        print(
            f"NOTE: no checksum is published for {source.name}; recorded sha256 {sha256} in "
            f"{folder / RECORD}, copy that file to compare on another machine"
        )


def _settle(source: FileSource, target: Path, url: str | None) -> Path:
    _remember(source, target, url)
    for part in target.parent.glob(f"{target.name}.part-*"):
        part.unlink()
    return target


def check_size(source: FileSource, path: Path, plausible: tuple[int, int] | None = None) -> None:
    """Refuse a file in place whose size is not the published one, or not a believable one.

    Raises:
        StudyError: it has another size.
    """
    size = path.stat().st_size
    if misfit := _misfit(size, source.bytes, plausible):
        raise StudyError(f"{path}: has {size:,} bytes, expected {misfit}; {MEND}")


def _check_present(source: FileSource, target: Path, plausible: tuple[int, int] | None) -> None:
    check_size(source, target, plausible)
    expected, origin = _known_hash(source, target.parent)
    if expected:
        algorithm, digest = expected.split(":")
        found = pooch.file_hash(str(target), alg=algorithm)
        if found != digest:
            raise StudyError(
                f"{target}: has {algorithm} {found}, expected {digest} ({origin}); {MEND}"
            )


def _try_mirror(source: FileSource, url: str, target: Path, **transfer) -> None:
    part = target.with_name(f"{target.name}.part-{hashlib.sha256(url.encode()).hexdigest()[:8]}")
    expected, origin = _known_hash(source, target.parent)
    downloader = ResumingDownloader(part, expected_bytes=source.bytes, **transfer)
    try:
        pooch.retrieve(
            url, known_hash=expected, fname=target.name, path=target.parent, downloader=downloader
        )
    except ValueError as error:  # pooch's word for a wrong checksum; the file is deleted
        found = re.search(r"but got (?:\w+:)?(\w+)", str(error))
        algorithm, digest = (expected or "checksum:").split(":")
        raise _MirrorError(
            f"has {algorithm} {found[1] if found else 'unknown'}, expected {digest} ({origin}), "
            "the wrong file was deleted"
        ) from None


def fetch_file(
    source: FileSource,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    progress: bool = True,
    plausible: tuple[int, int] | None = None,
    variable: str = "BLCF_DATA",
) -> Path:
    """Return a verified local copy of one file, downloading what is missing of it.

    A file that lies in ``folder`` already, also one put there by hand, is verified and used.
    Where neither checksum nor earlier record exists the file is taken as it comes, and its
    sha256 is said and recorded in ``checksums.json`` beside it.

    Args:
        source: name, addresses, and size and checksum where they are published.
        folder: where the file goes.
        mirrors: base addresses tried before the source's own.
        progress: show a progress bar.
        plausible: smallest and largest believable size, for files of which none is published.
        variable: the environment variable that moves ``folder``, for messages.

    Returns:
        ``folder / source.name``.

    Raises:
        StudyError: every address failed (each with its reason), a wrong file in place, or a full
            disk.
    """
    target = Path(folder) / source.name
    try:
        return _fetch(
            source, target, mirrors, progress=progress, plausible=plausible, variable=variable
        )
    except OSError as error:
        raise StudyError(
            f"{target}: cannot be written ({error.strerror or error}); expected a folder of yours "
            f"with free space, so mend it or set {variable} to another one"
        ) from None


def _fetch(source: FileSource, target: Path, mirrors: Sequence[str], **transfer) -> Path:
    if target.is_file():
        _check_present(source, target, transfer["plausible"])
        return _settle(source, target, None)
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in [*(f"{mirror.rstrip('/')}/{source.name}" for mirror in mirrors), *source.urls]:
        try:
            _try_mirror(source, url, target, **transfer)
        except _MirrorError as error:
            reasons.append(f"{url}: {error}")
            continue
        return _settle(source, target, url)
    about = f", see {source.page}" if source.page else ""
    raise StudyError(
        f"{source.name} could not be downloaded ({'; '.join(reasons) or 'no address is known'}); "
        f"run again to continue, name a mirror, or put the file at {target} by hand and run "
        f"again{about}"
    )


def _damaged(into: Path) -> bool:
    return into.is_dir() and not placed_by_hand(into) and not unpacked(into)


def _unpack_rule(
    source: DatasetSource, rule: Unpacking, folder: Path, mirrors: Sequence[str], progress: bool
) -> None:
    into = folder / rule.into
    if found(folder, rule.gives) and not _damaged(into):
        print(f"{folder}: {rule.gives} found; taken as it is")
        return
    files = {file.name: file for file in source.files}
    archives = [
        fetch_file(files[name], folder / "downloads", mirrors=mirrors, progress=progress)
        for name in rule.archives
    ]
    unpack(
        archives,
        into,
        flatten=rule.flatten,
        files=rule.files,
        max_files=rule.max_files,
        max_bytes=rule.max_bytes,
        progress=progress,
    )


def fetch_dataset(
    name: str,
    root: Path | None = None,
    *,
    mirrors: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Download and unpack a dataset, or say how to get it; what is there already is kept.

    Args:
        name: a name in ``data/sources.yaml``.
        root: the folder of all datasets, default BLCF_DATA.
        mirrors: base addresses tried before the official ones.
        progress: show progress bars.

    Returns:
        The dataset's folder in ``root``.

    Raises:
        StudyError: unknown name, a dataset that only its authors hand out (with what to ask for
            and where to put it), or any failure of ``fetch_file`` and ``unpack``.
    """
    sources = dataset_sources()
    aliases = {alias: key for key, source in sources.items() for alias in source.also}
    if name not in sources and name not in aliases:
        raise known("dataset to fetch", name, [*sources, *aliases])
    name = aliases.get(name, name)
    source = sources[name]
    root = datasets_dir() if root is None else Path(root)
    folder = root / (source.folder or name)
    for needed in source.uses:
        fetch_dataset(needed, root, mirrors=mirrors, progress=progress)
    missing = source.missing(folder)
    damaged = [rule for rule in source.unpack if _damaged(folder / rule.into)]
    if not missing and not damaged:
        print(f"{folder}: complete; nothing to fetch")
        return folder
    if source.kind == "manual":
        raise StudyError(
            f"{name} cannot be fetched: {source.instructions}; put it so that {folder} holds "
            f"{source.layout} (missing now: {', '.join(missing)}), then run again"
        )
    for rule in source.unpack:
        _unpack_rule(source, rule, folder, mirrors, progress)
    for file in source.plain_files:
        fetch_file(file, folder, mirrors=mirrors, progress=progress)
    if source.after:
        print(f"{folder}: {source.after}")
    return folder
