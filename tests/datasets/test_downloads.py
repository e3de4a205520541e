"""Downloads against servers on this machine that break, lie, vanish and refuse."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from blcf_utils.datasets import REGISTRY, load_dataset
from blcf_utils.datasets.fetching import downloads
from blcf_utils.datasets.fetching.archives import MARKER
from blcf_utils.datasets.fetching.downloads import RECORD, fetch_dataset, fetch_file
from blcf_utils.datasets.fetching.sources import FileSource, dataset_sources, describe_sources
from blcf_utils.ground.errors import StudyError

BODY = os.urandom(400_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Site:
    """What the local server does: files, and how it treats each request."""

    def __init__(self, address: str):
        self.address = address
        self.files: dict[str, bytes] = {}
        self.requests: list[dict] = []
        self.status: dict[str, int] = {}
        self.breaks: list[int] = []  # body bytes after which the coming replies are cut off
        self.ranges = True
        self.etag: Callable[[bytes], str | None] = lambda body: f'"{hash(body)}"'
        self.content_type = "application/octet-stream"
        self.encoding: str | None = None
        self.announces_length = True

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    def source(self, name: str = "x.bin", **known) -> FileSource:
        self.files.setdefault(name, BODY)
        return FileSource(name=name, urls=(self.url(name),), **known)


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Stay silent: clients that hang up are part of these tests."""


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            name = self.path.lstrip("/")
            site.requests.append({"name": name, **{k.lower(): v for k, v in self.headers.items()}})
            body = site.files.get(name)
            status = site.status.get(name, 200 if body is not None else 404)
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            etag, start, whole = site.etag(body), 0, len(body)
            wanted = self.headers.get("Range")
            unchanged = self.headers.get("If-Range") in (None, etag)
            if wanted and site.ranges and unchanged:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            else:
                self.send_response(200)
            if site.announces_length:
                self.send_header("Content-Length", str(whole - start))
            if etag:
                self.send_header("ETag", etag)
            if site.encoding:
                self.send_header("Content-Encoding", site.encoding)
            self.send_header("Content-Type", site.content_type)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            end = start + site.breaks.pop(0) if site.breaks else whole
            self.wfile.write(body[start:end])

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 5.0)
    # A proxy of this machine must not see requests to it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def recorded(folder: Path, name: str = "x.bin") -> dict:
    return json.loads((folder / RECORD).read_text())[name]


def test_good_download_is_verified_and_recorded(site, tmp_path, capsys):
    source = site.source(sha256=SHA256, bytes=len(BODY))
    path = fetch_file(source, tmp_path / "new")
    assert path == tmp_path / "new" / "x.bin"
    assert path.read_bytes() == BODY
    assert names(path.parent) == [RECORD, "x.bin"]
    assert recorded(path.parent)["sha256"] == SHA256
    assert recorded(path.parent)["from"] == site.url("x.bin")
    assert "NOTE" not in capsys.readouterr().out
    assert fetch_file(source, tmp_path / "new") == path
    assert len(site.requests) == 1


def test_md5_is_enough(site, tmp_path):
    digest = hashlib.md5(BODY).hexdigest()
    assert fetch_file(site.source(md5=digest), tmp_path).read_bytes() == BODY
    with pytest.raises(StudyError, match=f"has md5 {digest}, expected 0{{32}} "):
        fetch_file(site.source("y.bin", md5="0" * 32), tmp_path)


def test_without_checksum_says_so_and_holds_the_next_machine_to_it(site, tmp_path, capsys):
    source = site.source()
    fetch_file(source, tmp_path / "one")
    said = capsys.readouterr().out
    assert f"no checksum is published for x.bin; recorded sha256 {SHA256}" in said
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / RECORD, tmp_path / "two" / RECORD)
    fetch_file(source, tmp_path / "two")
    assert "NOTE" not in capsys.readouterr().out
    (tmp_path / "two" / "x.bin").unlink()
    site.files["x.bin"] = BODY[:-1] + b"!"
    with pytest.raises(StudyError, match=f"expected {SHA256} \\(recorded in ") as caught:
        fetch_file(source, tmp_path / "two")
    assert names(tmp_path / "two") == [RECORD]
    assert str(tmp_path / "two" / RECORD) in str(caught.value)


