"""Archives from other people's servers: refused when unsafe, unpacked completely or not at all."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from blcf_utils.datasets.fetching import archives
from blcf_utils.datasets.fetching.archives import unpack, unpacked
from blcf_utils.ground.errors import StudyError

PHOTOS = {"paris/eiffel/a.jpg": b"A" * 500, "paris/louvre/b.jpg": b"B" * 700, "read.me": b""}


def make_tar(path: Path, members: dict | list, mode: str = "w:gz") -> Path:
    """Write a tar of name -> bytes, or of ready-made TarInfo objects."""
    with tarfile.open(path, mode) as tar:
        for item in members.items() if isinstance(members, dict) else members:
            if isinstance(item, tarfile.TarInfo):
                tar.addfile(item)
                continue
            info = tarfile.TarInfo(item[0])
            info.size = len(item[1])
            tar.addfile(info, io.BytesIO(item[1]))
    return path


def make_zip(path: Path, members: dict) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != archives.MARKER
    }


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.zip"])
def test_unpacks_every_kind(tmp_path, name):
    mode = {"tar": "w", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.split(".")[-1])
    path = tmp_path / name
    path = make_tar(path, PHOTOS, mode) if mode else make_zip(path, PHOTOS)
    done = unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == PHOTOS
    assert (done.files, done.bytes, done.skipped) == (3, 1200, False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", name]


def test_flatten_joins_archives_and_refuses_a_name_used_twice(tmp_path):
    first = make_tar(tmp_path / "1.tgz", {"paris/eiffel/a.jpg": b"a"})
    second = make_zip(tmp_path / "2.zip", {"paris/louvre/b.jpg": b"b"})
    unpack([first, second], tmp_path / "jpg", flatten=True, files=2)
    assert contents(tmp_path / "jpg") == {"a.jpg": b"a", "b.jpg": b"b"}
    twice = make_tar(tmp_path / "3.tgz", {"x/a.jpg": b"1", "y/a.jpg": b"2"})
    with pytest.raises(StudyError, match=r"'y/a.jpg' exists twice"):
        unpack([twice], tmp_path / "other", flatten=True)
    assert not (tmp_path / "other").exists()


def test_complete_is_skipped_and_incomplete_is_made_again(tmp_path, capsys):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)
    out = tmp_path / "out"
    unpack([path], out)
    inode = (out / "read.me").stat().st_ino
    assert unpack([path], out).skipped
    assert "already unpacked, 3 files; skipped" in capsys.readouterr().out
    assert (out / "read.me").stat().st_ino == inode
    (out / "paris/eiffel/a.jpg").unlink()
    assert unpacked(out) is None
    assert not unpack([path], out).skipped
    assert contents(out) == PHOTOS


def test_folder_from_elsewhere_is_never_touched(tmp_path):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(StudyError, match="move it away and run again"):
        unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.jpg": b"mine"}


UNSAFE_NAMES = {
    "../evil.txt": "climbs out",
    "a/../../evil.txt": "climbs out",
    "/evil.txt": "absolute path",
    "C:/evil.txt": "absolute path",
    "\\\\server\\evil.txt": "absolute path",
    "a\\..\\..\\evil.txt": "climbs out",
}


@pytest.mark.parametrize("name", UNSAFE_NAMES)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_names_that_escape_are_refused(tmp_path, name, make):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    suffix = "tgz" if make is make_tar else "zip"
    path = make(home / f"x.{suffix}", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(StudyError, match=UNSAFE_NAMES[name]) as caught:
        unpack([path], home / "out")
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name]
    assert [p.name for p in home.iterdir()] == [path.name]
    assert not Path("/evil.txt").exists()


UNSAFE_MEMBERS = {
    "absolute link": [special("l", tarfile.SYMTYPE, "/etc/passwd")],
    "climbing link": [special("a/l", tarfile.SYMTYPE, "../../out")],
    "absolute hard link": [special("l", tarfile.LNKTYPE, "/etc/passwd")],
    "climbing hard link": [special("l", tarfile.LNKTYPE, "../x.tgz")],
    "hard link to a link": [
        special("l", tarfile.SYMTYPE, "missing"),
        special("h", tarfile.LNKTYPE, "l"),
    ],
    "written through a link": [special("l", tarfile.SYMTYPE, "d"), ("l/evil.txt", b"evil")],
    "written onto a link": [special("l", tarfile.SYMTYPE, "d"), ("l", b"evil")],
    "device": [special("d", tarfile.CHRTYPE)],
    "block device": [special("d", tarfile.BLKTYPE)],
    "pipe": [special("d", tarfile.FIFOTYPE)],
    "file and folder of one name": [("a", b"1"), ("a/b", b"2")],
}


@pytest.mark.parametrize("case", UNSAFE_MEMBERS)
def test_unsafe_tar_members_are_refused(tmp_path, case):
    path = make_tar(tmp_path / "x.tgz", UNSAFE_MEMBERS[case])
    with pytest.raises(StudyError, match="not unpacked") as caught:
        unpack([path], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]


def test_links_that_stay_inside_are_kept(tmp_path):
    members = [
        ("d/a.txt", b"a"),
        special("d/hard.txt", tarfile.LNKTYPE, "d/a.txt"),
        special("d/soft.txt", tarfile.SYMTYPE, "a.txt"),
    ]
    out = unpack([make_tar(tmp_path / "x.tgz", members)], tmp_path / "out").folder
    assert (out / "d/hard.txt").read_bytes() == (out / "d/soft.txt").read_bytes() == b"a"
    assert unpacked(out).files == 3


def test_zip_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(StudyError, match="is a link or a device"):
        unpack([tmp_path / "x.zip"], tmp_path / "out")


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_bombs_are_refused(tmp_path, make, monkeypatch):
    path = tmp_path / ("x.tgz" if make is make_tar else "x.zip")
    make(path, {"zeros": bytes(3_000_000)})
    assert path.stat().st_size < 10_000
    with pytest.raises(StudyError, match="unpacks to more than 1,000,000 bytes"):
        unpack([path], tmp_path / "out", max_bytes=1_000_000)
    monkeypatch.setattr(archives, "EXPANSION_FLOOR", 0)
    with pytest.raises(StudyError, match="unpacks to more than"):
        unpack([path], tmp_path / "out")
    many = make(tmp_path / f"many{path.suffix}", {f"{i}": b"" for i in range(20)})
    with pytest.raises(StudyError, match="more than 19 files"):
        unpack([many], tmp_path / "out", max_files=19)
    assert unpack([many], tmp_path / "out", max_files=20).files == 20


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_truncated_archives_are_named_and_leave_nothing(tmp_path, mode):
    path = make_tar(tmp_path / "x.tar", {f"{i}.bin": os.urandom(20_000) for i in range(20)}, mode)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(StudyError, match=r"x\.tar: not a complete tar or zip archive"):
        unpack([path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


def test_a_web_page_is_no_archive(tmp_path):
    for name in ("x.tgz", "x.zip"):
        (tmp_path / name).write_text("<html>moved</html>")
        with pytest.raises(StudyError, match="not a complete tar or zip archive"):
            unpack([tmp_path / name], tmp_path / "out")
    with pytest.raises(StudyError, match="no such archive"):
        unpack([tmp_path / "none.tgz"], tmp_path / "out")


def test_wrong_number_of_files_leaves_nothing(tmp_path):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)
    with pytest.raises(StudyError, match="unpacked to 3 files, expected 5,063"):
        unpack([path], tmp_path / "out", files=5063)
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]


def test_interrupted_unpacking_leaves_nothing_half_done(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)
    whole = archives._Writer._copy

    def interrupted(self, archive, source, target):
        if self.files == 2:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        whole(self, archive, source, target)

    monkeypatch.setattr(archives._Writer, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack([path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]
    monkeypatch.undo()
    leftover = tmp_path / ".out.unpacking"  # what a killed process leaves
    leftover.mkdir()
    (leftover / "stale.jpg").write_bytes(b"stale")
    unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == PHOTOS


def test_full_disk_said_in_one_sentence(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)

    def full(self, archive, source, target):
        self.bytes += 300
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives._Writer, "_copy", full)
    with pytest.raises(StudyError, match=r"the disk is full after 300 unpacked bytes of x\.tgz"):
        unpack([path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A real 1 MiB file system; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs; the simulated full disk is tested")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_really_full_disk(tmp_path, tiny_disk):
    path = make_tar(tmp_path / "x.tgz", {f"{i}.bin": os.urandom(100_000) for i in range(20)})
    with pytest.raises(StudyError, match="the disk is full after"):
        unpack([path], tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == []
