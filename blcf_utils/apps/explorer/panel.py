"""The explorer as one widget: settings, query image, results and reasons."""

from __future__ import annotations

import html
import logging
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path

import ipywidgets as widgets

from blcf_utils.apps.explorer.explorer import EXPANSIONS, MODES, Answer, Explorer
from blcf_utils.apps.explorer.pictures import plot_answer, show_answer, show_why
from blcf_utils.apps.explorer.subject import FolderSubject, StudySubject, Subject
from blcf_utils.apps.explorer.uploads import MAX_BYTES, accept, check_size
from blcf_utils.apps.explorer.widgets import BoxCanvas, PhotoUpload, ResultGrid
from blcf_utils.datasets.base import Box, Dataset, Query
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable, same_name
from blcf_utils.plots.canvas import png
from blcf_utils.search.boxes import read_box
from blcf_utils.study.pipeline import Pipeline

_LONGEST = 460  # pixels of the query image as it is shown
_MANY = 300  # entries of a list of images to choose from
_LISTED = 20_000  # names that are offered while one types
_REMEMBERED = 50  # queries that one can go back to
_ASK = "Press <em>why?</em> below a result."

log = logging.getLogger("blcf")


def _handler(method: Callable) -> Callable:
    """Let a method answer a widget.

    What the panel sets itself is no event. An error is shown in the panel instead of raised, and
    the last query and knobs are taken up again.
    """

    @wraps(method)
    def wrapped(self, *arguments):
        if self._setting:
            return
        before = self.explorer.query, self.explorer.knobs
        try:
            method(self, *arguments)
            return
        except StudyError as error:
            text = str(error)
        except Exception as error:  # a page would show nothing, and seem to hang
            log.exception("the explorer failed")
            text = f"a fault of the explorer: {type(error).__name__}: {error}; go on, or reload"
        self.explorer.query, self.explorer.knobs = before
        self.message.value = f'<p role="alert" class="blcf-error">{html.escape(text)}</p>'

    return wrapped


