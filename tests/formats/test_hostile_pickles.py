"""Pickles made by hand to run code, or to exhaust their reader; each is refused for its exact reason and nothing in it runs."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.formats.bounds import bounded, refused
from tests.formats.corpus import samples
from tests.formats.mutations import payloads
from weightspace.containers import torch_tree
from weightspace.errors import FormatError
from weightspace.storage import Memory, Pieces, read

PICKLED = ("torch", "torch-legacy", "torchscript", "distcp", "deepspeed", "fsdp", "sharded", "model_folder", "pickle", "npz")


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
SELF = b"]q\x01(" + TENSOR + b"h\x01" * 5_000 + b"e."
LAUGHS = b"]q\x00(" + TENSOR + b"e0" + b"".join(b"]q%c(%se0" % (n, b"h%c" % (n - 1) * 10) for n in range(1, 40)) + b"h\x27."
SIZES = b"(" + b"N" * 100_000 + b"lq\x01" + b"ctorch\nSize\nh\x01\x85R" * 50_000 + b"."
BYTES = b"B\x00\x00\x10\x00" + b"x" * 0x100000 + b"q\x00"
TEXT = b"X\x00\x00\x10\x00" + b"x" * 0x100000 + b"q\x00"
ENCODED = TEXT + b"c_codecs\nencode\nq\x01" + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 20_000 + b"."
LONG_NAMES = b"0]q\x01" + TENSOR + b"q\x020" + b"}(" + TEXT + b"(" + b"h\x02" * 10_000 + b"lu."


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
def test_hostile_torch_pickles(tmp_path: Path, pickled: bytes, reason: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tree, "MAX_NODES", 50_000)  # the checker of types makes each node slow
    refused(torch_file(tmp_path / "m.pt", b"\x80\x02" + pickled, **{"0": bytes(16)}), reason, says, megabytes=250)


def test_a_kilobyte_that_expands_to_274_gigabytes(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"w": torch.ones(1).expand(1 << 36)}, tmp_path / "bomb.pt", _use_new_zipfile_serialization=zipped)
        assert (tmp_path / "bomb.pt").stat().st_size < 1600
        refused(tmp_path / "bomb.pt", "hostile", "claims 274877906944 bytes from 4 stored ones by repeating them", 1)


def test_many_views_of_one_storage_are_a_bomb_too(tmp_path: Path) -> None:
    whole = torch.ones(1 << 18)
    torch.save({f"t{n}": whole[n:] for n in range(1500)}, tmp_path / "views.pt")
    refused(tmp_path / "views.pt", "hostile", "its tensors claim 1568367000 bytes from files of")
    torch.save({"a": whole, "b": whole.view(512, 512), "c": whole[7:]}, tmp_path / "fine.pt")
    assert len(ws.open(tmp_path / "fine.pt")) == 3


NESTED = b"]q\x00N" + b"".join(b"a]q%c(%se" % (n, b"h%c" % (n - 1) * 10) for n in range(1, 40)) + b"0h\x27"


def test_what_stands_beside_the_weights_stays_small(tmp_path: Path) -> None:
    """Text made of the same list ten times, of that ten times, and so on, would have 10**39 characters."""
    laughs = NESTED.replace(b"a]q", b"0]q").replace(b"]q\x00N0", b"]q\x000", 1)
    device, path = b"ctorch\ndevice\n" + laughs + b"\x85R", b"cpathlib\nPosixPath\n(" + TEXT + b"h\x00" * 5000 + b"tR"
    integer = b"\x8b\x00\x00\x01\x00" + b"\x7f" * 65536
    key = TEXT + b"0(" + b"h\x00" * 5000 + b"tN"
    for at, value in enumerate((laughs, device, path, integer, b"}" + key + b"s")):
        pickled = b"\x80\x02}(X\x01\x00\x00\x00w" + TENSOR + b"X\x01\x00\x00\x00x" + value + b"u."
        with bounded(str(at)):
            checkpoint = ws.open(torch_file(tmp_path / f"{at}.pt", pickled, **{"0": bytes(16)}))
        assert list(checkpoint) == ["w"] and 0 < len(json.dumps(checkpoint.metadata)) < 200_000
    kind = TENSOR.replace(b"ctorch\nFloatStorage\n", laughs)
    refused(torch_file(tmp_path / "kind.pt", b"\x80\x02" + kind + b"."), "unsupported", "a storage has the unknown type 'list'")


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([((0, 0), (2, 4)), ((2, 0), (2, 4))], ""),
        ([((0, 0), (4, 1)), ((0, 1), (2, 3)), ((2, 1), (2, 3))], ""),
        ([((0, 0), (2, 4)), ((1, 0), (2, 4))], "overlap and leave holes"),
        ([((0, 0), (2, 4)), ((2, 0), (2, 2)), ((2, 1), (2, 2))], "overlap and leave holes"),
        ([((0, 0), (2, 4))], "hold 8 bytes, expected 16"),
        ([((0, 0), (2, 4)), ((3, 0), (2, 4))], "lies outside its tensor"),
    ],
)
def test_pieces_must_tile_their_tensor(boxes: list[tuple[tuple[int, int], tuple[int, int]]], says: str) -> None:
    """Otherwise what nobody wrote would be read from the machine's memory."""
    pieces = tuple((starts, lengths, Memory(bytes(lengths[0] * lengths[1]))) for starts, lengths in boxes)
    if says:
        with pytest.raises(FormatError, match=says):
            Pieces(1, (4, 4), pieces)
    else:
        assert len(read(Pieces(1, (4, 4), pieces))) == 16
