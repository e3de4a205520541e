"""The demo in a real browser: boxes, knobs, uploads; its port, its address, what it leaves behind.

Screenshots go to ``build/screenshots``, to be looked at.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import requests
from PIL import Image
from typer.testing import CliRunner

from blcf_utils.cli import app
from blcf_utils.collection.indexing import index_folder
from blcf_utils.errors import StudyError
from blcf_utils.explore.demo import page_of_folder, serving

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; the tests that need it skip where none is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("BLCF_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not program:
        pytest.skip("SKIPPED, NOT TESTED: the demo in a browser; install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as drivers:
        opened = drivers.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


def ready(address, process):
    until = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < until
        try:
            return requests.get(f"{address}voila/static/voila.js", timeout=2)
        except requests.ConnectionError:
            time.sleep(0.2)


@pytest.fixture
def page(browser, album, album_profile, tmp_path):
    """The demo on a small indexed folder, open in the browser and ready."""
    index_folder(album, album_profile, ["Gaussian"])
    log = (tmp_path / "demo.log").open("w")
    with log, serving(page_of_folder(album), port=0, log=log) as (process, address):
        ready(address, process)
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        # No network: whatever is not the demo's own must not be needed.
        opened.route("**/*", lambda r: r.continue_() if address in r.request.url else r.abort())
        opened.goto(address)
        opened.wait_for_selector(".blcf-results li", timeout=120_000)
        opened.wait_for_function("[...document.images].every(one => one.complete)")
        yield opened
        opened.close()


def shown(page):
    script = "all => all.map(one => one.dataset.image)"
    return page.locator(".blcf-results li").evaluate_all(script)


def scores(page):
    return page.locator(".blcf-results small").all_inner_texts()


def changed(page, before):
    page.wait_for_function(
        "before => JSON.stringify([...document.querySelectorAll('.blcf-results small')]"
        ".map(one => one.innerText)) !== JSON.stringify(before)",
        arg=before,
        timeout=20_000,
    )


def shoot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    assert np.asarray(Image.open(path)).std() > 5  # not a blank page


def choose(page, path):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="own photograph").click()
    chooser.value.set_files(path)


def drag(page, start, end):
    canvas = page.locator("canvas.blcf-box").bounding_box()
    at = [(canvas["x"] + x * canvas["width"], canvas["y"] + y * canvas["height"])
          for x, y in (start, end)]  # fmt: skip
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=5)
    page.mouse.up()


def test_a_visitor_draws_turns_uploads_and_asks_why(page, album, tmp_path):
    shoot(page, "demo-1-first")
    before = scores(page)
    # 00.jpg is shown first, without a box; its poster fills (30, 20) to (78, 68) of 120 x 90.
    drag(page, (0.25, 0.22), (0.65, 0.76))
    changed(page, before)
    x1, y1, x2, y2 = map(int, page.get_by_placeholder("x1,y1,x2,y2").input_value().split(","))
    assert (abs(x1 - 30), abs(y1 - 20), abs(x2 - 78), abs(y2 - 68)) < (3, 3, 3, 3)
    alike = page.locator(".blcf-pick img").evaluate_all("all => all.slice(0, 2).map(e => e.alt)")
    assert {name.rpartition(" ")[2] for name in alike} == {"01.jpg", "02.jpg"}
    shoot(page, "demo-2-box")

    before = scores(page)
    page.get_by_label("weighting").select_option("Gaussian")
    changed(page, before)
    shoot(page, "demo-3-weighting")

    page.locator(".blcf-why").first.click()
    page.wait_for_function("[...document.images].some(e => e.naturalWidth > 900)", timeout=20_000)
    shoot(page, "demo-4-why")

    before = scores(page)
    page.locator(".blcf-pick").first.click()
    changed(page, before)
    assert page.get_by_placeholder("x1,y1,x2,y2").input_value() == ""

    copy = tmp_path / "mine.jpg"
    shutil.copy(album / "day1" / "07.jpg", copy)
    before = scores(page)
    choose(page, copy)
    changed(page, before)
    assert page.locator(".blcf-pick img").first.get_attribute("alt").endswith("07.jpg")
    shoot(page, "demo-5-upload")

    bad, before = tmp_path / "bad.jpg", scores(page)
    bad.write_bytes(b"<script>alert(1)</script>" * 20)
    choose(page, bad)
    page.wait_for_selector(".blcf-error")
    assert "bad.jpg: expected a JPEG" in page.locator(".blcf-error").inner_text()
    assert scores(page) == before
    shoot(page, "demo-6-bad-file")


def test_a_large_photograph_arrives_whole(page, tmp_path):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > 12 * 2**20  # more than a websocket takes by default
    (tmp_path / "large.png").write_bytes(stream.getvalue())
    before = scores(page)
    choose(page, tmp_path / "large.png")
    changed(page, before)
    assert page.locator(".blcf-error").count() == 0


def test_a_phone_sees_it_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    shoot(page, "demo-7-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 391


def test_the_server_is_reached_from_this_machine_only_and_sends_no_source(
    album,
    album_profile,
    tmp_path,
):
    index_folder(album, album_profile, [])
    with (
        (tmp_path / "log").open("w") as log,
        serving(page_of_folder(album), port=0, log=log) as (process, address),
    ):
        ready(address, process)
        port = int(address.rstrip("/").rpartition(":")[2])
        assert address.startswith("http://127.0.0.1:")
        table = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
        listening = [line.split()[1] for line in table.splitlines()[1:] if " 0A " in line]
        assert f"0100007F:{port:04X}" in listening or not table
        assert f"00000000:{port:04X}" not in listening
        for path in ("voila/files/instance-search.ipynb", "voila/files/../../etc/passwd"):
            assert requests.get(address + path, timeout=10).status_code in (400, 403, 404)
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=2)


def test_a_taken_port_and_an_unknown_folder_are_said(album, album_profile):
    run = CliRunner().invoke
    missing = run(app, ["demo", str(album / "nowhere")])
    assert missing.exit_code == 2
    assert "no such folder" in missing.output
    unindexed = run(app, ["demo", str(album)])
    assert "is not indexed yet; run blcf index" in unindexed.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(StudyError, match=r"cannot listen there .* choose another --port"),
            serving("1", port=port),
        ):
            pass


def _instructions(text):
    joined = text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    return [line.partition(" ")[::2] for line in lines if line and not line.startswith("#")]


def test_the_dockerfiles_steps_fit_the_repository():
    steps = _instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    kinds = [kind for kind, _ in steps]
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
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


def test_the_notebook_shows_the_same_panel():
    notebook = nbformat.read(ROOT / "notebooks" / "10_explore.ipynb", as_version=4)
    assert any("explore(study" in cell.source for cell in notebook.cells)
