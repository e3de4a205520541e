"""The widgets that ipywidgets lacks: an image to draw a box on, clickable results, an upload.

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


class PhotoUpload(anywidget.AnyWidget):
    """A button that sends one photograph, as a message ``{name, size}`` with its bytes.

    One that is empty or has too many bytes comes without them.

    Attributes:
        accept: what the browser's file dialogue offers.
        most_bytes: what is sent at most.
    """

    _esm = _STATIC / "upload.js"
    _css = _STATIC / "explore.css"
    accept = traitlets.Unicode(".jpg,.jpeg,.png,.webp,.bmp,.tif,.tiff").tag(sync=True)
    most_bytes = traitlets.Int().tag(sync=True)


class ResultGrid(anywidget.AnyWidget):
    """Results as thumbnails with the place of each match.

    Attributes:
        hits: rank, image, score, verdict, name, and box as shares of width and height.
        jpegs: their thumbnails.
        turn: raised after ``hits`` and ``jpegs`` have changed; then they are drawn.
        picked: {image, turn} of the result that becomes the query.
        asked: {image, turn} of the result that is explained.
        explained: raised when the explanation is there; then the page scrolls to it.
    """

    _esm = _STATIC / "results.js"
    _css = _STATIC / "explore.css"
    hits = traitlets.List([]).tag(sync=True)
    jpegs = traitlets.List([]).tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)
    picked = traitlets.Dict({}).tag(sync=True)
    asked = traitlets.Dict({}).tag(sync=True)
    explained = traitlets.Int(0).tag(sync=True)
