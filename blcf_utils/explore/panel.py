"""The explorer's face: knobs, query image, results and reasons as one widget."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from functools import wraps

import ipywidgets as widgets
from matplotlib.figure import Figure

from blcf_utils.boxes import read_box
from blcf_utils.errors import StudyError
from blcf_utils.explore.explorer import EXPANSIONS, MODES, Explorer, Hit
from blcf_utils.explore.pictures import plot_answer, show_answer, show_why
from blcf_utils.explore.subject import FolderSubject, StudySubject, Subject, jpeg
from blcf_utils.explore.uploads import Uploads
from blcf_utils.explore.widgets import BoxCanvas, ResultGrid

_LONGEST = 460  # pixels of the query image as it is shown
_MANY = 300  # entries of a list of images


def _said(method: Callable) -> Callable:
    """Say a StudyError in the panel instead of raising it, and go on with the last answer."""

    @wraps(method)
    def wrapped(self, *arguments):
        try:
            method(self, *arguments)
        except StudyError as error:
            self.message.value = f'<p role="alert" class="blcf-error">{html.escape(str(error))}</p>'

    return wrapped


class Panel:
    """An explorer to be looked at; the last expression of a cell shows it.

    Where no widget can be drawn (a report, a viewer of notebooks) a picture of the answer is
    shown in its place.

    Attributes:
        explorer: what the widgets turn; its ``answer`` is what is shown.
        uploads: where photographs of one's own go.
    """

    def __init__(self, subject: Subject, **knobs):
        self.explorer, self.uploads = Explorer(subject, **knobs), Uploads()
        self._quiet = False
        self._build(subject)
        self._show_question()
        self._show()

    def _build(self, subject: Subject) -> None:
        wide = {"layout": widgets.Layout(width="97%"), "style": {"description_width": "84px"}}
        dataset, knobs = subject.dataset, self.explorer.knobs
        starts = [(f"{q.id}", ("query", q.id)) for q in dataset.queries] or [
            (path.name, ("image", i)) for i, path in enumerate(dataset.images[:_MANY])
        ]
        self.start = widgets.Dropdown(options=starts, description="query", **wide)
        self.number = widgets.BoundedIntText(
            0, 0, len(dataset.images) - 1, description="image no.", **wide
        )
        self.upload = widgets.FileUpload(
            accept=".jpg,.jpeg,.png,.webp,.bmp,.tif,.tiff", description="own photograph", **wide
        )
        self.canvas = BoxCanvas()
        self.box = widgets.Text(
            description="box", placeholder="x1,y1,x2,y2", continuous_update=False, **wide
        )
        self.coding = _choice("layer, words", subject.codings, knobs.coding, wide)
        self.weighting = _choice("weighting", subject.weightings, knobs.weighting, wide)
        self.mode = _choice("search", MODES, knobs.mode, wide)
        self.rerank = widgets.Checkbox(knobs.rerank, description="re-rank", indent=False)
        self.expansion = _choice("expansion", EXPANSIONS, knobs.expansion, wide)
        self.message, self.summary = widgets.HTML(), widgets.HTML()
        self.results = ResultGrid()
        self.curve, self.why = widgets.Image(format="png"), widgets.Image(format="png")
        self.curve.layout.max_width = self.why.layout.max_width = "100%"
        self.caption = widgets.HTML("Press <em>why?</em> below a result.")
        self.details = widgets.Accordion(
            [self.curve, widgets.VBox([self.caption, self.why])],
            titles=("Precision and recall", "Why was it found?"),
            selected_index=None,
        )
        style = "<style>.blcf-error{background:#fde8e6;color:#8c1d13;padding:6px 10px}</style>"
        left = widgets.VBox(
            [
                self.start, self.number, self.upload, self.canvas, self.box, self.mode,
                self.rerank, self.expansion, self.weighting, self.coding,
            ],
            layout=widgets.Layout(flex="1 1 300px", max_width="480px", min_width="260px"),
        )  # fmt: skip
        right = widgets.VBox(
            [widgets.HTML(style), self.message, self.summary, self.results, self.details],
            layout=widgets.Layout(flex="2 1 320px", min_width="260px", margin="0 0 0 14px"),
        )
        self.widget = widgets.Box(
            [left, right], layout=widgets.Layout(display="flex", flex_flow="row wrap")
        )
        for name in ("coding", "weighting", "mode", "rerank", "expansion"):
            getattr(self, name).observe(self._turned, "value")
        self.start.observe(self._started, "value")
        self.number.observe(self._numbered, "value")
        self.upload.observe(self._uploaded, "value")
        self.canvas.observe(self._drawn, "box")
        self.box.observe(self._typed, "value")
        self.results.observe(self._picked, "picked")
        self.results.observe(self._asked, "asked")

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        bundle = self.widget._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "image/png": _png(show_answer(self.explorer))}, metadata

    @_said
    def _turned(self, change) -> None:
        knobs = ("coding", "weighting", "mode", "rerank", "expansion")
        self.explorer.turn(**{name: getattr(self, name).value for name in knobs})
        self._show()

    @_said
    def _started(self, change) -> None:
        kind, value = change["new"]
        self._ask(self.explorer.ask_query if kind == "query" else self.explorer.ask, value)

    @_said
    def _numbered(self, change) -> None:
        self._ask(self.explorer.ask, change["new"])

    @_said
    def _uploaded(self, change) -> None:
        for one in change["new"]:
            try:
                path = self.uploads.accept(one["name"], bytes(one["content"]))
            finally:
                with self.upload.hold_trait_notifications():
                    self.upload.value = ()
            self._ask(self.explorer.ask, path)

    @_said
    def _drawn(self, change) -> None:
        if not self._quiet:
            self._ask(self.explorer.draw, tuple(change["new"]) or None)

    @_said
    def _typed(self, change) -> None:
        if not self._quiet:
            self._ask(self.explorer.draw, read_box(change["new"]))

    @_said
    def _picked(self, change) -> None:
        self._ask(self.explorer.ask, int(change["new"]["image"]))

    @_said
    def _asked(self, change) -> None:
        image = int(change["new"]["image"])
        name = self.explorer.subject.dataset.images[image].name
        self.caption.value = f"Words that the query shares with <b>{html.escape(name)}</b>"
        self.why.value = _png(show_why(self.explorer, image))
        self.details.selected_index = 1

    def _ask(self, ask: Callable, value) -> None:
        ask(value)
        self._show_question()
        self._show()

    def _show_question(self) -> None:
        question = self.explorer.question
        self._quiet = True
        try:
            with self.canvas.hold_sync():
                self.canvas.size = list(question.size)
                self.canvas.box = [round(value) for value in question.box or ()]
                self.canvas.jpeg = jpeg(self.explorer.subject.picture(question.path, _LONGEST))
            self.box.value = ",".join(f"{value:.0f}" for value in question.box or ())
        finally:
            self._quiet = False

    def _show(self) -> None:
        answer, subject = self.explorer.answer, self.explorer.subject
        self.message.value = ""
        known = (
            f"AP {answer.ap:.3f} ({answer.truth.instance})"
            if answer.truth
            else "nothing known of what is relevant"
        )
        self.summary.value = (
            f"<b>{html.escape(answer.knobs.recipe)}</b>, weighting {answer.knobs.weighting}: "
            f"<b>{html.escape(known)}</b>, {len(subject.dataset.images):,} images searched in "
            f"{answer.seconds * 1000:.1f} ms. Click a result to make it the query."
        )
        sizes = answer.base.maps.sizes
        with self.results.hold_sync():
            self.results.hits = [_sent(hit, sizes[hit.image]) for hit in answer.hits]
            self.results.jpegs = [subject.thumbnail(hit.image) for hit in answer.hits]
            self.results.turn += 1
        self.curve.value = _png(plot_answer(answer))


def explore(study, dataset: str = "", layers=(), words=(), weightings=(), **knobs) -> Panel:
    """Return a panel over a dataset of a study, with everything its knobs could ask for ready.

    Args:
        study: an open study.
        dataset: its name; the profile's first when empty.
        layers, words, weightings: further layers, sizes of the codebook and spatial weightings.
        **knobs: where they stand at first (see ``explorer.Knobs``).
    """
    return Panel(StudySubject(study, dataset, layers, words, weightings).prepare(), **knobs)


def explore_folder(folder, **knobs) -> Panel:
    """Return a panel over a folder that ``blcf index`` has indexed."""
    return Panel(FolderSubject(folder), **knobs)


def _choice(label: str, options, value: str, wide: dict) -> widgets.Dropdown:
    return widgets.Dropdown(options=list(options), value=value, description=label, **wide)


def _sent(hit: Hit, size) -> dict:
    (x1, y1, x2, y2), (width, height) = hit.box, (float(v) for v in size)
    box = [x1 / width, y1 / height, x2 / width, y2 / height]
    return {
        "rank": hit.rank, "image": hit.image, "score": hit.score, "verdict": hit.verdict,
        "name": hit.name, "box": box,
    }  # fmt: skip


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
