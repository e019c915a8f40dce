import json
import tracemalloc
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import weightspace as ws
from weightspace import differences, dtypes, identity
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.differences import KEY, apply_difference, write_difference
from weightspace.errors import FormatError
from weightspace.storage import Memory, Storage
from weightspace.words import CASTS


def checkpoint(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> Checkpoint:
    """A checkpoint of any dtype, from bytes."""
    info = {name: TensorInfo(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()}
    storages: dict[str, Storage] = {name: Memory(raw) for name, (_, _, raw) in tensors.items()}
    return Checkpoint(info, storages, "memory")


def restored(of: Checkpoint, against: Checkpoint, path: Path) -> Checkpoint:
    """What comes back, all of it checked to be what it was."""
    back = apply_difference(against, write_difference(of, against, path))
    assert list(back.info.values()) == list(of.info.values())
    assert all(back.raw(name) == of.raw(name) for name in of)
    assert back.id == of.id and back.kind == of.kind
    return back


@settings(max_examples=50)  # each writes a file to the disk
@given(
    dtype=st.sampled_from(sorted(dtypes.DTYPES)),
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=3),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_byte_comes_back(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shapes: list[tuple[int, ...]], share: float, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    of, against = {}, {}
    block = dtypes.DTYPES[dtype].block
    for at, given_shape in enumerate(shapes):
        shape = given_shape if block is None else (*given_shape, 2 * block[0])
        size = dtypes.num_bytes(dtypes.DTYPES[dtype], shape)
        raw = chance.integers(0, 256, size, np.uint8)
        other = np.where(chance.random(size) < share, chance.integers(0, 256, size, np.uint8), raw)
        of[f"t{at}"], against[f"t{at}"] = (dtype, shape, raw.tobytes()), (dtype, shape, other.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differences, "BLOCK", 64)
        restored(checkpoint(of), checkpoint(against), tmp_path_factory.getbasetemp() / "d")


def test_nan_payloads_and_signs_of_zero_come_back(tmp_path: Path) -> None:
    words = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x00000000, 0x7F800000, 0xFFFFFFFF, 1], "<u4")
    of = checkpoint({"w": ("F32", (7,), words.tobytes())})
    restored(of, checkpoint({"w": ("F32", (7,), words[::-1].tobytes())}), tmp_path / "d")
    restored(of, checkpoint({"w": ("F32", (7,), bytes(28))}), tmp_path / "d")


def test_blocks_of_every_storage_are_brought_together(tmp_path: Path, generator: torch.Generator) -> None:
    base = torch.randn(700, 501, generator=generator)  # several blocks, the last not full
    tuned = base + torch.randn(700, 501, generator=generator) * 1e-3
    for name, state in (("of", {"w": tuned.half(), "b": tuned[0]}), ("against", {"w": base.half(), "b": base[0]})):
        torch.save(state, tmp_path / f"{name}.pt")
        arrays: dict[str, Any] = {key: one.numpy() for key, one in state.items()}
        np.savez_compressed(tmp_path / f"{name}.npz", **arrays)
    back = restored(ws.open(tmp_path / "of.pt"), ws.open(tmp_path / "against.npz"), tmp_path / "d")
    assert torch.equal(back["w"], tuned.half())
    of, again = ws.save(ws.open(tmp_path / "of.pt"), tmp_path / "of.safetensors"), ws.save(back, tmp_path / "again.safetensors")
    assert of.read_bytes() == again.read_bytes()


def test_tensors_of_one_side_alone_and_of_other_forms_are_stored_whole(tmp_path: Path) -> None:
    against = {"same": torch.ones(3), "shape": torch.ones(2, 3), "dtype": torch.ones(4), "gone": torch.ones(5)}
    of = {
        "new": torch.arange(4),
        "shape": torch.ones(3, 2),
        "same": torch.ones(3),
        "dtype": torch.ones(4).half(),
        "none": torch.empty(0, 2),
    }
    restored(Checkpoint.of(of), Checkpoint.of(against), tmp_path / "d")
    assert set(load_file(tmp_path / "d")) == {"new", "shape", "dtype", "none"}
    restored(Checkpoint.of({}), Checkpoint.of(against), tmp_path / "d")
    restored(Checkpoint.of(of), Checkpoint.of({}), tmp_path / "d")


def test_ties_come_back_as_ties(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    of = Checkpoint.of({"embed": shared, "head": shared, "copy": shared.clone()}, kind="adapter")
    back = restored(of, Checkpoint.of({"embed": shared + 1, "head": shared - 1}), tmp_path / "d")
    assert back.info["head"].alias_of == "embed" and back.info["copy"].alias_of is None
    assert back.storages["head"] is back.storages["embed"]
    assert "head" not in load_file(tmp_path / "d")
    steps = torch.arange(3)
    restored(Checkpoint.of({"a": steps, "b": steps + 1}), Checkpoint.of({"a": steps, "b": steps}), tmp_path / "d")


def test_equal_tensors_cost_nothing(tmp_path: Path) -> None:
    state = {f"layers.{at}": torch.ones(1000, 100) for at in range(10)}
    other = {**state, "layers.3": torch.zeros(1000, 100)}
    restored(Checkpoint.of(state), Checkpoint.of(dict(state)), tmp_path / "equal")
    restored(Checkpoint.of(state), Checkpoint.of(other), tmp_path / "one")
    assert (tmp_path / "equal").stat().st_size < 1500
    assert set(load_file(tmp_path / "one")) == {"layers.3"}


def test_a_fine_tune_takes_a_share_of_its_size(tmp_path: Path, generator: torch.Generator) -> None:
    base = (torch.randn(512, 512, generator=generator) * 0.02).bfloat16()
    tuned = (base.float() + torch.randn(512, 512, generator=generator) * 1e-4).bfloat16()
    assert not torch.equal(base, tuned)
    path = write_difference(Checkpoint.of({"w": tuned}), Checkpoint.of({"w": base}), tmp_path / "d")
    assert path.stat().st_size < 0.26 * tuned.nbytes
    alone = write_difference(Checkpoint.of({"w": tuned}), Checkpoint.of({}), tmp_path / "whole")
    assert alone.stat().st_size < 0.8 * tuned.nbytes


FLOATS = sorted(CASTS)


@pytest.mark.parametrize("stored", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_floats_of_another_dtype_are_rounded_first(tmp_path: Path, generator: torch.Generator, stored: str, wanted: str) -> None:
    def cast(values: torch.Tensor, dtype: str) -> torch.Tensor:
        return values.to(getattr(torch, str(dtypes.DTYPES[dtype].torch)))

    base = torch.randn(60_000, generator=generator, dtype=torch.float64)
    base[:6] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, 1e-40, -0.0])  # beyond some of the dtypes
    tuned = base + torch.randn(base.shape, generator=generator, dtype=torch.float64) * 1e-3 * base.abs()
    of = Checkpoint.of({"w": cast(tuned, wanted)})
    restored(of, Checkpoint.of({"w": cast(base, stored)}), tmp_path / "near")
    restored(of, Checkpoint.of({}), tmp_path / "whole")
    assert (tmp_path / "near").stat().st_size < 0.9 * (tmp_path / "whole").stat().st_size


def test_the_same_two_give_the_same_bytes(tmp_path: Path, generator: torch.Generator) -> None:
    base = {"b": torch.randn(8, generator=generator), "a": torch.randn(3, 4, generator=generator)}
    tuned = {name: one + 1e-3 for name, one in base.items()}
    first = write_difference(Checkpoint.of(tuned), Checkpoint.of(base), tmp_path / "first")
    again = write_difference(Checkpoint.of(tuned), ws.open(ws.save(base, tmp_path / "base")), tmp_path / "again")
    assert first.read_bytes() == again.read_bytes()


def test_memory_follows_blocks_not_tensors(tmp_path: Path, generator: torch.Generator) -> None:
    base = torch.randn(1 << 22, generator=generator)
    paths = [ws.save({"w": one}, tmp_path / f"{at}.safetensors") for at, one in enumerate((base, base + 1e-3))]
    tracemalloc.start()
    try:
        difference = write_difference(ws.open(paths[1]), ws.open(paths[0]), tmp_path / "d")
        back = ws.save(apply_difference(ws.open(paths[0]), difference), tmp_path / "back")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert back.read_bytes() == paths[1].read_bytes()
    assert peak < 4 << 20 < base.nbytes


def test_real_fine_tunes_come_back(tmp_path: Path, real_checkpoints: Path) -> None:
    base, tuned = (ws.open(real_checkpoints / "textgenrnn" / f"{name}.hdf5") for name in ("base", "hacker_news"))
    restored(tuned, base, tmp_path / "d")
    assert (tmp_path / "d").stat().st_size < 0.75 * tuned.num_bytes
    before, after = (ws.open(real_checkpoints / "outlier-exposure" / f"{name}.pt") for name in ("baseline_epoch_9", "oe_tune_epoch_4"))
    restored(before, after, tmp_path / "d")
    assert (tmp_path / "d").stat().st_size < 0.85 * before.num_bytes


# What is refused.

OF, AGAINST = (
    {"w": torch.arange(60.0).reshape(6, 10), "b": torch.ones(5), "new": torch.arange(3)},
    {"w": torch.ones(6, 10), "b": torch.ones(5)},
)


@pytest.fixture
def difference(tmp_path: Path) -> Path:
    return write_difference(Checkpoint.of(OF), Checkpoint.of(AGAINST), tmp_path / "d.difference")


def forge(path: Path, packed: Mapping[str, bytes | None], **about: Any) -> Path:
    """Change what a difference holds and what it says of it."""
    stored: dict[str, bytes | None] = {name: one.tobytes() for name, one in load_file(path).items()}
    stored |= packed
    described = {**json.loads(ws.open(path).metadata[KEY]), **about}
    kept = {name: torch.tensor([*raw], dtype=torch.uint8) for name, raw in stored.items() if raw is not None}
    return ws.save(kept, path, {KEY: json.dumps(described)})


def refusal(path: Path, against: Mapping[str, torch.Tensor] = AGAINST) -> str:
    """The line that reading everything ends in."""
    with pytest.raises(FormatError) as raised:
        apply_difference(Checkpoint.of(against), path).state_dict()
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    return str(raised.value)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ws.open(path).metadata[KEY])["tensors"]
    return found


