"""The report's pages of queries: what they show is what the table measured, or they are not there.

Everything is made with the small set ``toy`` and an untrained network.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.experiments.search import search_table
from blcf_utils.ground.artefacts import write_json
from blcf_utils.results.evaluation import evaluate_query
from blcf_utils.run.report import queries as report_queries
from blcf_utils.run.report.queries import KeptStore, query_pages
from blcf_utils.run.report.site import write_report
from blcf_utils.search.query import Ranking
from blcf_utils.search.recipes import Found
from blcf_utils.study.study import Study

SETTINGS = """
description: a toy
datasets: [toy]
features:
  backbone: {name: squeezenet1_1, layer: fire3, weights: random}
  longest_side: 96
  device: cpu
whitening: {dimensions: 64}
codebook: {words: 50, iterations: 5}
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(toy_root, tmp_path_factory):
    """A run of the search table on ``toy`` as ``blcf run`` leaves it, and its study."""
    root = tmp_path_factory.mktemp("run")
    (root / "data" / "profiles").mkdir(parents=True)
    (root / "data" / "published").symlink_to(ROOT / "data" / "published")
    (root / "data" / "profiles" / "tiny.yaml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_HOME", str(root))
        patch.setenv("BLCF_DATA", str(toy_root))
        patch.setenv("BLCF_CACHE", str(root / "cache"))
        patch.delenv("BLCF_RESULTS", raising=False)
        study = Study(load_profile("tiny"))
        search_table(study, ("GS", "LS", "LS + R"))
        write_json(study.results / "run.json", recorded(study))
        yield study


def recorded(study: Study) -> dict:
    dataset = study.dataset("toy")
    entry = {
        "status": "done", "seconds": 1.0, "peak_rss_mb": 1, "message": "", "stages": [],
        "datasets": [{"dataset": "toy", "manifest": dataset.manifest,
                      "ground_truth": dataset.ground_truth_digest}],
    }  # fmt: skip
    profile = study.profile
    return {
        "profile": {"name": "tiny", "digest": profile.digest(), "document": profile.document()},
        "provenance": {},
        "notebooks": {"04_search": entry},
    }


@pytest.fixture
def pages(run, tmp_path):
    """Makes the pages of a record in a folder of their own."""
    return lambda record: query_pages(record, run.results, tmp_path)


def sections(body: str) -> dict[str, str]:
    """Return the part of a page that belongs to each query, by its place."""
    return dict(re.findall(r'<section class="query" id="(q\d+)">(.*?)</section>', body, re.S))


def test_a_page_shows_every_query_with_what_the_recipe_finds_first(run, pages, tmp_path):
    (page,) = pages(recorded(run))
    dataset, found = run.dataset("toy"), run.find("toy", "LS + R")
    shown = sections(page.body)
    assert list(page.anchors) == [query.id for query in dataset.queries]
    for query in dataset.queries:
        section = shown[page.anchors[query.id]]
        files = [int(n) for n in re.findall(r'src="queries/toy/(\d+)\.jpg"', section)]
        first = found[query.id].ranking.images[:8].tolist()
        assert files == [dataset.image_index[query.image], *first]
        expected, rank = ["query"], 0
        for image in first:
            own = " (the query's image)" if dataset.images[image] == query.image else ""
            if image in query.junk:
                expected.append("junk" + own)
                continue
            rank += 1
            expected.append(f"{rank} {'' if image in query.positives else 'not '}relevant{own}")
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", section)
        assert [text.replace("&#x27;", "'") for text in captions] == expected
        ap = evaluate_query(dataset, query, found[query.id].ranking.images)
        assert f"LS + R&nbsp;{ap:.3f}" in section
    assert page.means["LS + R"] == pytest.approx(
        run.evaluate("toy", {q: one.ranking for q, one in found.items()}).mean
    )


def test_a_thumbnail_is_written_once_small_and_with_its_boxes_on_top(run, pages, tmp_path):
    (page,) = pages(recorded(run))
    dataset = run.dataset("toy")
    addresses = re.findall(r'src="(queries/[^"]+)" width="(\d+)" height="(\d+)"', page.body)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert files == sorted({address for address, *_ in addresses})
    for address, width, height in addresses:
        with Image.open(tmp_path / address) as image:
            assert image.size == (int(width), int(height))
            assert max(image.size) == report_queries.LONGEST_SIDE
    query = dataset.queries[-1]
    assert query.image not in dataset.images
    section = sections(page.body)[page.anchors[query.id]]
    x, y, width, height = map(float, re.search(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', section
    ).groups())  # fmt: skip
    x1, y1, x2, y2 = query.box
    sides = (120, 90)  # of the photograph outside the database
    assert (x, y) == pytest.approx((100 * x1 / sides[0], 100 * y1 / sides[1]), abs=0.06)
    assert (x + width, y + height) == pytest.approx(
        (100 * x2 / sides[0], 100 * y2 / sides[1]), abs=0.11
    )


