import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given

from tests.strategies import Draft, drafts, state_of
from weightspace.axes import parse
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError, WeightSpaceError
from weightspace.formats.safetensors import save
from weightspace.opening import open as open_checkpoint
from weightspace.spec import NeuronGroup, SymmetrySpec

MLP = {"fc1.weight": "h 4", "fc1.bias": "h", "fc2.weight": "3 h'"}


def mlp(size: int = 8, **changes: Any) -> SymmetrySpec:
    return SymmetrySpec.parse(MLP, groups={"h": {"size": size, **changes}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "movable"}, "neuron group 'h' has kind 'movable'; expected permutable or fixed"),
        (
            {"symmetry": "affine"},
            "neuron group 'h' has symmetry 'affine'; expected none, sign, scale, rotation, orthogonal or linear",
        ),
        ({"size": -1}, "neuron group 'h' has size -1; expected 0 or more"),
        ({"name": "h 1"}, "'h 1' cannot name a neuron group; use letters, digits, '_' and '.', a letter first"),
        ({"name": "h'"}, "'h'' cannot name a neuron group; use letters, digits, '_' and '.', a letter first"),
    ],
)
def test_a_group_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    class Loose(NeuronGroup):  # what a file may hold, past the type checks of tests
        __init__ = NeuronGroup.__init__.__wrapped__ if hasattr(NeuronGroup.__init__, "__wrapped__") else NeuronGroup.__init__

    with pytest.raises(SymmetryError) as caught:
        Loose(**{"name": "h", "size": 2, **fields})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "symmetry", "size", "expected"),
    [("permutable", "none", 1, False), ("permutable", "none", 2, True), ("fixed", "none", 9, False), ("fixed", "sign", 1, True)],
)
def test_what_an_element_can_do_something_to(kind: Any, symmetry: Any, size: int, expected: bool) -> None:
    assert NeuronGroup("h", size, kind, symmetry).is_movable is expected


@pytest.mark.parametrize(
    ("tensors", "groups", "message"),
    [
        ({"w": "g"}, {"h": 2}, "no neuron group (tensor 'w') named 'g' (known: h)"),
        ({"w": "h"}, {"h": {"size": 2, "per": "k"}}, "no neuron group (parent of 'h') named 'k' (known: h)"),
        (
            {},
            {"a": {"size": 2, "per": "b"}, "b": {"size": 2, "per": "a"}},
            "neuron group 'a' per 'b' per 'a' runs in a circle; remove one 'per'",
        ),
        ({}, {"a": {"size": 2, "per": "a"}}, "neuron group 'a' per 'a' runs in a circle; remove one 'per'"),
        (
            {},
            {"a": {"size": 2, "symmetry": "linear"}, "b": {"size": 2, "per": "a"}},
            "neuron group 'b' is per 'a', whose members a matrix mixes; give 'a' another symmetry",
        ),
        (
            {"w": "h^2"},
            {"h": {"size": 2, "symmetry": "orthogonal"}},
            "tensor 'w' has 'h^2', but a matrix acts on group 'h', which has no powers; remove the power",
        ),
        (
            {"w": "d 3"},
            {"k": 2, "d": {"size": 2, "per": "k"}},
            "tensor 'w' has 'd', which is per 'k', but 'k' stands nowhere beside it",
        ),
        (
            {"w": "d k k"},
            {"k": 2, "d": {"size": 2, "per": "k"}},
            "tensor 'w' has 'd', which is per 'k', but 'k' stands in two places beside it",
        ),
        (
            {"w": "k + d"},
            {"k": 2, "d": {"size": 2, "per": "k"}},
            "tensor 'w' has 'd', which is per 'k', but 'k' stands nowhere beside it",
        ),
        (
            {"w": "f 2"},
            {"f": {"size": 2, "symmetry": "rotation"}},
            "tensor 'w' has 'f', whose members are planes, without their two coordinates; write '(f + f)' or '(f 2)'",
        ),
        ({"w": "h"}, {"h": {"size": 2, "width": 3}}, "neuron group 'h' has a field 'width'; expected size, kind, symmetry or per"),
    ],
)
def test_groups_that_contradict_each_other_are_refused(tensors: dict[str, str], groups: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightSpaceError) as caught:
        SymmetrySpec.parse(
            tensors,
            sizes={name: given for name, given in groups.items() if isinstance(given, int)},
            groups={name: given for name, given in groups.items() if not isinstance(given, int)},
        )
    assert str(caught.value).startswith(message)


