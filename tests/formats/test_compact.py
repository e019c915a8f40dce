"""Compact files: whatever a checkpoint holds comes back bit for bit; a hostile header is refused in one line, and nothing outside is read."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint
from weightspace.formats.compact import MAGIC, START
from weightspace.formats.safetensors import save
from weightspace.storage import Memory, part, read
from weightspace.zoo.store.choosing import chosen
from weightspace.zoo.store.writing import Kept, Same, Stored, write_compact

NAMES = sorted(dtypes.DTYPES)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def place(root: Path, checkpoint: Checkpoint, kept: Kept, pool: ThreadPoolExecutor) -> Path:
    path = root / checkpoint.id[:2] / f"{checkpoint.id}.compact"
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("wb") as stream:
        size = write_compact(checkpoint, checkpoint.id, {"said": "so"}, kept, stream, pool)
    assert size == path.stat().st_size
    return path


def shape_of(kind: dtypes.DType, data: st.DataObject) -> tuple[int, ...]:
    shape = tuple(data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 40]), max_size=3)))
    unit = kind.block[0] if kind.block is not None else 4 if kind.bits in (4, 6) else 1  # whole bytes and whole blocks
    return (*shape, unit) if unit > 1 else shape


def checkpoint_of(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], tied: dict[str, str]) -> Checkpoint:
    info = {name: TensorInfo(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()}
    info |= {name: TensorInfo(name, info[owner].dtype, info[owner].shape, owner) for name, owner in tied.items()}
    storages = {name: Memory(tensors[tied.get(name, name)][2]) for name in info}
    return Checkpoint(info, storages, "memory")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_checkpoint_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, pool: ThreadPoolExecutor, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("store")
    drawn = np.random.default_rng(data.draw(st.integers(0, 99)))
    theirs: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    mine: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for at, dtype in enumerate(data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))):
        shape = shape_of(dtypes.dtype(dtype), data)
        raw = drawn.integers(0, 256, dtypes.num_bytes(dtypes.dtype(dtype), shape), np.uint8)  # NaN payloads too
        theirs[f"t{at}"] = dtype, shape, raw.tobytes()
        mine[f"t{at}"] = dtype, shape, (raw ^ (drawn.random(raw.size) < 0.1)).astype(np.uint8).tobytes()
    base, child = checkpoint_of(theirs, {}), checkpoint_of(mine, {"tied": "t0"} if data.draw(st.booleans()) else {})
    place(root, base, {}, pool)
    bases = {base.id: open_checkpoint(root / base.id[:2] / f"{base.id}.compact")}
    if base.id == child.id:
        return
    found = open_checkpoint(place(root, child, chosen(child, list(mine), bases, pool), pool))
    assert found.id == child.id and found.format == "compact"
    assert list(found.info.values()) == list(child.info.values())
    assert all(found.raw(name) == child.raw(name) for name in child.info)
    for name, info in child.info.items():
        start = info.nbytes // 3
        assert read(part(found.storages[name], start, info.nbytes - start)) == child.raw(name)[start:]


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("way", ["xor", "difference"])
def test_every_dtype_as_a_difference_over_several_chunks(tmp_path: Path, pool: ThreadPoolExecutor, dtype: str, way: str) -> None:
    kind = dtypes.dtype(dtype)
    count = (kind.block[0] if kind.block is not None else 4) * 70_000 if kind.bits < 16 else 140_000
    nbytes = dtypes.num_bytes(kind, (count,))
    raw = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    base = checkpoint_of({"t": (dtype, (count,), raw.tobytes())}, {})
    child = checkpoint_of({"t": (dtype, (count,), (raw ^ (np.arange(nbytes) % 7 == 0)).astype(np.uint8).tobytes())}, {})
    place(tmp_path, base, {}, pool)
    kept = {"t": Stored(True, (base.id, "t"), base.storages["t"], way)}
    path = place(tmp_path, child, kept, pool)
    assert open_checkpoint(path).id == child.id and path.stat().st_size < nbytes


def test_equal_tensors_are_references(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    raw = bytes(range(256)) * 8
    base = checkpoint_of({"a": ("U8", (2048,), raw)}, {})
    (tmp_path / base.id[:2]).mkdir()
    save(base, tmp_path / base.id[:2] / f"{base.id}.safetensors")
    child = checkpoint_of({"b": ("U8", (2048,), raw), "c": ("F32", (512,), raw[::-1]), "d": ("F32", (512,), raw[::-1])}, {})
    path = place(tmp_path, child, {"b": Same(base.id, "a"), "c": Stored(False), "d": Same(None, "c")}, pool)
    opened = open_checkpoint(path)
    assert opened.id == child.id and path.stat().st_size < 2048 + 1000
    assert [file.name for file in opened.files] == [path.name, f"{base.id}.safetensors"]
    assert opened.metadata == {"said": "so"}


Change = Callable[[dict[str, Any]], None]


def entry(**changes: Any) -> Change:
    def change(header: dict[str, Any]) -> None:
        header["tensors"]["b"].update(changes)

    return change


def rewritten(path: Path, change: Change) -> Path:
    raw = path.read_bytes()
    end = int.from_bytes(raw[8:16], "little")
    header = json.loads(raw[end:])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(MAGIC + raw[8:16] + len(text).to_bytes(8, "little") + raw[START:end] + text)
    return path


@pytest.fixture
def made(tmp_path: Path, pool: ThreadPoolExecutor) -> Path:
    """A compact file with a packed tensor that differs from one of another."""
    raw = bytes(range(256)) * 16
    base = checkpoint_of({"a": ("F32", (1024,), raw), "b": ("F32", (1024,), raw)}, {})
    place(tmp_path, base, {}, pool)
    child = checkpoint_of({"a": ("F32", (1024,), raw), "b": ("F32", (1024,), raw[:-1] + b"x")}, {})
    return place(tmp_path, child, {"a": Same(base.id, "a"), "b": Stored(True, (base.id, "b"), base.storages["b"])}, pool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (entry(shape=[1 << 40]), "has chunks that do not fill its"),
        (entry(shape=[1 << 62]), "has the shape"),
        (entry(shape=[-1024]), "has the shape"),
        (entry(shape=[True]), "has the shape"),
        (entry(shape="1024"), "has the shape"),
        (entry(dtype="F33"), "has the unknown dtype 'F33'"),
        (entry(dtype="I32"), "which has no such tensor"),
        (entry(chunks=[1 << 62]), "has chunks that do not fill its"),
        (entry(chunks=[1, 2]), "has chunks that do not fill its"),
        (entry(chunks="many"), "has chunks that do not fill its"),
        (entry(at=[0, 10]), "overlap or leave bytes unused at byte 24"),
        (entry(at=[24, 1 << 50]), "lies at bytes"),
        (entry(at=[24]), "lies at bytes"),
        (entry(base=7), "refers to no model"),
        (entry(base="../../../etc/passwd"), "refers to no model"),
        (entry(of="nothing"), "which has no such tensor"),
        (entry(of=["b"]), "refers to no model"),
        (entry(way="pickle"), "differs from its base in an unknown way, 'pickle'"),
        (lambda header: header["tensors"]["a"].pop("base"), "has no bytes and refers to none"),
        (lambda header: header["tensors"]["a"].update(alias_of="zzz"), "is tied to what is no such tensor"),
        (lambda header: header["tensors"].update(b=[]), "its header lacks an id"),
        (lambda header: header.update(bases=["../../../../etc/passwd"]), "its header lacks an id"),
        (lambda header: header.update(bases=["0" * 64]), "model 000000000000, which the store does not have"),
        (lambda header: header.update(chunk=1 << 40), "its header lacks an id"),
        (lambda header: header.update(id="x"), "its header lacks an id"),
        (lambda header: header.update(metadata={"a": 1}), "its header lacks an id"),
        (lambda header: header["tensors"].pop("b"), "its tensors end at byte 24"),
    ],
)
def test_a_hostile_header_is_refused_in_one_line(made: Path, change: Change, message: str) -> None:
    path = rewritten(made, change)
    with pytest.raises(FormatError, match=message) as raised:
        open_checkpoint(path).raw("b")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_chunk_that_expands_beyond_what_the_header_says_is_refused(made: Path) -> None:
    def shrink(header: dict[str, Any]) -> None:
        for one in header["tensors"].values():
            one["shape"] = [1023]
        header["tensors"]["b"].pop("base")
        header["tensors"]["a"] = {"dtype": "F32", "shape": [1023], "of": "b"}
        header["bases"] = []

    with pytest.raises(FormatError, match="a packed chunk of 4092 bytes expands to 4096 bytes"):
        open_checkpoint(rewritten(made, shrink)).raw("b")


def test_circles_and_long_chains_are_refused(made: Path) -> None:
    own = made.stem
    [base] = json.loads(made.read_bytes()[int.from_bytes(made.read_bytes()[8:16], "little") :])["bases"]
    rewritten(made.parent.parent / base[:2] / f"{base}.compact", lambda header: header.update(bases=[own]))
    with pytest.raises(FormatError, match=f"it needs model {own[:12]}, which needs it; do not load this file"):
        open_checkpoint(made)
    root = made.parent.parent
    for at in range(12):
        one = f"{at:064x}"
        (root / one[:2]).mkdir(exist_ok=True)
        text = json.dumps({"id": one, "chunk": 4096, "bases": [f"{at + 1:064x}"], "tensors": {}}).encode()
        (root / one[:2] / f"{one}.compact").write_bytes(MAGIC + START.to_bytes(8, "little") + len(text).to_bytes(8, "little") + text)
    with pytest.raises(FormatError, match="it needs a model that needs one, and so on, more than 8 deep"):
        open_checkpoint(root / "00" / f"{0:064x}.compact")


def test_many_references_to_one_tensor_are_no_bomb(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    raw = bytes(1 << 20)
    base = checkpoint_of({"a": ("U8", (1 << 20,), raw)}, {})
    place(tmp_path, base, {"a": Stored()}, pool)
    path = place(tmp_path, checkpoint_of({"b": ("U8", (1 << 20,), raw)}, {}), {"b": Same(base.id, "a")}, pool)
    rewritten(path, lambda header: header.update(tensors={f"t{at}": header["tensors"]["b"] for at in range(5000)}))
    with pytest.raises(FormatError, match="its tensors claim 5242880000 bytes from files of"):
        open_checkpoint(path)


def test_a_link_out_of_the_store_is_not_followed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = made.parent.parent
    [base] = json.loads(made.read_bytes()[int.from_bytes(made.read_bytes()[8:16], "little") :])["bases"]
    inside, outside = root / base[:2] / f"{base}.compact", tmp_path_factory.mktemp("outside") / "secret"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(FormatError, match="which the store does not have"):
        open_checkpoint(made)


@pytest.mark.parametrize("length", [0, 7, 23, 30])
def test_a_file_that_is_cut_off_is_refused(made: Path, length: int) -> None:
    made.write_bytes(made.read_bytes()[:length])
    with pytest.raises(FormatError, match=str(made)):
        open_checkpoint(made)


def test_a_flipped_bit_in_a_chunk_is_found(made: Path) -> None:
    raw = bytearray(made.read_bytes())
    raw[START + 12] ^= 4
    made.write_bytes(raw)
    with pytest.raises(FormatError, match=r"damaged|expands"):
        open_checkpoint(made).raw("b")
