"""The demo in a real browser: boxes, knobs, uploads; its port, its address, what it leaves behind.

Screenshots go to ``build/screenshots``, to be looked at.
"""

import io
import json
import os
import re
import shlex
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
import requests
from album import fill, paint, write_profile
from PIL import Image
from typer.testing import CliRunner
from visiting import changed, choose, drag, explained, scores, shoot, visiting

from blcf_utils.apps.explorer.demo import (
    check_base_url,
    page_of_folder,
    serve,
    serving,
    wait_until_served,
)
from blcf_utils.apps.explorer.uploads import MAX_BYTES
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.cli import app
from blcf_utils.ground.errors import StudyError

ROOT = Path(__file__).parents[2]


@contextmanager
def demo_of_a_folder(browser, root):
    """The demo on a small indexed folder in the browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_CACHE", str(root / "cache"))
        folder = fill(root / "holiday")
        index_folder(folder, write_profile(root / "small.yaml"), ["Gaussian"])
        with visiting(browser, page_of_folder(folder), root) as opened:
            yield opened


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A demo in which tests go on where the last one stopped."""
    with demo_of_a_folder(browser, tmp_path_factory.mktemp("demo")) as opened:
        yield opened


@pytest.fixture
def own_page(browser, tmp_path_factory):
    """A demo of one test alone."""
    with demo_of_a_folder(browser, tmp_path_factory.mktemp("own-demo")) as opened:
        yield opened


