"""What tests do in a browser: open the demo, draw, choose files, take screenshots."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from blcf_utils.apps.explorer.demo import serving

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"


@contextmanager
def visiting(browser, code, folder, until=".blcf-results li", **options):
    """Serve a page and open it; yields the browser's page once its results are shown (``until``).

    Nothing but the demo itself is reached; ``page.elsewhere`` lists what the page asked others for.
    """
    log = (folder / "demo.log").open("w")
    with log, serving(code, port=0, log=log, **options) as (_, address):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(90_000)  # machines are shared
        page.elsewhere = []

        def route(one):
            if address in one.request.url:
                return one.continue_()
            page.elsewhere.append(one.request.url)
            return one.abort()

        page.route("**/*", route)
        page.goto(address, timeout=240_000, wait_until="commit")
        page.wait_for_selector(until, timeout=240_000)
        page.wait_for_function("[...document.images].every(one => one.complete)")
        try:
            yield page
        finally:
            page.close()


def scores(page):
    """Return the labels of the results: ranks, scores, verdicts."""
    return page.locator(".blcf-results small").all_inner_texts()


def changed(page, before):
    """Wait until the results are no longer those of ``before``."""
    page.wait_for_function(
        "before => JSON.stringify([...document.querySelectorAll('.blcf-results small')]"
        ".map(one => one.innerText)) !== JSON.stringify(before)",
        arg=before,
    )


def explained(page, before=""):
    """Wait for the picture of an explanation, another than ``before``; returns its address."""
    found = "[...document.images].find(e => e.naturalWidth > 900 && e.offsetParent"
    found += " && !e.classList.contains('blcf-stale'))"
    page.wait_for_function(f"old => {{ const e = {found}; return e && e.src !== old }}", arg=before)
    return page.evaluate(f"{found}.src")


def shoot_report(browser, site, shot):
    """Visit a report's pages on a desktop and a phone; keep screenshots, named as in ``shot``.

    No page is wider than the window, on a desktop no result table is, and no file is missing.
    """
    failed = []
    fits = "[...document.querySelectorAll('.shown')].every("
    fits += "e => e.parentElement.scrollWidth <= e.parentElement.clientWidth)"
    for width, device in ((1280, ""), (390, "-phone")):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("requestfailed", lambda request: failed.append(request.url))
        for path in sorted(site.glob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            assert width < 1280 or page.evaluate(fits), path.name
            if path.stem in shot:
                shoot(page, f"{shot[path.stem]}-{path.stem}{device}")
        page.close()
    assert not failed


def shoot(page, name):
    """Keep a screenshot of all of a page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    before = page.viewport_size
    # Voila's page scrolls inside: only a window that is high enough shows all of it.
    inner = "Math.max(...[...document.querySelectorAll('*')].map(e => e.scrollHeight))"
    for _ in range(2):  # and what is as high as the window grows with it
        page.set_viewport_size({"width": before["width"], "height": page.evaluate(inner)})
    page.wait_for_function("[...document.images].every(e => e.complete || e.loading === 'lazy')")
    page.wait_for_timeout(400)  # the layout follows the window
    page.screenshot(path=path)
    page.set_viewport_size(before)
    assert np.asarray(Image.open(path)).std() > 5  # not a blank page


def choose(page, path):
    """Send a file as one's own photograph."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="own photograph").click()
    chooser.value.set_files(path)


def drag(page, start, end):
    """Draw a box on the query image, from one corner to the other as shares of its sides."""
    canvas = page.locator("canvas.blcf-box").bounding_box()
    at = [(canvas["x"] + x * canvas["width"], canvas["y"] + y * canvas["height"])
          for x, y in (start, end)]  # fmt: skip
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=5)
    page.mouse.up()
