"""What the history of a run tells of a healthy training, and of faults that were planted in it."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from weightspace.analysis.history import History, history
from weightspace.analysis.history.warning_signs import Event
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError
from weightspace.zoo.populations.digits import digits_cnn, digits_mlp

Run = list[tuple[int, dict[str, Tensor]]]
Fault = Callable[[Tensor], Tensor]
STEPS = (0, 20, 40, 60, 80, 100, 120)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Healthy trainings of two architectures, each as steps and state dicts."""
    made: dict[str, Run] = {}
    rates = (0.01, 0.03, 0.1)
    for population in (
        digits_mlp(widths=(16,), depths=(2,), learning_rates=rates, steps=STEPS),
        digits_cnn(widths=(8,), learning_rates=rates, steps=STEPS),
    ):
        for one in population:
            assert one.run is not None and one.step is not None and not isinstance(one.tensors, Checkpoint)
            made.setdefault(one.run.key, []).append((one.step, dict(one.tensors)))
    return list(made.values())


def looked_at(run: Run) -> History:
    return history((step, Checkpoint.of(state)) for step, state in run)


def with_fault(run: Run, step: int, layer: str, fault: Fault, *, stays: bool) -> Run:
    """Change one layer at one step, or from there on."""
    return [(at, {**state, layer: fault(state[layer].clone())} if at == step or (stays and at > step) else state) for at, state in run]


def serious(found: History) -> list[Event]:
    return [one for one in found.events if one.severity != "note"]


def test_a_healthy_run_has_no_events(runs: list[Run]) -> None:
    assert [looked_at(run).events for run in runs] == [()] * len(runs)


def test_changes_are_relative_to_the_checkpoint_before() -> None:
    found = looked_at([(0, {"w": torch.ones(2, 2)}), (5, {"w": torch.full((2, 2), 1.5)}), (7, {"w": torch.full((2, 2), 1.5)})])
    assert [one.change for one in found.moments] == [None, pytest.approx(0.5), 0.0]
    assert [one.stable_rank for one in found.moments] == pytest.approx([1.0, 1.0, 1.0])
    assert found.steps == (0, 5, 7) and found.layers == ["w"]
    assert [row["step"] for row in found.table] == [0, 5, 7]


def first_entry_nan(tensor: Tensor) -> Tensor:
    tensor[0, 0] = float("nan")
    return tensor


def first_entry_infinite(tensor: Tensor) -> Tensor:
    tensor[0, 0] = float("inf")
    return tensor


def two_rows_zero(tensor: Tensor) -> Tensor:
    tensor[1:3] = 0
    return tensor


def one_rank(tensor: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(tensor.flatten(1), full_matrices=False)
    outer: Tensor = u[:, :1] * tensor.norm() @ v[:1]
    return outer.reshape(tensor.shape)


def drawn_anew(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)) * tensor.std()


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "NaN": (first_entry_nan, "broken", "NaN or infinite"),
    "infinity": (first_entry_infinite, "broken", "NaN or infinite"),
    "zero": (torch.zeros_like, "broken", "all elements are zero"),
    "dead rows": (two_rows_zero, "warning", "rows are zero"),
    "norm grew": (lambda tensor: tensor * 10, "warning", "norm grew 1"),
    "norm fell": (lambda tensor: tensor / 10, "warning", "norm fell to 1/"),
    "rank": (one_rank, "warning", "effective rank fell"),
    "redrawn": (drawn_anew, "warning", "of its norm, usually by"),
}


