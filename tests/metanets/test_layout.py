"""Layouts: tensors cut into slots and put together again."""

import pytest
import torch

from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.errors import SymmetryError
from weightspace.metanets import Layout
from weightspace.spec import SymmetrySpec


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_unfolding_and_folding_give_the_same_tensors(name: str) -> None:
    batch = architecture(name).batch(2)
    back = batch.layout.fold(batch.slots)
    assert set(back) == set(batch.tensors)
    assert all(torch.equal(back[tensor], batch.tensors[tensor]) for tensor in back)
    assert sum(values[0].numel() for values in batch.slots.values()) == batch.num_params


def test_sides_follow_marks_and_else_the_order_of_torch() -> None:
    layout = architecture("transformer").batch(1).layout
    sides = {slot.key: ([slot.groups[j] for j in slot.sources], slot.groups) for slot in layout.slots if len(slot.tips) == 2}
    for part in ("", "+1", "+2"):  # queries, keys and values are made of the stream
        read, groups = sides[f"block.self_attn.in_proj_weight{part}"]
        assert len(read) == 1 and groups[-1] == read[0] and len(groups) == 3
    read, groups = sides["block.self_attn.out_proj.weight"]
    assert read == list(groups[1:])
    transposed = Layout.of(SymmetrySpec.parse({"c.weight": "a' b"}, sizes={"a": 2, "b": 3}))
    assert transposed.slots[0].sources == (0,)


def test_integers_that_count_inputs_and_outputs_become_groups() -> None:
    layout = Layout.of(
        SymmetrySpec.parse({"0.weight": "h 4 3 3", "0.bias": "h", "2.weight": "5 h", "2.bias": "5", "n": ""}, sizes={"h": 2})
    )
    assert [slot.groups for slot in layout.slots] == [("h", "layer0.in"), ("h",), ("layer2.out", "h"), ("layer2.out",), ()]
    assert layout.slots[0].cells == 9 and layout.has_identity("layer2.out") and not layout.has_identity("h")
    assert layout.depth == 3


def test_a_spec_without_tensors_is_refused() -> None:
    with pytest.raises(SymmetryError, match="no tensors"):
        Layout.of(SymmetrySpec.parse({}))
