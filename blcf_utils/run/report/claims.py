"""The report's page of claims: what this run tested first, then what it did not."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from blcf_utils.run.report.pages import Cell, html_table, verdict_cell

INTRO = (
    "Every claim of the slides, tested twice by one rule: on the numbers the slides print and on "
    "the numbers this run measured. The interval is a paired bootstrap over queries (95 %): one "
    "that holds 0 leaves the claim open."
)


def claims_to_html(path: Path) -> str:
    """Return the claims of ``tables/claims.csv`` in three groups, tested ones first."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    verdict = frame["measured"].str.partition(":")[0].str.strip()
    tested = frame[~verdict.isin(["not run", "not testable by a table"])]
    waiting, beyond = frame[verdict == "not run"], frame[verdict == "not testable by a table"]
    parts = [f"<p>{INTRO}</p>", "<h2>Tested by this run</h2>"]
    columns = ["slides", "this run", "difference and interval", "numbers of this run"]
    names = ["published_holds", "measured", "interval", "measured_evidence"]
    parts.append(_table(tested, ["claim", *columns], names))
    parts += ["<h2>Not run yet</h2>", _table(waiting, ["claim", "slides", "this run"], names[:2])]
    if len(beyond):
        parts += ["<h2>No table can test</h2>", _table(beyond, ["claim", "why"], names[1:2])]
    return "\n".join(parts)


def _table(frame: pd.DataFrame, header: list[str], names: list[str]) -> str:
    if not len(frame):
        return "<p>None.</p>"
    rows = []
    for line in frame.to_dict("records"):
        what = html.escape(line.get("claim", ""))
        where = ", ".join(filter(None, (line.get("table"), line.get("slide"))))
        told = f'{what}<br><small class="soft">{html.escape(where)}</small>' if where else what
        rows.append([Cell(told, key=what), *(verdict_cell(line.get(name, "")) for name in names)])
    return html_table(header, rows)