def test_a_visitor_draws_turns_uploads_and_asks_why(page, tmp_path):
    shoot(page, "demo-1-first")
    before = scores(page)
    # 00.jpg is shown first, without a box; its poster fills (30, 20) to (78, 68) of 120 x 90.
    drag(page, (0.25, 0.22), (0.65, 0.76))
    changed(page, before)
    x1, y1, x2, y2 = map(int, page.get_by_placeholder("x1,y1,x2,y2").input_value().split(","))
    assert (abs(x1 - 30), abs(y1 - 20), abs(x2 - 78), abs(y2 - 68)) < (3, 3, 3, 3)
    alike = page.locator(".blcf-pick img").evaluate_all("all => all.slice(0, 2).map(e => e.alt)")
    assert {name.rpartition(" ")[2] for name in alike} == {"01.jpg", "02.jpg"}
    alike_names = ("day1/01.jpg", "day0/02.jpg")
    shoot(page, "demo-2-box")

    before = scores(page)
    page.get_by_label("weighting").select_option("Gaussian")
    changed(page, before)
    shoot(page, "demo-3-weighting")

    page.locator(".blcf-why").first.click()
    first = explained(page)
    shoot(page, "demo-4-why")

    # Another knob: the explanation follows. Another query: it is about nothing shown, and goes.
    before = scores(page)
    page.get_by_label("weighting").select_option("None")
    changed(page, before)
    explained(page, first)
    before = scores(page)
    page.locator(".blcf-pick").first.click()
    changed(page, before)
    assert page.get_by_placeholder("x1,y1,x2,y2").input_value() == ""
    assert page.get_by_role("combobox", name="image").input_value() in alike_names
    page.get_by_text("Press why? below a result.").wait_for()
    assert page.evaluate("[...document.images].every(e => e.naturalWidth || !e.offsetParent)")

    before = scores(page)
    page.get_by_role("button", name="back to the last query").click()
    changed(page, before)
    assert page.get_by_placeholder("x1,y1,x2,y2").input_value() == "30,20,78,68"

    copy = tmp_path / "mine.jpg"
    paint(copy, 7, 7 // 3)  # the same photograph as day1/07.jpg
    before = scores(page)
    choose(page, copy)
    changed(page, before)
    assert page.locator(".blcf-pick img").first.get_attribute("alt").endswith("07.jpg")
    shoot(page, "demo-5-upload")

    bad, before = tmp_path / "bad.jpg", scores(page)
    bad.write_bytes(b"<script>alert(1)</script>" * 20)
    choose(page, bad)
    page.wait_for_selector(".blcf-error")
    assert "bad.jpg: expected a photograph" in page.locator(".blcf-error").inner_text()
    assert scores(page) == before
    shoot(page, "demo-6-bad-file")
    assert not page.elsewhere  # a page asks no other machine, and tells none of its visitors


def test_a_phone_sees_it_without_scrolling_sideways(page):
    whole = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    page.locator(".blcf-why").first.click()
    explained(page)
    shoot(page, "demo-7-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    page.set_viewport_size(whole)


def test_a_large_photograph_arrives_whole_and_a_larger_one_is_refused(page, tmp_path):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > 12 * 2**20  # more than a websocket takes by default
    (tmp_path / "large.png").write_bytes(stream.getvalue())
    before = scores(page)
    choose(page, tmp_path / "large.png")
    changed(page, before)
    assert page.locator(".blcf-error").count() == 0

    # More than the server takes in one message: sent, it would end the connection.
    with (tmp_path / "larger.png").open("wb") as file:
        file.truncate(2 * MAX_BYTES + 1)
    before = scores(page)
    choose(page, tmp_path / "larger.png")
    page.wait_for_selector(".blcf-error")
    assert "larger.png: expected a photograph of at most 25 MiB, found 50.00 MiB" in (
        page.locator(".blcf-error").inner_text()
    )
    page.get_by_label("weighting").select_option("Gaussian")
    changed(page, before)
    assert page.locator(".blcf-error").count() == 0


ASK_KERNEL = """async ([code]) => {
  const data = JSON.parse(document.getElementById("jupyter-config-data").textContent);
  const session = "test", replies = [];
  const socket = new WebSocket(
    `ws://${location.host}/api/kernels/${data.kernelId}/channels?session_id=${session}`);
  await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed; });
  socket.onmessage = (event) => {
    if (typeof event.data === "string") replies.push(JSON.parse(event.data).header.msg_type);
  };
  const send = (kind, content) => socket.send(JSON.stringify({
    header: { msg_id: kind, msg_type: kind, session, username: "", version: "5.3",
      date: new Date().toISOString() },
    parent_header: {}, metadata: {}, content, channel: "shell", buffers: [] }));
  send("execute_request", { code, silent: false, store_history: false,
    user_expressions: {}, allow_stdin: false, stop_on_error: true });
  send("kernel_info_request", {});
  const until = Date.now() + 20000;
  while (!replies.includes("kernel_info_reply") && Date.now() < until)
    await new Promise((next) => setTimeout(next, 100));
  socket.close();
  return replies;
}"""


# On a page of its own: a second connection to the kernel disturbs the first one.
def test_a_visitor_opens_no_other_image_and_runs_no_code(own_page, tmp_path):
    page = own_page
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), (250, 0, 0)).save(secret)
    field = page.get_by_role("combobox", name="image")
    before = scores(page)
    field.fill("day1/07.jpg")
    field.press("Enter")
    changed(page, before)
    before = scores(page)
    field.fill(str(secret))
    field.press("Enter")
    page.wait_for_selector(".blcf-error")
    assert "no image of that name in holiday" in page.locator(".blcf-error").inner_text()
    assert scores(page) == before

    owned = tmp_path / "owned"
    replies = page.evaluate(ASK_KERNEL, [f"open({str(owned)!r}, 'w').close()"])
    # The later message was answered, in order: the earlier one never reached the kernel.
    assert "kernel_info_reply" in replies
    assert "execute_reply" not in replies
    assert not owned.exists()


@contextmanager
def passed_on(address):
    """A proxy on a port of its own that passes everything on; yields its port."""
    target = urlsplit(address)

    def pipe(source, sink):
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    class Both(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection((target.hostname, target.port)) as server:
                back = threading.Thread(target=pipe, args=(server, self.request), daemon=True)
                back.start()
                pipe(self.request, server)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Both) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy.server_address[1]
        proxy.shutdown()


def open_tab(browser, address):
    tab = browser.new_page()
    tab.set_default_timeout(90_000)
    tab.asked = []

    def route(one):  # what the page's policy forbids does not come here
        tab.asked.append(one.request.url)
        one.continue_()

    tab.route("**/*", route)
    tab.on("websocket", lambda one: tab.asked.append(one.url))
    tab.goto(address, timeout=240_000, wait_until="commit")
    tab.wait_for_selector(".blcf-results li", timeout=240_000)
    return tab