@pytest.mark.parametrize("stays", [True, False], ids=["to the end", "at one step"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_at_its_step_and_layer(runs: list[Run], fault: str, stays: bool) -> None:
    change, severity, reason = FAULTS[fault]
    for run, layer, step in ((runs[0], "fc2.weight", 60), (runs[3], "conv2.weight", 120)):
        found = serious(looked_at(with_fault(run, step, layer, change, stays=stays)))
        assert {(one.step, one.layer) for one in found} == {(step, layer)}
        assert any(one.severity == severity and reason in one.reason for one in found)


def test_a_frozen_layer_is_noted_where_it_stops(runs: list[Run]) -> None:
    frozen = runs[0][3][1]["fc1.weight"]
    run = [(step, {**state, "fc1.weight": frozen} if step >= 60 else state) for step, state in runs[0]]
    [event] = looked_at(run).events
    assert (event.severity, event.step, event.layer) == ("note", 80, "fc1.weight")


def test_a_layer_that_never_moves_is_told_once(runs: list[Run]) -> None:
    run = [(step, {**state, "fc1.weight": runs[0][0][1]["fc1.weight"]}) for step, state in runs[0]]
    assert looked_at(run).events == (Event("note", 20, "fc1.weight", "never changes", 0.0),)


def test_a_checkpoint_saved_twice_is_one_event(runs: list[Run]) -> None:
    run = [*runs[0], (140, runs[0][-1][1])]
    [event] = looked_at(run).events
    assert (event.step, event.layer) == (140, "*") and "no layer changed" in event.reason


def test_units_that_all_fall_silent_are_told(runs: list[Run]) -> None:
    def silent(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**state, "fc1.weight": -state["fc1.weight"].abs(), "fc1.bias": -state["fc1.bias"].abs()}

    found = looked_at([(step, silent(state) if step == 120 else state) for step, state in runs[0]])
    assert any("never fire" in one.reason and (one.step, one.layer) == (120, "fc1.weight") for one in found.events)


def norms(steps: int) -> Iterator[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        moved = {name: 1 + 0.01 * step * torch.rand(8, generator=draw) for name in ("bn.weight", "bn.running_var")}
        yield {**moved, "bn.num_batches_tracked": torch.tensor(step)}


def test_a_dead_gain_and_a_variance_that_blows_up_are_told() -> None:
    run = list(enumerate(norms(6)))
    run[3][1]["bn.weight"][2] = 0
    run[4][1]["bn.running_var"][0] = 900
    run[5][1]["bn.running_var"][0] = -1
    found = {(one.step, one.layer): one for one in looked_at(run).events}
    assert set(found) == {(3, "bn.weight"), (4, "bn.running_var"), (5, "bn.running_var")}
    assert "entries of the gain" in found[3, "bn.weight"].reason and "largest variance" in found[4, "bn.running_var"].reason
    assert found[5, "bn.running_var"].severity == "broken" and "a variance of -1" in found[5, "bn.running_var"].reason


def test_layers_that_come_and_go_are_told() -> None:
    a, b = {"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2) * 2, "v": torch.ones(3)}
    found = looked_at([(0, a), (1, b), (2, {"w": torch.ones(2, 2) * 3})])
    assert [(one.step, one.layer, one.reason) for one in found.events] == [
        (1, "v", "is there, and was not before"),
        (2, "v", "is not there any more"),
    ]


def test_patterns_choose_layers(runs: list[Run]) -> None:
    found = history(((step, Checkpoint.of(state)) for step, state in runs[0]), "fc?.bias")
    assert found.layers == ["fc1.bias", "fc2.bias", "fc3.bias"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ([(0, {"w": torch.ones(2)})], "needs two checkpoints or more, found 1"),
        ([(3, {"w": torch.ones(2)}), (3, {"w": torch.ones(2)})], "step 3 comes after step 3"),
        (
            [(0, {"w": torch.ones(2, dtype=torch.int64), "v": torch.ones(2, dtype=torch.uint8)})],
            "step 0: expected float tensors to follow, found only tensors of dtype I64, U8; give checkpoints of a model",
        ),
        ([(0, {})], "step 0: expected float tensors to follow, found no tensors at all; give checkpoints of a model"),
        ([(0, {"w": torch.ones(2)}), (1, {"w": torch.ones(3)})], "not of one run"),
    ],
)
def test_what_is_no_run_is_refused(run: Run, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        looked_at(run)


def test_the_picture_marks_every_event(runs: list[Run]) -> None:
    found = looked_at(with_fault(runs[0], 60, "fc2.weight", first_entry_nan, stays=False))
    figure = found.plot()
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "7 checkpoints: 1 broken"
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[2, found.layers.index("fc2.weight")]]


def test_a_pattern_that_fits_nothing_is_told_what_floats_there_are() -> None:
    state = {"counts": torch.ones(2, dtype=torch.int64), "w": torch.ones(2)}
    for given, shown in ((state, "there are w$"), ({**state, **{name: torch.ones(2) for name in "xyz"}}, "there are w, x, y and 1 more$")):
        with pytest.raises(AnalysisError, match=rf"no float tensor at step 0 fits 'q\*'; {shown}"):
            history([(0, Checkpoint.of(given))], "q*")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float64]
)
def test_every_dtype_is_followed(dtype: torch.dtype) -> None:
    found = looked_at([(step, {"fc.weight": torch.full((2, 2), 2.0**step).to(dtype)}) for step in range(3)])
    assert [one.change for one in found.moments] == [None, 1.0, 1.0]


def test_pairs_of_four_bits_are_followed() -> None:
    ones, twos = (torch.full((2, 2), code, dtype=torch.uint8).view(torch.float4_e2m1fn_x2) for code in (0x22, 0x44))
    first, second = looked_at([(0, {"w": ones}), (1, {"w": twos})]).moments
    assert [first.norm, second.norm] == pytest.approx([8**0.5, 32**0.5]) and second.change == pytest.approx(1.0)
