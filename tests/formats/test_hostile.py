"""Files made by hand to harm their reader, each refused for its exact reason; those with pickles are in test_hostile_pickles."""

import json
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from tests.formats import test_distcp, test_onnx, test_sharded
from tests.formats.bounds import bounded, refused
from tests.formats.corpus import STATE
from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint
from weightspace.zoo.discover import discover


def safetensors(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(shape: list[Any], end: Any = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    ("header", "reason", "says"),
    [
        (b"[" * 1_000_000, "unknown", "no known checkpoint format"),
        (b'{"a":' + b"[" * 1_000_000, "hostile", "nests deeper than 64"),
        (b'{"a":' * 1_000_000, "hostile", "nests deeper than 64"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "hostile", "nests deeper than 64"),
        (b'{"a":1,"a":1}', "hostile", "the key 'a' stands twice"),
        (b"{%s,\"7\":1}" % b",".join(b'"%d":1' % n for n in range(30_000)), "hostile", "the key '7' stands twice"),
        (b'{"a":{"dtype":"F32","dtype":"U8","shape":[],"data_offsets":[0,4]}}', "hostile", "the key 'dtype' stands twice"),
        (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 5000), "hostile", "its JSON is damaged"),
        ({"a": entry([1 << 58, 0])}, "", ""),
        ({"a": entry([1 << 62, 0])}, "hostile", "has the shape"),
        ({"a": entry([1 << 62])}, "corrupt", "needs 18446744073709551616 bytes"),
        ({"a": entry([-1])}, "hostile", "has shape [-1]"),
        ({"a": entry([1] * 100, 4)}, "hostile", "has shape"),
        ({"a": entry([1 << 63, 0])}, "hostile", "has shape"),
        ({"a": entry([1.0], 4)}, "hostile", "has shape [1.0]"),
        ({"a": entry([True], 4)}, "hostile", "has shape [True]"),
        ({"a": entry([31], 0, "Q4_0")}, "unsupported", "has the unknown dtype 'Q4_0'"),
        ({"a" * 10_000_000: entry([0])}, "hostile", "has a name of 10000000 characters"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_safetensors_headers(tmp_path: Path, header: Any, reason: str, says: str) -> None:
    path = safetensors(tmp_path / "m.safetensors", header)
    if reason:
        refused(path, reason, says, megabytes=150)
    else:
        assert ws.open(path)["a"].shape == (1 << 58, 0)


@pytest.mark.parametrize("length", [1 << 20, 100_000_001, 1 << 39, 1 << 40])
def test_absurd_header_lengths(tmp_path: Path, length: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    refused(tmp_path / "m.safetensors", "truncated" if length < 100_000_000 else "hostile", f"claims a header of {length} bytes", 1)


@pytest.mark.slow
def test_a_header_of_a_hundred_megabytes_of_brackets(tmp_path: Path) -> None:
    refused(safetensors(tmp_path / "m.safetensors", b'{"a":' + b"[" * 99_000_000), "hostile", "nests deeper", 250)


NAMES = [
    "",
    "\x00",
    "\x1b[2J\x1b]0;owned\x07",
    "a\nb\r\tc",
    "\ud800",
    "\u00e9",
    "e\u0301",
    "\u202e",
    "../../x",
    "a" * 60_000,
    "\N{ZERO WIDTH SPACE}",
]


@pytest.mark.parametrize("kind", ["safetensors", "pt", "legacy"])
def test_odd_names_are_kept_verbatim_and_shown_in_one_line(tmp_path: Path, kind: str) -> None:
    names = [name for name in NAMES if kind != "safetensors" or name != "\ud800"]
    path, tensors = tmp_path / f"m.{kind}", {name: torch.tensor([float(at)]) for at, name in enumerate(names)}
    if kind == "safetensors":
        ws.save(tensors, path)
        with pytest.raises(FormatError, match=r"ends in '.*\\ud800', which is no Unicode; rename it"):
            ws.save({"\ud800": torch.ones(1)}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "pt", pickle_protocol=4)
    found = ws.open(path)
    assert sorted(found) == sorted(names)  # those that are equal when normalised stay two
    assert [found[name].item() for name in names] == list(range(len(names)))
    assert found.id == ws.Checkpoint.of(tensors).id
    for name in names:
        with pytest.raises(ws.errors.UnknownNameError) as caught:
            found[f"{name}?"]
        assert str(caught.value).isprintable() and len(str(caught.value)) <= 600


# Zip archives and arrays.


def array(descr: str, shape: str, data: bytes = b"") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


def test_bombs_in_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros(1 << 25, np.float32))
    refused(tmp_path / "bomb.npz", "hostile", "unpacks")
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(60 << 20))
        archive.writestr("model.weights.h5", b"")
    refused(tmp_path / "m.keras", "hostile", "more than the 8388608 that are read at once")


def test_a_member_that_stands_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("w.npy", array("<f4", "(0,)"))
    refused(tmp_path / "m.npz", "hostile", "member 'w.npy' stands twice")


@pytest.mark.parametrize(
    ("content", "reason", "says"),
    [
        (array("<f4", "(1 << 60,)"), "corrupt", "has a damaged npy header"),
        (array("<f4", f"({1 << 60},)"), "truncated", f"needs {1 << 62} bytes"),
        (array("<f4", f"({1 << 62}, {1 << 62}, 0)"), "hostile", "has the shape"),
        (array("<f4", "(-1,)"), "corrupt", "has a damaged npy header"),
        (array("|O", "(1,)", b"\x80\x02cos\nsystem\n."), "needs-code", "holds Python objects"),
        (array("<f4", "(" * 5000), "corrupt", "has a damaged npy header"),
        (array("<f4", "9" * 9000), "corrupt", "has a damaged npy header"),
        (array("<f99999999", "(0,)"), "corrupt", "not understood"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_array_headers(tmp_path: Path, content: bytes, reason: str, says: str) -> None:
    (tmp_path / "m.npy").write_bytes(content)
    refused(tmp_path / "m.npy", reason, says)


def test_texts_of_no_bytes_and_of_no_characters(tmp_path: Path) -> None:
    """The first would be a list of a billion empty lists, the second has code points that do not exist."""
    texts = {"empty": array("|S1", f"({1 << 30}, 0)"), "none": array("|S0", f"({1 << 30},)"), "wrong": array("<U1", "(1,)", b"\xff" * 4)}
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        for name, content in {**texts, "w": array("<f4", "(1,)", bytes(4))}.items():
            archive.writestr(f"{name}.npy", content)
    with bounded("texts"):
        found = ws.open(tmp_path / "m.npz")
    assert list(found) == ["w"] and len(str(found.metadata["strings"])) < 300


def test_a_flipped_bit_in_a_packed_array_is_noticed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "m.npz", w=np.random.default_rng(0).normal(size=5000))
    raw = bytearray((tmp_path / "m.npz").read_bytes())
    silent = 0
    for at in range(1000, 20_000, 700):
        raw[at] ^= 1
        (tmp_path / "f.npz").write_bytes(raw)
        raw[at] ^= 1
        with pytest.raises(FormatError):
            silent += len(ws.open(tmp_path / "f.npz").raw("w"))
    assert silent == 0


# GGUF, HDF5, ONNX.


def gguf(tensors: int = 0, pairs: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


def named(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def gguf_tensor(name: bytes, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return named(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("content", "reason", "says"),
    [
        (gguf(1 << 60), "hostile", f"claims {1 << 60} tensors"),
        (gguf(0, (1 << 64) - 1), "hostile", f"{(1 << 64) - 1} metadata keys"),
        (gguf(0, 1, struct.pack("<Q", 1 << 62) + bytes(50)), "truncated", f"a string of {1 << 62} bytes"),
        (gguf(0, 1, named(b"k") + struct.pack("<IIQ", 9, 4, 1 << 61)), "hostile", f"claims {1 << 61} elements"),
        (gguf(0, 1, named(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9), "corrupt", "nests arrays too deep"),
        (gguf(1, 0, gguf_tensor(b"w", [1 << 62])), "truncated", f"expected {1 << 64} bytes"),
        (gguf(1, 0, gguf_tensor(b"w", [0, (1 << 64) - 1]) + bytes(64)), "hostile", "has the shape"),
        (gguf(1, 0, gguf_tensor(b"w", [1] * 9)), "hostile", "claims 9 dimensions"),
        (gguf(2, 0, gguf_tensor(b"w", [4]) + gguf_tensor(b"w", [4], 0, 32) + bytes(99)), "hostile", "stands twice"),
        (gguf(2, 0, gguf_tensor(b"a", [4]) + gguf_tensor(b"b", [4]) + bytes(99)), "hostile", "overlaps another"),
    ],
    ids=lambda value: str(value)[-30:],
)  # fmt: skip
def test_gguf_headers(tmp_path: Path, content: bytes, reason: str, says: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    refused(tmp_path / "m.gguf", reason, says)


def test_quantised_tensors_without_elements(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(1, 0, gguf_tensor(b"w", [32, 0], 2) + bytes(64)))
    assert ws.open(tmp_path / "m.gguf")["w"].shape == (0, 32)


def test_hdf5_that_loops_or_leads_out(tmp_path: Path) -> None:
    def made(name: str) -> h5py.File:
        return h5py.File(tmp_path / name, "w")

    with made("loop.h5") as file:
        file["a/w"] = np.ones(3)
        file["a/b/c"] = file["a"]
    assert list(ws.open(tmp_path / "loop.h5")) == ["a/w"]
    with made("links.h5") as file:
        file["out"] = h5py.ExternalLink("/etc/passwd", "/")
    refused(tmp_path / "links.h5", "unsupported", "'out' is an external link")
    with made("deep.h5") as file:
        file["/".join("a" * 100)] = np.ones(1)
    refused(tmp_path / "deep.h5", "hostile", "nests deeper than 64")
    with made("many.h5") as file:
        for number in range(300):
            file.create_dataset(f"{number}", (1 << 17,), "f8", chunks=(1 << 17,))
    refused(tmp_path / "many.h5", "hostile", "its tensors claim 314572800 bytes")


BIG = b"\xff" * 9 + b"\x01"
END = b"\x12\x04test"  # a producer's name, so that the damage is not at the file's end


@pytest.mark.parametrize(
    ("body", "reason", "says"),
    [
        (b"\x3a" + BIG, "truncated", "field 7 of 18446744073709551615 bytes"),
        (b"\x3a\x05\x2a\x03\x08\xff\xff" + END, "corrupt", "a number without an end"),
        (b"\x3a\x0e\x2a\x0c\x08" + BIG + b"\x10" + END, "corrupt", "a number without an end"),
        (b"\x3a\x0f\x2a\x0d\x08" + BIG + b"\x4a" + BIG + END, "corrupt", "a number without an end"),
        (b"\x3a\x0f\x2a\x0d\x08" + BIG + b"\x10\x01" + END, "hostile", "has shape (-1,)"),
        (b"\x3a\x10\x2a\x0e\x0a\x0a" + b"\x80" * 10 + b"\x10\x01" + END, "corrupt", "break off"),
        (b"\x3a\x04\x2a\x02\x10\x63", "unsupported", "has the unknown data type 99"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_onnx_varints(tmp_path: Path, body: bytes, reason: str, says: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + body)
    refused(tmp_path / "m.onnx", reason, says)


# Names of further files.


def sharded(folder: Path, name: str) -> Path:
    test_sharded.sharded(folder, {"a": test_sharded.ONE, "b": test_sharded.ONE, "c": name})
    return folder


def external(folder: Path, name: str) -> Path:
    one = onnx.TensorProto(name="w", dims=[6], data_type=1, data_location=1)
    one.external_data.add(key="location", value=name)
    return test_onnx.saved(test_onnx.model(one), folder / "m.onnx")


def distributed(folder: Path, name: str) -> Path:
    made = test_distcp.saved({"w": torch.ones(3)}, folder)
    raw = (made / ".metadata").read_bytes()
    old = b"\x8c\x0c__0_0.distcp"
    assert old in raw
    (made / ".metadata").write_bytes(raw.replace(old, b"\x8c" + bytes([len(name)]) + name.encode()))
    return made


MAKERS = {"sharded": sharded, "onnx": external, "distcp": distributed}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "sub/../../secret", "..", "linked", "\\secret", "C:\\secret", ""])
def test_names_that_leave_the_folder(tmp_path: Path, kind: str, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    made = MAKERS[kind](folder, name)
    (folder / "linked").symlink_to(tmp_path / "secret")
    refused(made, "hostile", "outside its own folder")


def test_links_of_a_hub_cache_and_of_a_farm_of_links_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    test_sharded.sharded(blobs)
    for path in list(blobs.iterdir()):
        blob = path.rename(blobs / path.name[::-1])
        (snapshot / path.name).symlink_to(blob)
    assert sorted(ws.open(snapshot)) == ["a", "b", "c"]


# Places that are no files, and files that do not stay.


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "gone.pt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.pt").symlink_to(tmp_path / "round.pt")
    refused(tmp_path / "x.pt", "unreadable", "is not a regular file")
    refused(Path("/dev/zero"), "unreadable", "is not a regular file")
    refused(tmp_path / "folder.pt", "unknown", "a folder without a checkpoint in it")
    for name in ("gone.pt", "round.pt"):
        with pytest.raises(FormatError, match="does not exist") as caught:
            open_checkpoint(tmp_path / name)
        assert caught.value.reason == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "m.pt")
    (tmp_path / "m.pt").chmod(0)
    refused(tmp_path / "m.pt", "unreadable", "check its permissions")


@pytest.mark.parametrize("how", ["written", "replaced", "truncated", "removed"])
@pytest.mark.parametrize("read", [False, True], ids=["before it is read", "while it is read"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, how: str, read: bool) -> None:
    path = tmp_path / "m.safetensors"
    ws.save(STATE, path)
    found = ws.open(path)
    if read:
        assert found.raw("half")
    else:
        ws.checkpoint.SourceFile.at(path).close()
    later = path.stat().st_mtime_ns + 10**9
    if how == "replaced":
        (tmp_path / "new").write_bytes(path.read_bytes())
        (tmp_path / "new").replace(path)
    elif how == "removed":
        path.unlink()
    else:
        with path.open("r+b") as stream:
            stream.truncate(600) if how == "truncated" else stream.write(b"x")
        os.utime(path, ns=(later, later))
    if read and how in ("replaced", "removed"):
        assert found.raw("first.weight")  # an open file stays what it was
        return
    with pytest.raises(FormatError, match=r"changed while it was being read|cannot be read \(No such file") as caught:
        found.raw("first.weight")
    assert caught.value.reason == "unreadable"


# Discovery.


def test_discovery_survives_hostile_folders(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    (folder("index is a folder") / "model.safetensors.index.json").mkdir()
    with (folder("huge index") / "model.safetensors.index.json").open("wb") as stream:
        stream.write(b'{"weight_map": {')
        stream.truncate(1 << 30)
    (folder("deep index") / "model.safetensors.index.json").write_bytes(b'{"weight_map":' * 100_000)
    (folder("metadata is a folder") / ".metadata").mkdir()
    (folder("bad metadata") / ".metadata").write_bytes(b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81}b.")
    (tmp_path / "bad metadata" / "__0_0.distcp").write_bytes(b"PK")
    states = folder("states are folders")
    for name in ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt", "model_world_size_2_rank_0.pt"):
        (states / name).mkdir()
    os.mkfifo(folder("pipe") / "model-00001-of-00002.gguf")
    (folder("looped") / "again").symlink_to(tmp_path)
    (folder("odd\nname\x1b[2J") / "m.pt").write_bytes(b"junk")
    shutil.copy(ws.save(STATE, tmp_path / "fine.safetensors"), folder(os.fsdecode(b"\xff\xfe")) / os.fsdecode(b"m\xff.safetensors"))
    save_file({"w": np.ones(2, np.float32)}, folder("inner") / "model-00001-of-00002.safetensors")
    report = ws.Zoo(tmp_path / "zoo").ingest([tmp_path], jobs=1)
    assert report.catalogued == 3 and len(list(discover([tmp_path]))) >= 3 + len(report.quarantined)
    told = {Path(refusal.place.path).parts[len(tmp_path.parts)]: refusal.reason for refusal in report.quarantined}
    assert told == {
        "bad metadata": "corrupt",
        "deep index": "hostile",
        "huge index": "hostile",
        "odd\nname\x1b[2J": "unknown",
        "states are folders": "unreadable",
    }
    assert all(f"{refusal.detail}; {refusal.advice}".isprintable() for refusal in report.quarantined)