def test_two_tabs_behind_a_proxy_and_a_third_when_one_has_left(
    browser, album, album_profile, tmp_path
):
    index_folder(album, album_profile, ["Gaussian"])
    with (
        (tmp_path / "log").open("w") as log,
        serving(page_of_folder(album), port=0, log=log, base_url="search/photos", visitors=2) as (
            _,
            address,
        ),
        passed_on(address) as port,
    ):
        assert address.endswith("/search/photos/")
        public = f"127.0.0.1:{port}/search/photos/"
        one, two = (open_tab(browser, f"http://{public}") for _ in range(2))
        before = scores(one), scores(two)
        assert before[0] == before[1]
        one.get_by_label("weighting").select_option("Gaussian")
        changed(one, before[0])
        assert scores(two) == before[1]  # a tab's knobs are its own
        for tab in (one, two):
            asked = [url.partition("://")[2] for url in tab.asked if not url.startswith("blob:")]
            assert len(asked) > 5
            assert any("/api/kernels/" in url for url in asked)
            assert [url for url in asked if not url.startswith((public, "data:"))] == []

        full = requests.get(f"http://{public}", timeout=30)
        assert full.status_code == 503
        assert "All 2 places are taken, try again later" in full.text
        one.close()
        until = time.monotonic() + 60  # half a minute to come back after a lost connection
        while requests.get(f"http://{public}", timeout=120).status_code == 503:
            assert time.monotonic() < until
            time.sleep(1)
        before = scores(two)  # whose page stayed
        two.get_by_label("weighting").select_option("Gaussian")
        changed(two, before)
        two.close()


def test_a_visitor_s_memory_has_a_limit():
    code = """
        try:
            held = bytearray(1_200_000_000)
            print("un" + "bounded")
        except MemoryError:
            print("with" + "in limits")
        """
    for memory_gb, said in ((1, "within limits"), (2, "unbounded")):
        with serving(code, port=0, memory_gb=memory_gb) as (_, address):
            assert said in requests.get(address, timeout=120).text


def test_an_address_s_path_is_checked_before_anything_is_opened(album):
    for path in ("a b", "../x?", "http://host/"):
        wrong = CliRunner().invoke(app, ["demo", str(album), "--base-url", path])
        assert wrong.exit_code == 2
        assert "expected a path such as /search/" in wrong.output
    assert [check_base_url(path) for path in ("", "/", "a", "/a/b.c/")] == [
        "/", "/", "/a/", "/a/b.c/",
    ]  # fmt: skip


def test_the_server_is_reached_from_this_machine_only_and_sends_no_source(
    album,
    album_profile,
    tmp_path,
):
    index_folder(album, album_profile, [])
    with (
        (tmp_path / "log").open("w") as log,
        serving(page_of_folder(album), port=0, log=log) as (_, address),
    ):
        port = int(address.rstrip("/").rpartition(":")[2])
        assert address.startswith("http://127.0.0.1:")
        table = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
        listening = [line.split()[1] for line in table.splitlines()[1:] if " 0A " in line]
        assert f"0100007F:{port:04X}" in listening or not table
        assert f"00000000:{port:04X}" not in listening
        for path in ("voila/files/instance-search.ipynb", "voila/files/../../etc/passwd"):
            assert requests.get(address + path, timeout=10).status_code in (400, 403, 404)
        assert _healthy(port) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=2)
    assert _healthy(port) != 0


def test_a_taken_port_and_an_unknown_folder_are_said(album, album_profile):
    run = CliRunner().invoke
    missing = run(app, ["demo", str(album / "nowhere")])
    assert missing.exit_code == 2
    assert "no such folder" in missing.output
    unindexed = run(app, ["demo", str(album)])
    assert "is not indexed yet; run blcf index" in unindexed.output
    both = run(app, ["demo", str(album), "--dataset", "mini-objects"])
    assert both.exit_code == 2
    assert "expected a folder or a dataset; leave one out" in both.output
    (album / "my day").mkdir()
    quoted = run(app, ["demo", str(album / "my day")])
    assert f"run blcf index '{album / 'my day'}' first" in quoted.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(StudyError, match=r"cannot listen there .* choose another --port"),
            serving("1", port=port),
        ):
            pass


def test_a_browser_is_sent_only_when_the_server_answers(album, album_profile, monkeypatch, capfd):
    index_folder(album, album_profile, [])
    opened = []

    def visit(address):
        opened.append(requests.get(f"{address}voila/static/voila.js", timeout=5).status_code)
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", visit)
    assert serve(page_of_folder(album), port=0) == 0
    assert opened == [200]
    said = capfd.readouterr()
    assert "Instance search: http://127.0.0.1:" in said.out
    assert "WARNING" not in said.err  # nothing that a visitor could not mend


