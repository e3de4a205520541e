"""Numbers and verdicts of the README pages are those of the reference tables."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READER = runpy.run_path(str(ROOT / "tests" / "references" / "readme.py"))


@pytest.mark.parametrize("page", READER["PAGES"])
def test_the_pages_say_what_the_tables_say(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert READER["MARK"].search(text)
    assert READER["refreshed"](text) == text, "run python tests/references/readme.py"


def test_a_wrong_number_or_verdict_is_found():
    text = (
        "<!-- measured: t02_blcf_search -->\n| | `mini-buildings` | thesis oxford5k |\n|---|---|---|\n"
        "| LS | 9.999 | 9.999 |\n| no such row | 0.1 | 0.2 |\n"
    )
    found = READER["refreshed"](text).splitlines()
    assert found[-2] != "| LS | 9.999 | 9.999 |"
    assert found[-2].endswith("| 0.738 |")
    assert found[-1] == "| no such row | – | – |"
