"""Getting and finding published saliency weights, against a server on this machine."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from blcf_utils.datasets.fetching import downloads
from blcf_utils.datasets.fetching.downloads import RECORD
from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.official import official
from blcf_utils.saliency.official.official import (
    describe_weights,
    fetch_weights,
    find_weights,
    official_weights,
    weights_dir,
)

BODY = os.urandom(300_000)
NAME = "gen_modelWeights0090.npz"


class Site:
    """What the local server sends, and what it was asked."""

    def __init__(self, address: str):
        self.address = address
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks: list[int] = []  # body bytes after which the coming replies are cut off
        self.content_type = "application/octet-stream"

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


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
            name, wanted = self.path.lstrip("/"), self.headers.get("Range")
            site.asked.append((name, wanted))
            body = site.files.get(name)
            if body is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("Content-Type", site.content_type)
            self.send_header("ETag", '"one"')
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            end = start + site.breaks.pop(0) if site.breaks else len(body)
            self.wfile.write(body[start:end])

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project, so that weights that lie about on this machine play no part."""
    root = tmp_path / "project"
    (root / "data" / "profiles").mkdir(parents=True)
    monkeypatch.setenv("BLCF_HOME", str(root))
    monkeypatch.delenv("BLCF_WEIGHTS", raising=False)
    return root


@pytest.fixture
def listed(site, project, monkeypatch):
    """One small file of weights, listed as lying on the local server."""
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 5.0)
    # A proxy of this machine must not see requests to it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda **known: write_list(project, **{"urls": [site.url(NAME)], **known})


def write_list(project: Path, **known) -> None:
    file = {"name": NAME, "about_bytes": len(BODY), **known}
    about = {"title": "t", "page": "http://about.example", "terms": "t", "citation": "c"}
    entries = {"salgan": {**about, "file": file}}
    (project / "data" / "weights.yaml").write_text(yaml.safe_dump(entries))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_goes_to_the_projects_folder_and_is_found_again(site, project, listed, capsys):
    listed()
    site.files[NAME] = BODY
    assert find_weights("salgan") is None
    path = fetch_weights("salgan", progress=False)
    assert path == project / "data" / "weights" / NAME == find_weights("salgan")
    assert path.read_bytes() == BODY
    assert names(path.parent) == [RECORD, NAME]
    assert f"no checksum is published for {NAME}" in capsys.readouterr().out
    assert fetch_weights("salgan", progress=False) == path
    assert len(site.asked) == 1


def test_download_goes_to_the_folder_of_weights_or_the_one_named(
    site, project, listed, tmp_path, monkeypatch
):
    listed()
    site.files[NAME] = BODY
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "mine"))
    assert fetch_weights("salgan", tmp_path / "there", progress=False).parent == tmp_path / "there"
    assert find_weights("salgan") is None
    assert fetch_weights("salgan", progress=False) == tmp_path / "mine" / NAME
    assert find_weights("salgan") == tmp_path / "mine" / NAME


def test_one_file_of_weights_is_no_folder_to_download_to(project, tmp_path, monkeypatch):
    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "vgg16.pth"))
    assert weights_dir() == project / "data" / "weights"


def test_broken_transfer_is_resumed(site, listed):
    listed()
    site.files[NAME], site.breaks = BODY, [100_000]
    assert fetch_weights("salgan", progress=False).read_bytes() == BODY
    assert site.asked == [(NAME, None), (NAME, "bytes=100000-")]


def test_checksum_of_the_list_is_held_up(site, project, listed):
    listed(md5="0" * 32)
    site.files[NAME] = BODY
    with pytest.raises(StudyError, match=f"has md5 .*, expected {'0' * 32}"):
        fetch_weights("salgan", progress=False)
    assert names(project / "data" / "weights") == []


@pytest.mark.parametrize("share", [0.79, 1.21])
def test_file_of_an_impossible_size_is_refused_and_leaves_nothing(site, project, listed, share):
    listed()
    site.files[NAME] = bytes(round(share * len(BODY)))
    with pytest.raises(StudyError) as caught:
        fetch_weights("salgan", progress=False)
    message = str(caught.value)
    assert f"announces {share * len(BODY):,.0f} bytes, expected 240,000 to 360,000" in message
    assert names(project / "data" / "weights") == []
    # What was refused must not be remembered as what the file was the first time.
    site.files[NAME] = BODY
    assert fetch_weights("salgan", progress=False).read_bytes() == BODY


def test_mirror_with_an_impossible_file_is_passed_over(site, listed):
    listed()
    site.files = {f"bad/{NAME}": b"moved", NAME: BODY}
    path = fetch_weights("salgan", mirrors=[site.url("bad")], progress=False)
    assert path.read_bytes() == BODY
    assert [name for name, _ in site.asked] == [f"bad/{NAME}", NAME]


@pytest.mark.parametrize("size", [0.81, 1.19, 1.81, 2.39])
def test_optimiser_state_may_double_the_file(site, listed, size):
    listed(about_bytes_with_optimiser=2 * len(BODY))
    site.files[NAME] = bytes(round(size * len(BODY)))
    assert fetch_weights("salgan", progress=False).stat().st_size == len(site.files[NAME])


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page_is_refused(site, project, listed, content_type):
    listed()
    site.content_type = content_type
    site.files[NAME] = b"<!DOCTYPE html><title>Page not found</title>"
    reason = "sends a web page" if "html" in content_type else "announces 44 bytes"
    with pytest.raises(StudyError, match=reason):
        fetch_weights("salgan", progress=False)
    assert names(project / "data" / "weights") == []


