"""An executed notebook, or a page of docs/, as the body of a page without network and script."""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

# Nothing that needs a script. Pictures come first: beside one, the HTML of a widget only says
# that widgets do not work here.
SHOWN_TYPES = [
    "image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain",
]  # fmt: skip


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, and links that lead to the report's pages."""

    def __init__(self, others: Collection[str]):
        super().__init__(escape=False)
        self._others = others

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        inner = body if name.rstrip("*") == "equation" else rf"\begin{{{name}}}{body}\end{{{name}}}"
        return _mathml(inner, "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        path, sign, fragment = url.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return super().link(text, url, title)
        name, _, kind = path.rpartition("/")[2].rpartition(".")
        if kind in ("ipynb", "md") and name in self._others:
            return super().link(text, f"{name}.html{sign}{fragment}", title)
        return text  # a file of the repository that is not part of the report


def markdown_to_html(source: str, others: Collection[str] = ()) -> str:
    """Return Markdown with LaTeX formulas as HTML with MathML.

    Args:
        source: the Markdown.
        others: names of the notebooks and documents that have a page of their own; a link to one of
            them leads to its page, a link to any other file of the repository becomes plain text.
    """
    return MarkdownWithMath(renderer=_Renderer(others)).render(source)


def document_to_html(path: Path, others: Collection[str] = ()) -> tuple[str, str]:
    """Return a Markdown file's title (its first line) and its body as HTML.

    Headings get the names that links to them have on GitHub: in small letters.

    Args:
        path: the file.
        others: as of :func:`markdown_to_html`.
    """
    source = path.read_text(encoding="utf-8")
    body = markdown_to_html(source, others)
    body = re.sub(r'(?<= id=")[^"]+|(?<= href="#)[^"]+', lambda name: name[0].lower(), body)
    # Tables scroll by themselves where a page is narrower.
    body = re.sub(r"<table>.*?</table>", r'<div class="scroll">\g<0></div>', body, flags=re.S)
    return source.partition("\n")[0].lstrip("# "), body


def notebook_to_html(path: Path, others: Collection[str] = ()) -> tuple[str, str]:
    """Return an executed notebook's title (its first heading) and its body as HTML.

    Args:
        path: the executed notebook.
        others: as of :func:`markdown_to_html`.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)  # their state: only a script could show it
    headings = [path.stem]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ +(.+?) *#*$", cell.source, re.M)
            headings += [re.sub(r"[`*$]", "", heading).strip() for heading in found]
        else:
            # What a reader who does not see a figure is told, unless the notebook says better.
            cell.metadata.setdefault("alt", f"Figure of the section {headings[-1]!r}")
    exporter = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": SHOWN_TYPES}}),
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_filter("markdown2html", lambda source: markdown_to_html(source, others))
    body, _ = exporter.from_notebook_node(notebook)
    title = headings[1] if len(headings) > 1 else path.stem
    return title, body


def _mathml(latex: str, display: str) -> str:
    known = re.sub(r"\\operatorname\*?(?=\s*\{)", r"\\mathrm", latex.strip())
    # The converter has no "aligned" and no "gathered"; "split" lays out the same.
    known = re.sub(r"(\\(?:begin|end)\{)(?:aligned|gathered)\}", r"\1split}", known)
    try:
        return to_mathml(known, display=display)
    except Exception:  # the converter raises whatever its parser meets: the reader gets the source
        return f"<code>{html.escape(latex.strip())}</code>"