def test_a_parent_on_the_same_axis_is_nearer() -> None:
    SymmetrySpec.parse({"w": "(k d) (k d)'"}, sizes={"k": 2}, groups={"d": {"size": 2, "per": "k"}})
    SymmetrySpec.parse({"experts": "k d 5"}, sizes={"k": 2}, groups={"d": {"size": 2, "per": "k"}})


def test_rotated_members_stand_beside_their_coordinates() -> None:
    for row in ("(f + f)", "(f 2)", "(2 f)", "3 (f + f)", "f^0"):
        SymmetrySpec.parse({"w": row}, groups={"f": {"size": 2, "symmetry": "rotation"}})


@pytest.mark.parametrize("aliases", [{"x": "missing"}, {"fc2.weight": "fc1.bias"}])
def test_a_tie_needs_a_row_at_one_end_only(aliases: dict[str, str]) -> None:
    name, owner = next(iter(aliases.items()))
    with pytest.raises(SymmetryError) as caught:
        SymmetrySpec.parse(MLP, sizes={"h": 2}, aliases=aliases)
    assert str(caught.value) == f"tensor '{name}' is tied to '{owner}', which needs a row in the spec, and '{name}' none of its own"


def test_equality_is_of_groups_axes_ties_statistics_and_gains() -> None:
    assert mlp() == mlp() and mlp() == SymmetrySpec.parse({**MLP, "fc2.weight": "(3) h'"}, sizes={"h": 8})
    assert mlp() != mlp(symmetry="scale")
    assert mlp() != SymmetrySpec.parse({**MLP, "fc2.weight": "3 h"}, sizes={"h": 8})
    assert mlp() != SymmetrySpec.parse(MLP, sizes={"h": 8}, aliases={"tied": "fc1.bias"})
    assert mlp() != SymmetrySpec.parse(MLP, sizes={"h": 8}, statistics=["fc1.bias"])
    assert mlp() != SymmetrySpec.parse(MLP, sizes={"h": 8}, gains={"fc1.bias": ["fc2.weight"]})
    assert mlp() == SymmetrySpec(mlp().groups, mlp().tensors, notes=("a note",), proved=True)


@given(drafts())
def test_equal_specs_have_one_hash(draft: Draft) -> None:
    spec = draft.spec
    backwards = SymmetrySpec(
        dict(reversed(list(spec.groups.items()))), dict(reversed(list(spec.tensors.items()))), spec.aliases, notes=("a note",)
    )
    assert spec == backwards and hash(spec) == hash(backwards) and len({spec, backwards}) == 1


def test_unequal_specs_are_told_apart_in_a_set() -> None:
    more: dict[str, Any] = {"aliases": {"tied": "fc1.bias"}, "statistics": ["fc1.bias"], "gains": {"fc1.bias": ["fc2.weight"]}}
    specs = [mlp(), mlp(symmetry="scale"), *(SymmetrySpec.parse(MLP, sizes={"h": 8}, **{key: value}) for key, value in more.items())]
    assert len(set(specs)) == len({hash(spec) for spec in specs}) == 5


def test_statistics_and_sizes_of_nothing_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no tensor \(of 'statistics'\) named 'fc1.bais'; did you mean 'fc1.bias'\?"):
        SymmetrySpec.parse(MLP, sizes={"h": 8}, statistics=["fc1.bais"])
    assert SymmetrySpec.parse(MLP, sizes={"h": 8}, aliases={"tied": "fc1.bias"}, statistics=["tied"]).statistics == {"tied"}
    with pytest.raises(UnknownNameError, match=r"no neuron group \(of 'sizes'\) named 'g' \(known: h\)"):
        SymmetrySpec.parse(MLP, sizes={"h": 8, "g": 3})
    assert SymmetrySpec.parse({}, sizes={"h": 8}, groups={"h": {}}).sizes == {"h": 8}


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        mlp().groups["g"] = NeuronGroup("g", 1)  # type: ignore[index]
    with pytest.raises(AttributeError):
        mlp().proved = True  # type: ignore[misc]


