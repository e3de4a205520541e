"""The report's pages of queries: each with its box, its scores and the first images found.

The rankings are those of the search table's row ``LS + R``. They are found again from what the
run left in the artefact store, which takes a second or two; nothing is computed anew. Where
something is missing, or a ranking no longer scores what the table says, there is no such page.
"""

from __future__ import annotations

import html
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import ValidationError

from blcf_utils.config.profile import Profile
from blcf_utils.datasets import REGISTRY, load_dataset
from blcf_utils.datasets.base import Box, Dataset, Query
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.ground.artefacts import MANIFEST, Artefact, ArtefactStore, atomic_path
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress
from blcf_utils.results.evaluation import evaluate_query
from blcf_utils.results.tables import read_per_query
from blcf_utils.run.report.pages import Cell, html_table, number_cell
from blcf_utils.search.recipes import Found
from blcf_utils.search.windows import window_box
from blcf_utils.study.study import Study
from blcf_utils.words.assignment_maps import AssignmentMaps

log = logging.getLogger("blcf")

TABLE = "t02_blcf_search"
SHOWN = "LS + R"
ROWS = ("GS", "LS", SHOWN, "LS + R + LQE")
FOLDER = "queries"
LONGEST_SIDE = 160
FIRST = 8
# A page that lists more can no longer be read, and its search takes minutes.
MOST_QUERIES = 400

APs = Mapping[str, Mapping[str, float]]


class KeptStore(ArtefactStore):
    """An artefact store that only finds: what is not there is an error, not work."""

    def _make(self, folder: Path, document: dict, make: object) -> None:
        raise StudyError(
            f"{folder.parent.name} {folder.name} is not in the artefact store {self.root}; run "
            "the study again on this machine"
        )


@dataclass(frozen=True)
class QueriesPage:
    """The page of one dataset's queries.

    Attributes:
        file: its file name.
        dataset: whose queries.
        body: what it shows, HTML.
        anchors: query id to the name of its place on the page.
        means: table row to mean average precision over the dataset's queries.
    """

    file: str
    dataset: str
    body: str
    anchors: dict[str, str]
    means: dict[str, float]


@dataclass(frozen=True)
class _Hit:
    """One image of a query's row of pictures."""

    image: Path
    caption: str
    kind: str
    alt: str
    box: tuple[float, ...] | None


def query_pages(record: dict, folder: Path, site: Path) -> list[QueriesPage]:
    """Make the pages of queries and write their thumbnails to ``<site>/queries``.

    A dataset whose page cannot be made is left out, with one line of the log that says why.

    Args:
        record: of the run (``run.json``), which names the profile and its datasets.
        folder: the profile's results folder.
        site: the report's folder.
    """
    recorded = {}
    for entry in record["notebooks"].values():
        recorded |= {data["dataset"]: data for data in entry.get("datasets", [])}
    aps = _recorded_aps(folder)
    names = [name for name in recorded if SHOWN in aps.get(name, {})]
    pages = []
    try:
        study = _kept_study(record, recorded) if names else None
    except StudyError as error:
        log.warning("report without pages of queries: %s", error)
        return []
    for name in names:
        try:
            pages.append(_page(study, name, aps[name], site))
        except StudyError as error:
            log.warning("report without the queries of %s: %s", name, error)
    return pages


def _recorded_aps(folder: Path) -> dict[str, APs]:
    """Return the search table's APs: dataset to row to query id to AP."""
    aps: dict[str, dict[str, dict[str, float]]] = {}
    for (row, column), of_query in read_per_query(TABLE, folder).items():
        if row in ROWS:
            aps.setdefault(column, {})[row] = of_query
    return {name: {row: rows[row] for row in ROWS if row in rows} for name, rows in aps.items()}