def test_gone_server_says_where_to_put_the_file(site, project, listed):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/{NAME}"
    listed(urls=[site.url(NAME), dead])
    with pytest.raises(StudyError) as caught:
        fetch_weights("salgan", progress=False)
    message = str(caught.value)
    assert f"{site.url(NAME)}: HTTP 404 Not Found" in message
    assert f"{dead}: no connection (Connection refused" in message
    assert f"put the file at {project / 'data' / 'weights' / NAME} by hand" in message
    assert "see http://about.example" in message
    assert "\n" not in message


def test_full_disk_and_closed_folder_name_the_variable_of_weights(
    site, listed, tmp_path, monkeypatch
):
    listed()
    site.files[NAME] = BODY
    blocked = tmp_path / "a file"
    blocked.touch()
    with pytest.raises(StudyError, match="set BLCF_WEIGHTS to another one"):
        fetch_weights("salgan", blocked, progress=False)
    usage = downloads.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StudyError, match="set BLCF_WEIGHTS to another disk"):
        fetch_weights("salgan", progress=False)


def test_file_put_there_by_hand_is_found_wherever_weights_lie(
    site, project, listed, tmp_path, monkeypatch
):
    listed()
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "mine"))
    project_file = project / "data" / "weights" / NAME
    project_file.parent.mkdir()
    project_file.write_bytes(BODY)
    assert find_weights("salgan") == project_file
    assert fetch_weights("salgan", progress=False) == project_file
    mine = tmp_path / "mine" / NAME
    mine.parent.mkdir()
    mine.write_bytes(BODY)
    assert find_weights("salgan") == mine
    assert site.asked == []


def test_wrong_file_put_there_by_hand_is_named_and_kept(site, project, listed):
    listed()
    wrong = project / "data" / "weights" / NAME
    wrong.parent.mkdir()
    wrong.write_bytes(b"<html>")
    for find in (find_weights, fetch_weights):
        with pytest.raises(StudyError, match="has 6 bytes, expected 240,000 to 360,000") as caught:
            find("salgan")
        assert str(caught.value).startswith(str(wrong))
        assert "delete it, or put the right file there" in str(caught.value)
    assert describe_weights()[0]["state"].startswith("not usable, ")
    assert wrong.read_bytes() == b"<html>"
    assert site.asked == []


def test_override_comes_before_everything(project, listed, tmp_path):
    listed()
    lying = project / "data" / "weights" / NAME
    lying.parent.mkdir()
    lying.write_bytes(BODY)
    own = tmp_path / "retrained.npz"
    own.write_bytes(b"small")
    (project / "own.npz").write_bytes(b"small")
    assert find_weights("salgan", str(own)) == own
    assert find_weights("salgan", "own.npz") == project / "own.npz"
    for wrong in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(StudyError, match="no such file, expected the weights of salgan") as e:
            find_weights("salgan", str(wrong))
        assert str(e.value).startswith(str(wrong))


def test_unknown_weights_list_the_known_ones(project, listed):
    listed()
    for call in (find_weights, fetch_weights):
        with pytest.raises(StudyError, match="'salicon': expected one of salgan"):
            call("salicon")


def test_the_list_of_this_study_is_complete(monkeypatch, tmp_path):
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    sources = official_weights()
    assert list(sources) == ["salnet", "salgan", "sam-vgg", "sam-resnet", "sam-resnet-2017"]
    assert len({source.file.name for source in sources.values()}) == len(sources)
    # Four bytes for each published parameter, and the running statistics of SAM-ResNet.
    parameters = dict(zip(sources, [25806209, 31787009, 51835841, 70146561, 70146561], strict=True))
    for name, source in sources.items():
        file = source.file
        assert file.about_bytes == pytest.approx(4 * parameters[name], rel=1e-3)
        assert file.plausible[0] < 4 * parameters[name] < file.plausible[1]
        assert file.page == source.page
        assert all(url.endswith(f"/{file.name}") for url in file.urls)
        assert all(url.startswith("https://") for url in file.urls)
        assert (file.bytes, file.md5, file.sha256) == (None, None, None)
        assert (8 * parameters[name] < file.plausible[1]) == name.startswith("sam")


def test_list_shows_what_is_here(project, listed):
    listed(about_bytes=127_000_000)
    row = describe_weights()[0]
    assert row["weights"] == "salgan"
    assert row["file"] == NAME
    assert row["size"] == "about 127 MB"
    assert row["state"] == "missing"
    assert row["page"] == "http://about.example"
    listed(about_bytes_with_optimiser=2 * len(BODY), about_bytes=len(BODY))
    path = project / "data" / "weights" / NAME
    path.parent.mkdir()
    path.write_bytes(BODY)
    assert describe_weights()[0]["state"] == f"here, {path}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "expected a mapping"),
        ("salgan: 1", "salgan: "),
        ("salgan: {title: t, page: p, terms: t, citation: c}", r"salgan\.file: "),
        (
            "salgan: {title: t, page: p, terms: t, citation: c, file: {name: x}}",
            r"salgan\.file\.about_bytes: ",
        ),
        (
            "salgan: {title: t, page: p, terms: t, citation: c, file: "
            "{name: ../x, about_bytes: 1}}",
            r"salgan\.file\.name: ",
        ),
    ],
)
def test_wrong_list_is_named(tmp_path, text, message):
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=message) as caught:
        official.official_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(StudyError, match="restore it from the repository"):
        official.official_weights(tmp_path / "none.yaml")
