import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies import seeded, state_of
from weightspace.action import Action
from weightspace.axes import parse
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError, WeightSpaceError
from weightspace.formats.safetensors import save
from weightspace.opening import open as open_checkpoint
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act, act_on_tensor

MLP = {"w1": "h 2", "b1": "h", "w2": "3 h'"}


def spec_of(tensors: dict[str, str] | None = None, /, **groups: Any) -> SymmetrySpec:
    return SymmetrySpec.parse(
        MLP if tensors is None else tensors, groups={name: {"size": g} if isinstance(g, int) else g for name, g in groups.items()}
    )


@pytest.mark.parametrize(
    ("group", "given", "message"),
    [
        ({"size": 3}, [0, 1], "the index of group 'h' has shape [2]; expected [3]"),
        ({"size": 3}, [0, 1, 1], "the index of group 'h' is no permutation of 0 to 2; each member must come once"),
        ({"size": 3}, [0, 1, 3], "the index of group 'h' is no permutation of 0 to 2; each member must come once"),
        ({"size": 2}, [0.5, 1.5], "the index of group 'h' holds floats; give integers, or a matrix to a group that has them"),
        ({"size": 2, "kind": "fixed", "symmetry": "scale"}, [1, 0], "group 'h' is fixed, but its index moves members; leave it out"),
        (
            {"size": 2},
            Action(torch.arange(2), matrix=torch.eye(2)),
            "group 'h' has symmetry 'none', which no matrix acts on; give an index",
        ),
        ({"size": 2, "symmetry": "linear"}, torch.eye(3), "the matrix of group 'h' has shape [3, 3]; expected [2, 2]"),
        ({"size": 2, "symmetry": "linear"}, torch.ones(2, 2), "the matrix of group 'h' has no inverse; give one that has"),
        (
            {"size": 2, "symmetry": "orthogonal"},
            2 * torch.eye(2),
            "the matrix of group 'h' is not orthogonal (off by 3.0e+00); take its polar factor",
        ),
        (
            {"size": 2, "symmetry": "orthogonal"},
            torch.full((2, 2), torch.nan),
            "the matrix of group 'h' is not orthogonal (off by nan); take its polar factor",
        ),
        (
            {"size": 2, "symmetry": "linear"},
            Action(torch.tensor([1, 0]), matrix=torch.eye(2)),
            "the action on group 'h' has a matrix and more; multiply them into one matrix",
        ),
        ({"size": 2, "symmetry": "sign"}, (None, [1.0]), "the diagonal of group 'h' has shape [1]; expected [2]"),
        (
            {"size": 2, "symmetry": "sign"},
            (None, [1.0, 2.0]),
            "the diagonal of group 'h' does not fit its symmetry 'sign'; expected -1 and 1",
        ),
        (
            {"size": 2, "symmetry": "scale"},
            (None, [1.0, -2.0]),
            "the diagonal of group 'h' does not fit its symmetry 'scale'; expected finite positive numbers",
        ),
        *(
            (
                {"size": 2, "symmetry": "scale"},
                (None, [1.0, number]),
                "the diagonal of group 'h' does not fit its symmetry 'scale'; expected finite positive numbers",
            )
            for number in (torch.inf, torch.nan)
        ),
        *(
            (
                {"size": 2},
                given,
                f"the action on group 'h' is a {type(given).__name__} that holds no numbers; "
                "expected an index, an (index, diagonal) pair or a matrix",
            )
            for given in ("abc", None, [[0], [0, 1]], (None, ["a", "b"]), [1j, 0j], {"index": [0, 1]})
        ),
        ({"size": 2}, (None, [1.0, 1.0]), "the diagonal of group 'h' does not fit its symmetry 'none'; expected none"),
        (
            {"size": 2, "symmetry": "scale"},
            (None, torch.ones(2) * 1j),
            "the diagonal of group 'h' does not fit its symmetry 'scale'; expected finite positive numbers",
        ),
    ],
)
def test_what_is_no_element_is_refused(group: dict[str, Any], given: Any, message: str) -> None:
    with pytest.raises(SymmetryError) as caught:
        spec_of(h=group).element({"h": given})
    assert str(caught.value) == message


