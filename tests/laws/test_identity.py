"""Identity: the same weights have one id in any container and order; one changed bit changes it."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weightspace as ws
from weightspace.checkpoint import Checkpoint
from weightspace.dtypes import DTYPES, decode, dtype
from weightspace.storage import Memory

PLAIN = [d for d in DTYPES.values() if d.torch is not None and d.name not in ("C128", "F4", "F8_E8M0") and hasattr(torch, d.torch)]


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """State dicts of any dtype and shape, bits at random (NaNs with payloads too)."""
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=6, unique=True))
    made = {}
    for name in names:
        kind = draw(st.sampled_from(PLAIN))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
        size = math.prod(shape) * int(kind.bits) // 8  # not num_bytes: beartype's sampling would disturb hypothesis
        raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
        flat = torch.from_numpy(raw & 1 if kind.kind == "bool" else raw.copy())
        made[name] = (
            flat.view(getattr(torch, kind.torch or "")).reshape(shape)
            if raw.size
            else torch.empty(shape, dtype=getattr(torch, kind.torch or ""))
        )
    made.pop("__metadata__", None)
    return made


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()) if tensor.numel() else b""


@settings(max_examples=150, deadline=None)
@given(state_dicts())
def test_saving_then_opening_gives_the_same_bits_and_id(
    tmp_path_factory: pytest.TempPathFactory, state_dict: dict[str, torch.Tensor]
) -> None:
    path = tmp_path_factory.mktemp("law") / "a.safetensors"
    ws.save(state_dict, path)
    back = ws.open(path)
    assert back.id == Checkpoint.of(state_dict).id
    assert set(back) == set(state_dict)
    for name, tensor in state_dict.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert bits(back[name]) == bits(tensor)


@settings(max_examples=50, deadline=None)
@given(state_dicts(), st.randoms(use_true_random=False))
def test_saving_is_deterministic_and_blind_to_order(
    tmp_path_factory: pytest.TempPathFactory, state_dict: dict[str, torch.Tensor], chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("law")
    names = list(state_dict)
    chance.shuffle(names)
    shuffled = {name: state_dict[name] for name in names}
    metadata = {f"k{i}": str(i) for i in range(12)}
    first = ws.save(state_dict, folder / "a.safetensors", metadata).read_bytes()
    second = ws.save(shuffled, folder / "b.safetensors", dict(reversed(metadata.items()))).read_bytes()
    assert first == second


@settings(max_examples=60, deadline=None)
@given(state_dicts(), st.data())
def test_one_changed_bit_changes_the_id(state_dict: dict[str, torch.Tensor], data: st.DataObject) -> None:
    checkpoint = Checkpoint.of(state_dict)
    filled = [name for name, tensor in state_dict.items() if tensor.numel()]
    if not filled:
        return
    name = data.draw(st.sampled_from(filled))
    raw = bytearray(checkpoint.raw(name))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    changed = Checkpoint(checkpoint.info, {**checkpoint.storages, name: Memory(raw)}, "memory")
    assert changed.id != checkpoint.id
    assert changed.architecture_id == checkpoint.architecture_id


def test_ids_tell_apart_name_dtype_and_shape() -> None:
    base = Checkpoint.of({"a": torch.zeros(4)})
    others = [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(4), "b": torch.zeros(0)},
    ]
    ids = {Checkpoint.of(other).id for other in others} | {base.id}
    assert len(ids) == 5
    assert Checkpoint.of({"b": torch.zeros(4)}).weights_id == base.weights_id


def test_tied_tensors_are_told_from_copies(tmp_path: Path) -> None:
    weight = torch.randn(3, 2)
    tied = Checkpoint.of({"a": weight, "b": weight})
    copied = Checkpoint.of({"a": weight, "b": weight.clone()})
    assert tied.info["b"].alias_of == "a" and copied.info["b"].alias_of is None
    assert tied.id == copied.id and tied.num_params == 6 and copied.num_params == 12
    back = ws.open(ws.save({"a": weight, "b": weight}, tmp_path / "t.safetensors"))
    assert back.id == tied.id and back.info["b"].alias_of == "a"
    state_dict = back.state_dict()
    assert state_dict["a"] is state_dict["b"]


@pytest.mark.parametrize("name", [d.name for d in DTYPES.values() if d.kind == "float" and d.bits == 8])
def test_eight_bit_floats_decode_as_torch_decodes_them(name: str) -> None:
    kind = dtype(name)
    raw = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(raw.copy()).view(getattr(torch, kind.torch or "")).float().numpy()
    np.testing.assert_array_equal(decode(raw, kind), expected)


def test_four_and_six_bit_floats_decode_as_the_ocp_specification_says() -> None:
    assert decode(np.array([0x10, 0x32, 0x54, 0x76], np.uint8), dtype("F4")).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert decode(np.array([0xF8], np.uint8), dtype("F4")).tolist() == [-0.0, -6.0]
    # Codes of six bits, lowest bits first: 1, 31 (largest), 33 (minus the smallest), 63 (minus the largest).
    packed = sum(code << 6 * at for at, code in enumerate([1, 31, 33, 63])).to_bytes(3, "little")
    assert decode(np.frombuffer(packed, np.uint8), dtype("F6_E2M3")).tolist() == [0.125, 7.5, -0.125, -7.5]
    assert decode(np.frombuffer(packed, np.uint8), dtype("F6_E3M2")).tolist() == [0.0625, 28.0, -0.0625, -28.0]
