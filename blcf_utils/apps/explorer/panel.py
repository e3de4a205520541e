"""The explorer's face: knobs, query image, results and reasons as one widget."""

from __future__ import annotations

import html
import io
import logging
from collections.abc import Callable
from functools import wraps

import ipywidgets as widgets
from matplotlib.figure import Figure

from blcf_utils.apps.explorer.explorer import EXPANSIONS, MODES, Explorer, Hit, Question
from blcf_utils.apps.explorer.pictures import plot_answer, show_answer, show_why
from blcf_utils.apps.explorer.subject import FolderSubject, StudySubject, Subject, jpeg
from blcf_utils.apps.explorer.uploads import Uploads
from blcf_utils.apps.explorer.widgets import BoxCanvas, PhotoUpload, ResultGrid
from blcf_utils.datasets.base import Dataset
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.boxes import read_box
from blcf_utils.study.pipeline import Pipeline

_LONGEST = 460  # pixels of the query image as it is shown
_MANY = 300  # entries of a list of images to choose from
_LISTED = 20_000  # names that are offered while one types
_REMEMBERED = 50  # queries that one can go back to
_ASK = "Press <em>why?</em> below a result."

log = logging.getLogger("blcf")


def _said(method: Callable) -> Callable:
    """Say an error in the panel instead of raising it, and go on with the last answer."""

    @wraps(method)
    def wrapped(self, *arguments):
        try:
            method(self, *arguments)
        except StudyError as error:
            self._say(str(error))
        except Exception as error:  # a page would swallow it, and seem to hang
            log.exception("the explorer failed")
            self._say(f"a fault of the explorer: {type(error).__name__}: {error}; go on, or reload")

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
        self.explorer, self.uploads = Explorer(subject, **knobs).warm(), Uploads()
        self._quiet, self._explained = False, None
        self._before: list[Question] = []
        self._names = _names(subject.dataset)
        self._numbers = {name: i for i, name in enumerate(self._names)}
        self._build(subject)
        self._show_question()
        self._show()

    def _build(self, subject: Subject) -> None:
        wide = {"layout": widgets.Layout(width="97%"), "style": {"description_width": "84px"}}
        dataset, knobs = subject.dataset, self.explorer.knobs
        starts = [(f"{q.id}", ("query", q.id)) for q in dataset.queries] or [
            (name, ("image", i)) for i, name in enumerate(self._names[:_MANY])
        ]
        self.start = widgets.Dropdown(options=starts, description="query", **wide)
        self.image = widgets.Combobox(
            options=self._names[:_LISTED],
            description="image",
            placeholder="name of an image",
            continuous_update=False,
            **wide,
        )
        self.upload = PhotoUpload(most_bytes=self.uploads.max_bytes)
        self.back = widgets.Button(description="back to the last query", disabled=True)
        self.upload.layout.width = self.back.layout.width = "97%"
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
        self.curve.layout.max_width = "100%"
        # On a phone it is scrolled sideways: smaller, nobody could read it.
        self.why.layout.min_width = "620px"
        self.caption = widgets.HTML(_ASK)
        self.details = widgets.Accordion(
            [self.curve, widgets.VBox([self.caption, self.why], layout={"overflow": "auto"})],
            titles=("Precision and recall", "Why was it found?"),
            selected_index=0 if dataset.queries else None,
        )
        style = "<style>.blcf-error{background:#fde8e6;color:#8c1d13;padding:6px 10px}</style>"
        left = widgets.VBox(
            [
                self.start, self.image, self.upload, self.canvas, self.box, self.mode,
                self.rerank, self.expansion, self.weighting, self.coding, self.back,
            ],
            layout=widgets.Layout(flex="1 1 300px", max_width="480px", min_width="260px"),
        )  # fmt: skip
        right = widgets.VBox(
            [widgets.HTML(style), self.message, self.summary, self.results, self.details],
            layout=widgets.Layout(flex="2 1 320px", min_width="260px"),
        )
        self.widget = widgets.Box(
            [left, right],
            layout=widgets.Layout(display="flex", flex_flow="row wrap", grid_gap="14px"),
        )
        self.widget.add_class("blcf-panel")
        self.details.add_class("blcf-details")
        for name in ("coding", "weighting", "mode", "rerank", "expansion"):
            getattr(self, name).observe(self._turned, "value")
        self.start.observe(self._started, "value")
        self.image.observe(self._named, "value")
        self.upload.on_msg(self._uploaded)
        self.back.on_click(self._returned)
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
        if self._quiet or change["new"] is None:
            return
        kind, value = change["new"]
        self._ask(self.explorer.ask_query if kind == "query" else self.explorer.ask, value)

    @_said
    def _named(self, change) -> None:
        name = change["new"].strip()
        if self._quiet or not name:
            return
        # Only by its name: a path would open any image of the machine that serves this.
        if name not in self._numbers:
            raise StudyError(f"{name}: no image of that name in {self.explorer.subject.title}")
        self._ask(self.explorer.ask, self._numbers[name])

    @_said
    def _uploaded(self, widget, content, buffers) -> None:
        name = str(content["name"])
        if not buffers:  # the browser kept it
            self.uploads.check_size(name, int(content["size"]))
        self._ask(self.explorer.ask, self.uploads.accept(name, b"".join(map(bytes, buffers))))

    @_said
    def _returned(self, button) -> None:
        question = self._before.pop()
        self.explorer.ask(question.path, question.box)
        self._show_question()
        self._show()

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
        self._explain(int(change["new"]["image"]))
        self.details.selected_index = 1
        self.results.explained += 1

    def _explain(self, image: int | None) -> None:
        """Show why an image was found, or nothing."""
        self._explained = image
        self.why.layout.display = "none" if image is None else None
        if image is None:
            self.caption.value = _ASK
            return
        name = self.explorer.subject.dataset.images[image].name
        self.why.value = _png(show_why(self.explorer, image))
        self.why.remove_class("blcf-stale")
        self.caption.value = f"Words that the query shares with <b>{html.escape(name)}</b>"

    def _say(self, text: str) -> None:
        self.message.value = f'<p role="alert" class="blcf-error">{html.escape(text)}</p>'

    def _ask(self, ask: Callable, value) -> None:
        before = self.explorer.question
        ask(value)
        try:
            self.explorer.answer  # noqa: B018 - whether there is one
        except StudyError:
            self.explorer.ask(before.path, before.box)
            raise
        if self.explorer.question.path != before.path:
            self._before = [*self._before[-_REMEMBERED:], before]
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
            self._show_origin(question)
        finally:
            self._quiet = False

    def _show_origin(self, question: Question) -> None:
        """Let the lists say which query or image this is; neither, for one's own photograph."""
        dataset = self.explorer.subject.dataset
        number = dataset.image_index.get(question.path, len(self._names))
        self.image.value = "".join(self._names[number : number + 1])
        asked = (question.path, question.box)
        same = [("query", q.id) for q in dataset.queries if (q.image, q.box) == asked]
        offered = {value for _, value in self.start.options}
        self.start.value = next((one for one in (*same, ("image", number)) if one in offered), None)
        self.back.disabled = not self._before

    def _show(self) -> None:
        answer, subject = self.explorer.answer, self.explorer.subject
        self.message.value = ""
        if self._explained is not None:  # until it is drawn anew, or goes
            self.why.add_class("blcf-stale")
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
        shown = {hit.image for hit in answer.hits} if self.details.selected_index == 1 else ()
        self._explain(self._explained if self._explained in shown else None)


def explore(bench: Pipeline, layers=(), words=(), weightings=(), **knobs) -> Panel:
    """Return a panel over a dataset of a study, with everything its knobs could ask for ready.

    Args:
        bench: the dataset's pipeline.
        layers, words, weightings: further layers, sizes of the codebook and spatial weightings.
        **knobs: where they stand at first (see ``explorer.Knobs``).
    """
    return Panel(StudySubject(bench, layers, words, weightings).prepare(), **knobs)


def explore_folder(folder, **knobs) -> Panel:
    """Return a panel over a folder that ``blcf index`` has indexed."""
    return Panel(FolderSubject(folder), **knobs)


def _choice(label: str, options, value: str, wide: dict) -> widgets.Dropdown:
    return widgets.Dropdown(options=list(options), value=value, description=label, **wide)


def _names(dataset: Dataset) -> list[str]:
    """Return what images are called: their paths below the dataset's folder, or their names."""
    root = dataset.root
    return [
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        for path in dataset.images
    ]


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