def test_a_rotation_needs_complex_numbers() -> None:
    spec = spec_of({"w": "(f + f)"}, f={"size": 2, "symmetry": "rotation"})
    with pytest.raises(
        SymmetryError, match="the diagonal of group 'f' does not fit its symmetry 'rotation'; expected finite complex numbers other than 0"
    ):
        spec.element({"f": (None, [1.0, 2.0])})


def test_an_element_of_an_unknown_group_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no neuron group named 'g'"):
        spec_of(h=2).element({"g": [0, 1]})


def test_the_index_of_a_child_has_one_row_for_each_parent() -> None:
    spec = spec_of({"w": "(k d)"}, k=2, d={"size": 2, "per": "k"})
    with pytest.raises(SymmetryError, match=r"the index of group 'd' has shape \[2\]; expected \[2, 2\]"):
        spec.element({"d": [0, 1]})
    moved = act(spec.element({"d": [[1, 0], [0, 1]]}), {"w": torch.arange(4.0)})
    assert moved["w"].tolist() == [1, 0, 2, 3]


def test_new_members_come_from_where_the_index_says() -> None:
    moved = act(
        spec_of(h=3).element({"h": [2, 0, 1]}),
        {"w1": torch.arange(6.0).view(3, 2), "b1": torch.arange(3.0), "w2": torch.arange(9.0).view(3, 3)},
    )
    assert moved["b1"].tolist() == [2, 0, 1]
    assert moved["w1"].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert moved["w2"][0].tolist() == [2, 0, 1]


