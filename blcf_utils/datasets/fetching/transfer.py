"""A transfer over HTTP or FTP that continues where the last one broke off."""

from __future__ import annotations

import errno
import ftplib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

ATTEMPTS = 4  # transfers in a row that bring no new byte before an address is given up
BACKOFF_SECONDS = 1.0  # doubled after each of them
TIMEOUT_SECONDS = 30.0
CHUNK = 2**16  # bytes; what a broken connection may lose
# Without "identity" some servers announce a .tgz as a compressed .tar and clients unpack it.
HEADERS = {
    "User-Agent": "blcf-study (research; instance search benchmarks)",
    "Accept-Encoding": "identity",
}


class AddressError(Exception):
    """This address cannot give the file: the next one may."""


class _BrokenOffError(Exception):
    """The transfer stopped early or the server is busy: trying again may help."""


class ResumingDownloader:
    """A downloader for pooch that continues transfers that broke off.

    Bytes arrive in ``part``; ``<part>.json`` beside it remembers size and version of the server's
    file. A later call, also in another process, asks for the rest (``Range`` with ``If-Range``,
    or FTP ``REST``). Where the server cannot continue or its file has changed, the transfer
    begins again. It is tried again, with growing pauses, as long as new bytes arrive.

    Args:
        part: where unfinished bytes are kept.
        sizes: smallest and largest size in bytes that the file may have; None for any.
        variable: the environment variable that moves the folder, for messages.
    """

    def __init__(self, part: Path, sizes: tuple[int, int] | None, variable: str):
        self.part, self.sizes, self.variable = part, sizes, variable
        self._memory = part.with_name(f"{part.name}.json")
        try:
            known = json.loads(self._memory.read_text(encoding="utf-8"))
            self.whole, self.version = known["bytes"], known["validator"]
        except (OSError, ValueError, KeyError):
            self._forget()

    def __call__(self, url: str, output_file, pooch=None) -> None:
        """Download ``url`` to the path ``output_file``; the signature is pooch's.

        Raises:
            AddressError: the address is dead, refuses, sends something else or keeps breaking.
            StudyError: the disk is full.
        """
        most, failures = self._held(), 0
        with progress(label=f"downloading {self.part.stem}", unit="B") as bar:
            while not self.whole or self._held() != self.whole:
                try:
                    self._transfer(url, bar)
                    break
                except _BrokenOffError as error:
                    failures = 0 if self._held() > most else failures + 1
                    most = max(most, self._held())
                    if failures >= ATTEMPTS:
                        kept = f", {self._held():,} bytes are kept" if self._held() else ""
                        raise AddressError(f"{error}{kept}") from None
                    time.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
        self._check_size(self._held())
        os.replace(self.part, output_file)
        self._forget()

    def _held(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        self.whole = self.version = None
        self.part.unlink(missing_ok=True)
        self._memory.unlink(missing_ok=True)

    def _check_size(self, size: int) -> None:
        if wrong := misfit(size, self.sizes):
            self._forget()
            raise AddressError(wrong)

    def _transfer(self, url: str, bar) -> None:
        start = self._held() if self.whole else 0
        try:
            (self._ftp if url.startswith("ftp:") else self._http)(url, start, bar)
        except requests.RequestException as error:
            temporary = isinstance(error, requests.ConnectionError | requests.Timeout)
            kind = _BrokenOffError if temporary else AddressError
            raise kind(f"no connection ({_short(error)})") from None
        except ftplib.error_perm as error:
            raise AddressError(f"FTP {error}") from None
        except (urllib3.exceptions.HTTPError, ftplib.Error, EOFError):
            raise _BrokenOffError("the transfer broke off") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full() from None
            raise _BrokenOffError(f"no connection ({_short(error)})") from None

    def _http(self, url: str, start: int, bar) -> None:
        headers = dict(HEADERS)
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.version:
                headers["If-Range"] = self.version
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as reply:
            rest = f"bytes {start}-{(self.whole or 0) - 1}/{self.whole}"
            if reply.status_code in (206, 416) and reply.headers.get("Content-Range") != rest:
                self._forget()
                raise _BrokenOffError("the server holds another version of the file than before")
            _check_reply(reply)
            if reply.status_code == 200:
                length = reply.headers.get("Content-Length", "")
                version = reply.headers.get("ETag") or reply.headers.get("Last-Modified")
                self._begin(int(length) if length.isdigit() else None, version)
            self._receive(reply.raw.stream(CHUNK, decode_content=False), bar)

    def _ftp(self, url: str, start: int, bar) -> None:
        parts = urlsplit(url)
        with ftplib.FTP(timeout=TIMEOUT_SECONDS) as ftp:
            ftp.connect(parts.hostname, parts.port or ftplib.FTP_PORT)
            ftp.login()
            ftp.voidcmd("TYPE I")
            whole = ftp.size(unquote(parts.path))
            if not start or whole != self.whole:
                self._begin(whole, None)
            command = f"RETR {unquote(parts.path)}"
            with ftp.transfercmd(command, rest=self._held() or None) as stream:
                self._receive(iter(lambda: stream.recv(CHUNK), b""), bar)
            ftp.voidresp()

    def _begin(self, whole: int | None, version: str | None) -> None:
        """Begin at the first byte, and remember what the server says about its file."""
        self._forget()
        if whole is not None:
            self._check_size(whole)
        self.whole, self.version = whole, version
        known = {"bytes": whole, "validator": version}
        self._memory.write_text(json.dumps(known), encoding="utf-8")

    def _receive(self, blocks: Iterable[bytes], bar) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if self.whole and self.whole - self._held() > free:
            raise self._full()
        bar.total = self.whole
        bar.update(self._held() - bar.n)
        # Unbuffered, so that a full disk cannot swallow bytes that were counted as written.
        with self.part.open("ab", buffering=0) as out:
            for block in blocks:
                view = memoryview(block)
                while view:
                    view = view[out.write(view) :]
                bar.update(len(block))
        if self.whole and self._held() < self.whole:
            raise EOFError

    def _full(self) -> StudyError:
        folder, held = self.part.parent, self._held()
        come = f", {self.whole - held:,} to come" if self.whole else ""
        free = shutil.disk_usage(folder).free
        return StudyError(
            f"{self.part.stem}: the disk of {folder} is full ({free:,} bytes free{come}); free "
            f"some space there or set {self.variable} to another disk and run again, the {held:,} "
            "bytes already downloaded are kept"
        )


def misfit(size: int, sizes: tuple[int, int] | None) -> str:
    """Say how a size in bytes differs from the expected smallest and largest, or say nothing."""
    if sizes is None or sizes[0] <= size <= sizes[1]:
        return ""
    expected = " to ".join(f"{number:,}" for number in dict.fromkeys(sizes))
    return f"has {size:,} bytes, expected {expected}"


def _check_reply(reply: requests.Response) -> None:
    code, status = reply.status_code, f"HTTP {reply.status_code} {reply.reason}"
    if code in (408, 425, 429) or code >= 500:
        raise _BrokenOffError(status)
    if code in (401, 403):
        raise AddressError(f"{status}, it asks for a permission that its authors give")
    if code not in (200, 206):
        raise AddressError(status)
    if reply.headers.get("Content-Type", "").startswith("text/html"):
        raise AddressError("sends a web page instead of the file")


def _short(error: BaseException) -> str:
    cause = re.search(r"\[Errno [^\]]*\] ([^'\")]+)", str(error))
    return cause.group(1) if cause else str(error)[:120]
