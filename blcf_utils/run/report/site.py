"""The report: a small static site of a run's story, notebooks, tables, claims and origin."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader
from pygments.formatters import HtmlFormatter

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.results.published import number
from blcf_utils.results.story import story
from blcf_utils.results.tables import LONG
from blcf_utils.run.record import read_run, results_folder
from blcf_utils.run.report.claims import claim_groups
from blcf_utils.run.report.notebooks import document_to_html, notebook_to_html
from blcf_utils.run.report.tables import result_table
from blcf_utils.run.stages import stages_of

# The story's pictures, by the name that a notebook gives them, and what they show.
PICTURES = {
    "gain": "A query with its box, and what global and local search find first: green is right.",
    "ladder": "The mAP of each step of the search, the thesis' own as dashed lines.",
    "claims": "Claims as differences of mAP, the thesis' own hollow: right of 0 what is named "
    "first is better.",
}
# Longer texts than this get a column that is wide enough to be read on a phone.
LONG_TEXT = 40
COLOURS = {
    "reproduced": "good", "holds": "good", "done": "good", "close": "mid", "undecided": "mid",
    "differs": "bad", "fails": "bad", "does not hold": "bad", "failed": "bad", "interrupted": "bad",
    "not run": "soft", "–": "n",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A page of the report.

    Attributes:
        name: its file name without ``.html``.
        title: its heading.
        group: the part of the report it is listed in; its template is ``<group>.html``.
        content: what its template shows.
    """

    name: str
    title: str
    group: str
    content: dict


def write_report(profile: str, results: Path | None = None) -> Path:
    """Write ``<results>/<profile>/report`` and return its ``index.html``.

    The site needs no network and no server: every figure is embedded, every link is relative.

    Args:
        profile: name of the profile whose results are reported.
        results: the folder that holds one folder per profile, instead of ``results``.

    Raises:
        StudyError: nothing has been run yet.
    """
    folder = results_folder(profile, results)
    record = read_run(folder)
    executed = sorted((folder / "notebooks").glob("[!.]*.ipynb"))
    notebooks = [path for path in executed if not path.name.endswith(".failed.ipynb")]
    # Results first, then what is said about them (intervals, seeds).
    tables = sorted((folder / "tables").glob("*.csv"), key=lambda p: (p.stem[1:3].isalpha(), p))
    if not notebooks and not tables:
        raise StudyError(
            f"{folder}: no executed notebook and no table to report; run blcf run "
            f"--profile {profile} first"
        )
    documents = sorted((project_root() / "docs").glob("*.md"))
    names = {path.stem for path in [*notebooks, *documents]}
    pages = []
    for path in notebooks:
        title, body = notebook_to_html(path, names)
        pages.append(Page(path.stem, title, "notebook", {"body": body}))
    pages += [_table_page(path, folder, record) for path in tables if path.stem != "claims"]
    if (claims := folder / "tables" / "claims.csv") in tables:
        groups, summary = claim_groups(claims)
        content = {"groups": groups, "summary": summary}
        pages.append(Page("claims", "Claims of the thesis", "claims", content))
    for path in documents:
        title, body = document_to_html(path, names)
        pages.append(Page(path.stem, title, "guide", {"body": body}))
    pages.append(Page("provenance", "Where these results come from", "provenance", _origin(record)))
    pages.insert(0, Page("index", f"Profile {profile}", "index", _overview(folder, record, pages)))

    site, templates = folder / "report", page_templates()
    shutil.rmtree(site, ignore_errors=True)
    for path in tables:
        write_text(site / "data" / path.name, path.read_text(encoding="utf-8"))
    for path in (folder / "per_query").glob("*.csv"):
        write_text(site / "data" / "per_query" / path.name, path.read_text(encoding="utf-8"))
    (site / "figures").mkdir(parents=True)
    charts = filter(None, (_slopes(folder, path) for path in tables))
    for path in [*_pictures(folder).values(), *charts]:
        shutil.copyfile(path, site / "figures" / path.name)
    for name in ("report.css", "report.js"):
        write_text(site / name, templates.get_template(name).render())
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        text = templates.get_template(f"{page.group}.html").render(
            page.content, page=page, pages=pages, before=before, after=after,
            profile=profile, record=record,
        )  # fmt: skip
        write_text(site / f"{page.name}.html", text)
    return site / "index.html"


