"""Files made by hand to harm their reader, each refused for its exact reason; nothing in them runs."""

import io
import json
import os
import re
import struct
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import weightspace as ws
from tests.formats.corpus import samples
from tests.formats.mutations import payloads
from tests.formats.test_fuzz import bounded, check
from weightspace.errors import FormatError

PICKLED = ("torch", "torch-legacy", "torchscript", "distcp", "deepspeed", "fsdp", "sharded", "model_folder", "pickle", "npz")


def refused(path: Path, reason: str, says: str = "", megabytes: int = 64) -> str:
    """Open and read a file that must be refused for this reason, with little memory and at once."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lets the high-water mark begin anew
    with pytest.raises(FormatError) as caught, bounded(str(path)):
        checkpoint = ws.open(path)
        for name in checkpoint.info:
            checkpoint.raw(name)
    grown = memory("VmHWM") - before
    check(caught.value, path)
    assert caught.value.reason == reason and says in str(caught.value), str(caught.value)
    assert grown < megabytes << 20, grown
    return str(caught.value)


def memory(kind: str) -> int:
    """Bytes of this process: resident now, or at most since the mark was reset."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{kind}:\s+(\d+) kB", status)[0]) << 10


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
        (b'{"a":' + b"[" * 1_000_000, "corrupt", "its JSON is damaged"),
        (b'{"a":' * 1_000_000, "corrupt", "its JSON is damaged"),
        (b'{"a":1,"a":1}', "hostile", "the key 'a' stands twice"),
        (b"{%s,\"7\":1}" % b",".join(b'"%d":1' % n for n in range(30_000)), "hostile", "the key '7' stands twice"),
        (b'{"a":{"dtype":"F32","dtype":"U8","shape":[],"data_offsets":[0,4]}}', "hostile", "the key 'dtype' stands twice"),
        (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 5000), "hostile", "its JSON is damaged"),
        ({"a": entry([1 << 62, 0])}, "", ""),
        ({"a": entry([1 << 62, 1 << 62, 0])}, "hostile", "has the shape"),
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
        assert ws.open(path)["a"].shape == (1 << 62, 0)


