"""Speed against quality as a figure."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from albert_act_fast.glue.sweep_picture import sweep_figure
from albert_act_fast.text import HaltingRule

OWN = HaltingRule(12, 0.01)


def result(iterations: int, epsilon: float, rows: int, accuracy: float):
    evaluation = SimpleNamespace(rows_computed=rows, metrics={"accuracy": accuracy})
    return HaltingRule(iterations, epsilon), evaluation


RESULTS = [
    result(3, 0.01, 60, 82.0),
    result(1, 0.01, 20, 79.0),
    result(12, 0.01, 80, 83.0),
    result(12, 0.5, 40, 82.5),
]


def test_two_curves_through_the_model_s_own_rule():
    (axes,) = sweep_figure(RESULTS, OWN, "accuracy", "SST-2").axes
    fewer, earlier, star = axes.lines
    assert list(fewer.get_xdata()) == [25, 75, 100]
    assert list(fewer.get_ydata()) == [79, 82, 83]
    assert list(earlier.get_xdata()) == [50, 100]
    assert (star.get_marker(), list(star.get_xdata()), list(star.get_ydata())) == ("*", [100], [83])
    assert [text.get_text() for text in axes.texts] == ["1", "3", "0.5"]


def test_without_it_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match=r"own: got .* expected one of the results' rules"):
        sweep_figure(RESULTS[:2], OWN, "accuracy", "SST-2")
