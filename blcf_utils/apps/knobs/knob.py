"""One knob: sliders with a picture that follows them, and the same for a few values as frames."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import ipywidgets as widgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from blcf_utils.apps.explorer.widgets import BoxCanvas
from blcf_utils.datasets.base import Dataset
from blcf_utils.ground.errors import StudyError
from blcf_utils.plots.canvas import done, grid, photograph, png

_SHOWN = 460  # pixels of the longest side of an image to draw on


class Knob:
    """What a setting does; the last expression of a cell shows it.

    A live notebook shows sliders and the picture of the values they stand at. Where no widget can
    be drawn (a report, a viewer of notebooks) the frames are shown in its place.

    Args:
        draw: draws on a row of axes what the values of all choices give, and returns a line about
            it: ``draw(axes, **values)``. It may raise a StudyError, which is shown.
        panels: how many axes, their width and height in inches.
        frames: the values of each row of the static picture; the sliders start at the first.
        **choices: by name, the values that a slider offers, or the canvas that is drawn on: its
            trait of that name is the value.
    """

    def __init__(
        self,
        draw: Callable[..., str],
        panels: tuple[int, float, float],
        frames: Sequence[Mapping[str, object]],
        **choices: Sequence | BoxCanvas,
    ):
        self._draw, self._panels, self._frames = draw, panels, frames
        self.choices = {
            name: choice if isinstance(choice, BoxCanvas) else _slider(name, choice, start)
            for (name, choice), start in zip(choices.items(), frames[0].values(), strict=True)
        }
        self.summary, self.picture = widgets.HTML(), widgets.Image(format="png")
        self.picture.layout.max_width = "100%"
        self.widget = widgets.VBox([*self.choices.values(), self.summary, self.picture])
        for name in choices:
            self.choices[name].observe(self._show, self._trait(name))
        self._show()

    @property
    def values(self) -> dict[str, object]:
        """Where the knob stands, by choice."""
        return {name: getattr(self.choices[name], self._trait(name)) for name in self.choices}

    def frames(self) -> Figure:
        """Return the static picture, a row for each of the frames."""
        return self._figure(self._frames)[0]

    def _trait(self, name: str) -> str:
        return name if isinstance(self.choices[name], BoxCanvas) else "value"

    def _figure(self, frames: Sequence[Mapping[str, object]]) -> tuple[Figure, list[str]]:
        """Return a picture of frames, and what is said about each."""
        count, width, height = self._panels
        figure, axes = grid(len(frames), count, width, height)
        done(figure)  # before a draw can fail
        said = []
        for line, values in zip(axes, frames, strict=True):
            told = [f"{name} {_text(value)}" for name, value in values.items() if _is_number(value)]
            said.append(": ".join(filter(None, [", ".join(told), self._draw(line, **values)])))
            for ax in line:
                ax.set_anchor("N")  # no picture of the row reaches higher than its line of text
            _write_above(line[0], said[-1])
        return figure, said

    def _show(self, change=None) -> None:
        started = perf_counter()
        try:
            figure, (said,) = self._figure([self.values])
        except StudyError as error:
            self.summary.value = f'<p role="alert">{html.escape(str(error))}</p>'
            return
        self.picture.value = png(figure)
        self.summary.value = f"{html.escape(said)} ({(perf_counter() - started) * 1000:.0f} ms)"

    def _repr_mimebundle_(self, **_) -> dict:
        return {**self.widget._repr_mimebundle_(), "image/png": png(self.frames())}


def canvas(dataset: Dataset, image: Path, **traits) -> BoxCanvas:
    """Return an image of a dataset to draw or click on, as one of a knob's choices."""
    pixels, stream = photograph(dataset, image), io.BytesIO()
    small = Image.fromarray(pixels)
    small.thumbnail((_SHOWN, _SHOWN))
    small.save(stream, "JPEG", quality=85)
    return BoxCanvas(jpeg=stream.getvalue(), size=[pixels.shape[1], pixels.shape[0]], **traits)


def _slider(name: str, values: Sequence, start: object) -> widgets.SelectionSlider:
    return widgets.SelectionSlider(
        options=[(_text(value), value) for value in values],
        value=start,
        description=name,
        continuous_update=False,
        style={"description_width": "84px"},
    )


def _write_above(ax: Axes, text: str) -> None:
    """Write a line above the title of axes; other axes do not make way for its length."""
    title, size = ax.get_title(), ax.title.get_fontsize()
    ax.set_title("\n" + title if title else " ")
    lines = 1 + title.count("\n") if title else 0
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": size}
    ax.annotate(text, (0, 1), (0, 6 + 1.3 * size * lines), **place).set_in_layout(False)


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