def page_templates() -> Environment:
    """Return the report's templates with what they use."""
    templates = Environment(
        loader=PackageLoader("blcf_utils.run.report"),
        autoescape=lambda name: name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["cell_class"] = _cell_class
    templates.globals["code_colours"] = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    return templates


def _cell_class(value: object) -> str:
    """Return the style of a table's cell: a verdict's colour, ``n`` of a number, or ``long``."""
    text = str(value)
    colour = COLOURS.get(text.partition(":")[0].strip(), "")
    size = "n" if number(text) is not None else "long" if len(text) > LONG_TEXT else ""
    return f"{colour} {size}".strip()


def _table_page(path: Path, folder: Path, record: dict) -> Page:
    name = path.stem
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(frame.columns) != LONG:
        frame.columns = frame.columns.str.replace("_", " ")
        title = name.replace("_", " ").capitalize()
        return Page(name, title, "table", {"plain": frame, "summary": [""] * 3})
    # The verdicts compare only what was made with the same network.
    document, context = record.get("profile", {}).get("document", {}), {}
    if backbone := document.get("features", {}).get("backbone"):
        layer = document.get("sum_pooling", {}).get("full_layer") or backbone["layer"]
        full = backbone | {"layer": layer}
        of = {"backbone": backbone, "full resolution": full}
        context = {what: BackboneConfig(**one).label for what, one in of.items()}
    content = result_table(name, folder, context)
    if slopes := _slopes(folder, path):
        content["slopes"] = f"figures/{slopes.name}"
    return Page(name, content["info"].title, "table", content)


def _figure(folder: Path, name: str) -> Path | None:
    """Return the figure that a notebook of any number saved under a name; None without one."""
    return next(iter(sorted((folder / "figures").glob(f"[0-9][0-9]_{name}.png"))), None)


def _pictures(folder: Path) -> dict[str, Path]:
    """Return those of the story's pictures that there are, by what they show."""
    found = {about: _figure(folder, name) for name, about in PICTURES.items()}
    return {about: path for about, path in found.items() if path}


def _slopes(folder: Path, table: Path) -> Path | None:
    """Return a table's slope chart: ``slopes_t02`` of ``t02_blcf_search.csv``."""
    return _figure(folder, f"slopes_{table.stem.partition('_')[0]}")


def _overview(folder: Path, record: dict, pages: list[Page]) -> dict:
    listed = [
        (page.name, page.title, *page.content["summary"]) for page in pages if page.group == "table"
    ]
    header = ("table", "about", "measured cells", "not run", "like with like")
    return {
        "told": story(folder),
        "pictures": {about: f"figures/{path.name}" for about, path in _pictures(folder).items()},
        "chapters": _listed(pages, "notebook"),
        "guide": _listed(pages, "guide"),
        "tables": pd.DataFrame(listed, columns=header),
        "claims": next((page for page in pages if page.group == "claims"), None),
    }


def _listed(pages: list[Page], group: str) -> pd.DataFrame:
    found = [(page.name, page.title) for page in pages if page.group == group]
    return pd.DataFrame(found, columns=["page", "about"])


def _origin(record: dict) -> dict:
    entries = record["notebooks"].values()
    datasets = {data["dataset"]: data for entry in entries for data in entry.get("datasets", [])}
    facts = ("dataset", "images", "queries", "manifest", "ground_truth")
    ran = [{"notebook": name, **entry} for name, entry in record["notebooks"].items()]
    return {
        "notebooks": _frame(ran, ("notebook", "status", "seconds", "peak_rss_mb")),
        "datasets": _frame(datasets.values(), facts),
        "stages": stages_of(record),
    }


def _frame(rows: Iterable[dict], names: tuple[str, ...]) -> pd.DataFrame:
    """Return those entries of records as columns, named for reading."""
    frame = pd.DataFrame(list(rows), dtype=object).reindex(columns=names)
    return frame.rename(
        columns=lambda name: name.replace("rss_", "").replace("_mb", "_MB").replace("_", " ")
    )
