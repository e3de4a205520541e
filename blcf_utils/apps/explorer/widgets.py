"""The widgets that ipywidgets lacks: an image to draw a box on, clickable results, an upload.

They are anywidgets: JavaScript in ``static/``, which JupyterLab, notebooks and Voila load from the
kernel, so nothing has to be installed in a browser or fetched from a network.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_STATIC = Path(__file__).with_name("static")


class _Widget(anywidget.AnyWidget):
    _css = _STATIC / "explore.css"


class BoxCanvas(_Widget):
    """An image on which a box is drawn; a click clears the box.

    Attributes:
        jpeg: the picture, at the size it is shown in.
        size: [width, height] of the stored image in pixels.
        box: [x1, y1, x2, y2] in pixels of the stored image, or [] for the whole image.
        point: [x, y] of the last click, in pixels of the stored image.
        hint: what to do, said below the picture.
    """

    _esm = _STATIC / "box.js"
    jpeg = traitlets.Bytes().tag(sync=True)
    size = traitlets.List([1, 1]).tag(sync=True)
    box = traitlets.List([]).tag(sync=True)
    point = traitlets.List([]).tag(sync=True)
    hint = traitlets.Unicode("Drag to draw a box; click to clear it.").tag(sync=True)


class PhotoUpload(_Widget):
    """A button that sends one photograph, as a message ``{name, size}`` with its bytes.

    One that is empty or has too many bytes comes without them.

    Attributes:
        most_bytes: what is sent at most.
    """

    _esm = _STATIC / "upload.js"
    most_bytes = traitlets.Int().tag(sync=True)


class ResultGrid(_Widget):
    """Results as thumbnails with the place of each match.

    A click sends ``{pick: image}``, to make that result the query; its button sends
    ``{why: image}``. Any message to the grid scrolls the page to the explanation.

    Attributes:
        hits: the fields of each ``explorer.Hit``; the results are drawn when they change.
        jpegs: their thumbnails, sent together with ``hits``.
    """

    _esm = _STATIC / "results.js"
    hits = traitlets.List([]).tag(sync=True)
    jpegs = traitlets.List([]).tag(sync=True)
