"""Threads: cores by affinity, quota and load, and waiting without spinning."""

import math
import os
import subprocess
import sys

import pytest

from blcf_utils.ground import cores


def _group(folder, limit: str):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(limit)


def test_the_tightest_quota_of_a_group_and_those_around_it_holds(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/outer/inner\n")
    assert cores.cgroup_quota(own, root) == math.inf
    _group(root, "max 100000")
    _group(root / "outer", "150000 100000")
    _group(root / "outer" / "inner", "400000 100000")
    assert cores.cgroup_quota(own, root) == 1.5
    assert cores.cgroup_quota(tmp_path / "nowhere", root) == math.inf


def test_a_quota_of_version_1_is_read_where_the_container_shows_it(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("9:name=systemd:/\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n0::/\n")
    (root / "cpu").mkdir(parents=True)
    (root / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.cgroup_quota(own, root) == 2
    (root / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores.cgroup_quota(own, root) == math.inf


@pytest.mark.parametrize(("quota", "usable"), [(math.inf, 4), (2.9, 2), (0.5, 1), (8.0, 4)])
def test_usable_cores_are_whole_and_within_affinity_and_quota(monkeypatch, quota, usable):
    monkeypatch.setattr(cores, "_own_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "cgroup_quota", lambda: quota)
    assert cores.usable_cores() == usable
    environment = {}
    cores.settle_threads(environment)
    assert environment.get("OMP_NUM_THREADS") == (str(usable) if usable < 4 else None)


@pytest.mark.parametrize(
    ("busy", "free"), [((0, 0), 2), ((100, 0), 1), ((100, 100), 1), ((20, 10), 2)]
)
def test_free_cores_are_those_that_others_leave_idle(monkeypatch, tmp_path, busy, free):
    monkeypatch.setattr(cores, "_own_cores", lambda: {0, 2})
    monkeypatch.setattr(cores, "cgroup_quota", lambda: math.inf)
    told = tmp_path / "stat"

    def tell(ticks):
        # Core 1 is not for this process: that it is idle makes no core free.
        lines = ["cpu  9 9 9 9 9 9 9 9 0 0", "cpu1 0 0 0 9999 0 0 0 0 0 0"]
        for core, used in zip((0, 2), ticks, strict=True):
            lines.append(f"cpu{core} {50 + used} 0 0 {100 - used} 0 0 0 0 0 0")
        told.write_text("\n".join([*lines, "intr 1"]))

    # In the time of 100 ticks a core was busy for so many.
    told.write_text("cpu0 50 0 0 0 0 0 0 0 0 0\ncpu2 50 0 0 0 0 0 0 0 0 0\n")
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: tell(busy))
    assert cores.free_cores(told=told) == free


def test_threads_wait_passively_before_any_library_reads_it():
    program = (
        "import os, blcf_utils; import sys; assert 'torch' not in sys.modules;"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {k: v for k, v in os.environ.items() if k not in cores.PASSIVE}
    for given, said in ({}, "passive 0"), ({"OMP_WAIT_POLICY": "active"}, "active 0"):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | given,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip() == said
