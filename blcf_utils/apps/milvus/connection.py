"""Connecting to Milvus: one client for a cluster's address and for a file of Milvus Lite."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from blcf_utils.ground.errors import StudyError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

CONNECT_SECONDS = 10.0
# A cluster under load answers slowly; without a limit the client would try for ever.
CALL_SECONDS = 120.0
RESUME = "what was sent is kept, run again to go on"
INSTALL = "install the extra: pip install 'blcf-study[milvus]'"


def connect(uri: str, token: str = "") -> MilvusClient:
    """Return a client of a Milvus server, or of Milvus Lite where ``uri`` is a file.

    Args:
        uri: ``http://host:19530`` (or https, tcp), or the path of a ``.db`` file.
        token: ``user:password`` or an API key, where the server asks for one.

    Raises:
        StudyError: pymilvus is not installed, an address of no known kind, nobody answers there.
    """
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise StudyError(f"milvus: the package pymilvus is not installed; {INSTALL}") from None
    is_file = not urlsplit(uri).scheme
    if is_file:
        uri = str(Path(uri).expanduser())
        _check_file(uri)
    elif urlsplit(uri).scheme not in ("http", "https", "tcp", "unix"):
        raise StudyError(
            f"milvus: expected an address such as http://host:19530, or the path of a .db file, "
            f"found {uri}"
        )
    with _quiet():
        try:
            # Of its own: a shared one stays broken after its server has been restarted.
            return MilvusClient(uri, token=token, timeout=CONNECT_SECONDS, dedicated=True)
        except MilvusException as error:
            if is_file:
                said = (
                    f"milvus: {uri} cannot be opened as a database of Milvus Lite; close the "
                    "process that has it open, or name another file"
                )
            else:
                said = (
                    f"milvus: no answer from {uri} ({_short(error)}); check that the server runs "
                    "there, and the token if it asks for one"
                )
            raise StudyError(said) from None


@contextlib.contextmanager
def saying(uri: str, doing: str, mend: str = RESUME) -> Iterator[None]:
    """Turn what the client raises into one sentence that says what was being done."""
    from pymilvus.exceptions import MilvusException

    with _quiet():
        try:
            yield
        except MilvusException as error:
            raise StudyError(
                f"milvus: {uri} failed while {doing} ({_short(error)}); {mend}"
            ) from None


def _check_file(uri: str) -> None:
    path = Path(uri)
    if path.suffix != ".db":
        raise StudyError(
            f"milvus: expected an address such as http://host:19530, or the path of a .db file, "
            f"found {uri}"
        )
    if not path.absolute().parent.is_dir():
        raise StudyError(
            f"milvus: {path}: the folder {path.absolute().parent} does not exist; make it or name "
            "another file"
        )
    try:
        import milvus_lite  # noqa: F401
    except ImportError:
        raise StudyError(
            f"milvus: {uri} needs the package milvus-lite, which is not installed; {INSTALL}"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client from logging a traceback of every error that is said in one sentence."""
    loggers = [logging.getLogger(name) for name in ("pymilvus", "pymilvus.decorators")]
    loggers += [logging.getLogger("milvus_lite"), logging.getLogger("milvus_lite.server_manager")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    found = re.search(r"message=(.*?)\)?>?$", text)
    return (found.group(1) if found else text)[:160]
