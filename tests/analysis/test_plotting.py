"""The look of pictures: names of any kind are drawn without a warning, and written so that they can be read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pictures import expect_good
from weightspace.analysis.history import history
from weightspace.analysis.plotting import bars, heat_map
from weightspace.checkpoint import Checkpoint
from weightspace.plotting import canvas, far_axis, note, save, short, style

NAMES = ("\x1b[31mred\x1b[0m.weight", "line\nbreak", "right\u202eto left", "$\\frac{$", "日本語.weight", "مرحبا", "W" * 300)


@pytest.mark.parametrize("names", [(name,) for name in NAMES] + [NAMES])
def test_any_name_is_drawn_without_a_warning(names: tuple[str, ...], tmp_path: Path) -> None:
    save(bars(names, [1.0] * len(names), f"label {names[0]}"), tmp_path / "bars.png")
    save(heat_map(np.eye(len(names)), names, names, "label", title=f"of {names[0]}\nsecond"), tmp_path / "map.svg")
    assert (tmp_path / "bars.png").stat().st_size > 1000 and (tmp_path / "map.svg").stat().st_size > 1000


def test_bars_begin_at_zero() -> None:
    """Also where there is nothing but zeros, or nothing."""
    for values in ([0.0, 0.0], [1.0, 3.0], [None, 0.0], [None]):
        low, high = bars(["layer"] * len(values), values, "label").axes[0].get_xlim()
        assert low == 0 and 1 <= high < 4
    assert bars(["a", "b"], [-1.0, 0.0], "label").axes[0].get_xlim()[0] < -1


@pytest.mark.parametrize("name", NAMES)
def test_a_history_of_any_name_is_drawn_without_a_warning(name: str, tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    run = [(step, Checkpoint.of({f"{name}.weight": torch.randn(4, 4, generator=chance)})) for step in (1, 2, 10**12)]
    save(history(run).plot(), tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 1000


def test_control_characters_are_written_out() -> None:
    assert [short(name) for name in NAMES[:3]] == ["\\x1b[31mred\\x1b[0m.weight", "line\\nbreak", "right\\u202eto left"]
    assert short("a" * 50 + "end") == "…" + "a" * 40 + "end"
    [axes] = bars(["m"], [1.0], "a\x1bb").axes
    note(axes, "of \x9b2J\nsecond")
    assert (axes.get_xlabel(), axes.get_title(loc="left")) == ("a\\x1bb", "of \\x9b2J\nsecond")


def test_logarithmic_axes_have_numbers_without_markup(tmp_path: Path) -> None:
    with style():
        figure, [[axes]] = canvas()
        axes.plot([1, 2], [0.011, 0.04])
        axes.set(yscale="log")
    save(figure, tmp_path / "log.png")
    texts = [tick.get_text() for tick in axes.get_yticklabels(which="both")]
    assert any(texts) and not any("$" in text for text in texts)
    assert "0.02" in texts


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 0.0])
def test_what_is_not_finite_leaves_a_gap(value: float | None) -> None:
    figure = bars(["a", "b"], [value, 1.0], "bound")
    expect_good(figure)
    assert figure.axes[0].get_xlim()[1] < 1.1
    expect_good(bars(["a", "b"], [value, value], "bound"))
    expect_good(heat_map([[value or 0.0, 0.0]], ["a"], ["c", "d"], "cka"))


def test_a_logarithmic_axis_without_anything_above_zero_stays_linear() -> None:
    for values, scale in (([0.0, float("nan")], "linear"), ([0.0, 3.0], "log")):
        figure, [[axes]] = canvas()
        axes.barh([0, 1], values)
        far_axis(axes, "x")
        assert axes.get_xscale() == scale
        expect_good(figure)