@given(drafts())
def test_a_pickled_spec_is_the_same(draft: Draft) -> None:
    spec = draft.spec
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec and list(again.tensors) == list(spec.tensors)


@given(drafts())
def test_the_plain_mappings_of_a_spec_say_all_of_it(draft: Draft) -> None:
    spec = draft.spec
    said = spec.to_dict()
    assert SymmetrySpec.parse(said["tensors"], groups=said["groups"], aliases=said.get("aliases")) == spec


def test_plain_mappings_leave_out_what_is_usual() -> None:
    spec = SymmetrySpec(mlp().groups, mlp().tensors, {"tied": "fc1.bias"}, frozenset({"fc1.bias"}), ("why",), True)
    assert spec.to_dict() == {
        "groups": {"h": {"size": 8}},
        "tensors": MLP,
        "aliases": {"tied": "fc1.bias"},
        "statistics": ["fc1.bias"],
        "notes": ["why"],
        "proved": True,
    }


def test_diff_says_what_another_spec_says_differently() -> None:
    other = SymmetrySpec.parse(
        {"fc1.weight": "h 4", "fc1.bias": "h", "fc3.weight": "3 h'"},
        groups={"h": {"size": 8, "symmetry": "scale"}, "g": {"size": 2, "per": "h"}},
        aliases={"tied": "fc1.bias"},
        statistics=["fc1.bias"],
    )
    assert mlp().diff(mlp()) == []
    assert mlp().diff(other) == [
        "group h: 8 permutable none -> 8 permutable scale",
        "group g: nothing -> 2 permutable none per h",
        "tensor fc2.weight: '3 h'' -> nothing",
        "tensor fc3.weight: nothing -> '3 h''",
        "alias tied: nothing -> 'fc1.bias'",
        "statistics fc1.bias: nothing -> 'yes'",
    ]


def test_the_repr_is_a_table() -> None:
    spec = SymmetrySpec(mlp(3, symmetry="sign").groups, mlp(3).tensors, notes=("tensor 'x' is not read",), proved=True)
    assert repr(spec).splitlines() == [
        "<SymmetrySpec: 3 tensors, 1 neuron group, 2^5.6 permutations, proved>",
        "fc1.weight  h 4",
        "fc1.bias    h",
        "fc2.weight  3 h'",
        "group  size  kind        symmetry  per",
        "h      3     permutable  sign",
        "note: tensor 'x' is not read",
    ]
    shown = spec._repr_html_()
    assert ">fc2.weight</td>" in shown and ">3 h&#x27;</td>" in shown


def test_movable_groups_come_parents_first() -> None:
    spec = SymmetrySpec.parse(
        {"w": "(a b c)", "v": "one"},
        groups={"c": {"size": 2, "per": "b"}, "b": {"size": 3, "per": "a"}, "a": {"size": 4}, "one": {"size": 1}},
    )
    assert [group.name for group in spec.movable] == ["a", "b", "c"]
    assert [group.name for group in spec.parents("c")] == ["a", "b"]
    assert spec.copies("c") == 12 and spec.copies("a") == 1
    order = math.factorial(4) * math.factorial(3) ** 4 * math.factorial(2) ** 12
    assert spec.log2_order == pytest.approx(math.log2(order))


@pytest.mark.parametrize(
    ("symmetry", "each", "bits"), [("none", 0, 0), ("sign", 0, 4), ("scale", 4, 0), ("linear", 16, 0), ("orthogonal", 6, 0)]
)
def test_the_order_and_the_dimension_of_each_symmetry(symmetry: str, each: int, bits: int) -> None:
    groups: dict[str, Any] = {"k": {"size": 3, "kind": "fixed"}, "d": {"size": 4, "symmetry": symmetry, "per": "k"}}
    spec = SymmetrySpec.parse({"w": "(k d)"}, groups=groups)
    assert spec.dimension == 3 * each
    assert spec.log2_order == pytest.approx(3 * (math.log2(24) + bits))


