"""The README pages and docs/ say what the reference runs and the notebooks say, and lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

from blcf_utils.results.story import story
from blcf_utils.results.tables import Measurement, write_table

ROOT = Path(__file__).parents[2]
READER = runpy.run_path(str(ROOT / "tests" / "references" / "readme.py"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def text_of(page) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", READER["PAGES"])
def test_the_pages_say_what_the_tables_say(page):
    text = text_of(page)
    assert READER["refreshed"](text) == text, "run python tests/references/readme.py"


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ +(.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", (*READER["PAGES"], "CONTRIBUTING.md", "DEVELOPERS.md"))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading_of_it(page):
    for address, heading in LINK.findall(text_of(page)):
        path = (ROOT / page).parent / address if address else ROOT / page
        assert path.exists(), address
        if heading:
            assert heading in anchors(path.read_text(encoding="utf-8")), (address, heading)


def test_the_readme_is_read_in_a_minute_and_leads_to_every_page():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 150
    for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        assert f"({path.relative_to(ROOT).as_posix()})" in text, path.name


def test_a_wrong_number_or_verdict_is_found():
    text = (
        "<!-- measured: t02_blcf_search -->\n| | `mini-buildings` | thesis oxford5k |\n|---|---|---|\n"
        "| LS | 9.999 | 9.999 |\n| no such row | 0.1 | 0.2 |\n"
    )
    found = READER["refreshed"](text).splitlines()
    assert found[-2] != "| LS | 9.999 | 9.999 |"
    assert found[-2].endswith("| 0.738 |")
    assert found[-1] == "| no such row | – | – |"


def test_names_of_notebooks_and_figures_get_the_numbers_of_today():
    now = next((ROOT / "notebooks").glob("??_scaling.ipynb")).stem
    text = "[99_scaling](notebooks/99_scaling.ipynb), `blcf run 99_scaling`, 99_nothing, "
    found = READER["refreshed"](text + "results/mini/figures/99_why.png")
    why = next((ROOT / "results/mini/figures").glob("??_why.png")).name
    assert found == text.replace("99_scaling", now) + f"results/mini/figures/{why}"


def test_badges_lead_to_the_repository_that_the_citation_names():
    without, named = map(
        READER["badges"], ("title: x\n", "repository-code: https://github.com/me/blcf\n")
    )
    assert without.count("](docs/online.md)") == 2
    assert "](https://mybinder.org/v2/gh/me/blcf/HEAD)" in named
    assert "](https://colab.research.google.com/github/me/blcf/blob/main/binder/" in named
    colab = text_of("binder/colab.ipynb")
    assert READER["colab"](colab, text_of("CITATION.cff")) == colab
    cloned = READER["colab"](colab, "repository-code: https://github.com/me/blcf\n")
    assert cloned.count('REPOSITORY = \\"https://github.com/me/blcf\\"') == 1


def test_the_story_has_the_numbers_and_the_verdict_of_its_tables(tmp_path):
    assert story(tmp_path) == []
    cells = [Measurement("GS", "set", 0.25), Measurement("LS", "set", 0.4996)]
    write_table("t02_blcf_search", cells, tmp_path)
    (told,) = story(tmp_path)
    assert "takes mAP from 0.250 to 0.500 on set (thesis: from 0.653 to 0.738 on oxford5k" in told
    assert told.endswith("The claim that local search is better was not tested.")
    (tmp_path / "tables/claims.csv").write_text("id,measured\nls_beats_gs_boxed,undecided\n")
    assert story(tmp_path)[0].endswith("The claim that local search is better is undecided.")
    # Without boxes local search is global search, which is no news.
    alike = [Measurement(row, "unboxed", 0.5) for row in ("GS", "LS")]
    write_table("t02_blcf_search", alike, tmp_path)
    assert story(tmp_path) == []
