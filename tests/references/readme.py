"""Bring the numbers in README.md and results/README.md up to the reference tables.

    python tests/references/readme.py

A table below the line ``<!-- measured: TABLE -->`` has that table's rows, and its columns as
headers. One below ``<!-- claims -->`` has claims as rows, which end with their ids, and ``thesis``
and profiles as headers. What stands in their cells is read from ``results/*/tables``. A test checks
that nothing would change.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "results/README.md")
PROFILES = ("mini", "photos")
MARK = re.compile(r"<!-- (?:measured: (\w+)|(claims)) -->\n((?:\|.*\n)+)")
THESIS = "thesis "  # before the name of a column whose published value is shown


def _tables(name: str) -> dict[str, pd.DataFrame]:
    paths = {p: ROOT / "results" / p / "tables" / f"{name}.csv" for p in PROFILES}
    return {
        p: pd.read_csv(path, dtype=str, keep_default_na=False)
        for p, path in paths.items()
        if path.exists()
    }


def _number(name: str, row: str, column: str) -> str:
    value = "published" if column.startswith(THESIS) else "measured"
    for table in _tables(name).values():
        of = (table["row"] == row) & (table["column"] == column.removeprefix(THESIS))
        found = pd.to_numeric(table.loc[of, value], errors="coerce").dropna()
        if len(found):
            return f"{found.iloc[0]:.3f}"
    return "–"


def _verdict(claim: str, column: str) -> str:
    profile, value = (
        (PROFILES[0], "published_holds") if column == "thesis" else (column, "measured")
    )
    said = _tables("claims")[profile].set_index("id")[value].get(claim.split("`")[-1], "")
    return "–" if not said or ":" in said else said


def refreshed(text: str) -> str:
    """Return a page with the cells of its marked tables read from the reference tables."""

    def table(found: re.Match) -> str:
        name, _, lines = found.groups()
        header, rule, *rows = [line.strip("|\n").split("|") for line in lines.splitlines()]
        columns = [cell.strip(" `") for cell in header[1:]]
        for row in rows:
            label = row[0].strip(" `")
            read = [_number(name, label, c) if name else _verdict(label, c) for c in columns]
            row[1:] = [f" {cell} " for cell in read]
        body = "".join(f"|{'|'.join(row)}|\n" for row in (header, rule, *rows))
        return found[0][: found.start(3) - found.start()] + body

    return MARK.sub(table, text)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