def test_a_child_is_counted_by_the_new_parent() -> None:
    spec = spec_of({"w": "(k d)"}, k=2, d={"size": 2, "per": "k"})
    moved = act(spec.element({"k": [1, 0], "d": [[1, 0], [0, 1]]}), {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    assert moved["w"].tolist() == [4, 3, 1, 2]  # the parent that comes first now was second, and its members are exchanged


def test_scales_act_by_the_power_of_each_occurrence() -> None:
    spec = spec_of({"plain": "h", "dual": "h'", "square": "h^2", "still": "h^0"}, h={"size": 2, "symmetry": "scale"})
    moved = act(spec.element({"h": ([1, 0], [2.0, 4.0])}), {name: torch.tensor([3.0, 5.0]) for name in spec.tensors})
    assert {name: tensor.tolist() for name, tensor in moved.items()} == {
        "plain": [10, 12],
        "dual": [2.5, 0.75],
        "square": [20, 48],
        "still": [5, 3],
    }


def test_a_matrix_acts_by_its_inverse_transpose_on_the_consumer() -> None:
    spec = spec_of({"a": "r 3", "b": "4 r'"}, r={"size": 2, "symmetry": "linear"})
    matrix = torch.tensor([[1.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    state = state_of(spec)
    moved = act(spec.element({"r": matrix}), state)
    torch.testing.assert_close(moved["a"], matrix @ state["a"])
    torch.testing.assert_close(moved["b"], state["b"] @ torch.linalg.inv(matrix))
    torch.testing.assert_close(moved["b"] @ moved["a"], state["b"] @ state["a"])


def test_a_rotation_is_a_complex_product() -> None:
    spec = spec_of({"q": "(f + f) 3", "k": "(f 2)' 3"}, f={"size": 2, "symmetry": "rotation", "kind": "fixed"})
    state = state_of(spec)
    numbers = torch.tensor([2j, 1 + 1j], dtype=torch.complex128)
    moved = act(spec.element({"f": (None, numbers)}), state)
    q, new_q = (torch.complex(s["q"][:2], s["q"][2:]) for s in (state, moved))
    k, new_k = (torch.complex(s["k"][0::2], s["k"][1::2]) for s in (state, moved))
    torch.testing.assert_close(new_q, numbers[:, None] * q)
    torch.testing.assert_close((new_q * new_k.conj()).real, (q * k.conj()).real)  # the product of query and key stays


def test_signs_flip_both_sides() -> None:
    moved = act(spec_of(h={"size": 2, "symmetry": "sign"}).element({"h": (None, [1, -1])}), state := state_of(spec_of(h=2)))
    assert torch.equal(moved["b1"], state["b1"] * torch.tensor([1, -1]))
    assert torch.equal(moved["w2"], state["w2"] * torch.tensor([1, -1]))


@pytest.mark.parametrize("values", [torch.zeros(3, 2, dtype=torch.int8), torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3, 2) * 1j])
def test_moving_an_axis_of_integers_is_refused(values: torch.Tensor) -> None:
    spec = SymmetrySpec.parse(MLP, groups={"h": {"size": 3, "symmetry": "scale"}, "other": {"size": 2}})
    state = {**state_of(spec), "w1": values}
    for weights in (state, Checkpoint.of(state)):
        for given in ([1, 0, 2], (None, [1.0, 2.0, 1.0])):
            with pytest.raises(SymmetryError) as caught:
                act(spec.element({"h": given}), weights)
            assert str(caught.value) == (
                "the element moves group 'h', an axis of tensor 'w1', which does not hold floats; "
                "convert its values to floats, or write an integer for the axis"
            )
        for still in ({}, {"other": [1, 0]}, {"h": [0, 1, 2]}):
            assert torch.equal(act(spec.element(still), weights)["w1"], values)


def test_integers_and_inputs_stay_as_they_are() -> None:
    spec = SymmetrySpec.parse({**MLP, "steps": "3"}, groups={"h": {"size": 3, "symmetry": "scale"}})
    state = state_of(spec)
    before = {name: tensor.clone() for name, tensor in state.items()}
    moved = act(spec.random(seeded(0)), state)
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert torch.equal(moved["steps"], torch.tensor([3, 1, 2])) and list(moved) == list(state)
    assert all(moved[name].data_ptr() != state[name].data_ptr() for name in MLP)


def test_tied_tensors_stay_one_tensor() -> None:
    spec = SymmetrySpec.parse(MLP, sizes={"h": 3}, aliases={"head": "w2"})
    moved = act(spec.random(seeded(0)), state_of(spec))
    assert moved["head"] is moved["w2"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_an_index_moves_numbers_of_any_width_exactly(dtype: torch.dtype) -> None:
    spec = spec_of(h=3)
    state = state_of(spec, dtype=dtype)
    moved = act(spec.element({"h": [2, 0, 1]}), state)
    assert moved["w1"].dtype == dtype
    assert torch.equal(moved["w1"].float(), state["w1"].float()[[2, 0, 1]])


def test_a_scale_of_half_precision_is_rounded_once() -> None:
    spec = spec_of({"w": "(a b)"}, a={"size": 2, "symmetry": "scale"}, b={"size": 2, "symmetry": "scale"})
    weights = {"w": torch.tensor([1.001, 2.003, 3.007, 4.009], dtype=torch.bfloat16)}
    a, b = torch.tensor([1.003, 0.3]), torch.tensor([1.7, 0.77])
    moved = act(spec.element({"a": (None, a), "b": (None, b)}), weights)
    once = (weights["w"].float().view(2, 2) * a[:, None] * b).flatten().bfloat16()
    assert moved["w"].dtype == torch.bfloat16 and torch.equal(moved["w"], once)


def test_a_float64_index_keeps_every_bit() -> None:
    spec = spec_of(h={"size": 3, "symmetry": "scale"})
    state = state_of(spec)
    assert torch.equal(act(spec.element({"h": [2, 0, 1]}), state)["b1"], state["b1"][[2, 0, 1]])


@pytest.mark.parametrize("symmetry", ["none", "sign", "scale", "linear", "orthogonal"])
def test_groups_of_one_and_of_none(symmetry: Any) -> None:
    for size in (0, 1):
        spec = spec_of(h={"size": size, "symmetry": symmetry})
        g = spec.random(seeded(1))
        torch.testing.assert_close(act(g.inverse(), act(g, state_of(spec))), state_of(spec))


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="tensor 'w1' axis 0"):
        act(spec_of(h=3).random(seeded(0)), state_of(spec_of(h=4)))


def test_elements_of_different_specs_do_not_compose() -> None:
    with pytest.raises(SymmetryError, match=r"the two elements belong to different specs; compare them with spec\.diff"):
        spec_of(h=3).identity() @ spec_of(h=4).identity()


def test_what_is_the_identity() -> None:
    spec = spec_of(h={"size": 2, "symmetry": "scale"})
    assert spec.identity().is_identity and spec.element({"h": [0, 1]}).is_identity and spec.element({"h": (None, [1.0, 1.0])}).is_identity
    assert not spec.element({"h": [1, 0]}).is_identity and not spec.element({"h": (None, [1.0, 2.0])}).is_identity


def test_the_repr_says_how_many_members_move() -> None:
    spec = spec_of({**MLP, "v": "r"}, h={"size": 3, "symmetry": "sign"}, r={"size": 2, "symmetry": "linear"})
    assert repr(spec.identity()) == "<Symmetry: identity>"
    assert (
        repr(spec.element({"h": ([1, 0, 2], [1, 1, -1]), "r": torch.eye(2)}))
        == "<Symmetry: h: moves 2 of 3 and a diagonal; r: moves 0 of 2 and a matrix>"
    )


def test_discrete_elements_only_permute_and_flip() -> None:
    groups = {name: {"size": 4, "symmetry": name} for name in ("scale", "sign", "orthogonal", "linear", "rotation")}
    drawn = SymmetrySpec.parse({}, groups=groups).random(seeded(0), discrete=True)
    assert {name for name, action in drawn.actions.items() if action.diagonal is not None} == {"sign"}
    assert all(action.matrix is None for action in drawn.actions.values())
    assert not drawn.is_identity


def test_the_same_seed_draws_the_same_element() -> None:
    spec = spec_of(h={"size": 20, "symmetry": "scale"})
    a, b, c = (act(spec.random(seeded(seed)), state_of(spec))["w1"] for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_an_element_is_pickled_and_named_by_tensors() -> None:
    spec = spec_of(h={"size": 3, "symmetry": "scale"})
    g = spec.random(seeded(0))
    again = pickle.loads(pickle.dumps(g))
    assert torch.equal(act(again, state_of(spec))["w1"], act(g, state_of(spec))["w1"])
    assert set(g.tensors()) == {"h.index", "h.diagonal"}


def test_a_checkpoint_is_acted_on_when_it_is_read(tmp_path: Path) -> None:
    spec = SymmetrySpec.parse(MLP, groups={"h": {"size": 3, "symmetry": "scale"}}, aliases={"head": "w2"})
    state = state_of(spec, dtype=torch.float32)
    save(state, tmp_path / "model.safetensors")
    checkpoint, g = open_checkpoint(tmp_path / "model.safetensors"), spec.random(seeded(0))
    assert isinstance(checkpoint, Checkpoint)
    lazily, eagerly = act(g, checkpoint), act(g, state)
    assert isinstance(lazily, Checkpoint)
    assert list(lazily.info) == list(checkpoint.info)
    assert all(torch.equal(lazily[name], eagerly[name]) for name in state)
    assert lazily.id != checkpoint.id
    assert act(g @ g.inverse(), checkpoint).info == checkpoint.info
    save(lazily, tmp_path / "moved.safetensors")
    moved = open_checkpoint(tmp_path / "moved.safetensors")
    assert all(torch.equal(moved[name], eagerly[name]) for name in state)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_checkpoint_that_was_acted_on_is_pickled(tmp_path: Path, in_file: bool) -> None:
    spec = SymmetrySpec.parse(MLP, groups={"h": {"size": 3, "symmetry": "scale"}}, aliases={"head": "w2"})
    state = state_of(spec, dtype=torch.float32)
    save(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors") if in_file else Checkpoint.of(state)
    moved = act(spec.random(seeded(0)), checkpoint)
    again = pickle.loads(pickle.dumps(moved))
    assert list(again) == list(moved) and all(torch.equal(again[name], moved[name]) for name in moved)
    assert not torch.equal(again["w1"], state["w1"])


def test_a_checkpoint_of_another_architecture_is_refused_before_reading(tmp_path: Path) -> None:
    save(state_of(spec_of(h=4)), tmp_path / "model.safetensors")
    with pytest.raises(WeightSpaceError, match="tensor 'w1' axis 0"):
        act(spec_of(h=3).random(seeded(0)), open_checkpoint(tmp_path / "model.safetensors"))


def test_one_tensor_is_acted_on_by_name() -> None:
    spec = spec_of(h=2)
    assert act_on_tensor(spec.element({"h": [1, 0]}), "b1", torch.tensor([1.0, 2.0])).tolist() == [2, 1]
    assert spec.axes("b1") == parse("h")


def test_meta_and_device_of_an_element() -> None:
    g = spec_of(h={"size": 2, "symmetry": "scale"}).random(seeded(0)).to("cpu")
    assert g.actions["h"].index.device.type == "cpu"
    assert g.actions["h"].dual.shape == (2, 2)
