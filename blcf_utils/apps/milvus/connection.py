"""Connecting to Milvus: one client for a server's address and for a file of Milvus Lite."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from blcf_utils.ground.errors import StudyError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

CONNECT_SECONDS = 10.0
# A cluster under load answers slowly; without a limit the client would try for ever.
CALL_SECONDS = 120.0


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
    except ImportError:
        raise StudyError(
            "milvus: the package pymilvus is not installed; install the extra: "
            "pip install 'blcf-study[milvus]'"
        ) from None
    # They log a traceback of every error that is said in one sentence here.
    for name in ("pymilvus", "pymilvus.decorators", "milvus_lite", "milvus_lite.server_manager"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    mend = (
        "expected http://host:19530 of a server that runs and takes the token, or the path of a "
        ".db file that no other process has open"
    )
    with saying(uri, "connecting", mend):
        # Of its own: a shared one stays broken after its server has been restarted.
        return MilvusClient(
            os.path.expanduser(uri), token=token, timeout=CONNECT_SECONDS, dedicated=True
        )


@contextlib.contextmanager
def saying(uri: str, doing: str, mend: str) -> Iterator[None]:
    """Turn what the client raises into one sentence: what was being done, and how to mend it."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        text = " ".join(str(error).split())
        found = re.search(r"message=(.*?)\)?>?$", text)
        reason = (found.group(1) if found else text)[:160]
        raise StudyError(f"milvus: {uri} failed while {doing} ({reason}); {mend}") from None
