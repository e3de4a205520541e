"""The HTML report: complete, self-contained, readable without a network or a script."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from PIL import Image

from blcf_utils.artefacts import write_json
from blcf_utils.config import load_profile
from blcf_utils.errors import StudyError
from blcf_utils.report import write_report
from blcf_utils.report_pages import html_table, markdown_to_html
from blcf_utils.report_style import style_sheet
from blcf_utils.tables import Measurement, write_table

ROOT = Path(__file__).resolve().parents[1]
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
        folder = root / "results" / "tiny"
        (folder / "notebooks").mkdir(parents=True)
        for name, title in (("01_one", "One `thing`"), ("02_two", "Two things")):
            nbformat.write(executed_notebook(title), folder / "notebooks" / f"{name}.ipynb")
        write_table(
            "t02_blcf_search",
            [
                Measurement("GS", "oxford5k", 0.655),
                Measurement("GS", "set<a>", 0.25),
                Measurement("LS", "set<a>", None, "not run: no boxes & no time"),
            ],
            folder,
        )
        write_table("x01_own", [Measurement("a", "set", 3)], folder, title="Own")
        claims = "id,claim,measured\nc1,LS beats GS,holds\nc2,idf helps,does not hold\n"
        (folder / "tables" / "claims.csv").write_text(claims)
        profile = load_profile("tiny")
        entry = {
            "status": "done", "seconds": 12.34, "peak_rss_mb": 345, "message": "",
            "stages": [{"stage": "features", "label": "oxford5k", "key": "abcd", "seconds": 1.0,
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
        "01_one.html", "02_two.html", "claims.html", "index.html", "provenance.html",
        "t02_blcf_search.html", "x01_own.html",
    ]  # fmt: skip


def test_nothing_is_loaded_from_anywhere_else(site):
    for path in site.glob("*.html"):
        for address in Links(path.read_text()).loaded:
            assert urlsplit(address).scheme in ("", "data"), (path.name, address[:80])
    css = (site / "report.css").read_text()
    assert not re.search(r"@import|url\(", css)
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
    assert "$" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)


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
    assert steps("provenance") == {"prev": "claims.html"}


def test_a_table_shows_published_beside_measured_and_why_cells_were_not_run(site):
    text = page(site, "t02_blcf_search")
    assert "oxford5k<br>measured" in text
    assert "oxford5k<br>published" in text
    assert "set&lt;a&gt;<br>measured" in text
    assert "set&lt;a&gt;<br>published" not in text
    assert '<span title="not run: no boxes &amp; no time">not run</span>' in text
    assert "no boxes &amp; no time: set&lt;a&gt; (LS)" in text
    # The same dataset and network as published: a verdict.
    assert '<td class="good">reproduced</td>' in text
    assert '<td class="n" data-key="0.655">0.655</td>' in text
    assert '<a href="data/t02_blcf_search.csv" download>' in text
    assert (site / "data" / "t02_blcf_search.csv").read_text().startswith("row,column,published")


def test_claims_provenance_and_failures_are_told(site):
    assert '<td class="good">holds</td>' in page(site, "claims")
    assert '<td class="bad">does not hold</td>' in page(site, "claims")
    origin = page(site, "provenance")
    for fact in ("0af3", "3.11.7", "feed", "5063", "reused", "conv5_1", ">99<"):
        assert fact in origin, fact
    index = page(site, "index")
    assert "02_two failed: cell 3: ValueError: a &lt; b" in index
    assert "1 reproduced" in index
    assert "1 holds, 1 does not hold" in index
    assert "A test&#x27;s &lt;own&gt; profile" in index


def test_tables_sort_numbers_as_numbers_and_are_usable_by_keyboard():
    text = html_table(["name", "n"], [["a", 10], ["b", 9.5]])
    assert text.count('<button type="button">') == 2
    assert '<td class="n">10</td>' in text
    assert 'scope="col"' in text


def test_the_style_serves_phones_print_and_contrast():
    css = style_sheet()
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
