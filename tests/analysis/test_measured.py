"""Results of measures as tables and pictures."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from weightspace.analysis.measure import Measure, Scope, Values
from weightspace.analysis.measured import Measured
from weightspace.errors import AnalysisError, UnknownNameError


def one(of: Scope) -> Measure:
    return Measure("bend", lambda *_: 1.0, of, unit="degrees")


def pixels(figure: Any) -> np.ndarray[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.savefig(io.BytesIO(), format="png")
    return np.asarray(canvas.buffer_rgba())


def test_a_table_has_a_row_a_result_and_key() -> None:
    measured = Measured(one("pair"), (("a", "b"), ("a", "c")), ({"x": 1.0, "y": None}, {"x": 2.0, "word": "text"}))
    assert measured.table == [
        {"a": "a", "b": "b", "key": "x", "value": 1.0},
        {"a": "a", "b": "b", "key": "y", "value": None},
        {"a": "a", "b": "c", "key": "x", "value": 2.0},
        {"a": "a", "b": "c", "key": "word", "value": "text"},
    ]
    assert Measured(one("model"), (("m",),), ({"": 3.0},)).table == [{"model": "m", "key": "", "value": 3.0}]


CASES: list[tuple[Scope, tuple[tuple[str, ...], ...], tuple[Values, ...]]] = [
    ("model", (("m",),), ({"": 3.0},)),
    ("model", (("m",),), ({"low": 3.0, "high": None, "word": "x"},)),
    ("model", (("m",), ("$n$",)), ({"low": 3.0}, {"low": float("nan")})),
    ("task pair", (("a", "b"),), ({"fc1|fc1": 0.5, "fc1|fc2": 0.1, "fc2|fc1": None},)),
    ("pair", (("a", "b"), ("b", "c"), ("a", "c")), ({"x": 1.0}, {"x": 2.0}, {"y": 2.0})),
]


def test_a_single_number_is_labelled_with_its_model() -> None:
    [axes] = Measured(one("model"), (("net/1",),), ({"": 3.0},)).plot().axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["net/1"]
    [axes] = Measured(one("pair"), (("net/1", "net/2"),), ({"": 3.0},)).plot().axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["net/1 and net/2"]


def test_what_has_a_direction_is_not_drawn_the_other_way_round() -> None:
    for is_symmetric, blanks in ((True, 2), (False, 3)):
        measured = Measured(replace(one("pair"), is_symmetric=is_symmetric), (("a", "b"),), ({"x": 1.0},))
        shown: Any = measured.plot("x").axes[0].images[0].get_array()
        assert int(np.isnan(np.ma.filled(shown, np.nan)).sum()) == blanks


@pytest.mark.parametrize(("of", "names", "values"), CASES)
def test_every_shape_of_result_has_a_picture_that_is_not_blank(of: Scope, names: Any, values: Any) -> None:
    drawn = pixels(Measured(one(of), names, values).plot())
    assert len(np.unique(drawn.reshape(-1, 4), axis=0)) > 10


def test_tables_of_layers_are_drawn_side_by_side() -> None:
    values = {"cka|x|y": 0.5, "cka|x|z": 0.1, "cka: input > y": 0.9, "penalty|x|y": 3.0, "penalty|x|z": None, "loss": 7.0}
    figure: Any = Measured(one("task pair"), (("a", "b"),), (values,)).plot()
    shown = [np.ma.filled(axes.images[0].get_array(), np.nan).tolist() for axes in figure.axes[:2]]
    assert shown == [[[0.5, 0.1]], [[3.0, pytest.approx(np.nan, nan_ok=True)]]]
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["cka", "penalty"]
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["y", "z"]
    assert pixels(figure).std() > 0


def test_the_key_to_draw_can_be_named() -> None:
    measured = Measured(one("model"), (("m",), ("n",)), ({"low": 1.0, "high": 9.0}, {"low": 1.0, "high": 0.5}))
    low, high = pixels(measured.plot("low")), pixels(measured.plot("high"))
    assert low.shape != high.shape or (low != high).any()
    with pytest.raises(UnknownNameError, match="no key of measure 'bend' named 'hihg'; did you mean 'high'"):
        measured.plot("hihg")


def test_what_gave_no_numbers_is_not_drawn() -> None:
    with pytest.raises(AnalysisError, match="measure 'bend' gave no numbers to draw; print its table"):
        Measured(one("model"), (("m",),), ({"word": "text"},)).plot()
