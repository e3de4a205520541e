"""The report: a small static site of a profile's executed notebooks, tables, claims and origin."""

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
from blcf_utils.results.published import number
from blcf_utils.results.tables import LONG
from blcf_utils.run.record import read_run, results_folder
from blcf_utils.run.report.claims import claim_groups
from blcf_utils.run.report.notebooks import notebook_to_html
from blcf_utils.run.report.tables import result_table
from blcf_utils.run.stages import stages_of

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
    tables = sorted((folder / "tables").glob("*.csv"))
    if not notebooks and not tables:
        raise StudyError(
            f"{folder}: no executed notebook and no table to report; run blcf run "
            f"--profile {profile} first"
        )
    names = {path.stem for path in notebooks}
    pages = []
    for path in notebooks:
        title, body = notebook_to_html(path, names)
        pages.append(Page(path.stem, title, "notebook", {"body": body}))
    pages += [_table_page(path, folder, record) for path in tables if path.stem != "claims"]
    if (claims := folder / "tables" / "claims.csv") in tables:
        groups, summary = claim_groups(claims)
        content = {"groups": groups, "summary": summary}
        pages.append(Page("claims", "Claims of the slides", "claims", content))
    pages.append(Page("provenance", "Where these results come from", "provenance", _origin(record)))
    pages.insert(0, Page("index", f"Profile {profile}", "index", _overview(record, pages)))

    site, templates = folder / "report", page_templates()
    shutil.rmtree(site, ignore_errors=True)
    for path in tables:
        write_text(site / "data" / path.name, path.read_text(encoding="utf-8"))
    for path in (folder / "per_query").glob("*.csv"):
        write_text(site / "data" / "per_query" / path.name, path.read_text(encoding="utf-8"))
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
    backbone = record.get("profile", {}).get("document", {}).get("features", {}).get("backbone")
    context = {"backbone": BackboneConfig(**backbone).label} if backbone else {}
    content = result_table(name, folder, context)
    return Page(name, content["info"].title, "table", content)


def _overview(record: dict, pages: list[Page]) -> dict:
    titles = {page.name: page.title for page in pages}
    ran = [
        {"notebook": name, "about": titles.get(name), **entry}
        for name, entry in record["notebooks"].items()
    ]
    names = ("notebook", "about", "status", "seconds", "peak_rss_mb")
    listed = [
        (page.name, page.title, *page.content["summary"]) for page in pages if page.group == "table"
    ]
    header = ("table", "about", "measured cells", "not run", "like with like")
    return {
        "notebooks": _frame(ran, names),
        "tables": pd.DataFrame(listed, columns=header),
        "claims": next((page for page in pages if page.group == "claims"), None),
    }


def _origin(record: dict) -> dict:
    entries = record["notebooks"].values()
    datasets = {data["dataset"]: data for entry in entries for data in entry.get("datasets", [])}
    facts = ("dataset", "images", "queries", "manifest", "ground_truth")
    return {"datasets": _frame(datasets.values(), facts), "stages": stages_of(record)}


def _frame(rows: Iterable[dict], names: tuple[str, ...]) -> pd.DataFrame:
    """Return those entries of records as columns, named for reading."""
    frame = pd.DataFrame(list(rows), dtype=object).reindex(columns=names)
    return frame.rename(
        columns=lambda name: name.replace("rss_", "").replace("_mb", "_MB").replace("_", " ")
    )