def _kept_study(record: dict, recorded: dict[str, dict]) -> Study:
    """Return the study of a record, which only opens what its run made."""
    try:
        profile = Profile(**record["profile"]["document"])
    except (KeyError, ValidationError):
        raise StudyError("run.json does not hold a profile that this version reads") from None
    if profile.digest() != record["profile"].get("digest"):
        raise StudyError("the profile in run.json names folders of the machine it was run on")
    store = KeptStore()
    study = Study(profile, store)
    stages = [stage for e in record["notebooks"].values() for stage in e.get("stages", [])]

    def dataset(name: str) -> Dataset:
        options = dict(profile.dataset_options.get(name, {}))
        if name in REGISTRY and REGISTRY[name].rendered:
            options["root"] = _rendered(name, options, stages, store)
        loaded = load_dataset(name, **options)
        found = (loaded.manifest, loaded.ground_truth_digest)
        expected = (recorded[name]["manifest"], recorded[name]["ground_truth"])
        if found != expected:
            raise StudyError(f"{name} is not the dataset of the run: its images or queries changed")
        return loaded

    loaded: dict[str, Dataset] = {}
    study.dataset = lambda name: loaded.get(name) or loaded.setdefault(name, dataset(name))
    return study


def _rendered(name: str, options: dict, stages: list[dict], store: ArtefactStore) -> Path:
    """Return where a rendered dataset lies; the loader itself would draw a missing one."""
    scale = options.get("scale", 1)
    label = name if scale == 1 else f"{name}-{scale:g}"
    keys = [s["key"] for s in stages if (s["stage"], s["label"]) == ("rendered", label)]
    for key in reversed(keys):
        artefact = Artefact("rendered", label, key, store.root / "rendered" / f"{label}-{key}",
                            reused=True, seconds=0.0)  # fmt: skip
        if (artefact / MANIFEST).is_file():
            return artefact / "set"
    raise StudyError(f"its images are not in the artefact store {store.root}")


def _page(study: Study, name: str, aps: APs, site: Path) -> QueriesPage:
    dataset, maps, searcher = study.dataset(name), study.maps(name), study.searcher(name)
    queries = dataset.queries
    if len(queries) > MOST_QUERIES:
        chosen = np.linspace(0, len(queries) - 1, MOST_QUERIES).round().astype(int)
        queries = [queries[i] for i in chosen]
    hits = {}
    for query in progress(queries, label=f"first images of {name}", unit="query"):
        found = searcher.run(SHOWN, query)
        ap = evaluate_query(dataset, query, found.ranking.images)
        if not abs(ap - aps[SHOWN].get(query.id, math.nan)) < 1e-6:
            raise StudyError(
                f"query {query.id} now has AP {ap:.6f} with {SHOWN}, unlike in "
                f"per_query/{TABLE}.csv; run the study again"
            )
        hits[query.id] = _hits(dataset, maps, query, found)
    file = re.sub(r"[^\w.+-]+", "_", name)
    thumbnails = _Thumbnails(dataset, site, f"{FOLDER}/{file}")
    anchors = {query.id: f"q{number}" for number, query in enumerate(queries, 1)}
    parts = [_section(query, anchors[query.id], aps, hits[query.id], thumbnails)
             for query in queries]  # fmt: skip
    means = {row: float(np.mean(list(of_query.values()))) for row, of_query in aps.items()}
    intro = _introduction(dataset, len(queries))
    body = "\n".join([intro, _overview(queries, anchors, aps), "<h2>The queries</h2>", *parts])
    return QueriesPage(f"queries_{file}.html", name, body, anchors, means)


def _introduction(dataset: Dataset, shown: int) -> str:
    name, total = html.escape(dataset.name), len(dataset.queries)
    chosen = f" Shown are {shown} of its {total} queries, evenly spread." if shown < total else ""
    return f"""<h1>Queries of {name}</h1>
<p>Every query with its box and the first {FIRST} images that <b>{SHOWN}</b> (local search, then
spatial re-ranking) finds; the box in a result is the window in which re-ranking found the query.
AP is the average precision of this query.{chosen}</p>
<ul class="legend"><li class="relevant">relevant: shows the query's object</li>
<li class="wrong">not relevant</li>
<li class="junk">junk: counts neither way and has no rank</li></ul>"""


def _overview(queries: list[Query], anchors: dict[str, str], aps: APs) -> str:
    rows = [
        [Cell(f'<a href="#{anchors[query.id]}">{html.escape(query.id)}</a>', key=query.id),
         *(number_cell(of_query.get(query.id, math.nan), 3) for of_query in aps.values()),
         len(query.positives), query.instance]
        for query in queries
    ]  # fmt: skip
    header = ["query", *(f"AP {row}" for row in aps), "relevant images", "object"]
    return f'<h2 id="list">List</h2>\n{html_table(header, rows)}'