def test_the_report_leads_to_the_queries_from_tables_and_overview(run):
    site = write_report("tiny").parent
    table = (site / "t02_blcf_search.html").read_text()
    assert '<a href="queries_toy.html#q1">q0</a>' in table
    assert '<a href="queries_toy.html">toy</a>' in (site / "index.html").read_text()
    body = (site / "queries_toy.html").read_text()
    ids = set(re.findall(r' id="([^"]+)"', body))
    for address in re.findall(r'(?:href|src)="([^"]+)"', body):
        if not address.startswith("data:"):
            path, _, place = address.partition("#")
            assert not path or (site / path).is_file(), address
            assert not place or path or place in ids, address
    assert set(re.findall(r'href="queries_toy.html#(\w+)"', table)) <= ids


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "blcf")

    def lines() -> list[str]:
        messages = (record.getMessage() for record in caplog.records)
        return [text for text in messages if text.startswith("report without")]

    return lines


def test_without_the_artefacts_there_is_no_page_and_nothing_is_computed(
    run, pages, said, tmp_path, monkeypatch
):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "empty"))
    assert pages(recorded(run)) == []
    (line,) = said()
    assert "without the queries of toy" in line
    assert "not in the artefact store" in line
    assert not list((tmp_path / "empty").rglob("artefact.json"))
    assert not list(tmp_path.rglob("*.jpg"))


def test_without_the_dataset_there_is_no_page(run, pages, said, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path / "nowhere"))
    assert pages(recorded(run)) == []
    assert "without the queries of toy" in said()[0]


def test_a_dataset_that_changed_since_the_run_has_no_page(run, pages, said):
    record = recorded(run)
    record["notebooks"]["04_search"]["datasets"][0]["manifest"] = "0" * 16
    assert pages(record) == []
    assert "its images or queries changed" in said()[0]


def test_rankings_that_are_not_those_of_the_table_are_not_shown(
    run, pages, said, tmp_path, monkeypatch
):
    read = report_queries.read_per_query

    def altered(*arguments):
        aps = read(*arguments)
        aps["LS + R", "toy"]["q2"] += 0.001
        return aps

    monkeypatch.setattr(report_queries, "read_per_query", altered)
    assert pages(recorded(run)) == []
    assert "query q2 now has AP" in said()[0]
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record.pop("profile"), "does not hold a profile"),
        (lambda record: record["profile"]["document"].update(colour="red"), "not hold a profile"),
        (lambda record: record["profile"].update(digest="feed"), "names folders of the machine"),
    ],
)
def test_a_record_without_its_profile_has_no_page(run, pages, said, change, reason):
    record = recorded(run)
    change(record)
    assert pages(record) == []
    (line,) = said()
    assert reason in line


def test_a_run_without_the_recipe_says_nothing(run, pages, said, tmp_path):
    assert query_pages(recorded(run), tmp_path / "no-tables", tmp_path) == []
    assert said() == []


def test_a_missing_rendered_dataset_is_not_drawn(said, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    profile = Profile(name="drawn", datasets=("mini-objects",))
    entry = {"datasets": [{"dataset": "mini-objects", "manifest": "", "ground_truth": ""}],
             "stages": [{"stage": "rendered", "label": "mini-objects", "key": "feed"}]}  # fmt: skip
    record = {
        "profile": {"document": profile.document(), "digest": profile.digest()},
        "notebooks": {"04_search": entry},
    }
    folder = tmp_path / "results"
    (folder / "per_query").mkdir(parents=True)
    lines = "row,column,query,ap\nLS + R,mini-objects,a,0.5\n"
    (folder / "per_query" / "t02_blcf_search.csv").write_text(lines)
    assert query_pages(record, folder, tmp_path) == []
    assert "its images are not in the artefact store" in said()[0]
    assert not (tmp_path / "cache" / "rendered").exists()


def test_a_large_dataset_shows_some_queries_evenly_spread(run, pages, monkeypatch):
    monkeypatch.setattr(report_queries, "MOST_QUERIES", 2)
    (page,) = pages(recorded(run))
    assert list(page.anchors) == ["q0", "outside"]
    assert "Shown are 2 of its 5 queries" in page.body


def test_images_of_one_unit_are_shown_once(run, pages):
    """A shot is ranked by its first frame and counts once."""
    dataset = run.dataset("toy")
    units = tuple(f"shot{i // 2}" for i in range(len(dataset.images)))
    query = replace(dataset.queries[0], positives=(1,), junk=(0,))
    images = np.array([2, 3, 0, 1, 9, 8])
    ranking = Ranking(images, np.linspace(1, 0.5, 6))
    found = Found(ranking, (np.array([]), np.array([])), "ls", {}, 0.0)
    shots = replace(dataset, units=units)
    hits = report_queries._hits(shots, run.maps("toy"), query, found)
    assert [hit.kind for hit in hits] == ["asked", "relevant", "junk", "wrong"]
    assert [hit.image for hit in hits[1:]] == [dataset.images[i] for i in (2, 0, 9)]
    assert [hit.caption[:2] for hit in hits[1:]] == ["1 ", "ju", "2 "]


def test_a_store_that_only_finds_still_finds(run):
    kept = Study(run.profile, KeptStore())
    assert kept.maps("toy").key == run.maps("toy").key