def test_broken_transfer_is_resumed(site, tmp_path):
    site.breaks = [150_000, 100_000]
    path = fetch_file(site.source(sha256=SHA256), tmp_path)
    assert path.read_bytes() == BODY
    first, second, third = site.requests
    assert "range" not in first
    assert second["range"] == "bytes=150000-"
    assert third["range"] == "bytes=250000-"
    assert second["if-range"] == third["if-range"] == site.etag(BODY)
    assert names(tmp_path) == [RECORD, "x.bin"]


def test_a_later_run_resumes_what_an_earlier_one_kept(site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    site.breaks = [120_000, 0]
    source = site.source()
    with pytest.raises(StudyError, match="broke at byte 120,000 of 400,000, 120,000 bytes kept"):
        fetch_file(source, tmp_path)
    assert not (tmp_path / "x.bin").exists()
    assert fetch_file(source, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["range"] == "bytes=120000-"


def test_many_breaks_are_survived_while_bytes_arrive(site, tmp_path):
    site.breaks = [30_000] * 13
    assert fetch_file(site.source(sha256=SHA256), tmp_path).read_bytes() == BODY
    assert len(site.requests) == 14 > downloads.ATTEMPTS


def test_server_without_ranges_is_read_from_the_start(site, tmp_path):
    site.ranges, site.breaks = False, [150_000]
    assert fetch_file(site.source(sha256=SHA256), tmp_path).read_bytes() == BODY
    assert site.requests[1]["range"] == "bytes=150000-"


def test_server_that_always_breaks_is_given_up(site, tmp_path):
    site.ranges, site.breaks = False, [100_000] * 50
    with pytest.raises(StudyError, match="broke at byte 100,000 of 400,000"):
        fetch_file(site.source(), tmp_path)
    assert len(site.requests) == downloads.ATTEMPTS + 1


@pytest.mark.parametrize("etag", [True, False])
def test_changed_file_is_not_glued_to_the_old_one(site, tmp_path, monkeypatch, etag):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    if not etag:
        site.etag = lambda body: None
    site.breaks = [150_000, 0]
    with pytest.raises(StudyError):
        fetch_file(site.source(), tmp_path)
    monkeypatch.setattr(downloads, "ATTEMPTS", 4)
    site.files["x.bin"] = new = os.urandom(300_000)
    assert fetch_file(site.source(), tmp_path).read_bytes() == new


def test_range_past_the_end_starts_again(site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    site.breaks = [150_000, 0]
    with pytest.raises(StudyError):
        fetch_file(site.source(), tmp_path)
    monkeypatch.setattr(downloads, "ATTEMPTS", 4)
    site.status["x.bin"] = 416
    with pytest.raises(StudyError, match="refused to continue"):
        fetch_file(site.source(), tmp_path)
    assert "range" not in site.requests[-1]
    del site.status["x.bin"]
    assert fetch_file(site.source(), tmp_path).read_bytes() == BODY


def test_wrong_checksum_leaves_no_file(site, tmp_path):
    with pytest.raises(StudyError, match=f"has sha256 {SHA256}, expected {'0' * 64}") as caught:
        fetch_file(site.source(sha256="0" * 64), tmp_path)
    assert names(tmp_path) == []
    assert site.url("x.bin") in str(caught.value)
    assert str(tmp_path / "x.bin") in str(caught.value)


@pytest.mark.parametrize("announced", [True, False])
def test_wrong_size_leaves_no_file(site, tmp_path, announced):
    site.announces_length = announced
    with pytest.raises(StudyError, match="400,000 bytes, expected 400,001"):
        fetch_file(site.source(bytes=len(BODY) + 1), tmp_path)
    assert names(tmp_path) == []


def test_compressed_archive_is_kept_as_sent(site, tmp_path):
    site.encoding = "x-gzip"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz"):
        pass
    site.files["x.tgz"] = packed.getvalue()
    assert fetch_file(site.source("x.tgz"), tmp_path).read_bytes() == packed.getvalue()
    assert site.requests[0]["accept-encoding"] == "identity"


def test_next_mirror_is_used(site, tmp_path):
    site.files = {"mirror/x.bin": BODY}
    source = FileSource(name="x.bin", urls=(site.url("gone/x.bin"), site.url("mirror/x.bin")))
    assert fetch_file(source, tmp_path).read_bytes() == BODY
    assert [r["name"] for r in site.requests] == ["gone/x.bin", "mirror/x.bin"]
    assert recorded(tmp_path)["from"] == site.url("mirror/x.bin")


def test_named_mirror_comes_first(site, tmp_path):
    site.files = {"near/x.bin": BODY}
    fetch_file(site.source(), tmp_path, mirrors=[site.url("near/")])
    assert [r["name"] for r in site.requests] == ["near/x.bin"]


def test_mirror_with_the_wrong_file_is_passed_over(site, tmp_path):
    site.files = {"bad/x.bin": BODY[::-1], "good/x.bin": BODY}
    urls = (site.url("bad/x.bin"), site.url("good/x.bin"))
    path = fetch_file(FileSource(name="x.bin", urls=urls, sha256=SHA256), tmp_path)
    assert path.read_bytes() == BODY


def test_all_mirrors_failing_are_listed_with_reasons(site, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/x.bin"
    site.files = {"locked": b"", "busy": b"", "short": BODY}
    site.status = {"locked": 401, "busy": 503}
    reasons = {
        site.url("none"): "HTTP 404 Not Found",
        site.url("locked"): "HTTP 401 Unauthorized, it asks for a permission",
        site.url("busy"): "HTTP 503 Service Unavailable",
        site.url("short"): "announces 400,000 bytes, expected 5",
        dead: "no connection (Connection refused",
        "gopher://127.0.0.1/x": "not a usable address",
    }
    source = FileSource(name="x.bin", urls=tuple(reasons), bytes=5, page="http://about.example")
    with pytest.raises(StudyError) as caught:
        fetch_file(source, tmp_path)
    message = str(caught.value)
    for url, reason in reasons.items():
        assert f"{url}: {reason}" in message
    assert f"put the file at {tmp_path / 'x.bin'} by hand and run again" in message
    assert "http://about.example" in message
    assert "\n" not in message
    tried = [r["name"] for r in site.requests]
    assert tried.count("busy") == downloads.ATTEMPTS
    assert tried.count("none") == tried.count("locked") == 1


def test_web_page_instead_of_a_file_is_refused(site, tmp_path):
    site.content_type = "text/html; charset=utf-8"
    with pytest.raises(StudyError, match="sends a web page instead of the file"):
        fetch_file(site.source(), tmp_path)
    assert names(tmp_path) == []


def test_file_put_there_by_hand_is_verified_and_used(site, tmp_path, capsys):
    (tmp_path / "x.bin").write_bytes(BODY)
    assert fetch_file(site.source(sha256=SHA256), tmp_path).read_bytes() == BODY
    assert recorded(tmp_path)["from"] == "put there by hand"
    (tmp_path / "y.bin").write_bytes(BODY)
    fetch_file(site.source("y.bin"), tmp_path)
    assert "no checksum is published for y.bin" in capsys.readouterr().out
    assert site.requests == []


def test_wrong_file_put_there_by_hand_is_named_and_kept(site, tmp_path):
    wrong = tmp_path / "x.bin"
    wrong.write_bytes(b"wrong")
    with pytest.raises(StudyError, match="has 5 bytes, expected 400,000; delete it"):
        fetch_file(site.source(bytes=len(BODY)), tmp_path)
    with pytest.raises(StudyError, match=f"has sha256 .*, expected {SHA256} \\(published\\)"):
        fetch_file(site.source(sha256=SHA256), tmp_path)
    assert wrong.read_bytes() == b"wrong"
    assert site.requests == []


def test_broken_record_is_named(site, tmp_path):
    (tmp_path / RECORD).write_text("{not json")
    with pytest.raises(StudyError, match=r"checksums\.json: expected JSON"):
        fetch_file(site.source(), tmp_path)


def test_full_disk_is_seen_before_the_transfer(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StudyError) as caught:
        fetch_file(site.source(), tmp_path)
    assert f"300,000 more bytes are needed in {tmp_path}" in str(caught.value)
    assert not (tmp_path / "x.bin").exists()


def test_disk_that_fills_up_keeps_what_came(site, tmp_path, monkeypatch):
    whole = downloads.ResumingDownloader._write

    def filling(self, blocks, offset, size, bar):
        def some():
            for block in blocks:
                if self._held() >= 200_000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                yield block

        whole(self, some(), offset, size, bar)

    monkeypatch.setattr(downloads.ResumingDownloader, "_write", filling)
    with pytest.raises(StudyError, match="is full") as caught:
        fetch_file(site.source(), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "already downloaded are kept" in str(caught.value)
    assert len(site.requests) == 1
    monkeypatch.undo()
    assert fetch_file(site.source(), tmp_path).read_bytes() == BODY
    start = int(site.requests[1]["range"].removeprefix("bytes=").rstrip("-"))
    assert start >= 200_000


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


@pytest.mark.parametrize("announced", [True, False])
def test_really_full_disk(site, tmp_path, tiny_disk, announced):
    site.files["big.bin"] = os.urandom(3_000_000)
    site.announces_length = announced
    with pytest.raises(StudyError, match=f"in {tiny_disk}|of {tiny_disk} is full"):
        fetch_file(site.source("big.bin"), tiny_disk)
    assert not (tiny_disk / "big.bin").exists()


def test_folder_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "folder").write_text("a file is in the way")
    with pytest.raises(StudyError, match="cannot be written"):
        fetch_file(site.source(), tmp_path / "folder")


class FtpHandler(socketserver.StreamRequestHandler):
    """As much of FTP as a download needs: TYPE, SIZE, REST, EPSV and RETR."""

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        state = self.server.state
        offset, listener = 0, None
        self.say("220 ready")
        for line in self.rfile:
            command, _, argument = line.decode().strip().partition(" ")
            state["commands"].append(f"{command} {argument}".strip())
            body = state["files"].get(argument)
            if command == "QUIT":
                self.say("221 bye")
                return
            if command in ("SIZE", "RETR") and body is None:
                self.say("550 no such file")
            elif command == "SIZE":
                self.say(f"213 {len(body)}")
            elif command == "REST":
                offset = int(argument)
                self.say("350 restarting")
            elif command == "EPSV":
                listener = socket.create_server(("127.0.0.1", 0))
                self.say(f"229 passive (|||{listener.getsockname()[1]}|)")
            elif command == "PASV":
                listener = socket.create_server(("127.0.0.1", 0))
                port = listener.getsockname()[1]
                self.say(f"227 passive (127,0,0,1,{port // 256},{port % 256})")
            elif command == "RETR":
                self.say("150 sending")
                stream, _ = listener.accept()
                end = offset + state["breaks"].pop(0) if state["breaks"] else len(body)
                stream.sendall(body[offset:end])
                stream.close()
                listener.close()
                offset = 0
                self.say("226 done" if end >= len(body) else "426 connection closed")
            else:
                self.say("230 fine" if command in ("USER", "PASS") else "200 fine")


@contextmanager
def ftp_server(files: dict, breaks: list):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), FtpHandler) as server:
        server.daemon_threads = True
        server.state = {"files": files, "breaks": breaks, "commands": []}
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"ftp://127.0.0.1:{server.server_address[1]}", server.state["commands"]
        server.shutdown()


def test_ftp_is_resumed_and_missing_files_are_said(tmp_path):
    with ftp_server({"/pub/x.bin": BODY}, [150_000]) as (address, commands):
        source = FileSource(name="x.bin", urls=(f"{address}/pub/x.bin",), sha256=SHA256)
        assert fetch_file(source, tmp_path).read_bytes() == BODY
        assert "REST 150000" in commands
        gone = FileSource(name="y.bin", urls=(f"{address}/pub/y.bin",))
        with pytest.raises(StudyError, match="FTP 550 no such file"):
            fetch_file(gone, tmp_path)


# Datasets


def tgz(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


PARIS = {
    "paris_1-v1.tgz": tgz({"paris/eiffel/a.jpg": b"a", "paris/louvre/b.jpg": b"b"}),
    "paris_2-v1.tgz": tgz({"paris/triomphe/c.jpg": b"c"}),
    "paris_120310.tgz": tgz({"gt/eiffel_1_query.txt": b"a 0 0 1 1", "gt/eiffel_1_ok.txt": b"b"}),
    "gnd_rparis6k.mat": b"matlab",
}


@pytest.fixture
def offline(monkeypatch):
    """The published sources without their addresses: only mirrors remain."""
    kept = {
        name: source.model_copy(
            update={"files": tuple(f.model_copy(update={"urls": ()}) for f in source.files)}
        )
        for name, source in dataset_sources().items()
    }
    monkeypatch.setattr(downloads, "dataset_sources", lambda: kept)


def test_dataset_is_fetched_unpacked_and_left_alone_the_second_time(
    site, offline, tmp_path, capsys
):
    site.files = dict(PARIS)
    folder = fetch_dataset("rparis6k-hard", tmp_path, mirrors=[site.address])
    assert folder == tmp_path / "rparis6k"
    assert (folder / "gnd_rparis6k.mat").read_bytes() == b"matlab"
    images = tmp_path / "paris6k" / "jpg"
    assert names(images) == [MARKER, "a.jpg", "b.jpg", "c.jpg"]
    assert names(tmp_path / "paris6k" / "gt") == [MARKER, "eiffel_1_ok.txt", "eiffel_1_query.txt"]
    site.requests.clear()
    capsys.readouterr()
    shutil.rmtree(tmp_path / "paris6k" / "downloads")  # archives may go once they are unpacked
    assert fetch_dataset("paris6k", tmp_path, mirrors=[site.address]) == tmp_path / "paris6k"
    assert "complete; nothing to fetch" in capsys.readouterr().out
    assert site.requests == []
    (images / "b.jpg").unlink()
    fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    assert names(images) == [MARKER, "a.jpg", "b.jpg", "c.jpg"]
    assert [r["name"] for r in site.requests] == ["paris_1-v1.tgz", "paris_2-v1.tgz"]


@pytest.mark.filterwarnings("ignore:paris6k")
def test_fetched_folder_is_what_the_loader_reads(site, offline, tmp_path):
    site.files = {
        **PARIS,
        "paris_120310.tgz": tgz(
            {
                "eiffel_1_query.txt": b"a 0 0 1 1",
                "eiffel_1_good.txt": b"",
                "eiffel_1_ok.txt": b"a\nb",
                "eiffel_1_junk.txt": b"c",
            }
        ),
    }
    folder = fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    dataset = load_dataset("paris6k", root=folder, partial=True)
    assert [path.name for path in dataset.images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [query.positives for query in dataset.queries] == [(0, 1)]


def test_images_put_there_by_hand_are_not_fetched(site, offline, tmp_path):
    site.files = dict(PARIS)
    mine = tmp_path / "paris6k" / "paris" / "eiffel" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    assert [r["name"] for r in site.requests] == ["paris_120310.tgz"]
    assert names(tmp_path / "paris6k") == ["downloads", "gt", "paris"]


def test_unsafe_dataset_archive_leaves_nothing(site, offline, tmp_path):
    site.files = {**PARIS, "paris_2-v1.tgz": tgz({"../../evil.jpg": b"evil"})}
    with pytest.raises(StudyError, match="climbs out of its folder"):
        fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    assert names(tmp_path / "paris6k") == ["downloads"]
    assert not list(tmp_path.rglob("*.jpg"))


def test_failing_dataset_names_every_address(site, tmp_path, monkeypatch):
    source = dataset_sources()["oxford5k"]
    files = tuple(
        file.model_copy(update={"urls": tuple(site.url(str(i)) for i in range(3))})
        for file in source.files
    )
    broken = {"oxford5k": source.model_copy(update={"files": files})}
    monkeypatch.setattr(downloads, "dataset_sources", lambda: broken)
    with pytest.raises(StudyError) as caught:
        fetch_dataset("oxford5k", tmp_path)
    message = str(caught.value)
    assert all(f"{site.url(str(i))}: HTTP 404" in message for i in range(3))
    assert str(tmp_path / "oxford5k" / "downloads" / "oxbuild_images-v1.tgz") in message
    assert source.page in message


@pytest.mark.parametrize("name", ["flickrlogos32", "trecvid-ins", "sculptures6k"])
def test_manual_dataset_says_whom_to_ask_and_where_to_put_it(name, tmp_path):
    with pytest.raises(StudyError) as caught:
        fetch_dataset(name, tmp_path)
    source = dataset_sources()[name]
    for part in (source.instructions, source.layout, str(tmp_path / name)):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_manual_dataset_that_is_there_is_accepted(tmp_path):
    for file in ("keyframes/shot1/1.jpg", "queries/9001.1.src.png", "queries/9001.1.mask.png"):
        (tmp_path / "trecvid-ins" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trecvid-ins" / file).touch()
    with pytest.raises(StudyError, match=r"missing now: \*qrels\*"):
        fetch_dataset("trecvid-ins", tmp_path)
    (tmp_path / "trecvid-ins" / "qrels.txt").touch()
    assert fetch_dataset("trecvid-ins", tmp_path) == tmp_path / "trecvid-ins"


def test_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(StudyError, match=r"unknown dataset .*'oxford': expected one of .*oxford5k"):
        fetch_dataset("oxford", tmp_path)


def test_sources_are_complete_and_name_the_loaders_datasets():
    sources = dataset_sources()
    assert {"oxford5k", "paris6k", "roxford5k", "rparis6k", "instre", "holidays"} <= set(sources)
    for name, source in sources.items():
        for served in source.also or (name,):
            assert served in REGISTRY or served == "flickr100k"
        assert all(
            url.startswith(("http://", "https://", "ftp://"))
            for f in source.files
            for url in f.urls
        )
    assert len(sources["flickr100k"].files) == 40
    assert sources["flickr100k"].files[39].name == "oxc1_100k.part40.rar"
    assert sources["flickr100k"].files[6].urls[0].endswith("/oxc1_100k.part07.rar")


def test_describe_sources_shows_what_is_missing(tmp_path):
    rows = {row["dataset"]: row for row in describe_sources(tmp_path)}
    assert list(rows) == list(dataset_sources())
    assert rows["roxford5k"]["state"] == "missing gnd_roxford5k.mat, oxford5k"
    assert rows["oxford105k"]["state"] == "missing oxford5k, flickr100k"
    assert rows["trecvid-ins"]["how"] == "ask its authors"
    (tmp_path / "holidays" / ".jpg.unpacking").mkdir(parents=True)
    (tmp_path / "holidays" / ".jpg.unpacking" / "100000.jpg").touch()
    assert describe_sources(tmp_path)[5]["state"] == "missing **/*.jpg"
    (tmp_path / "holidays" / "jpg").mkdir()
    (tmp_path / "holidays" / "jpg" / "100000.jpg").touch()
    assert describe_sources(tmp_path)[5]["state"] == "here"


ENTRY = {
    "title": "t",
    "page": "p",
    "terms": "t",
    "citation": "c",
    "layout": "l",
    "files": [{"name": "a.tgz", "urls": ["http://127.0.0.1/a.tgz"]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha265": "x"}, "toy.sha265"),
        ({"files": [{"name": "../a.tgz", "urls": ["u"]}]}, "toy.files.0.name"),
        ({"files": [{"name": "a.tgz", "urls": ["u"], "sha256": "12"}]}, "toy.files.0.sha256"),
        ({"files": [{"name": "a.tgz"}]}, "every file needs an address"),
        ({"unpack": [{"archives": ["b.tgz"], "into": "jpg", "gives": "*"}]}, "may only name"),
        ({"unpack": [{"archives": ["a.tgz"], "into": "../x", "gives": "*"}]}, "toy.unpack.0.into"),
        ({"kind": "manual"}, "needs instructions"),
    ],
)
def test_wrong_entry_is_named(tmp_path, change, message):
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"toy": ENTRY}))
    assert list(dataset_sources(path)) == ["toy"]
    path.write_text(yaml.safe_dump({"toy": {**ENTRY, **change}}))
    with pytest.raises(StudyError, match=message) as caught:
        dataset_sources(path)
    assert str(path) in str(caught.value)