def test_another_model_than_it_was_made_against(difference: Path) -> None:
    found = Checkpoint.of({"w": torch.zeros(6, 10), "b": torch.ones(5)})
    said = refusal(difference, {"w": torch.zeros(6, 10), "b": torch.ones(5)})
    assert (
        f"was made against model {Checkpoint.of(AGAINST).id[:11]}…, found {found.id[:11]}…; give the checkpoint that it was made against"
        in said
    )


def test_a_file_that_is_no_difference(tmp_path: Path, difference: Path) -> None:
    plain = ws.save({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    assert "expected a difference of version 1, found none; name a file that write_difference made" in refusal(plain)
    assert "expected a difference of version 1, found version 2" in refusal(forge(difference, {}, version=2))
    assert "cannot be read" in refusal(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello world, this is not a checkpoint")
    assert "claims a header" in refusal(tmp_path / "text")


def test_descriptions_that_do_not_fit(difference: Path) -> None:
    said = rows(difference)
    first = said[0]
    for about, expected in (
        ({"tensors": [*said, first]}, "describes the tensor 'w' twice; do not use it"),
        ({"tensors": [*said, {"name": 5}]}, "describes a tensor named 5; do not use it"),
        ({"tensors": [{**first, "dtype": "F32", "shape": [-1]}]}, "describes a tensor of shape [-1]; do not use it"),
        ({"tensors": [{**first, "dtype": "F32", "shape": [True]}]}, "describes a tensor of shape [True]; do not use it"),
        ({"tensors": [{**first, "dtype": "F33", "shape": [6]}]}, "F33"),
        ({"tensors": [{"name": "w", "hash": "00", "dtype": "I64"}]}, "describes tensor 'w' as I64 from F32; do not use it"),
        ({"tensors": [{"name": "w", "hash": "00", "dtype": []}]}, "damaged"),
        ({"tensors": said[:2]}, "does not hold the tensors that it describes; copy it again"),
        ({"tensors": said[::2]}, "does not describe the model that it names; copy it again"),
        ({"of": "00"}, "does not describe the model that it names; copy it again"),
        ({"tensors": [*said, {"name": "t", "tied": "nobody"}]}, "damaged"),
        ({"tensors": [*said, {"name": "other"}]}, "damaged"),
        ({"tensors": 3}, "damaged"),
        ({"tensors": [{**first, "hash": "zz"}]}, "damaged"),
    ):
        original = difference.read_bytes()
        assert expected in refusal(forge(difference, {}, **about))
        difference.write_bytes(original)


def sealed(path: Path, raw: bytes, shape: list[int], dtype: str = "U8") -> Path:
    """A difference of one whole tensor with these packed bytes, its ids as they must be."""
    digest = identity.tensor_hasher(dtype, shape).digest()
    model = identity.model_id([("w", dtype, shape, digest)]).hex()
    row = {"name": "w", "hash": digest.hex(), "dtype": dtype, "shape": shape}
    return forge(path, {"new": None, "w": raw}, tensors=[row], of=model)


def plane(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "little") + raw


@pytest.mark.parametrize(
    ("raw", "shape", "expected"),
    [
        (b"", [1 << 40], "tensor 'w' claims 1099511627776 bytes from 0 stored ones; do not use it"),
        (plane(zlib.compress(bytes(1 << 24))), [1000], "tensor 'w' inflates to more bytes, expected 1000; do not use it"),
        (plane(zlib.compress(bytes(10))), [1000], "tensor 'w' inflates to 10 bytes, expected 1000; do not use it"),
        (plane(zlib.compress(bytes(1000)) + b"more"), [1000], "tensor 'w' inflates to 1000 bytes"),
        (plane(b"neither"), [1000], "tensor 'w' cannot be inflated (Error -3"),
        (b"\xff\xff\xff\x7f1234", [1000], "tensor 'w' ends after 8 bytes, expected 2147483651; copy it again"),
        (b"\x01", [1000], "tensor 'w' ends after 1 bytes, expected 4; copy it again"),
        (plane(bytes(8)), [8], "tensor 'w' does not have the hash that was stored with it; copy it again"),
        (b"", [0], None),
        (b"1", [0], "tensor 'w' does not have the hash that was stored with it; copy it again"),
    ],
    ids=["claim", "bomb", "short", "tail", "noise", "length", "end", "hash", "empty", "not empty"],
)
def test_packed_bytes_that_lie(difference: Path, raw: bytes, shape: list[int], expected: str | None) -> None:
    path = sealed(difference, raw, shape)
    if expected is None:
        assert apply_difference(Checkpoint.of(AGAINST), path)["w"].numel() == 0
    else:
        assert expected in refusal(path)


def test_a_bomb_is_not_inflated(difference: Path) -> None:
    path = sealed(difference, plane(zlib.compress(bytes(1 << 26))), [1000])
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_no_single_damage_passes(difference: Path) -> None:
    raw, of = difference.read_bytes(), Checkpoint.of(OF)
    start = 8 + int.from_bytes(raw[:8], "little")
    for at in [*range(0, start, 13), *range(start, len(raw), 2)]:
        difference.write_bytes(raw[:at] + bytes([raw[at] ^ 0x11]) + raw[at + 1 :])
        try:
            back = apply_difference(Checkpoint.of(AGAINST), difference)
            back.state_dict()
        except FormatError as error:
            assert "\n" not in str(error)
        else:
            assert back.id == of.id  # the kind alone is outside the id
    for length in range(0, len(raw), 29):
        difference.write_bytes(raw[:length])
        refusal(difference)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, against = Checkpoint.of(OF), Checkpoint.of(AGAINST)
    with pytest.raises(FormatError, match=r"cannot be written \(No such file or directory\); check the folder"):
        write_difference(of, against, tmp_path / "no" / "d")

    def full(plane: bytes) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(differences, "_deflated", full)
    with pytest.raises(FormatError, match=r"d: cannot be written \(No space left on device\)"):
        write_difference(of, against, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []
