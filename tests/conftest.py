"""Shared fixtures: the real photographs and weights, used only where a machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["BLCF_PROGRESS"] = "off"


def _folder(variable: str, what: str) -> Path:
    given = os.environ.get(variable)
    if not given or not Path(given).is_dir():
        pytest.skip(f"SKIPPED, NOT TESTED: {variable} does not name a folder with {what}")
    return Path(given)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with instre-mini, monuments-mini, dvd-mini and groundtruth (BLCF_TEST_DATA)."""
    return _folder("BLCF_TEST_DATA", "the real photographs and official ground truth")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder with real ImageNet-trained state dicts (BLCF_TEST_WEIGHTS)."""
    return _folder("BLCF_TEST_WEIGHTS", "real ImageNet weights")
