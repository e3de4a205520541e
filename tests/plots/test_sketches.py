"""Sketches of the compared methods: one for each, words in their place, shades that are right."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text

from blcf_utils import plots
from blcf_utils.plots.canvas import QUERY
from blcf_utils.plots.sketches import LEARNED, SKETCHES
from blcf_utils.pooling.compared import row_kinds
from blcf_utils.pooling.compared.methods import METHODS
from blcf_utils.pooling.compared.rows import ROWS

# Rows that are no method of METHODS alone.
KINDS = {
    row_kinds.WordsRow: "words",
    row_kinds.SiftRow: "sift",
    row_kinds.AsmkRow: "asmk",
    row_kinds.DetectorRow: "faster-rcnn",
    row_kinds.AugmentedRow: "dba",
    row_kinds.ReciprocalRow: "k-reciprocal",
}
NAMES = {name for family in SKETCHES.values() for name in family}


@pytest.fixture(scope="module", params=list(SKETCHES))
def panels(request):
    """The axes of each sketch of a family, drawn."""
    figure = plots.draw_methods(request.param)
    assert plt.get_fignums() == []
    FigureCanvasAgg(figure).draw()
    return dict(zip(SKETCHES[request.param], figure.axes, strict=False))


def base(method):
    """A method with or without whitening, or trained, has one sketch."""
    return method.removesuffix("-plain").removesuffix("-trained")


def test_each_compared_row_and_method_has_a_sketch():
    drawn = {KINDS.get(type(row)) or base(row.method) for row in ROWS}
    drawn |= {base(method) for method in METHODS} | {"aml", "pq"}
    assert drawn == NAMES


def test_words_stay_in_their_panel_and_apart(panels):
    for name, ax in panels.items():
        panel = ax.get_window_extent()
        boxes = [
            patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)
        ]
        # An arrow is an annotation without words.
        texts = [text for text in ax.texts if text.get_text()]
        extents = {text: Text.get_window_extent(text) for text in texts}
        for text, extent in extents.items():
            said = f"{name}: {text.get_text()}"
            assert panel.x0 <= extent.x0, said
            assert extent.x1 <= panel.x1, said
            assert panel.y0 <= extent.y0, said
            assert extent.y1 <= panel.y1, said
            middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
            for box in (box for box in boxes if box.contains(*middle)):
                assert box.x0 <= extent.x0, said
                assert extent.x1 <= box.x1, said
        for first, second in combinations(texts, 2):
            apart = not extents[first].overlaps(extents[second])
            assert apart, f"{name}: {first.get_text()} on {second.get_text()}"


def test_what_is_learned_is_drawn_in_orange(panels):
    for name, ax in panels.items():
        orange = [p for p in ax.patches if p.get_facecolor()[:3] == to_rgb(LEARNED)]
        stars = [line for line in ax.lines if line.get_color() == LEARNED]
        (learned,) = (t.get_text() for t in ax.texts if t.get_text().startswith("learned: "))
        assert bool(orange or stars) == (learned != "learned: nothing"), name


def test_positions_are_as_dark_as_they_count():
    figure = plots.draw_methods("pooling")
    weights = {
        name: np.reshape([p.get_facecolor()[3] for p in _cells(ax)[:24]], (4, 6))
        for name, ax in zip(SKETCHES["pooling"], figure.axes, strict=False)
        if name in ("sum", "spoc", "crow", "mac", "gem")
    }
    assert np.ptp(weights["sum"]) == 0
    # SPoC: a Gaussian whose sigma is a third of half the shorter side, about the middle.
    spoc = weights["spoc"] / weights["spoc"].max()
    np.testing.assert_allclose(spoc, spoc[::-1, ::-1])
    y, x = np.mgrid[:4, :6] - np.array([1.5, 2.5])[:, None, None]
    sigma = min(4, 6) / 2 / 3
    bell = np.exp(-(x**2 + y**2) / 2 / sigma**2)
    np.testing.assert_allclose(spoc, bell / bell.max(), atol=1e-6)
    # Of one channel CroW takes the root and GeM the third power, here of the same map.
    crow, gem = (weights[name] / weights[name].max() for name in ("crow", "gem"))
    np.testing.assert_allclose(crow**6, gem, atol=1e-6)
    assert (weights["mac"] > 0).sum() == 4


def _cells(ax):
    blue = to_rgb(QUERY)
    return [p for p in ax.patches if isinstance(p, Rectangle) and p.get_facecolor()[:3] == blue]
