"""The HTML report: complete, self-contained, readable without a network or a script."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from PIL import Image

from blcf_utils.config.profile import load_profile
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.tables import Measurement, beside, write_table
from blcf_utils.run.report import tables
from blcf_utils.run.report.notebooks import markdown_to_html, notebook_to_html
from blcf_utils.run.report.site import page_templates, write_report

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Links(HTMLParser):
    """Collects what a page loads, what it links to, its anchors and its images' texts."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded, self.linked, self.ids, self.alts = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in LOADED and values.get(LOADED[tag]):
            self.loaded.append(values[LOADED[tag]])
        if tag == "a" and values.get("href"):
            self.linked.append(values["href"])
        if tag == "img":
            self.alts.append(values.get("alt"))
        self.ids.add(values.get("id"))


def picture() -> str:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def executed_notebook(title: str) -> nbformat.NotebookNode:
    output = nbformat.v4.new_output
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "text/plain": "Slider(value=3)",
    }
    cells = [
        nbformat.v4.new_markdown_cell(
            f"# {title}\n\nA word is $q(x) = \\arg\\min_k \\|x - c_k\\|$."
        ),
        nbformat.v4.new_code_cell(
            "plot(x < 3)",
            outputs=[
                output("display_data", {"image/png": picture(), "text/plain": "<Figure>"}),
                output("stream", name="stdout", text="1 < 2 & 3\n"),
                output("display_data", widget),
                output("display_data", {"application/javascript": "alert(1)"}),
                output("display_data", {"text/html": "<table><tr><td>0.5</td></tr></table>"}),
            ],
        ),
        nbformat.v4.new_markdown_cell(
            "[two](02_two.ipynb#Scores), [none](03_none.ipynb), [data](../data/x.csv), "
            "[paper](https://arxiv.org/abs/1604.04653)"
        ),
        nbformat.v4.new_markdown_cell("## Scores\n\n$$\\mathrm{AP} = \\sum_k p(k)$$"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The report of a made-up run of two notebooks, two tables and the claims."""
    root = tmp_path_factory.mktemp("project")
    (root / "data" / "profiles").mkdir(parents=True)
    (root / "data" / "published").symlink_to(ROOT / "data" / "published")
    (root / "data" / "profiles" / "tiny.yaml").write_text(
        "description: a test's <own> profile\ndatasets: [oxford5k]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_HOME", str(root))
        patch.delenv("BLCF_RESULTS", raising=False)
        (root / "docs").mkdir()
        (root / "docs" / "more.md").write_text(
            "# More of it\n\n[two](../notebooks/02_two.ipynb), [below](#two-words), "
            "[data](../data/x.csv)\n\n## Two words\n\n"
            + "".join(f"{cell * 30}|\n" for cell in ("| wide ", "|---", "| table "))
            + "\n```\nblcf run\n```\n"
        )
        folder = root / "results" / "tiny"
        (folder / "notebooks").mkdir(parents=True)
        for name, title in (("01_one", "One `thing`"), ("02_two", "Two things")):
            nbformat.write(executed_notebook(title), folder / "notebooks" / f"{name}.ipynb")
        write_table(
            "t02_blcf_search",
            [
                Measurement("GS", "oxford5k", 0.655, per_query={"q<1>": 0.61, "q2": 0.7}),
                Measurement("LS", "oxford5k", 0.7, per_query={"q<1>": 0.7}),
                Measurement("GS", "set<a>", 0.25),
                Measurement("LS", "set<a>", None, "not run: no boxes & no time"),
            ],
            folder,
        )
        write_table("x01_own", [Measurement("a", "set", 3)], folder, title="Own")
        (folder / "figures").mkdir()
        for name in ("07_claims", "05_slopes_t02", "05_other"):
            Image.new("RGB", (8, 8)).save(folder / "figures" / f"{name}.png")
        claims = (
            "id,claim,measured\nls_beats_gs_boxed,LS beats GS,holds\nc2,idf helps,does not hold\n"
        )
        claims += "c3,R helps,undecided\n"
        (folder / "tables" / "claims.csv").write_text(claims)
        profile = load_profile("tiny")
        entry = {
            "status": "done", "seconds": 12.34, "peak_rss_mb": 345, "message": "",
            "stages": [{"stage": "features", "label": "oxford5k", "key": "abcd",
                        "made_in_seconds": 1.0, "bytes": 5_000_000,
                        "peak_rss_so_far_mb": 99, "reused": True}],
            "datasets": [{"dataset": "oxford5k", "images": 5063, "queries": 55,
                          "manifest": "feed", "ground_truth": "beef"}],
        }  # fmt: skip
        failed = {**entry, "status": "failed", "message": "cell 3: ValueError: a < b"}
        record = {
            "profile": {
                "name": "tiny", "digest": profile.digest(), "document": profile.document(),
            },
            "provenance": {"git": {"revision": "0af3", "dirty": False}, "python": "3.11.7"},
            "notebooks": {"01_one": entry, "02_two": failed},
        }  # fmt: skip
        write_json(folder / "run.json", record)
        index = write_report("tiny")
        yield index.parent


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text(encoding="utf-8")


def test_there_is_a_page_for_everything(site):
    assert sorted(path.name for path in site.glob("*.html")) == [
        "01_one.html", "02_two.html", "claims.html", "index.html", "more.html", "provenance.html",
        "t02_blcf_search.html", "x01_own.html",
    ]  # fmt: skip


def test_nothing_is_loaded_from_anywhere_else(site):
    for path in site.glob("*.html"):
        for address in Links(path.read_text()).loaded:
            assert urlsplit(address).scheme in ("", "data"), (path.name, address[:80])
    css = (site / "report.css").read_text()
    assert not re.search(r"@import|url\(", css)
    told = [path for path in site.rglob("*.*") if path.suffix != ".png"]
    assert not [path for path in told if str(site.parent) in path.read_text()]
    assert "vnd.jupyter" not in page(site, "01_one")
    assert "alert(1)" not in page(site, "01_one")


def test_no_relative_link_is_broken(site):
    pages = {path.name: Links(path.read_text()) for path in site.glob("*.html")}
    checked = 0
    for name, links in pages.items():
        for address in links.linked + links.loaded:
            parts = urlsplit(address)
            if parts.scheme:
                continue
            target = unquote(parts.path) or name
            assert (site / target).is_file(), (name, address)
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids, (name, address)
            checked += 1
    assert checked > 40


def test_formulas_are_mathml(site):
    text = page(site, "01_one")
    assert text.count("<math ") == 2
    assert 'display="block"' in text
    assert "$" not in text


@pytest.mark.parametrize(
    "latex",
    [
        r"$\operatorname{sim}(q, d)$",
        r"$$\begin{aligned} a &= b \\ c &= d \end{aligned}$$",
        "\\begin{align} a &= b \\\\ c &= d \\end{align}",
        "\\begin{equation} a = b \\end{equation}",
    ],
)
def test_formulas_the_converter_does_not_know_are_put_in_its_words(latex):
    text = markdown_to_html(latex)
    assert "<math" in text
    assert "<mi>&</mi>" not in text
    assert "<mo />" not in text


def test_a_formula_that_cannot_be_read_is_shown_as_written():
    assert markdown_to_html(r"$a < x_$") == "<p><code>a &lt; x_</code></p>\n"


def test_outputs_are_shown_and_escaped(site):
    text = page(site, "01_one")
    assert "1 &lt; 2 &amp; 3" in text
    assert "Slider(value=3)" in text
    assert "<td>0.5</td>" in text
    assert "&lt;Figure&gt;" not in text
    assert Links(text).alts == ["Figure of the section 'One thing'"]
    assert "<title>One thing · BLCF Study, tiny</title>" in text


def test_links_between_notebooks_lead_to_pages(site):
    text = page(site, "01_one")
    assert '<a href="02_two.html#Scores">two</a>, none, data, ' in text
    assert '<a href="https://arxiv.org/abs/1604.04653">paper</a>' in text


def test_pages_lead_on_and_back(site):
    def steps(name):
        return dict(re.findall(r'<a rel="(prev|next)" href="([^"]+)"', page(site, name)))

    assert steps("index") == {"next": "01_one.html"}
    assert steps("02_two") == {"prev": "01_one.html", "next": "t02_blcf_search.html"}
    assert steps("provenance") == {"prev": "more.html"}


def test_a_table_shows_published_beside_measured_and_why_cells_were_not_run(site):
    text = page(site, "t02_blcf_search")
    halves = re.findall(r'<th scope="colgroup" colspan="(\d)" class="\w+">(\w+)</th>', text)
    assert halves == [("2", "Measured"), ("4", "Published")]
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', text)
    assert heads[:4] == ["row", "oxford<wbr>5k", "set&lt;a&gt;", "oxford<wbr>5k"]
    assert "<p>Measured on oxford5k and set&lt;a&gt; (photographs) with vgg16 conv5_1" in text
    assert '<td class="n soft">*</td>' in text
    assert "<li>no boxes &amp; no time: LS (set&lt;a&gt;)</li>" in text
    assert '<img src="figures/05_slopes_t02.png"' in text
    # The same dataset and network as published: a verdict.
    assert '<td class="good">reproduced</td>' in text
    assert '<td class="n">0.655</td>' in text
    assert '<td class="n"><b>0.700</b><br><small>+0.045</small></td>' in text
    assert '<a href="data/t02_blcf_search.csv" download>' in text
    assert (site / "data" / "t02_blcf_search.csv").read_text().startswith("row,column,published")


def test_claims_provenance_and_failures_are_told(site):
    assert '<td class="good">holds</td>' in page(site, "claims")
    assert '<td class="bad">does not hold</td>' in page(site, "claims")
    assert '<td class="mid">undecided</td>' in page(site, "claims")
    origin = page(site, "provenance")
    for fact in ("0af3", "3.11.7", "feed", "5063", "reused", "conv5_1", ">99<"):
        assert fact in origin, fact
    index = page(site, "index")
    assert "02_two failed: cell 3: ValueError: a &lt; b" in index
    assert "1 reproduced" in index
    verdicts = index[index.index("Claims of the thesis") : index.index("Chapters</h2>")]
    assert re.findall(r"<td.*?>(.*?)</td>", verdicts) == [
        "holds", "1", "undecided", "1", "does not hold", "1",
    ]  # fmt: skip
    assert "takes mAP from 0.655 to 0.700 on oxford5k (thesis: from 0.653 to 0.738" in index
    assert "The claim that local search is better holds." in index
    assert Links(index).loaded.count("figures/07_claims.png") == 1
    assert not (site / "figures" / "05_other.png").exists()
    assert "12.34" not in index
    assert "12.34" in origin
    assert "A test&#39;s &lt;own&gt; profile" in index


def test_the_first_page_tells_the_story_then_chapters_then_tables(site):
    heads = re.findall(r"<h2>(.*?)</h2>", page(site, "index"))
    assert heads == ["What this run tells", "Claims of the thesis", "Chapters", "Tables", "Guide"]


def test_docs_are_pages_whose_links_lead_to_the_report(site):
    text = page(site, "more")
    assert "<title>More of it · BLCF Study, tiny</title>" in text
    assert '<a href="02_two.html">two</a>, <a href="#two-words">below</a>, data' in text
    assert 'id="two-words"' in text
    assert '<div class="scroll"><table>' in text


def table_of(header, rows) -> str:
    macros = page_templates().get_template("macros.html").module
    return macros.table(pd.DataFrame(rows, columns=header, dtype=object))


def test_a_table_has_heads_aligned_numbers_and_room_for_long_texts():
    text = table_of(["name", "n"], [["a<b", 10], ["word " * 9, "not run: why"], [None, "-0.5"]])
    assert text.count('<th scope="col">') == 2
    assert re.findall(r"<td.*?>", text) == [
        "<td>", '<td class="n">', '<td class="long">', '<td class="soft">', "<td>",
        '<td class="n">',
    ]  # fmt: skip
    assert "<td>a&lt;b</td>" in text
    assert "<td></td>" in text


def test_the_values_behind_the_means_are_folded_up_query_by_query(site):
    text = page(site, "t02_blcf_search")
    details = text[text.index("<details><summary>oxford5k: 2 queries") :]
    details = details[: details.index("</details>")]
    assert "oxford5k: 2 queries" in details
    assert re.findall(r"<td.*?</td>", details) == [
        "<td>q&lt;1&gt;</td>", '<td class="n">0.610</td>', '<td class="n">0.700</td>',
        "<td>q2</td>", '<td class="n">0.700</td>', "<td></td>",
    ]  # fmt: skip
    assert text.count("queries</summary>") == 1
    assert "<details>" not in page(site, "x01_own")
    assert (site / "data" / "per_query" / "t02_blcf_search.csv").is_file()


def test_too_many_values_are_offered_as_data_only(tmp_path, monkeypatch):
    cell = Measurement("a", "set", 0.5, per_query={"q1": 0.25, "q2": 0.75})
    write_table("x01_own", [cell], tmp_path, title="Own")
    assert list(tables.result_table("x01_own", tmp_path, {})["per_query"]) == ["set"]
    monkeypatch.setattr(tables, "MOST_VALUES", 1)
    content = tables.result_table("x01_own", tmp_path, {})
    assert content["data_of_queries"]
    assert not content["per_query"]


WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><path d="M0 0h1"/></svg>'


@pytest.mark.parametrize(
    ("bundle", "expected"),
    [
        ({"image/png": picture(), "text/plain": "Box(children=())"}, "data:image/png;base64,"),
        # What widgets say where they do not work is not what they show.
        (
            {"image/png": picture(), "text/html": "<p>Widgets need a script</p>"},
            "data:image/png;base64,",
        ),
        ({"image/svg+xml": SVG, "text/plain": "Box()"}, "data:image/svg+xml;base64,"),
        ({"text/html": "<table><tr><td>7</td></tr></table>"}, "<td>7</td>"),
        ({"text/plain": "Box(a < b)"}, "Box(a &lt; b)"),
    ],
)
def test_a_widget_is_shown_by_what_stands_in_for_it(tmp_path, bundle, expected):
    output = nbformat.v4.new_output("display_data", {**WIDGET, **bundle})
    cell = nbformat.v4.new_code_cell("panel", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    # Written as papermill leaves it: the state that only a script could show.
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nbformat.write(notebook, tmp_path / "10_panel.ipynb")
    _, body = notebook_to_html(tmp_path / "10_panel.ipynb")
    assert expected in body
    assert "Widgets need" not in body
    assert "vnd.jupyter" not in body
    assert "<script" not in body


ROWS = [["b", "not run"], ["a10", 10], ["a9", 9.5], ["–", -2], ["c", "–"], ["a", "+0.125"]]


def first_column(tab) -> list[str]:
    return tab.locator("tbody tr td:first-child").all_inner_texts()


@pytest.fixture
def sortable(browser, tmp_path):
    script = page_templates().get_template("report.js").render()
    table = table_of(["name", "score"], ROWS)
    (tmp_path / "table.html").write_text(
        f'<meta charset="utf-8"><main>{table}</main><script>{script}</script>', encoding="utf-8"
    )
    tab = browser.new_page()
    tab.goto((tmp_path / "table.html").as_uri())
    yield tab
    tab.close()


def test_numbers_sort_as_numbers_and_what_was_not_run_stays_last(sortable):
    sortable.get_by_role("button", name="score").click()
    assert first_column(sortable) == ["–", "a", "a9", "a10", "b", "c"]
    head = sortable.locator("th").nth(1)
    assert head.get_attribute("aria-sort") == "ascending"
    sortable.get_by_role("button", name="score").click()
    assert first_column(sortable) == ["a10", "a9", "a", "–", "b", "c"]
    assert head.get_attribute("aria-sort") == "descending"


def test_a_table_is_sorted_by_keyboard_and_texts_as_people_count(sortable):
    sortable.keyboard.press("Tab")
    sortable.keyboard.press("Enter")
    assert first_column(sortable) == ["a", "a9", "a10", "b", "c", "–"]
    sortable.keyboard.press("Tab")
    sortable.keyboard.press("Space")
    heads = sortable.locator("th")
    assert [heads.nth(i).get_attribute("aria-sort") for i in (0, 1)] == [None, "ascending"]


def test_rows_sort_within_their_group(browser, tmp_path):
    rows = [("A / b", 0.2), ("A / a", 0.1), ("B / c", 0.9), ("A / d", 0.3), ("B / e", 0.4)]
    cells = [Measurement(row, "set", value) for row, value in rows]
    shown = beside(write_table("x01_own", cells, tmp_path))._repr_html_()
    script = page_templates().get_template("report.js").render()
    (tmp_path / "table.html").write_text(f"<main>{shown}</main><script>{script}</script>")
    tab = browser.new_page()
    tab.goto((tmp_path / "table.html").as_uri())
    names = tab.locator("tbody th")
    assert names.all_inner_texts() == ["A", "b", "a", "d", "B", "c", "e"]
    tab.get_by_role("button", name="set").click()
    assert names.all_inner_texts() == ["A", "a", "b", "d", "B", "e", "c"]
    tab.close()


def test_every_page_opens_without_network_errors_or_sideways_scrolling(browser, site):
    tab = browser.new_page(viewport={"width": 380, "height": 800})
    errors, loaded = [], []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.on("request", lambda request: loaded.append(request.url))
    for path in sorted(site.glob("*.html")):
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380, path.name
    assert not errors
    assert {urlsplit(address).scheme for address in loaded} <= {"file", "data"}
    tab.close()


def test_a_wide_table_uses_the_width_of_a_large_screen(browser, tmp_path):
    table = table_of([f"a column {i}" for i in range(12)], [["0.123"] * 12])
    css = page_templates().get_template("report.css").render()
    head = f"<meta charset='utf-8'><style>{css}</style>"
    (tmp_path / "wide.html").write_text(f"{head}<main><h1>Wide</h1>{table}</main>")
    tab = browser.new_page(viewport={"width": 1600, "height": 800})
    tab.goto((tmp_path / "wide.html").as_uri())
    box, text = (tab.locator(one).bounding_box() for one in (".scroll", "h1"))
    assert box["width"] > text["width"]
    assert 0 <= box["x"] < text["x"]
    assert box["x"] + box["width"] <= 1600
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1600
    tab.close()


def test_pages_are_complete_without_a_script(browser, site):
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto((site / "t02_blcf_search.html").as_uri())
    assert tab.locator("thead tr").nth(1).locator("th").first.inner_text() == "row"
    assert tab.locator("th button").count() == 0
    tab.get_by_text("oxford5k: 2 queries").click()
    assert tab.get_by_text("0.610").is_visible()
    tab.context.close()


def test_print_hides_navigation_and_cuts_no_table(browser, site):
    tab = browser.new_page(viewport={"width": 700, "height": 900})
    tab.emulate_media(media="print")
    tab.goto((site / "t02_blcf_search.html").as_uri())
    assert not tab.locator("header.site").is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 700
    for box in tab.locator(".scroll").element_handles():
        assert box.evaluate("one => getComputedStyle(one).overflowX") == "visible"
    tab.close()


def test_the_style_serves_phones_print_and_contrast(site):
    css = (site / "report.css").read_text()
    assert ".highlight .k {" in css
    assert "@media print" in css
    assert "@media (max-width" in css
    assert "overflow-x: auto" in css
    ink, soft = (re.search(rf"--{name}: (#\w+)", css).group(1) for name in ("ink", "soft"))
    for colour in (ink, soft):
        assert contrast(colour) > 4.5


def contrast(colour: str) -> float:
    """Contrast of a colour with white (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="run blcf run --profile nothing first"):
        write_report("nothing", tmp_path)
