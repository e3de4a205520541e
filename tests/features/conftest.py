"""A website of this machine, for tests of downloads."""

from __future__ import annotations

import pytest
from website import served

from blcf_utils.datasets.fetching import transfer


@pytest.fixture
def site(monkeypatch):
    """Serve files on 127.0.0.1; a transfer that fails is tried again at once."""
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.001)
    # A proxy of this machine must not see requests to it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served() as site:
        yield site