def test_a_server_that_ends_is_said():
    process = subprocess.Popen(["true"])
    with pytest.raises(StudyError, match="the server ended; what it wrote above may say why"):
        wait_until_served("http://127.0.0.1:9/", process)


def _tracked():
    command = ["git", "ls-files"]
    return subprocess.check_output(command, cwd=ROOT, text=True).splitlines()


def _dockerfile():
    """Return the instructions as (word, rest of the line)."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line.partition(" ")[::2] for line in lines if line and not line.startswith("#")]


def _healthy(port):
    """Run the image's health check against a port of this machine; returns its exit status."""
    program, *words = shlex.split(dict(_dockerfile())["HEALTHCHECK"].partition("CMD ")[2])
    assert program == "python"
    words = [word.replace("127.0.0.1:8866", f"127.0.0.1:{port}") for word in words]
    return subprocess.run([sys.executable, *words], capture_output=True).returncode


def test_the_dockerfiles_steps_fit_the_repository():
    steps = _dockerfile()
    kinds = [kind for kind, _ in steps]
    tracked = _tracked()
    for kind, rest in steps:
        if kind == "COPY" and "--from" not in rest:
            for source in [part for part in rest.split() if not part.startswith("--")][:-1]:
                assert any(f == source or f.startswith(source.rstrip("/") + "/") for f in tracked)
    users = [rest for kind, rest in steps if kind == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    command = json.loads(dict(steps)["ENTRYPOINT"]) + json.loads(dict(steps)["CMD"])
    assert command[0] == "blcf"
    # The command line of the image is one that the program understands.
    help_text = CliRunner().invoke(app, [*command[1:2], "--help"]).output
    for option in (part for part in command if part.startswith("--")):
        assert option.partition("=")[0] in help_text
    check = dict(steps)["HEALTHCHECK"]
    assert "voila/static/voila.js" in check
    assert "8866" in check


def test_the_image_takes_the_versions_that_the_project_was_tested_with():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in project["dependencies"]:
        if line.startswith("torch"):
            assert f'"{line}"' in text
    base = {rest.split()[0] for kind, rest in _dockerfile() if kind == "FROM"}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim", image)[1] for image in base}
    assert f">={version}" == project["requires-python"]


def _sent(tracked):
    """Return which tracked files reach the image's builder, by .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    wanted = [line[1:] for line in lines if line.startswith("!")]
    return [f for f in tracked if any(fnmatch(f, w) or f.startswith(f"{w}/") for w in wanted)]


def test_what_the_image_copies_is_enough_to_index_and_to_serve(album, tmp_path):
    """The build's COPY steps done in a folder, its ENV set, its program run there."""
    tracked = _tracked()
    image, environment = tmp_path / "image", {"PATH": os.environ["PATH"]}
    for kind, rest in _dockerfile():
        if kind == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for f in _sent(tracked):
                source = next((s for s in sources if f == s or f.startswith(f"{s}/")), None)
                if source:
                    inside = f if len(sources) > 1 else f.removeprefix(f"{source}/")
                    path = image / target.strip("/") / inside
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / f, path)
        if kind == "ENV":
            environment |= dict(re.findall(r"(\w+)=(\S+)", rest))
    environment |= {
        name: str(image / value.strip("/"))
        for name, value in environment.items()
        if value.startswith("/") and name != "PATH"
    }
    environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(image / "study")}
    home = Path(environment["HOME"])
    home.mkdir(parents=True)

    def blcf(*words):
        code = "from blcf_utils.cli import app; app()"
        command = [sys.executable, "-P", "-c", code, *map(str, words)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    said = blcf("index", album)  # the embedded network, its saliency, every setting of `mini`
    assert "12 photographs can be searched" in said, said
    assert str(image / "study") in blcf("--debug", "query", album, "no.jpg")  # not this checkout's
    assert (image / "cache" / "collections").is_dir()
    assert "mini" in blcf("profile", "list")
    shown = {f.relative_to(image / "study") for f in (image / "study").rglob("*") if f.is_file()}
    for static in (ROOT / "blcf_utils" / "apps" / "explorer" / "static").iterdir():
        assert static.relative_to(ROOT) in shown


def test_the_notebook_shows_the_same_panel():
    notebook = nbformat.read(ROOT / "notebooks" / "11_explore.ipynb", as_version=4)
    assert any("explore(bench" in cell.source for cell in notebook.cells)
