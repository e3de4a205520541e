"""Downloads of one file against servers on this machine that break off, lie, vanish and refuse."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import socketserver
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from website import Site, served

from blcf_utils.datasets.fetching import transfer
from blcf_utils.datasets.fetching.downloads import RECORD, fetch_file
from blcf_utils.datasets.fetching.sources import FileSource
from blcf_utils.ground.errors import StudyError

BODY = os.urandom(400_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
PUBLISHED = f"sha256:{SHA256}"


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 5.0)
    # A proxy of this machine must not see requests to it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served() as site:
        yield site


@pytest.fixture
def broken_off(site, tmp_path, monkeypatch):
    """The site, and 150,000 bytes of x.bin that an earlier call kept."""
    site.breaks = [150_000, 0]
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "ATTEMPTS", 1)
        with pytest.raises(StudyError, match="the transfer broke off, 150,000 bytes are kept"):
            fetch_file(listed(site), tmp_path)
    assert not (tmp_path / "x.bin").exists()
    site.requests.clear()
    return site


def listed(site: Site, name: str = "x.bin", **known) -> FileSource:
    """A file of the site as a list of sources names it."""
    site.files.setdefault(name, BODY)
    return FileSource(name=name, urls=(site.url(name),), **known)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def recorded(folder: Path, name: str = "x.bin") -> dict:
    return json.loads((folder / RECORD).read_text())[name]


def test_good_download_is_verified_and_recorded(site, tmp_path, capsys):
    source = listed(site, checksum=PUBLISHED, bytes=len(BODY))
    path = fetch_file(source, tmp_path / "new")
    assert path == tmp_path / "new" / "x.bin"
    assert path.read_bytes() == BODY
    assert names(path.parent) == [RECORD, "x.bin"]
    entry = {"sha256": SHA256, "bytes": len(BODY), "from": site.url("x.bin")}
    assert recorded(path.parent) == entry
    assert "NOTE" not in capsys.readouterr().out
    assert fetch_file(source, tmp_path / "new") == path
    assert recorded(path.parent) == entry
    assert len(site.requests) == 1


def test_md5_is_enough(site, tmp_path):
    digest = hashlib.md5(BODY).hexdigest()
    assert fetch_file(listed(site, checksum=f"md5:{digest}"), tmp_path).read_bytes() == BODY
    assert recorded(tmp_path)["sha256"] == SHA256
    with pytest.raises(StudyError, match=f"expected md5:0{{32}} but got {digest}"):
        fetch_file(listed(site, "y.bin", checksum=f"md5:{'0' * 32}"), tmp_path)


def test_without_checksum_says_so_and_holds_the_next_machine_to_it(site, tmp_path, capsys):
    source = listed(site)
    fetch_file(source, tmp_path / "one")
    said = capsys.readouterr().out
    assert f"no checksum is published for x.bin; recorded sha256:{SHA256}" in said
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / RECORD, tmp_path / "two" / RECORD)
    fetch_file(source, tmp_path / "two")
    assert "NOTE" not in capsys.readouterr().out
    (tmp_path / "two" / "x.bin").unlink()
    site.files["x.bin"] = BODY[:-1] + b"!"
    with pytest.raises(StudyError, match=f"expected {PUBLISHED} but got") as caught:
        fetch_file(source, tmp_path / "two")
    assert names(tmp_path / "two") == [RECORD]
    assert f"recorded in {tmp_path / 'two' / RECORD}" in str(caught.value)


def test_broken_transfer_is_resumed(site, tmp_path):
    site.breaks = [150_000, 100_000]
    path = fetch_file(listed(site, checksum=PUBLISHED), tmp_path)
    assert path.read_bytes() == BODY
    first, second, third = site.requests
    assert "range" not in first
    assert second["range"] == "bytes=150000-"
    assert third["range"] == "bytes=250000-"
    assert second["if-range"] == third["if-range"] == site.etag
    assert names(tmp_path) == [RECORD, "x.bin"]


def test_a_later_run_resumes_what_an_earlier_one_kept(broken_off, tmp_path):
    assert fetch_file(listed(broken_off), tmp_path).read_bytes() == BODY
    assert [request["range"] for request in broken_off.requests] == ["bytes=150000-"]
    assert names(tmp_path) == [RECORD, "x.bin"]


def test_many_breaks_are_survived_while_bytes_arrive(site, tmp_path):
    site.breaks = [30_000] * 13
    assert fetch_file(listed(site, checksum=PUBLISHED), tmp_path).read_bytes() == BODY
    assert len(site.requests) == 14 > transfer.ATTEMPTS


def test_server_without_ranges_is_read_from_the_start_or_given_up(site, tmp_path):
    site.ranges, site.breaks = False, [150_000]
    assert fetch_file(listed(site, checksum=PUBLISHED), tmp_path).read_bytes() == BODY
    assert site.requests[1]["range"] == "bytes=150000-"
    site.requests.clear()
    site.breaks = [100_000] * 50
    with pytest.raises(StudyError, match="the transfer broke off, 100,000 bytes are kept"):
        fetch_file(listed(site, "y.bin"), tmp_path)
    assert len(site.requests) == transfer.ATTEMPTS + 1


@pytest.mark.parametrize(("before", "after"), [('"one"', '"two"'), ('"one"', None), (None, None)])
def test_changed_file_is_not_glued_to_the_old_one(site, tmp_path, before, after):
    site.etag, site.breaks = before, [150_000]
    site.breaks += [0] * transfer.ATTEMPTS
    with pytest.raises(StudyError):
        fetch_file(listed(site), tmp_path)
    site.files["x.bin"], site.etag = os.urandom(300_000), after
    assert fetch_file(listed(site), tmp_path).read_bytes() == site.files["x.bin"]


def test_server_that_refuses_to_continue_is_asked_for_the_whole(broken_off, tmp_path):
    broken_off.status["x.bin"] = 416
    with pytest.raises(StudyError, match="another version of the file than before"):
        fetch_file(listed(broken_off), tmp_path)
    assert ["range" in request for request in broken_off.requests] == [True, False, False, False]
    del broken_off.status["x.bin"]
    assert fetch_file(listed(broken_off), tmp_path).read_bytes() == BODY


def test_wrong_checksum_leaves_no_file(site, tmp_path):
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(StudyError, match=f"expected {wrong} but got {SHA256}") as caught:
        fetch_file(listed(site, checksum=wrong), tmp_path)
    assert names(tmp_path) == []
    assert site.url("x.bin") in str(caught.value)
    assert str(tmp_path / "x.bin") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("announced", [True, False])
def test_wrong_size_leaves_no_file(site, tmp_path, announced):
    site.announces_length = announced
    with pytest.raises(StudyError, match="400,000 bytes, expected 400,001"):
        fetch_file(listed(site, bytes=len(BODY) + 1), tmp_path)
    assert names(tmp_path) == []


def test_compressed_archive_is_kept_as_sent(site, tmp_path):
    site.encoding = "x-gzip"
    packed = b"\x1f\x8b\x08" + bytes(500)
    site.files["x.tgz"] = packed
    assert fetch_file(listed(site, "x.tgz"), tmp_path).read_bytes() == packed
    assert site.requests[0]["accept-encoding"] == "identity"


def test_addresses_are_tried_in_order_and_named_mirrors_first(site, tmp_path):
    site.files = {"bad/x.bin": BODY[::-1], "good/x.bin": BODY}
    urls = (site.url("bad/x.bin"), site.url("good/x.bin"))
    source = FileSource(name="x.bin", urls=urls, checksum=PUBLISHED)
    assert fetch_file(source, tmp_path, mirrors=[site.url("gone/")]).read_bytes() == BODY
    assert [r["name"] for r in site.requests] == ["gone/x.bin", "bad/x.bin", "good/x.bin"]
    assert recorded(tmp_path)["from"] == site.url("good/x.bin")


def test_all_addresses_failing_are_listed_with_reasons(site, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/x.bin"
    site.files = {"locked": b"", "busy": b"", "short": BODY}
    site.status = {"locked": 401, "busy": 503}
    reasons = {
        site.url("none"): "HTTP 404 Not Found",
        site.url("locked"): "HTTP 401 Unauthorized, it asks for a permission",
        site.url("busy"): "HTTP 503 Service Unavailable",
        site.url("short"): "has 400,000 bytes, expected 5",
        dead: "no connection (Connection refused",
        "gopher://127.0.0.1/x": "no connection (No connection adapters were found",
    }
    source = FileSource(name="x.bin", urls=tuple(reasons), bytes=5)
    with pytest.raises(StudyError) as caught:
        fetch_file(source, tmp_path, page="http://about.example")
    message = str(caught.value)
    for url, reason in reasons.items():
        assert f"{url}: {reason}" in message
    assert f"put the file at {tmp_path / 'x.bin'} by hand and run again" in message
    assert "http://about.example" in message
    assert "\n" not in message
    tried = [r["name"] for r in site.requests]
    assert tried.count("busy") == transfer.ATTEMPTS
    assert tried.count("none") == tried.count("locked") == 1


def test_web_page_instead_of_a_file_is_refused(site, tmp_path):
    site.content_type = "text/html; charset=utf-8"
    with pytest.raises(StudyError, match="sends a web page instead of the file"):
        fetch_file(listed(site), tmp_path)
    assert names(tmp_path) == []


def test_file_put_there_by_hand_is_verified_and_used(site, tmp_path, capsys):
    (tmp_path / "x.bin").write_bytes(BODY)
    assert fetch_file(listed(site, checksum=PUBLISHED), tmp_path).read_bytes() == BODY
    assert recorded(tmp_path)["from"] == "put there by hand"
    (tmp_path / "y.bin").write_bytes(BODY)
    fetch_file(listed(site, "y.bin"), tmp_path)
    assert "no checksum is published for y.bin" in capsys.readouterr().out
    assert site.requests == []


def test_wrong_file_put_there_by_hand_is_named_and_kept(site, tmp_path):
    wrong = tmp_path / "x.bin"
    wrong.write_bytes(b"wrong")
    with pytest.raises(StudyError, match="has 5 bytes, expected 400,000; delete it"):
        fetch_file(listed(site, bytes=len(BODY)), tmp_path)
    with pytest.raises(StudyError, match=f"has sha256:.*, expected {PUBLISHED} \\(published\\)"):
        fetch_file(listed(site, checksum=PUBLISHED), tmp_path)
    assert wrong.read_bytes() == b"wrong"
    assert site.requests == []


def test_broken_record_is_named(site, tmp_path):
    (tmp_path / RECORD).write_text("{not json")
    with pytest.raises(StudyError, match=r"checksums\.json: expected JSON"):
        fetch_file(listed(site), tmp_path)


def test_full_disk_is_seen_before_the_transfer(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StudyError) as caught:
        fetch_file(listed(site), tmp_path)
    said = f"disk of {tmp_path} is full (100,000 bytes free, 400,000 to come)"
    assert said in str(caught.value)
    assert not (tmp_path / "x.bin").exists()


def test_disk_that_fills_up_keeps_what_came(site, tmp_path, monkeypatch):
    whole = transfer.ResumingDownloader._receive

    def filling(self, blocks, bar):
        def some():
            for block in blocks:
                if self._held() >= 200_000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                yield block

        whole(self, some(), bar)

    with monkeypatch.context() as patch:
        patch.setattr(transfer.ResumingDownloader, "_receive", filling)
        with pytest.raises(StudyError, match=r"is full .* already downloaded are kept"):
            fetch_file(listed(site), tmp_path)
    assert len(site.requests) == 1
    assert fetch_file(listed(site), tmp_path).read_bytes() == BODY
    assert int(site.requests[1]["range"].removeprefix("bytes=").rstrip("-")) >= 200_000


@pytest.mark.parametrize("announced", [True, False])
def test_really_full_disk(site, tmp_path, announced):
    """On a file system of 1 MiB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = [shutil.which("mount") or "", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not mount[0] or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs; the simulated full disk is tested")
    site.files["big.bin"] = os.urandom(3_000_000)
    site.announces_length = announced
    try:
        with pytest.raises(StudyError, match=f"the disk of {disk} is full"):
            fetch_file(listed(site, "big.bin"), disk)
        assert not (disk / "big.bin").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_folder_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "folder").write_text("a file is in the way")
    with pytest.raises(StudyError, match="cannot be written"):
        fetch_file(listed(site), tmp_path / "folder")


class FtpHandler(socketserver.StreamRequestHandler):
    """As much of FTP as a download needs: SIZE, REST, EPSV and RETR."""

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
            if command in ("SIZE", "RETR") and body is None:
                self.say("550 no such file")
            elif command == "SIZE":
                self.say(f"213 {len(body)}")
            elif command == "REST":
                offset = int(argument)
                self.say("350 restarting")
            elif command in ("EPSV", "PASV"):
                listener = socket.create_server(("127.0.0.1", 0))
                port = listener.getsockname()[1]
                place = f"(127,0,0,1,{port // 256},{port % 256})"
                self.say(f"229 (|||{port}|)" if command == "EPSV" else f"227 {place}")
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


def test_ftp_is_resumed_and_missing_files_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.001)
    with ftp_server({"/pub/x.bin": BODY}, [150_000]) as (address, commands):
        source = FileSource(name="x.bin", urls=(f"{address}/pub/x.bin",), checksum=PUBLISHED)
        assert fetch_file(source, tmp_path).read_bytes() == BODY
        assert "REST 150000" in commands
        gone = FileSource(name="y.bin", urls=(f"{address}/pub/y.bin",))
        with pytest.raises(StudyError, match="FTP 550 no such file"):
            fetch_file(gone, tmp_path)