def test_a_plane_has_an_angle_and_a_length() -> None:
    spec = SymmetrySpec.parse({"w": "(f + f)"}, groups={"f": {"size": 5, "kind": "fixed", "symmetry": "rotation"}})
    assert spec.dimension == 10 and spec.log2_order == 0


def test_axes_and_shapes_of_tied_tensors_are_those_of_their_owner() -> None:
    spec = SymmetrySpec.parse(MLP, sizes={"h": 8}, aliases={"tied": "fc2.weight"})
    assert spec.axes("tied") == parse("3 h'") and spec.shape("tied") == (3, 8)
    with pytest.raises(UnknownNameError, match=r"no tensor named 'fc1.weigth'; did you mean 'fc1.weight'\?"):
        spec.axes("fc1.weigth")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"fc1.bias": None},
            SymmetryError,
            "the spec has a row for tensor 'fc1.bias', which is not there; take the spec of this architecture",
        ),
        (
            {"fc1.bias": torch.zeros(8, 1)},
            ShapeMismatchError,
            "tensor 'fc1.bias' has 2 axes (shape [8, 1]), but the spec says 'h'; correct the spec",
        ),
        (
            {"fc2.weight": torch.zeros(3, 7)},
            ShapeMismatchError,
            "tensor 'fc2.weight' axis 1 ('h'') has size 7, but the spec says 8; correct the sizes",
        ),
        (
            {"extra": torch.zeros(2)},
            SymmetryError,
            "tensor 'extra' of shape [2] has no row in the spec; add one (integers for axes that are not to move)",
        ),
    ],
)
def test_a_state_dict_of_another_architecture_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Any
) -> None:
    state = {name: tensor for name, tensor in {**state_of(mlp()), **changes}.items() if tensor is not None}
    save(state, tmp_path / "saved.safetensors")
    for given_as in (state, open_checkpoint(tmp_path / "saved.safetensors")):
        with pytest.raises(error) as caught:
            mlp().check(given_as)
        assert str(caught.value) == message


def test_integers_need_no_row_and_tied_tensors_may_be_stored_once() -> None:
    spec = SymmetrySpec.parse(MLP, sizes={"h": 8}, aliases={"tied": "fc1.bias"})
    state = state_of(spec)
    spec.check(state)
    spec.check({name: tensor for name, tensor in state.items() if name != "tied"})
    with pytest.raises(ShapeMismatchError, match="tensor 'tied' axis 0"):
        spec.check({**state, "tied": torch.zeros(7)})


def test_check_reads_no_tensor(tmp_path: Any) -> None:
    save(state_of(mlp()), tmp_path / "saved.safetensors")
    checkpoint = open_checkpoint(tmp_path / "saved.safetensors")
    assert isinstance(checkpoint, Checkpoint)
    (tmp_path / "saved.safetensors").unlink()
    mlp().check(checkpoint)


def test_groups_with_some_fields_changed() -> None:
    proved = SymmetrySpec(mlp().groups, mlp().tensors, proved=True)
    assert proved.with_groups(h={"symmetry": "scale"}) == mlp(symmetry="scale")
    assert not proved.with_groups(h={"symmetry": "scale"}).proved
    with pytest.raises(UnknownNameError, match="no neuron group named 'x'"):
        mlp().with_groups(x={"size": 1})


def test_blocks_of_a_tensor_by_name() -> None:
    spec = SymmetrySpec.parse({"w": "h + 2"}, sizes={"h": 3})
    assert [block.view.tolist() for block in spec.blocks("w", torch.arange(5))] == [[0, 1, 2], [3, 4]]
    assert [tuple(block.view.shape) for block in spec.layout("w")] == [(3,), (2,)]
