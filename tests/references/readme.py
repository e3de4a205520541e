"""Bring the README pages and docs/ up to the reference runs and the notebooks.

    python tests/references/readme.py

A table below the line ``<!-- measured: TABLE -->`` has that table's rows, and its columns as
headers. One below ``<!-- claims -->`` has claims as rows, which end with their ids, and ``thesis``
and profiles as headers. What stands in their cells is read from ``results/*/tables``.

The list below ``<!-- story: PROFILE -->`` is what ``results.story`` tells of a run. The table below
``<!-- notebooks -->`` has a row a notebook: its title, and tables and minutes of the reference run
of ``mini``. The badges below ``<!-- badges -->`` lead to the repository of ``CITATION.cff``, and
``binder/colab.ipynb`` clones it.
Names of notebooks and of figures (``04_search``) get the number that they have now.

A test checks that nothing would change.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from blcf_utils.results.story import story

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "results/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)
PROFILES = ("mini", "photos")
MARK = re.compile(r"<!-- (?:measured: (\w+)|(claims)) -->\n((?:\|.*\n)+)")
STORY = re.compile(r"(<!-- story: (\w+) -->\n)(?:- .*\n)*")
NOTEBOOKS = re.compile(r"(<!-- notebooks -->\n)(?:\|.*\n)*")
NUMBERED = re.compile(r"\b\d\d_([a-z]\w*)\b(?!\.png)")
FIGURE = re.compile(r"\b(\w+)/figures/\d\d_(\w+)\.png")
BADGES = re.compile(r"(<!-- badges -->\n)(?:\[!.*\n)*")
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


def _without_number(name: str) -> str:
    return name.partition("_")[2]


def _notebooks() -> str:
    """Return the table of notebooks; what no reference run has is ``–``."""
    run = json.loads((ROOT / "results/mini/run.json").read_text(encoding="utf-8"))["notebooks"]
    ran = {_without_number(name): entry for name, entry in run.items()}
    lines = ["| notebook | what it is about | tables | minutes |", "|---|---|---|---|"]
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        title = "".join(first).partition("\n")[0].removeprefix("# ")
        entry = ran.get(_without_number(path.stem), {})
        found = (
            re.fullmatch(r"tables/([tx]\d\d)_\w+\.csv", out) for out in entry.get("outputs", ())
        )
        tables = " ".join(sorted(match[1] for match in found if match))
        minutes = f"{entry['seconds'] / 60:.1f}" if entry else "–"
        link = f"[{path.stem}](notebooks/{path.name})"
        lines.append(f"| {link} | {title} | {tables} | {minutes} |")
    total = sum(entry["seconds"] for entry in run.values()) / 60
    lines.append(f"| all | | | {total:.0f} |")
    return "\n".join(lines) + "\n"


def repository(citation: str) -> str:
    """Return ``OWNER/NAME`` of the repository on GitHub that a citation names; maybe empty."""
    found = re.search(
        r"^repository-code: *[\"']?https://github\.com/([^\s/]+/[^\s/\"']+)", citation, re.M
    )
    return found[1] if found else ""


def badges(citation: str) -> str:
    """Return the badges of Binder and Colab; without a repository they lead to what it takes."""
    places = {"Binder": "docs/online.md", "Colab": "docs/online.md"}
    if named := repository(citation):
        colab = f"https://colab.research.google.com/github/{named}/blob/main/binder/colab.ipynb"
        places = {"Binder": f"https://mybinder.org/v2/gh/{named}/HEAD", "Colab": colab}
    pictures = {
        "Binder": "https://mybinder.org/badge_logo.svg",
        "Colab": "https://colab.research.google.com/assets/colab-badge.svg",
    }
    return "".join(f"[![Open in {n}]({pictures[n]})]({places[n]})\n" for n in places)


def colab(notebook: str, citation: str) -> str:
    """Return the text of Colab's notebook, which clones the repository that a citation names."""
    named = repository(citation) or "OWNER/NAME"
    return re.sub(r"(?<=REPOSITORY = ..https://github\.com/)[\w.-]+/[\w.-]+", named, notebook)


def _renumbered(text: str) -> str:
    """Return a page whose notebooks and figures have the numbers of today's files."""
    now = {_without_number(p.stem): p.stem for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")}

    def figure(found: re.Match) -> str:
        profile, name = found.groups()
        same = [p.name for p in (ROOT / "results" / profile / "figures").glob(f"??_{name}.png")]
        old = found[0].rpartition("/")[2]
        return found[0] if old in same or len(same) != 1 else found[0].replace(old, same[0])

    return FIGURE.sub(figure, NUMBERED.sub(lambda f: now.get(f[1], f[0]), text))


def refreshed(text: str) -> str:
    """Return a page with everything that is marked read from the reference runs."""

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

    def told(found: re.Match) -> str:
        lines = story(ROOT / "results" / found[2])
        return found[1] + "".join(f"- {line}\n" for line in lines)

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    text = BADGES.sub(lambda found: found[1] + badges(citation), text)
    text = STORY.sub(told, MARK.sub(table, text))
    return _renumbered(NOTEBOOKS.sub(lambda found: found[1] + _notebooks(), text))


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
    cloned = ROOT / "binder" / "colab.ipynb"
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cloned.write_text(colab(cloned.read_text(encoding="utf-8"), citation), encoding="utf-8")
