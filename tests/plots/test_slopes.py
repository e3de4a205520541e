"""The slope chart: gains by hand, and names that never cover one another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from blcf_utils.plots.canvas import IGNORED, RELEVANT, WRONG, spread
from blcf_utils.plots.slopes import plot_slopes, slope_gains
from blcf_utils.results.tables import Measurement, write_table


@pytest.fixture
def table(tmp_path):
    cells = [
        Measurement("None", "a/gs", 0.5), Measurement("None", "b/gs", 0.1),
        Measurement("BMS", "a/gs", 0.6), Measurement("BMS", "b/gs", 0.4),
        Measurement("L2-norm", "a/gs", 0.4), Measurement("L2-norm", "b/gs", 0.1),
        Measurement("mine", "a/gs", 0.9),
    ]  # fmt: skip
    return write_table("t09_saliency_blcf", cells, tmp_path)


def test_a_gain_is_the_mean_over_datasets_of_one_variant(table):
    gains = slope_gains(table)
    assert gains.loc[("/gs", "BMS"), "measured"] == pytest.approx((0.1 + 0.3) / 2)
    assert gains.loc[("/gs", "mine"), "measured"] == pytest.approx(0.4)
    # Slide "Result BLCF": BMS against None on Oxford, Paris and INSTRE.
    theirs = (0.668 - 0.628 + 0.698 - 0.642 + 0.545 - 0.350) / 3
    assert gains.loc[("/gs", "BMS"), "published"] == pytest.approx(theirs)
    assert np.isnan(gains.loc[("/gs", "SalGAN"), "measured"])
    assert np.isnan(gains.loc[("/ls", "BMS"), "measured"])


def test_a_line_is_green_where_both_agree_orange_where_not_grey_on_one_side(table):
    figure = plot_slopes(table)
    (ax,) = figure.axes  # only /gs was measured
    lines = {tuple(np.round(line.get_ydata(), 6)): line.get_color() for line in ax.lines[1:]}
    gains = slope_gains(table).loc["/gs"].round(6)
    assert lines[tuple(gains.loc["BMS"])] == RELEVANT
    assert lines[tuple(gains.loc["L2-norm"])] == WRONG
    assert sum(colour == IGNORED for colour in lines.values()) == 7  # on one side only


def test_a_table_measured_nowhere_says_so(tmp_path):
    empty = plot_slopes(write_table("x01_own", [], tmp_path))
    assert "nothing" in empty.axes[0].texts[0].get_text()
    published = write_table("t09_saliency_blcf", [], tmp_path)
    assert "no row was both" in plot_slopes(published).axes[0].texts[0].get_text()


def test_names_are_pushed_apart_as_little_as_possible():
    places, step = [0.0, 0.05, 0.1, 0.9, 0.95], 0.1
    found = spread(places, step)
    assert np.diff(found).min() >= step - 1e-12
    best = minimize(
        lambda x: ((x - np.array(places)) ** 2).sum(),
        np.arange(5) * 0.2,
        tol=1e-12,
        constraints={"type": "ineq", "fun": lambda x: np.diff(x) - step},
    )
    assert found == pytest.approx(best.x, abs=1e-4)
    assert spread([0.0, 1.0], 0.1) == [0.0, 1.0]
