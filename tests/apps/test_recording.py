"""A recording in screenshots: the demo on the embedded data, and the report of the reference run.

``make recording`` leaves them in ``build/screenshots``: first open, a box drawn, saliency on, why,
an own photograph, the report's first page, its claims and two tables, these also for a phone.
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from visiting import changed, choose, drag, explained, scores, shoot, shoot_report, visiting

from blcf_utils.apps.explorer.demo import page_of_dataset
from blcf_utils.run.report.site import write_report
from blcf_utils.study.study import open_study

ROOT = Path(__file__).parents[2]
PAGES = ("index", "claims", "t09_saliency_blcf", "t13_state_of_the_art")


def aps(page):
    """Return the AP that the page shows; None where nothing is known."""
    text = page.get_by_text("images searched in").inner_text()
    return float(text.partition("AP ")[2].split()[0]) if "AP " in text else None


def test_the_demo_from_its_first_open_to_an_own_photograph(
    browser, smoke_cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("BLCF_CACHE", str(smoke_cache))
    code = page_of_dataset("smoke", words=())
    dataset = open_study("smoke").open("").dataset
    query = dataset.queries[0]
    x1, y1, x2, y2 = query.box
    width, height = Image.open(query.image).size
    with visiting(browser, code, tmp_path) as page:
        assert aps(page) is not None
        shoot(page, "recording-1-first-open")

        # A third of the object: another question, of which the ground truth still knows.
        before = scores(page)
        middle = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        part = ((x2 - x1) / 3 / width, (y2 - y1) / 3 / height)
        drag(page, *((middle[0] + s * part[0], middle[1] + s * part[1]) for s in (-1, 1)))
        changed(page, before)
        assert aps(page) is not None
        shoot(page, "recording-2-box-drawn")

        page.locator(".blcf-why").first.click()
        plain = explained(page)
        before = scores(page)
        page.get_by_label("weighting").select_option("salgan-mini")
        changed(page, before)
        salient = explained(page, plain)
        shoot(page, "recording-3-saliency-on")

        # An own photograph: the same scene, brighter and in a file of another size.
        scene = Image.open(query.image).convert("RGB").resize((900, 900 * height // width))
        light = np.clip(np.asarray(scene, np.float32) * 1.15, 0, 255)
        Image.fromarray(light.astype(np.uint8)).save(tmp_path / "mine.jpg", quality=85)
        before = scores(page)
        choose(page, tmp_path / "mine.jpg")
        changed(page, before)
        explained(page, salient)
        shoot(page, "recording-4-own-photograph")
        first = page.locator(".blcf-results li").first.get_attribute("data-image")
        right = {dataset.image_index[query.image], *query.positives}
        assert int(first) in right  # a photograph of the same object comes first
        assert page.locator(".blcf-error").count() == 0


def test_the_report_of_the_reference_run(browser, tmp_path):
    shutil.copytree(ROOT / "results" / "mini", tmp_path / "mini")
    site = write_report("mini", tmp_path).parent
    shoot_report(browser, site, {stem: f"recording-{n}-report" for n, stem in enumerate(PAGES, 5)})
