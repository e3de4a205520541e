"""Archives from other people's servers: refused when unsafe, unpacked completely or not at all."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from blcf_utils.datasets.fetching import archives
from blcf_utils.datasets.fetching.archives import is_damaged, unpack
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
    unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == PHOTOS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", name]


def test_flatten_joins_archives_and_refuses_a_name_used_twice(tmp_path):
    first = make_tar(tmp_path / "1.tgz", [special("x", tarfile.DIRTYPE), ("x/eiffel/a.jpg", b"a")])
    second = make_zip(tmp_path / "2.zip", {"paris/": b"", "paris/louvre/b.jpg": b"b"})
    unpack([first, second], tmp_path / "jpg", flatten=True)
    assert contents(tmp_path / "jpg") == {"a.jpg": b"a", "b.jpg": b"b"}
    twice = make_tar(tmp_path / "3.tgz", {"x/a.jpg": b"1", "y/a.jpg": b"2"})
    with pytest.raises(StudyError, match=r"'y/a.jpg' has the name of an earlier one"):
        unpack([twice], tmp_path / "other", flatten=True)
    assert not (tmp_path / "other").exists()


def test_what_is_missing_is_noticed_and_made_again(tmp_path):
    path, out = make_tar(tmp_path / "x.tgz", PHOTOS), tmp_path / "out"
    assert not is_damaged(out)
    unpack([path], out)
    assert not is_damaged(out)
    (out / "paris/eiffel/a.jpg").unlink()
    assert is_damaged(out)
    unpack([path], out)
    assert contents(out) == PHOTOS


def test_folder_from_elsewhere_is_never_touched(tmp_path):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(StudyError, match="move it away and run again"):
        unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.jpg": b"mine"}


UNSAFE = ["../evil.txt", "a/../../evil.txt", "/evil.txt", r"\\server\evil.txt", r"a\..\..\evil.txt"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("flatten", [False, True])
def test_names_that_escape_are_refused(tmp_path, name, make, flatten):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    suffix = "tgz" if make is make_tar else "zip"
    path = make(home / f"x.{suffix}", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(StudyError, match="leads out of its folder") as caught:
        unpack([path], home / "out", flatten=flatten)
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name]
    assert [p.name for p in home.iterdir()] == [path.name]
    assert not Path("/evil.txt").exists()


UNSAFE_MEMBERS = {
    "link": [special("l", tarfile.SYMTYPE, "/etc/passwd")],
    "hard link": [("a", b"1"), special("l", tarfile.LNKTYPE, "a")],
    "device": [special("d", tarfile.CHRTYPE)],
    "pipe": [special("d", tarfile.FIFOTYPE)],
    "file and folder of one name": [("a", b"1"), ("a/b", b"2")],
    "file below a file": [("a", b"1"), ("a/b/c", b"2")],
    "folder and file of one name": [("a/b", b"1"), ("a", b"2")],
}


@pytest.mark.parametrize("case", UNSAFE_MEMBERS)
def test_unsafe_tar_members_are_refused(tmp_path, case):
    path = make_tar(tmp_path / "x.tgz", UNSAFE_MEMBERS[case])
    with pytest.raises(StudyError, match="not unpacked") as caught:
        unpack([path], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]


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
    unpack([path], tmp_path / "small enough")
    monkeypatch.setattr(archives, "EXPANSION_FLOOR", 0)
    with pytest.raises(StudyError, match="unpacks to far more than expected"):
        unpack([path], tmp_path / "out")
    many = make(tmp_path / f"many{path.suffix}", {f"{i}": b"" for i in range(20)})
    monkeypatch.setattr(archives, "MAX_FILES", 19)
    with pytest.raises(StudyError, match="unpacks to far more than expected"):
        unpack([many], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
def test_truncated_archives_are_named_and_leave_nothing(tmp_path, mode):
    members = {f"{i}.bin": os.urandom(20_000) for i in range(20)}
    path = tmp_path / ("x.zip" if mode == "zip" else "x.tar")
    make_zip(path, members) if mode == "zip" else make_tar(path, members, mode)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(StudyError, match=r"x\.\w+: not a complete tar or zip archive"):
        unpack([path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["x.tgz", "x.zip"])
def test_a_web_page_is_no_archive(tmp_path, name):
    (tmp_path / name).write_text("<html>moved</html>")
    with pytest.raises(StudyError, match="not a complete tar or zip archive"):
        unpack([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2"])
def test_damaged_compression_is_said(tmp_path, mode):
    path = make_tar(tmp_path / "x.tar", {"a.bin": os.urandom(2_000_000)}, mode)
    content = bytearray(path.read_bytes())
    content[1_000_000:1_000_100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(StudyError, match="not a complete tar or zip archive"):
        unpack([path], tmp_path / "out")


def test_interrupted_unpacking_leaves_nothing_half_done(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "x.tgz", PHOTOS)

    def interrupted(content, out, length):
        out.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack([path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]
    leftover = tmp_path / ".out.unpacking"  # what a killed process leaves
    leftover.mkdir()
    (leftover / "stale.jpg").write_bytes(b"stale")
    unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == PHOTOS


def test_full_disk_is_said_in_one_sentence(tmp_path, monkeypatch):
    def full(content, out, length):
        out.write(bytes(300))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    path = make_tar(tmp_path / "x.tgz", PHOTOS)
    with pytest.raises(StudyError, match=r"the disk is full after 300 unpacked bytes of x\.tgz"):
        unpack([path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgz"]
