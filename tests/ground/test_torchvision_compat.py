"""torchvision imports beside any torch, and what stands in for its operators is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from blcf_utils.ground.torchvision_compat import SCHEMAS

WORKS = """
import torch, torchvision
from torchvision.models.feature_extraction import create_feature_extractor
torch.manual_seed(0)
net = torchvision.models.squeezenet1_1().eval()
out = create_feature_extractor(net, ["features.2"])(torch.zeros(1, 3, 64, 64))
assert out["features.2"].shape == (1, 64, 15, 15)
"""

REPORT = """
import json
from blcf_utils.ground import torchvision_compat as compat
print(json.dumps([compat.ensure_torchvision(), compat.ensure_torchvision(), compat.REASON]))
"""


def run(code: str, *, ok: bool = True) -> str:
    """Run code in a fresh interpreter; return stdout, or stderr when it must fail."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


@pytest.fixture(scope="module")
def report() -> tuple[str, str, str]:
    return tuple(json.loads(run(REPORT + WORKS)))


def test_torchvision_works_and_the_state_is_said(report):
    first, second, reason = report
    assert first == second
    assert first in ("native", "schemas")
    assert bool(reason) == (first == "schemas")


def test_import_fails_without_and_works_afterwards(report):
    if report[0] == "native":
        pytest.skip("torchvision's native operators load here, so its import cannot fail")
    assert "torchvision::nms does not exist" in run("import torchvision", ok=False)
    failed_first = "try:\n    import torchvision\nexcept RuntimeError:\n    print('failed')\n"
    assert run(failed_first + REPORT + WORKS).startswith("failed\n")


def test_missing_operators_still_refuse_to_work(report):
    if report[0] == "native":
        pytest.skip("torchvision's native operators load here")
    call = "import torch, torchvision; torchvision.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)"
    assert "RuntimeError" in run(REPORT + call, ok=False)


def test_native_operators_win_and_are_not_declared_twice(tmp_path):
    """A torchvision whose operators load is left alone."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "_C.so").write_bytes(b"")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torch
from blcf_utils.ground import torchvision_compat as compat
loaded = []
def load(path):
    loaded.append(path)
    global kept
    kept = torch.library.Library("torchvision", "DEF")
    for schema in {list(SCHEMAS.values())!r}:
        kept.define(schema)
torch.ops.load_library = load
assert compat.ensure_torchvision() == "native"
assert compat.ensure_torchvision() == "native"
assert compat.REASON == ""
assert loaded == [{str(package / "_C.so")!r}]
assert compat._library is None
"""
    run(code)


def test_mismatched_pair_is_warned_about_on_a_cuda_build(tmp_path):
    """An unloadable library beside a CUDA torch must not pass in silence."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_C.so").write_bytes(b"not a library")
    code = f"""
import sys, logging
sys.path.insert(0, {str(tmp_path)!r})
import torch
torch.version.cuda = "12.8"
from blcf_utils.ground import torchvision_compat as compat
records = []
log = logging.getLogger("blcf_utils.ground.torchvision_compat")
log.addFilter(lambda r: records.append(r) or True)
assert compat.ensure_torchvision() == "schemas"
assert [r.levelname for r in records] == ["WARNING"], records
assert "do not load" in compat.REASON and "_C.so" in compat.REASON, compat.REASON
assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms
"""
    run(code)


def test_absent_torchvision_is_named():
    code = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torchvision" else real(name, *a)
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.torchvision_compat import ensure_torchvision
try:
    ensure_torchvision()
except StudyError as error:
    print(error)
"""
    assert run(code).startswith("torchvision is not installed: expected the version")