class Panel:
    """An explorer to be looked at; the last expression of a cell shows it.

    Where no widget can be drawn (a report, a viewer of notebooks) a picture of the answer is
    shown in its place.

    Attributes:
        explorer: what the widgets turn; its ``answer`` is what is shown.
        uploads: the folder of uploaded photographs; it goes with the session.
    """

    def __init__(self, subject: Subject, **knobs):
        self.explorer = Explorer(subject, **knobs).warm()
        self.uploads = tempfile.TemporaryDirectory(prefix="blcf-uploads-")
        self._setting = False
        self._shown: Query | None = None
        self._explained: int | None = None
        self._before: deque[Query] = deque(maxlen=_REMEMBERED)
        self._read_names(subject.dataset)
        self._build(subject)
        self._show(self.explorer.answer)
        self._connect()

    def _read_names(self, dataset: Dataset) -> None:
        self._names = _names(dataset)
        self._numbers = {name: i for i, name in enumerate(self._names)}
        self._starts = [(query.id, (query.image, query.box)) for query in dataset.queries] or [
            (name, (path, None))
            for name, path in zip(self._names[:_MANY], dataset.images, strict=False)
        ]

    def _build(self, subject: Subject) -> None:
        dataset = subject.dataset
        self.start = _wide(widgets.Dropdown, "query", options=self._starts)
        self.image = _wide(
            widgets.Combobox,
            "image",
            options=self._names[:_LISTED],
            placeholder="name of an image",
            continuous_update=False,
        )
        self.upload = PhotoUpload(most_bytes=MAX_BYTES)
        self.canvas = BoxCanvas()
        self.box = _wide(widgets.Text, "box", placeholder="x1,y1,x2,y2", continuous_update=False)
        self.knobs = {
            "mode": _wide(widgets.Dropdown, "search", options=MODES),
            "rerank": widgets.Checkbox(description="re-rank", indent=False),
            "expansion": _wide(widgets.Dropdown, "expansion", options=EXPANSIONS),
            "weighting": _wide(widgets.Dropdown, "weighting", options=subject.weightings),
            "coding": _wide(widgets.Dropdown, "layer, words", options=subject.codings),
        }
        for name, widget in self.knobs.items():
            widget.value = getattr(self.explorer.knobs, name)
        self.back = widgets.Button(description="back to the last query", disabled=True)
        self.again = widgets.Button(description="look for new photographs")
        for button in (self.upload, self.back, self.again):
            button.layout.width = "97%"
        if not isinstance(subject, FolderSubject):
            self.again.layout.display = "none"
        self.message, self.summary, self.results = widgets.HTML(), widgets.HTML(), ResultGrid()
        self.curve, self.why = widgets.Image(format="png"), widgets.Image(format="png")
        self.curve.layout.max_width = "100%"
        # On a phone it is scrolled sideways: smaller, nobody could read it.
        self.why.layout.min_width = "620px"
        self.caption = widgets.HTML(_ASK)
        self.details = widgets.Accordion(
            [self.curve, widgets.VBox([self.caption, self.why], layout={"overflow": "auto"})],
            titles=("Precision and recall", "Why was it found?"),
            selected_index=0 if dataset.queries else None,
        ).add_class("blcf-details")
        asked = [self.start, self.image, self.upload, self.canvas, self.box]
        found = [self.message, self.summary, self.results, self.details]
        left = {"flex": "1 1 300px", "max_width": "480px", "min_width": "260px"}
        right = {"flex": "2 1 320px", "min_width": "260px"}
        self.widget = widgets.Box(
            [
                widgets.VBox([*asked, *self.knobs.values(), self.back, self.again], layout=left),
                widgets.VBox(found, layout=right),
            ],
            layout={"display": "flex", "flex_flow": "row wrap", "grid_gap": "14px"},
        ).add_class("blcf-panel")

    def _connect(self) -> None:
        for widget in self.knobs.values():
            widget.observe(self._turned, "value")
        self.start.observe(self._started, "value")
        self.image.observe(self._named, "value")
        self.upload.on_msg(self._uploaded)
        self.back.on_click(self._returned)
        self.again.on_click(self._looked_again)
        self.canvas.observe(self._drawn, "box")
        self.box.observe(self._typed, "value")
        self.results.on_msg(self._chosen)

    def _repr_mimebundle_(self, **_) -> dict:
        return {**self.widget._repr_mimebundle_(), "image/png": png(show_answer(self.explorer))}

    @_handler
    def _turned(self, change) -> None:
        self.explorer.turn(**{name: widget.value for name, widget in self.knobs.items()})
        self._show(self.explorer.answer)

    @_handler
    def _started(self, change) -> None:
        if change["new"] is not None:
            self._ask(*change["new"])

    @_handler
    def _named(self, change) -> None:
        typed = change["new"]
        if not typed.strip():
            return
        # Only by its name: a path would open any image of the machine that serves this.
        name = same_name(typed, self._numbers) or same_name(typed.strip(), self._numbers)
        if name is None:
            raise StudyError(f"{typed}: no image of that name in {self.explorer.subject.title}")
        self._ask(self._numbers[name])

    @_handler
    def _uploaded(self, widget, content, buffers) -> None:
        name = str(content["name"])
        if not buffers:  # the browser kept it
            check_size(name, int(content["size"]))
        self._ask(accept(Path(self.uploads.name), name, b"".join(map(bytes, buffers))))

    @_handler
    def _returned(self, button) -> None:
        self.explorer.query = self._before.pop()
        self._show(self.explorer.answer)

    @_handler
    def _looked_again(self, button) -> None:
        button.disabled = True
        try:
            subject, told = self.explorer.subject.looked_again()
        finally:
            button.disabled = False
        query, knobs = self.explorer.query, asdict(self.explorer.knobs)
        if knobs["coding"] not in subject.codings:  # indexed anew, with other words
            knobs["coding"] = subject.codings[0]
        self.explorer = Explorer(subject, **knobs)
        with suppress(StudyError):  # the photograph may be gone
            self.explorer.ask(query.image, query.box)
        self._read_names(subject.dataset)
        self._setting = True
        try:
            self.start.options = self._starts
            self.image.options = self._names[:_LISTED]
            self.knobs["coding"].options = subject.codings
        finally:
            self._setting = False
        self._shown = self._explained = None
        self._show(self.explorer.answer)
        images = len(subject.dataset.images)
        self.message.value = f'<p role="status">{images:,} photographs: {html.escape(told)}</p>'

    @_handler
    def _drawn(self, change) -> None:
        self._ask(self.explorer.query.image, change["new"])

    @_handler
    def _typed(self, change) -> None:
        self._ask(self.explorer.query.image, read_box(change["new"]))

    @_handler
    def _chosen(self, widget, content, buffers) -> None:
        if "pick" in content:
            self._ask(int(content["pick"]))
        else:
            self._explain(int(content["why"]))
            self.details.selected_index = 1
            self.results.send("explained")

    def _ask(self, image: Path | int, box: Box | None = None) -> None:
        before, answer = self.explorer.query, self.explorer.ask(image, box).answer
        if answer.query.image != before.image:
            self._before.append(before)
        self._show(answer)

    def _show(self, answer: Answer) -> None:
        self.message.value = ""
        if answer.query != self._shown:
            self._show_query(answer)
        if self._explained is not None:  # until it is drawn anew, or goes
            self.why.add_class("blcf-stale")
        known = (
            "nothing known of what is relevant"
            if answer.ap is None
            else f"AP {answer.ap:.3f} ({answer.query.instance})"
        )
        self.summary.value = (
            f"<b>{html.escape(answer.knobs.recipe)}</b>, weighting {answer.knobs.weighting}: "
            f"<b>{html.escape(known)}</b>, {len(answer.base.dataset.images):,} images searched in "
            f"{answer.found.seconds * 1000:.1f} ms. Click a result to make it the query."
        )
        thumbnail = self.explorer.subject.thumbnail
        with self.results.hold_sync():
            self.results.hits = [asdict(hit) for hit in answer.hits]
            self.results.jpegs = [thumbnail(hit.image) for hit in answer.hits]
        self.curve.value = png(plot_answer(answer))
        shown = {hit.image for hit in answer.hits} if self.details.selected_index == 1 else ()
        self._explain(self._explained if self._explained in shown else None)

    def _show_query(self, answer: Answer) -> None:
        """Show the query's image and box, and let the lists say which one it is.

        They are empty for one's own photograph.
        """
        query, subject = answer.query, self.explorer.subject
        number = subject.dataset.image_index.get(query.image, len(self._names))
        box = [round(value) for value in query.box or ()]
        origin = (query.image, query.box)
        self._setting = True
        try:
            with self.canvas.hold_sync():
                self.canvas.size = list(answer.base.query_size(query))
                self.canvas.box = box
                self.canvas.jpeg = subject.jpeg(query.image, _LONGEST)
            self.box.value = ",".join(map(str, box))
            self.image.value = "".join(self._names[number : number + 1])
            offered = [value for _, value in self.start.options]
            self.start.value = origin if origin in offered else None
        finally:
            self._setting = False
        self.back.disabled = not self._before
        self._shown = query

    def _explain(self, image: int | None) -> None:
        """Show why an image was found, or nothing."""
        self._explained = image
        if image is None:
            self.why.layout.display, self.caption.value = "none", _ASK
            return
        name = printable(self.explorer.subject.dataset.images[image].name)
        self.why.value = png(show_why(self.explorer, image))
        self.why.remove_class("blcf-stale")
        self.why.layout.display = None
        self.caption.value = f"Words that the query shares with <b>{html.escape(name)}</b>"


def explore(bench: Pipeline, layers=(), words=(), weightings=(), **knobs) -> Panel:
    """Return a panel over a dataset of a study, with everything its knobs could ask for ready.

    Args:
        bench: the dataset's pipeline.
        layers, words, weightings: further layers, sizes of the codebook and spatial weightings.
        **knobs: where they stand at first (see ``explorer.Knobs``).
    """
    return Panel(StudySubject(bench, layers, words, weightings).prepare(), **knobs)


def explore_folder(folder: Path | str, **knobs) -> Panel:
    """Return a panel over a folder that ``blcf index`` has indexed."""
    return Panel(FolderSubject(folder), **knobs)


def _wide(kind: type[widgets.Widget], label: str, **options) -> widgets.Widget:
    style = {"description_width": "84px"}
    return kind(description=label, layout={"width": "97%"}, style=style, **options)


def _names(dataset: Dataset) -> list[str]:
    """Return what images are called: their paths below the dataset's folder, or their names."""
    root = dataset.root
    return [
        printable(path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name)
        for path in dataset.images
    ]
