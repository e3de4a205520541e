"""The two widgets that ipywidgets lacks: an image to draw a box on, and clickable results.

They are anywidgets: a few lines of JavaScript in ``static/``, which JupyterLab, notebooks and
Voila load from the kernel, so nothing has to be installed in a browser or fetched from a network.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_STATIC = Path(__file__).with_name("static")


class BoxCanvas(anywidget.AnyWidget):
    """An image on which a box is drawn; a click clears the box.

    Attributes:
        jpeg: the picture, at the size it is shown in.
        size: [width, height] of the stored image in pixels.
        box: [x1, y1, x2, y2] in pixels of the stored image, or [] for the whole image.
    """

    _esm = _STATIC / "box.js"
    _css = _STATIC / "explore.css"
    jpeg = traitlets.Bytes().tag(sync=True)
    size = traitlets.List([1, 1]).tag(sync=True)
    box = traitlets.List([]).tag(sync=True)


class ResultGrid(anywidget.AnyWidget):
    """Results as thumbnails with the place of each match.

    Attributes:
        hits: rank, image, score, verdict, name, and box as shares of width and height.
        jpegs: their thumbnails.
        turn: raised after ``hits`` and ``jpegs`` have changed; then they are drawn.
        picked: {image, turn} of the result that becomes the query.
        asked: {image, turn} of the result that is explained.
    """

    _esm = _STATIC / "results.js"
    _css = _STATIC / "explore.css"
    hits = traitlets.List([]).tag(sync=True)
    jpegs = traitlets.List([]).tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)
    picked = traitlets.Dict({}).tag(sync=True)
    asked = traitlets.Dict({}).tag(sync=True)