@pytest.mark.parametrize("length", [1 << 20, 100_000_001, 1 << 39, 1 << 40])
def test_absurd_header_lengths(tmp_path: Path, length: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    refused(tmp_path / "m.safetensors", "truncated" if length < 100_000_000 else "hostile", f"claims a header of {length} bytes", 1)


@pytest.mark.slow
def test_a_header_of_a_hundred_megabytes_of_brackets(tmp_path: Path) -> None:
    refused(safetensors(tmp_path / "m.safetensors", b'{"a":' + b"[" * 99_000_000), "corrupt", "its JSON is damaged", 250)


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


# Pickles.


@pytest.mark.parametrize("format", PICKLED)
def test_no_payload_runs_in_any_format(format: str, tmp_path: Path) -> None:
    """Each pickle of each sample gets each payload at its beginning; `pickle` and `npz` as plain and object arrays."""
    canary, tried = tmp_path / "canary", 0
    for sample in samples(format, tmp_path / "made"):
        for at, payload in enumerate(payloads(str(canary)).values()):
            files = {name: _hostile(data or b"", payload) for name, data in sample.files.items()}
            changed = {name for name, data in files.items() if data != sample.files[name]}
            if not changed:
                continue
            path = type(sample)(sample.opens, files).write(tmp_path / f"{tried}-{at}")
            refused(path, "needs-code")
            tried += 1
    assert tried >= 12 and not canary.exists()


def _hostile(data: bytes, payload: bytes) -> bytes:
    """Put a payload and a POP in front of every pickle of a file."""
    if data.startswith(b"PK"):
        return _rewritten(data, payload)
    first = 2 if data[:1] == b"\x80" else -1
    if first < 0:
        return data
    behind = data.find(b"\x80", 12) if data[2:4] == b"\x8a\x0a" else 0  # torch's legacy files begin with three small pickles
    if behind > 0:
        start = data.index(b"\x80", data.index(b"\x80", behind + 1) + 1)
        return data[: start + 2] + payload + b"0" + data[start + 2 :]
    return data[:2] + payload + b"0" + data[2:]


def _rewritten(data: bytes, payload: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith(".pkl"):
                content = content[:2] + payload + b"0" + content[2:]
            elif info.filename.endswith(".npy"):
                head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
                content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"\x80\x02" + payload + b"."
            new.writestr(info.filename, content)
    return out.getvalue()


def torch_file(path: Path, pickled: bytes, **members: bytes) -> Path:
    """A torch zip file around a pickle that nobody's library would write."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"m/data/{name}", content)
    return path


TENSOR = (  # torch._utils._rebuild_tensor_v2(storage '0' of 4 floats, 0, (4,), (1,), False, OrderedDict())
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    b"K\x00K\x04\x85K\x01\x85\x89}tR"
)
LOOP = b"}q\x01X\x05\x00\x00\x00modelh\x01sX\x01\x00\x00\x00x}X\x03\x00\x00\x00y.z" + TENSOR + b"ss."
SELF = b"]q\x01(" + TENSOR + b"h\x01" * 200_000 + b"e."
LAUGHS = b"]q\x00(" + TENSOR + b"e0" + b"".join(b"]q%c(%se0" % (n, b"h%c" % (n - 1) * 10) for n in range(1, 40)) + b"h\x27."
SIZES = b"(" + b"N" * 100_000 + b"lq\x01" + b"ctorch\nSize\nh\x01\x85R" * 50_000 + b"."
BYTES = b"B\x00\x00\x10\x00" + b"x" * 0x100000 + b"q\x00"
TEXT = b"X\x00\x00\x10\x00" + b"x" * 0x100000 + b"q\x00"
ENCODED = TEXT + b"c_codecs\nencode\nq\x01" + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 20_000 + b"."
LONG_NAMES = b"0]q\x01" + TENSOR + b"q\x020" + b"}(" + TEXT + b"(" + b"h\x02" * 100_000 + b"lu."


@pytest.mark.parametrize(
    ("pickled", "reason", "says"),
    [
        (LOOP, "hostile", "repeats itself without end"),
        (SELF, "hostile", "repeats itself without end"),
        (LAUGHS, "hostile", "repeats itself without end"),
        (SIZES, "hostile", "copies itself without end"),
        (ENCODED, "hostile", "copies itself without end"),
        (TEXT + LONG_NAMES, "hostile", "names"),
        (b"]" * 50_000 + TENSOR + b"a" * 49_999 + b".", "unsupported", "holds no tensors"),
        (b"(" * 100_000, "truncated", "ends unfinished"),
        (b"\x8b\xff\xff\xff\x7f" + b"1" * 100 + b".", "truncated", "ends unfinished"),
        (b"L" + b"9" * 100_000 + b"L\n.", "corrupt", "its pickle is damaged"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated", "ends unfinished"),
        (b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff.", "unsupported", "holds no tensors"),
        (b"cos\nsystem\n" * 20_000 + b".", "needs-code", "os.system"),
        (b"c" + b"m" * 1_000_000 + b"\n" + b"n" * 1_000_000 + b"\n)R.", "needs-code", "its pickle would run code: mmm"),
        (TENSOR.replace(b"K\x01\x85\x89", b"K\x00\x85\x89").replace(b"K\x00K\x04\x85", b"K\x00\x8a\x05\x00\x00\x00\x00\x10\x85") + b".", "hostile", "by repeating them"),
        (TENSOR.replace(b"K\x00K\x04\x85", b"K\x00J\xff\xff\xff\xff\x85") + b".", "hostile", "is no count"),
        (TENSOR.replace(b"K\x00K\x04\x85", b"J\xff\xff\xff\xffK\x04\x85") + b".", "hostile", "is no count"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_hostile_torch_pickles(tmp_path: Path, pickled: bytes, reason: str, says: str) -> None:
    refused(torch_file(tmp_path / "m.pt", b"\x80\x02" + pickled, **{"0": bytes(16)}), reason, says, megabytes=250)


def test_a_kilobyte_that_expands_to_274_gigabytes(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"w": torch.ones(1).expand(1 << 36)}, tmp_path / "bomb.pt", _use_new_zipfile_serialization=zipped)
        assert (tmp_path / "bomb.pt").stat().st_size < 1600
        refused(tmp_path / "bomb.pt", "hostile", "claims 274877906944 bytes from 4 stored ones by repeating them", 1)


def test_many_views_of_one_storage_are_a_bomb_too(tmp_path: Path) -> None:
    whole = torch.ones(1 << 16)
    torch.save({f"t{n}": whole[n:] for n in range(9000)}, tmp_path / "views.pt")
    torch.save({"a": whole, "b": whole.view(256, 256)}, tmp_path / "fine.pt")
    assert len(ws.open(tmp_path / "fine.pt")) == 2