def _section(query: Query, anchor: str, aps: APs, hits: list[_Hit], thumbnails: _Thumbnails) -> str:
    scores = " · ".join(
        f"{row}&nbsp;{of_query[query.id]:.3f}" for row, of_query in aps.items()
        if query.id in of_query
    )  # fmt: skip
    about = ", ".join(filter(None, [query.instance, f"{len(query.positives)} relevant images"]))
    shown = "\n".join(_figure(hit, *thumbnails.of(hit.image)) for hit in hits)
    return f"""<section class="query" id="{anchor}">
<h3>{html.escape(query.id)} <small>{html.escape(about)}</small></h3>
<p class="soft">AP: {scores} · <a href="#list">list</a></p>
<div class="hits">
{shown}
</div>
</section>"""


def _hits(dataset: Dataset, maps: AssignmentMaps, query: Query, found: Found) -> list[_Hit]:
    """Return the query's own picture and those of the first units of its ranking."""
    size = tuple(maps.sizes[dataset.image_index[query.image]])
    hits = [_Hit(query.image, "query", "asked", f"Query {query.id}", _share(query.box, size))]
    seen, rank = set(), 0
    for image in found.ranking.images.tolist():
        if len(hits) > FIRST:
            break
        unit = dataset.unit_of(image)
        if unit in seen:
            continue
        seen.add(unit)
        # An item in both lists is junk, as in the average precision.
        kind = "junk" if unit in query.junk else "wrong"
        kind = "relevant" if unit in query.positives and kind != "junk" else kind
        rank += kind != "junk"
        box = None
        if image in found.windows:
            size = tuple(maps.sizes[image])
            box = _share(window_box(found.windows[image], tuple(maps.shapes[image]), size), size)
        path = dataset.images[image]
        words = "not relevant" if kind == "wrong" else kind
        place = "junk" if kind == "junk" else f"{rank} {words}"
        if path == query.image:
            place += " (the query's image)"
        hits.append(_Hit(path, place, kind, f"Result {place}: {path.name}", box))
    return hits


def _share(box: Box | None, size: tuple[int, int]) -> tuple[float, ...] | None:
    """Return x, y, width and height of a box in percent of the image's sides."""
    if box is None:
        return None
    x1, y1, x2, y2 = (
        float(np.clip(100 * edge / side, 0, 100))
        for edge, side in zip(box, (*size, *size), strict=True)
    )
    return x1, y1, x2 - x1, y2 - y1


def _figure(hit: _Hit, address: str, size: tuple[int, int]) -> str:
    box = ""
    if hit.box:
        x, y, width, height = (f"{value:.1f}" for value in hit.box)
        rect = f'<rect x="{x}" y="{y}" width="{width}" height="{height}"/>'
        # Twice: the wider one, white, keeps the narrow one visible on any picture.
        box = f"""<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
{rect * 2}</svg>"""
    return (
        f'<figure class="hit {hit.kind}"><div class="shot"><img src="{html.escape(address)}" '
        f'width="{size[0]}" height="{size[1]}" loading="lazy" alt="{html.escape(hit.alt)}">'
        f"{box}</div><figcaption>{html.escape(hit.caption)}</figcaption></figure>"
    )


class _Thumbnails:
    """Small pictures of a dataset's images, each written when it is first asked for."""

    def __init__(self, dataset: Dataset, site: Path, folder: str):
        self._dataset, self._site, self._folder = dataset, site, folder
        self._sizes: dict[Path, tuple[int, int]] = {}

    def of(self, path: Path) -> tuple[str, tuple[int, int]]:
        """Return the address of an image's thumbnail, from the site's pages, and its size."""
        address = f"{self._folder}/{self._dataset.image_index[path]}.jpg"
        if path not in self._sizes:
            turned = self._dataset.exif_orientation
            size = resized_size(image_size(path, exif_orientation=turned), LONGEST_SIDE)
            pixels = read_image(path, size, exif_orientation=turned)
            with atomic_path(self._site / address) as target:
                Image.fromarray(pixels).save(target, "JPEG", quality=80)
            self._sizes[path] = size
        return address, self._sizes[path]
