"""An executed notebook as a page of the report.

Everything works without a network and without a script: figures are embedded and have captions,
formulas become MathML, a widget becomes a picture of itself.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# Nothing that needs a script.
SHOWN_TYPES = (
    "text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain",
)  # fmt: skip
WIDGET = "application/vnd.jupyter.widget-view+json"
# A widget's HTML, where it has any, often only says that widgets do not work here.
OF_WIDGETS = ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown")
LINK = re.compile(r'<a((?: [^>]*)? )href="([^"]*)"([^>]*)>(.*?)</a>', re.S)


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML instead of text for a script to typeset."""

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        inner = body if name.rstrip("*") == "equation" else rf"\begin{{{name}}}{body}\end{{{name}}}"
        return _mathml(inner, "block")


def markdown_to_html(source: str) -> str:
    """Return Markdown with LaTeX formulas as HTML with MathML."""
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def notebook_to_html(path: Path, others: Collection[str] = ()) -> tuple[str, str]:
    """Return an executed notebook's title (its first heading) and its body as HTML.

    Args:
        path: the executed notebook.
        others: names of the notebooks that have a page of their own; a link to one of them leads
            to its page, a link to any other file of the repository becomes plain text.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)  # their state: only a script could show it
    title, heading, figures = "", "", itertools.count(1)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ +(.+?) *#*$", cell.source, re.M)
            heading = found[-1] if found else heading
            title = title or (found[0] if found else "")
        if cell.cell_type == "code":
            # What a reader who does not see a figure is told, unless the notebook says better.
            alt = cell.metadata.get("alt", f"Figure of the section {_plain(heading)!r}")
            shown = (_shown(out, path.stem, _plain(heading), alt, figures) for out in cell.outputs)
            cell.outputs = [output for output in shown if output]
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
    )
    exporter.register_filter("markdown2html", markdown_to_html)
    body, _ = exporter.from_notebook_node(notebook)
    return _plain(title) or path.stem, LINK.sub(lambda link: _relink(link, others), body)


def _mathml(latex: str, display: str) -> str:
    known = re.sub(r"\\operatorname\*?(?=\s*\{)", r"\\mathrm", latex.strip())
    # The converter has no "aligned" and no "gathered"; "split" lays out the same.
    known = re.sub(r"(\\(?:begin|end)\{)(?:aligned|gathered)\}", r"\1split}", known)
    try:
        return to_mathml(known, display=display)
    except Exception:  # the converter raises whatever its parser meets: the reader gets the source
        return f"<code>{html.escape(latex.strip())}</code>"


def _shown(
    output: nbformat.NotebookNode, notebook: str, heading: str, alt: str, figures: Iterator[int]
) -> nbformat.NotebookNode | None:
    """Reduce an output to its best form that needs no script; None when it has none.

    A picture becomes a figure with a caption, a widget its picture or a note of what it is.
    """
    if "data" not in output:
        return output
    data, widget = output.data, WIDGET in output.data
    known_types = OF_WIDGETS if widget else SHOWN_TYPES
    best = next((kind for kind in known_types if "".join(data.get(kind, "")).strip()), None)
    if best is None and not widget:
        return None
    if best is None:
        shown = _widget_note(notebook, "".join(data.get("text/plain", "")))
    elif best.startswith("image/"):
        told = re.sub(r"^\d+\s+", "", heading) or notebook
        if widget:
            told += f": the interactive panel as it first shows; to use it, open {notebook}.ipynb"
        size = output.get("metadata", {}).get(best, {})
        shown = _figure(best, data[best], alt, f"Figure {next(figures)}. {told}", size)
    else:
        output.data = nbformat.from_dict({best: data[best]})
        return output
    output.data = nbformat.from_dict({"text/html": shown})
    return output


def _figure(kind: str, content: str | list[str], alt: str, caption: str, size: dict) -> str:
    content = "".join(content)
    if kind == "image/svg+xml":
        picture = f'<div role="img" aria-label="{html.escape(alt)}">{content}</div>'
    else:
        sides = "".join(f' {s}="{int(size[s])}"' for s in ("width", "height") if s in size)
        address = f"data:{kind};base64,{''.join(content.split())}"
        picture = f'<img src="{address}" alt="{html.escape(alt)}"{sides}>'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _widget_note(notebook: str, text: str) -> str:
    what = f"<br><code>{html.escape(text)}</code>" if text.strip() else ""
    return (
        f'<p class="notice">An interactive element without a picture of it; to use it, open '
        f"{html.escape(notebook)}.ipynb.{what}</p>"
    )


def _relink(link: re.Match, others: Collection[str]) -> str:
    before, address, after, text = link.groups()
    path, sign, fragment = address.partition("#")
    name = path.removesuffix(".ipynb")
    if not path or re.match(r"[a-z]+:", path):
        return link.group()
    if name != path and name in others:
        return f'<a{before}href="{name}.html{sign}{fragment}"{after}>{text}</a>'
    return text


def _plain(markdown: str) -> str:
    return re.sub(r"[`*$]", "", markdown).strip()
