"""The notebooks: their anatomy, and every one of them run on the smoke profile."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from visiting import shoot_report

from blcf_utils import experiments
from blcf_utils.results.tables import read_per_query, read_table
from blcf_utils.run.notebooks import run_order
from blcf_utils.run.report.site import write_report
from blcf_utils.run.runner import run_study
from blcf_utils.run.verify import verify
from blcf_utils.search.recipes import RECIPES

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
REFERENCES = ROOT / "tests" / "references"


# Chapters whose pages a browser test keeps screenshots of.
CHAPTERS_SHOT = ("02_features", "04_search", "05_reranking")
# Chapters whose algorithm is written down in plain NumPy.
FROM_SCRATCH = {f"0{chapter}" for chapter in range(1, 10)}


def _code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _from_scratch(cell) -> bool:
    return "from-scratch" in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_thin_text_and_calls(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in _code(notebook) if not _from_scratch(cell)]
    lines = [len(cell.source.splitlines()) for cell in code]
    assert 15 <= len(notebook.cells) <= 40
    assert statistics.median(lines) <= 5
    assert max(lines) <= 7
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.For, ast.While, ast.Lambda)
    assert not [node for node in nodes if isinstance(node, kinds)]


def test_algorithms_are_written_in_a_dozen_lines_of_numpy():
    chapters = set()
    for path in SOURCES:
        for cell in filter(_from_scratch, _code(nbformat.read(path, as_version=4))):
            chapters.add(path.stem[:2])
            assert len([line for line in cell.source.splitlines() if line.strip()]) <= 12
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not [node for node in nodes if isinstance(node, ast.ImportFrom | ast.ClassDef)]
            imports = [n.names[0].name for n in nodes if isinstance(n, ast.Import)]
            assert imports in ([], ["numpy"])
    assert chapters == FROM_SCRATCH


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_the_anatomy_of_the_study(path):
    notebook = nbformat.read(path, as_version=4)
    text = _text(notebook)
    assert notebook.cells[0].source.startswith("# ")
    for part in ("**Question.**", "**What you will learn**", "## Exercises", "## References"):
        assert part in text
    tagged = [c for c in _code(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert "PROFILE: str" in tagged[0].source
    assert "SETTINGS: dict" in tagged[0].source


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_exercises_have_a_level_minutes_and_a_folded_answer(path):
    text = _text(nbformat.read(path, as_version=4))
    asked = re.findall(r"^\*\*(\d)\.\*\* \*\((?:easy|medium|hard), \d+ minutes\)\* \S", text, re.M)
    answers = re.findall(r"^<details><summary>Answer</summary>\n\n\S.*\n\n</details>$", text, re.M)
    assert asked == [str(number) for number in range(1, len(answers) + 1)]
    assert len(answers) >= 4


def test_no_notebook_types_a_published_number():
    published = set()
    for path in (ROOT / "data/published").glob("t*.csv"):
        values = pd.read_csv(path, dtype=str)["value"]
        published |= set(values[values.str.fullmatch(r"0\.\d{3}", na=False)].str[1:])
    assert len(published) > 100
    for path in SOURCES:
        text = _text(nbformat.read(path, as_version=4))
        # Answers hold numbers that this study measured.
        text = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
        assert not published & set(re.findall(r"\.\d{3}\b", text)), path.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_committed_notebook_is_stripped(path):
    for cell in _code(nbformat.read(path, as_version=4)):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_every_table_is_made_in_a_notebook():
    code = [cell.source for path in SOURCES for cell in _code(nbformat.read(path, as_version=4))]
    tables = [name for name in experiments.__all__ if name.endswith("_table")]
    assert tables
    assert not [name for name in tables if f"experiments.{name}(" not in "\n".join(code)]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, smoke_cache):
    """Run every notebook on the smoke profile and return the folder of its results."""
    folder = tmp_path_factory.mktemp("smoke")
    patch = pytest.MonkeyPatch()
    patch.setenv("BLCF_CACHE", str(smoke_cache))
    summary = run_study("smoke", results=folder / "results")
    yield folder, summary
    patch.undo()


@pytest.mark.notebooks
def test_every_notebook_runs_and_leaves_an_executed_copy(smoke):
    folder, summary = smoke
    assert summary.ok, summary
    executed = sorted(p.stem for p in (folder / "results/smoke/notebooks").glob("*.ipynb"))
    assert executed == [path.stem for path in SOURCES]


@pytest.mark.notebooks
def test_what_is_written_from_scratch_agrees_with_the_package(smoke):
    for path in sorted((smoke[0] / "results/smoke/notebooks").glob("0[1-9]_*.ipynb")):
        code = _code(nbformat.read(path, as_version=4))
        after = [b for a, b in pairwise(code) if _from_scratch(a)]
        assert after, path.stem
        for cell in after:
            lines = "".join(one.get("text", "") for one in cell.outputs).splitlines()
            assert lines, path.stem
            assert not [line for line in lines if not line.endswith(": True")], path.stem


@pytest.mark.notebooks
def test_the_tables_hold_measured_numbers_and_the_queries_behind_them(smoke):
    results = smoke[0] / "results/smoke"
    t02 = read_table("t02_blcf_search", results)
    for name in ("mini-buildings", "mini-objects"):
        cells = t02[(t02["column"] == name) & t02["row"].isin(RECIPES)]
        assert len(cells) == 10
        assert (cells["status"] == "measured").all()
        queries = read_per_query("t02_blcf_search", results)
        for row, value in zip(cells["row"], cells["measured"], strict=True):
            aps = list(queries[row, name].values())
            assert value == pytest.approx(statistics.mean(aps), abs=1e-12)
            # Better than chance: a random ranking finds a positive with AP of about its share.
            assert 0.05 < value <= 1
    published_only = t02[t02["column"] == "oxford5k"]
    assert published_only["status"].str.startswith("not run: ").all()
    assert published_only["measured"].isna().all()


@pytest.mark.notebooks
def test_a_second_run_does_nothing_and_keeps_the_same_tables(smoke):
    results = smoke[0] / "results/smoke/tables"
    before = {path.name: path.read_bytes() for path in results.glob("*")}
    summary = run_study("smoke", results=smoke[0] / "results")
    assert summary.ok
    assert {path.name: path.read_bytes() for path in results.glob("*")} == before


@pytest.mark.notebooks
def test_the_report_is_written(smoke):
    page = write_report("smoke", smoke[0] / "results")
    text = page.read_text(encoding="utf-8")
    assert "04_search" in text
    assert "t02_blcf_search" in text


@pytest.fixture(scope="module")
def again(smoke):
    """Let nbval execute the references, from the artefacts of ``smoke``, into other results."""
    references = sorted(REFERENCES.glob("*.ipynb"))
    assert [path.stem for path in references] == [path.stem for path in SOURCES]
    references.sort(key=lambda path: run_order(path.stem))
    environment = {**os.environ, "BLCF_RESULTS": str(smoke[0] / "nbval"), "BLCF_BATCH": "1"}
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [*command, "--nbval-current-env", *map(str, references)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    return done, smoke[0] / "nbval/smoke"


@pytest.mark.notebooks
def test_checked_cells_print_what_the_references_hold(again):
    """nbval executes the stored references again and compares the cells marked for it."""
    checked = [
        cell
        for path in REFERENCES.glob("*.ipynb")
        for cell in _code(nbformat.read(path, as_version=4))
        if "nbval-check-output" in cell.metadata.get("tags", [])
    ]
    assert len(checked) >= 8
    assert all(cell.outputs for cell in checked)
    assert again[0].returncode == 0, again[0].stdout[-4000:]


@pytest.mark.notebooks
def test_a_repeated_run_measures_the_same(smoke, again):
    """Executed again, from the same artefacts, every measured cell but the timings is equal."""
    assert len(list((again[1] / "tables").glob("*.csv"))) > 20
    compared = verify("smoke", again[1].parent, smoke[0] / "results/smoke", tolerance=0.0)
    assert [str(table) for table in compared if table.differences] == []


@pytest.mark.notebooks
def test_references_are_those_of_the_notebooks_as_they_are():
    for source in SOURCES:
        reference = nbformat.read(REFERENCES / source.name, as_version=4)
        kept = [
            cell.source
            for cell in reference.cells
            if "injected-parameters" not in cell.metadata.get("tags", [])
        ]
        assert kept == [cell.source for cell in nbformat.read(source, as_version=4).cells], (
            f"{source.name} changed: run `make references`"
        )


@pytest.mark.notebooks
def test_chapters_fit_a_desktop_and_a_phone(smoke, browser):
    site = write_report("smoke", smoke[0] / "results").parent
    shoot_report(browser, site, dict.fromkeys(CHAPTERS_SHOT, "recording-9-chapter"))
