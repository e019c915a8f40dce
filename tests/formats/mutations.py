"""Mutations: deterministic ways to damage a checkpoint, of bytes as they come and of the structures that the bytes are."""

import io
import json
import pickletools
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tests.formats.corpus import Sample

Random = random.Random
# Counts, lengths and offsets that parsers stumble over.
NUMBERS = (0, 1, 2, 3, 7, 64, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 60, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
TEXTS = (
    "",
    "\x00",
    "\x1b[2J\x07",
    "a\nb",
    "\ud800",
    "\u00e9",
    "e\u0301",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "__metadata__",
    "-1",
    "💥",
)
COMMAND = "touch {canary}"

Bytes = Callable[[Random, bytes], bytes]


def mutant(sample: Sample, seed: int, canary: str) -> tuple[Sample, str]:
    """Damage a sample once or a few times; the same seed gives the same mutant, and the name says what was done."""
    drawn = Random(seed)
    done: list[str] = []
    for _ in range(1 if drawn.random() < 0.8 else drawn.randint(2, 4)):
        if len(sample.files) > 1 and drawn.random() < 0.15:
            regroup = drawn.choice(OF_FILES)
            sample = regroup(drawn, sample)
            done.append(regroup.__name__.strip("_"))
        else:
            name = drawn.choice(sorted(name for name, data in sample.files.items() if data is not None) or ["all gone"])
            data = sample.files.get(name) or b""
            change, broken = _changed(drawn, data, canary)
            sample = replace(sample, files={**sample.files, name: broken})
            done.append(change.__name__.strip("_"))
    return sample, "+".join(done)


def _changed(drawn: Random, data: bytes, canary: str) -> tuple[Bytes, bytes]:
    fitting = list(_fitting(data, canary))
    # Half of the time by structure, where the bytes have one that is known here.
    change = drawn.choice(fitting if fitting and drawn.random() < 0.55 else OF_BYTES)
    try:
        return change, change(drawn, data)
    except Exception:  # damaged before: it has its structure no more, and the libraries that look for it may raise anything
        return _flip, _flip(drawn, data)


def _fitting(data: bytes, canary: str) -> Iterator[Bytes]:
    """The mutations of structure that fit some bytes."""
    if data.startswith(b"PK"):
        yield from (_zip_member, _zip_member, _zip_members, _zip_records)
        if b"data.pkl" in data or b".npy" in data:
            yield _hostile(_in_zip, canary)
    elif data[:1] in b"{[":
        yield _json
    elif data[8:9] == b"{":
        yield _safetensors
    elif data.startswith(b"\x80"):
        yield from (_opcodes, _opcodes, _hostile(_pickle, canary))
    elif data.startswith(b"\x89HDF"):
        yield from (_hdf5, _number)
    elif data.startswith(b"GGUF"):
        yield from (_gguf, _gguf, _number)
    elif data.startswith(b"\x93NUMPY"):
        yield _npy
    elif data.startswith(b"\x08"):
        yield from (_varint, _varint, _protobuf)


# Bytes as they come.


def _place(drawn: Random, data: bytes) -> int:
    """A place in the bytes, more often near the beginning, where headers are, or near the end, where directories are."""
    near = drawn.random()
    reach = min(len(data), 512 if near < 0.6 else len(data))
    at = drawn.randrange(max(1, reach))
    return max(0, len(data) - 1 - at) if near < 0.25 else at


def _flip(drawn: Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(drawn.choice((1, 1, 2, 8)) if data else 0):
        out[_place(drawn, data)] ^= 1 << drawn.randrange(8)
    return bytes(out)


def _overwrite(drawn: Random, data: bytes) -> bytes:
    at = _place(drawn, data)
    return data[:at] + drawn.randbytes(min(drawn.choice((1, 4, 32)), len(data) - at)) + data[at + 32 :]


def _truncate(drawn: Random, data: bytes) -> bytes:
    return data[: drawn.choice((_place(drawn, data), max(0, len(data) - drawn.randint(1, 9)), drawn.randint(0, 12)))]


def _extend(drawn: Random, data: bytes) -> bytes:
    return data + drawn.choice((b"\0", drawn.randbytes(100), data[:200], bytes(5000)))


def _cut_out(drawn: Random, data: bytes) -> bytes:
    at = _place(drawn, data)
    return data[:at] + data[at + drawn.randint(1, 64) :]


def _repeat(drawn: Random, data: bytes) -> bytes:
    at = _place(drawn, data)
    size = drawn.randint(1, 256)
    return data[: at + size] + data[at : at + size] * drawn.choice((1, 2, 50)) + data[at + size :]


def _swap(drawn: Random, data: bytes) -> bytes:
    a, b = sorted((_place(drawn, data), _place(drawn, data)))
    size = min(drawn.choice((4, 8, 64)), b - a)
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def _number(drawn: Random, data: bytes) -> bytes:
    width = drawn.choice((1, 2, 4, 8))
    at = _place(drawn, data) // width * width
    value = (drawn.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, drawn.choice(("little", "little", "big")))
    return data[:at] + value + data[at + width :]


def _zero(drawn: Random, data: bytes) -> bytes:
    at, size = _place(drawn, data), drawn.choice((8, 64, 4096))
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


OF_BYTES: tuple[Bytes, ...] = (_flip, _flip, _overwrite, _truncate, _truncate, _extend, _cut_out, _repeat, _swap, _number, _number, _zero)


# The files of a checkpoint.


def _drop(drawn: Random, sample: Sample) -> Sample:
    gone = drawn.choice(sorted(sample.files))
    return replace(sample, files={name: data for name, data in sample.files.items() if name != gone or name == sample.opens})


def _exchange(drawn: Random, sample: Sample) -> Sample:
    one, other = drawn.choice(sorted(sample.files)), drawn.choice(sorted(sample.files))
    return replace(sample, files={**sample.files, one: sample.files[other], other: sample.files[one]})


def _double(drawn: Random, sample: Sample) -> Sample:
    one, other = drawn.choice(sorted(sample.files)), drawn.choice(sorted(sample.files))
    return replace(sample, files={**sample.files, one: sample.files[other]})


def _folder_instead(drawn: Random, sample: Sample) -> Sample:
    return replace(sample, files={**sample.files, drawn.choice(sorted(sample.files)): None})


def _empty(drawn: Random, sample: Sample) -> Sample:
    return replace(sample, files={**sample.files, drawn.choice(sorted(sample.files)): b""})


OF_FILES: tuple[Callable[[Random, Sample], Sample], ...] = (_drop, _exchange, _double, _folder_instead, _empty)


# JSON, and the formats that carry it.


def _json(drawn: Random, data: bytes) -> bytes:
    return json.dumps(_tree(drawn, json.loads(data))).encode()


def _tree(drawn: Random, value: Any) -> Any:
    """Change one place in a tree of JSON values."""
    if isinstance(value, dict) and value and drawn.random() < 0.9:
        key = drawn.choice(sorted(value))
        what = drawn.random()
        if what < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if what < 0.2:
            return {drawn.choice(TEXTS) if name == key else name: one for name, one in value.items()}
        if what < 0.3:
            return {**value, key: value[drawn.choice(sorted(value))]}
        return {**value, key: _tree(drawn, value[key])}
    if isinstance(value, list) and value and drawn.random() < 0.8:
        at = drawn.randrange(len(value))
        return [_tree(drawn, one) if place == at else one for place, one in enumerate(value)]
    others: tuple[Any, ...] = (
        None,
        True,
        -1,
        1.5,
        float("inf"),
        float("nan"),
        [],
        {},
        [[]] * 3,
        {"a": [1]},
        *NUMBERS,
        *TEXTS,
        10**40,
        -(1 << 63),
    )
    return value + drawn.choice((-1, 1, 8)) if type(value) is int and drawn.random() < 0.4 else drawn.choice(others)


def _safetensors(drawn: Random, data: bytes) -> bytes:
    """Edit the header and give it its right length, so that what it says is reached."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(_tree(drawn, json.loads(data[8 : 8 + length]))).encode()
    if drawn.random() < 0.15:  # a key that stands twice
        header = header[:-1] + b"," + header[1:]
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


# Zip archives.


def _members(data: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def _packed(members: Sequence[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for info, content in members:
            fresh = zipfile.ZipInfo(info.filename, info.date_time)
            fresh.compress_type = info.compress_type
            archive.writestr(fresh, content)
    return out.getvalue()


def _zip_member(drawn: Random, data: bytes) -> bytes:
    """Damage what one member holds, in an archive that is in order."""
    members = _members(data)
    at = drawn.choice([*range(len(members)), *(place for place, (info, _) in enumerate(members) if info.filename.endswith(".pkl"))])
    members[at] = members[at][0], _changed(drawn, members[at][1], "unused")[1]
    return _packed(members)


def _zip_members(drawn: Random, data: bytes) -> bytes:
    """Leave a member out, rename it, exchange two, or pack it otherwise."""
    members = _members(data)
    a, b = drawn.randrange(len(members)), drawn.randrange(len(members))
    match drawn.randrange(5):
        case 0:
            del members[a]
        case 1:
            members[a][0].filename = drawn.choice(("../evil", "/evil", "x\x1by", members[b][0].filename + "x", "a" * 60_000))
        case 2:
            members[a], members[b] = (members[a][0], members[b][1]), (members[b][0], members[a][1])
        case 3:
            members[a][0].compress_type = zipfile.ZIP_DEFLATED
        case _:
            members.insert(a, members.pop(b))
    return _packed(members)


def _zip_records(drawn: Random, data: bytes) -> bytes:
    """Set one field of a local header, a directory entry or the end record."""
    mark, fields = drawn.choice(
        ((b"PK\x03\x04", (6, 8, 14, 18, 22, 26, 28)), (b"PK\x01\x02", (8, 10, 16, 20, 24, 28, 30, 32, 42)), (b"PK\x05\x06", (4, 8, 10, 12, 16, 20)))
    )  # fmt: skip
    places = [at for at in range(len(data)) if data.startswith(mark, at)]
    at = drawn.choice(places) + drawn.choice(fields)
    width = drawn.choice((2, 4))
    return data[:at] + (drawn.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little") + data[at + width :]


# Pickles.


def _ends(data: bytes) -> list[int]:
    """Where each opcode of the first pickle begins."""
    return [at for _, _, at in pickletools.genops(data) if at is not None]


def _opcodes(drawn: Random, data: bytes) -> bytes:
    """Leave an opcode out, repeat it, exchange it with another, or change the number that it carries."""
    ends = _ends(data)
    pieces = [data[a:b] for a, b in zip(ends, [*ends[1:], ends[-1] + 1], strict=True)]
    rest = data[ends[-1] + 1 :]
    a, b = drawn.randrange(1, len(pieces)), drawn.randrange(1, len(pieces))
    match drawn.randrange(5):
        case 0:
            del pieces[a]
        case 1:
            pieces.insert(a, pieces[b])
        case 2:
            pieces[a], pieces[b] = pieces[b], pieces[a]
        case 3:
            pieces[a] = drawn.choice(
                (b"N", b"]", b"}", b")", b"(", b"0", b"K\x07", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\0")
            )
        case _:
            numbers = [at for at, piece in enumerate(pieces) if piece[:1] in b"KMJ"] or [a]
            pieces[drawn.choice(numbers)] = b"\x8a\x08" + (drawn.choice(NUMBERS) & ((1 << 64) - 1)).to_bytes(8, "little")
    return b"".join(pieces) + rest


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def payloads(canary: str) -> dict[str, bytes]:
    """Opcodes that would create the canary when unpickled, by every way to call something; each leaves one value on the stack."""
    command, program = _text(COMMAND.format(canary=canary)), _text(f"open({canary!r}, 'w').close()")
    system = b"cos\nsystem\n"
    return {
        "global": b"cposix\nsystem\n" + command + b"\x85R",
        "stack global": _text("os") + _text("system") + b"\x93" + command + b"\x85R",
        "inst": b"(" + command + b"ios\nsystem\n",
        "obj": b"(" + system + command + b"o",
        "exec": b"cbuiltins\nexec\n" + program + b"\x85R",
        "eval": b"c__builtin__\neval\n" + _text(f"open({canary!r}, 'w').close()") + b"\x85R",
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n" + _text("os") + b"\x85R" + _text("system") + b"tR" + command + b"\x85R",
        "map": b"cbuiltins\nlist\n(cbuiltins\nmap\n(" + system + b"(" + command + b"ltRtR",
        "attribute path": b"\x80\x04" + _text("logging") + _text("os.system") + b"\x93" + command + b"\x85R",
        "subprocess": b"csubprocess\ncheck_call\n((" + _text("touch") + _text(canary) + b"ltR",
        "runpy": b"crunpy\n_run_code\n(" + program + b"}tR",
        "dictionary": b"ccollections\nOrderedDict\n(" + _text("key") + system + command + b"\x85Rt\x85\x85R",
    }  # fmt: skip


def _pickle(drawn: Random, data: bytes, canary: str) -> bytes:
    """Put a payload before some opcode of the first pickle, and drop what it leaves."""
    at = drawn.choice(_ends(data)[1:])
    return data[:at] + drawn.choice(list(payloads(canary).values())) + b"0" + data[at:]


def _in_zip(drawn: Random, data: bytes, canary: str) -> bytes:
    """The same in a pickle inside an archive, or an object array in the place of a plain one."""
    members = _members(data)
    at = drawn.choice([place for place, (info, _) in enumerate(members) if info.filename.endswith((".pkl", ".npy"))])
    info, content = members[at]
    if info.filename.endswith(".npy"):
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
        content = (
            b"\x93NUMPY\x01\x00"
            + len(head).to_bytes(2, "little")
            + head
            + b"\x80\x02"
            + drawn.choice(list(payloads(canary).values()))
            + b"."
        )
    else:
        content = _pickle(drawn, content, canary)
    members[at] = info, content
    return _packed(members)


def _hostile(change: Callable[[Random, bytes, str], bytes], canary: str) -> Bytes:
    def hostile(drawn: Random, data: bytes) -> bytes:
        return change(drawn, data, canary)

    return hostile


# Protobuf, HDF5, GGUF, NumPy.


def _varint(drawn: Random, data: bytes) -> bytes:
    """Replace a byte in the first part by a number of one to ten bytes."""
    value, out = drawn.choice(NUMBERS), b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    at = drawn.randrange(min(len(data), 400))
    return data[:at] + out + bytes([value]) + data[at + 1 :]


def _protobuf(drawn: Random, data: bytes) -> bytes:
    """Add a field: of a known number with a wire type of its own choice, or one that holds the whole message again."""
    tag = drawn.randrange(1, 30) << 3 | drawn.choice((0, 1, 2, 2, 5))
    payload = {0: b"\x07", 1: bytes(8), 2: b"\x03abc", 5: bytes(4)}[tag & 7]
    whole = b"\x3a\xff\xff\x03" + data if drawn.random() < 0.3 else b""
    return data + (bytes([tag & 127]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + payload + whole


def _hdf5(drawn: Random, data: bytes) -> bytes:
    """Set a number in the superblock or behind the signature of a node, heap, header or chunk index."""
    marks = [at for at in range(0, len(data), 8) if data[at : at + 4] in (b"TREE", b"SNOD", b"HEAP", b"OHDR", b"BTHD", b"FRHP", b"GCOL")]
    # Object headers of the first version have no signature: version 1, a reserved zero, a count of messages.
    marks += [at for at in range(0, len(data), 8) if data[at : at + 2] == b"\x01\x00" and data[at + 4 : at + 8] == b"\x01\0\0\0"]
    at = drawn.choice([0, *marks]) + drawn.choice((4, 6, 8, 9, 12, 13, 16, 24, 32, 40, 48, 56, 64))
    width = drawn.choice((1, 2, 4, 8))
    return data[:at] + (drawn.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little") + data[at + width :]


def _gguf(drawn: Random, data: bytes) -> bytes:
    """Set one of the counts at the beginning, or a number near a name."""
    names = [at for name in (b"general.", b"tokenizer.", b"\x01\0\0\0\0\0\0\0w", b"q8", b"q4", b"t0") for at in [data.find(name)] if at > 0]
    at = drawn.choice((4, 8, 16, *(place + drawn.choice((-8, 1, 2, 6, 10, 18)) for place in names)))
    width = drawn.choice((4, 8))
    return data[:at] + (drawn.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little") + data[at + width :]


def _npy(drawn: Random, data: bytes) -> bytes:
    """Write another header before the same numbers."""
    length = int.from_bytes(data[8:10], "little")
    descr = drawn.choice(("<f4", "<f8", "|O", ">i2", "|S3", "<U2", "|V8", "<M8[s]", "f3", "<f99999", "|b1", "<c16"))
    shape = drawn.choice(
        ("(3, 4)", "(-1,)", "(1 << 62,)", "(4611686018427387904, 4)", "(0, 4611686018427387904)", "(12,)", "[3, 4]", "3", "()", "(" * 90)
    )
    head = f"{{'descr': '{descr}', 'fortran_order': {drawn.choice((True, False, 1))}, 'shape': {shape}, }}\n".encode()
    return data[:8] + len(head).to_bytes(2, "little") + head + data[10 + length :]
