"""npy and npz against numpy: dtypes, byte orders, memory orders, compression, and hostile archives."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import weightspace as ws
from weightspace import dtypes
from weightspace.errors import FormatError

DTYPES = [
    "<f2",
    "<f4",
    "<f8",
    ">f2",
    ">f4",
    ">f8",
    "<c8",
    ">c8",
    "<c16",
    "|i1",
    "<i2",
    ">i2",
    "<i4",
    ">i8",
    "|u1",
    "<u2",
    ">u4",
    "<u8",
    "|b1",
]


def array_of(checkpoint: ws.Checkpoint, name: str) -> np.ndarray[Any, Any]:
    info = checkpoint.info[name]
    raw = np.array(checkpoint.raw(name), np.uint8)
    return dtypes.decode(raw, dtypes.dtype(info.dtype)).reshape(info.shape)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(DTYPES), fortran=st.booleans(), compressed=st.booleans())
def test_what_numpy_saves_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str, fortran: bool, compressed: bool
) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    array = data.draw(hnp.arrays(kind, shape))
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path_factory.mktemp("npz") / "w.npz"
    named: dict[str, Any] = {"layer/weight": array}
    (np.savez_compressed if compressed else np.savez)(path, **named)
    found = array_of(ws.open(path), "layer/weight")
    assert found.shape == array.shape and found.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    path.with_suffix(".npy").write_bytes(npy(array))
    assert array_of(ws.open(path.with_suffix(".npy")), "array").tobytes() == found.tobytes()


def test_the_array_of_an_npy_file_is_named_array_whatever_the_file_is_called(tmp_path: Path) -> None:
    for name in ("one.npy", "two.bin"):
        (tmp_path / name).write_bytes(npy(np.ones((2, 3))))
    one, two = ws.open(tmp_path / "one.npy"), ws.open(tmp_path / "two.bin")
    assert list(one) == ["array"] and one.id == two.id


def test_text_and_other_members_become_metadata(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(3), classes=np.array(["cat", "dog"]), raw=np.array([b"x"]), many=np.array(["a" * 40_000]))
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as archive:
        archive.writestr("README.txt", "hello")
    found = ws.open(tmp_path / "w.npz")
    assert list(found) == ["w"]
    assert found.metadata == {
        "strings": {"classes": ["cat", "dog"], "raw": ["x"], "many": "text of shape [1]"},
        "other_members": ["README.txt"],
    }


def header(text: str, version: int = 1) -> bytes:
    raw = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(raw).to_bytes(2 if version == 1 else 4, "little") + raw


def described(descr: str = "'<f4'", shape: str = "(2, 3)", more: str = "") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {more}}}") + bytes(24)


@pytest.mark.parametrize(
    ("content", "reason", "says"),
    [
        (described("'|O'"), "needs-code", "array 'array' holds Python objects, which only a pickle can rebuild"),
        (described("[('a', '<f4')]"), "unsupported", r"has dtype \[\('a', '<f4'\)\], expected a plain number"),
        (described("'<M8[s]'"), "unsupported", "expected a plain number"),
        (described("'|V2'"), "unsupported", "expected a plain number"),
        (described("'<f99'"), "corrupt", "damaged"),
        (described("'<f16'"), "unsupported", "expected numbers or booleans"),
        (described(shape="(2, 4)"), "truncated", "needs 32 bytes, its file has 24"),
        (described(shape="(1000000000000, 1000)"), "truncated", "its file has 24"),
        (described(shape="(2,)"), "corrupt", "needs 8 bytes, its file has 24"),
        (described(shape="(-2, -3)"), "corrupt", "damaged npy header"),
        (described(shape="[2, 3]"), "corrupt", "damaged npy header"),
        (described(shape="(True, 3)"), "corrupt", "damaged npy header"),
        (described(more="'x': 1"), "corrupt", "damaged npy header"),
        (header("__import__('os').system('x')"), "corrupt", "damaged npy header"),
        (header("(" * 5000), "corrupt", "damaged npy header"),
        (header("-" * 9000 + "1"), "corrupt", "damaged npy header"),
        (header("{'descr'"), "corrupt", "damaged npy header"),
        (header("x", 3)[:-1], "truncated", "claims a header of 2 bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(90), "hostile", "claims a header of 2147483647 bytes"),
        (b"\x93NUMPY\x04\x00" + bytes(90), "corrupt", "no npy header of version 1, 2 or 3"),
        (b"\x93NUMPY", "corrupt", "no npy header"),
    ],
)
def test_damaged_and_hostile_arrays_are_refused_in_one_line(tmp_path: Path, content: bytes, reason: str, says: str) -> None:
    path = tmp_path / "w.npy"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=says) as caught:
        ws.open(path)
    assert caught.value.reason == reason and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", npy(np.ones(3)))
        archive.writestr("w.npy", npy(np.zeros(3)))
    with pytest.raises(FormatError, match=r"'w.npy' stands twice"):
        ws.open(tmp_path / "w.npz")


def test_a_compressed_member_that_lies_about_its_size_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    values = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    np.savez_compressed(path, w=values)
    found = ws.open(path)
    np.testing.assert_array_equal(array_of(found, "w"), values)
    whole_id = found.id
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    raw[len(raw) // 2 + 1] ^= 255
    path.write_bytes(raw)
    damaged = ws.open(path)
    try:
        assert damaged.id != whole_id
    except FormatError as error:
        assert "compressed member" in str(error)
    # Both directories say a kilobyte less than there is; the array's own header stays as it was.
    size = values.nbytes + 128
    lie = raw.replace(struct.pack("<L", size), struct.pack("<L", size - 1024))
    path.write_bytes(lie)
    with pytest.raises(FormatError):
        ws.open(path).state_dict()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, w=np.zeros(30_000_000, np.float32))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(FormatError, match=r"unpacks \d+ bytes to 120000128"):
        ws.open(path)


def test_mutated_archives_give_a_checkpoint_or_one_clear_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "w.npz", a=np.arange(50.0), b=np.ones((3, 4), np.int8))
    whole, random, path = (tmp_path / "w.npz").read_bytes(), np.random.default_rng(1), tmp_path / "m.npz"
    refused = 0
    for step in range(300):
        broken = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 4)):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken[: random.integers(40, len(broken))] if step % 5 == 0 else broken)
        try:
            assert ws.open(path).id
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100
