"""GGUF against the gguf package: every block format, metadata, splits, and hostile headers."""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import weightspace as ws
from weightspace import dtypes
from weightspace.errors import FormatError, MissingDependencyError

QUANTIZED = [
    name for name, one in dtypes.DTYPES.items() if one.kind == "quantized" and gguf.GGMLQuantizationType[name] in gguf.quants._type_traits
]
WEIGHTS = np.random.default_rng(0).normal(size=(3, 2, 512)).astype(np.float32)


def written(path: Path, tensors: dict[str, Any], **more: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama", **more)
    writer.add_string("general.name", "tiny")
    writer.add_array("tokenizer.ggml.tokens", [f"token {number}" for number in range(1000)])
    writer.add_array("tokenizer.ggml.scores", [float(number) for number in range(100)])
    writer.add_array("small", [1, 2, 3])
    writer.add_bool("flag", True)
    writer.add_float32("eps", 0.5)
    for name, array in tensors.items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[0], raw_dtype=array[1])
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_plain_tensors_and_metadata(tmp_path: Path) -> None:
    halves = WEIGHTS.astype(np.float16)
    found = ws.open(written(tmp_path / "m.gguf", {"w": WEIGHTS, "h": halves, "i": np.arange(5, dtype=np.int32)}))
    assert found.info["w"].shape == (3, 2, 512) and found.info["h"].dtype == "F16"
    np.testing.assert_array_equal(found["w"].numpy(), WEIGHTS)
    np.testing.assert_array_equal(found["h"].numpy(), halves)
    assert found["i"].tolist() == [0, 1, 2, 3, 4]
    assert found.metadata["general.architecture"] == "llama" and found.metadata["general.name"] == "tiny"
    assert found.metadata["small"] == [1, 2, 3] and found.metadata["flag"] is True and found.metadata["eps"] == 0.5
    assert found.metadata["tokenizer.ggml.tokens"] == {"length": 1000, "first": [f"token {number}" for number in range(64)]}
    assert found.metadata["tokenizer.ggml.scores"]["length"] == 100


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantised_blocks_expand_as_the_gguf_package_expands_them(tmp_path: Path, name: str) -> None:
    kind, element = gguf.GGMLQuantizationType[name], dtypes.dtype(name)
    count, size = gguf.GGML_QUANT_SIZES[kind]
    assert element.block == (count, size)
    # Random codes reach every branch; the scales among them may be anything, NaN too.
    raw = np.random.default_rng(1).integers(0, 256, (6, 512 // count * size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind)
        made = dtypes.decode(raw.reshape(-1), element)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made.reshape(expected.shape), expected)


def test_a_quantised_tensor_in_a_file_comes_back_close_to_the_weights(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    found = ws.open(written(tmp_path / "m.gguf", {"w": (gguf.quants.quantize(WEIGHTS, kind), kind)}))
    assert found.info["w"].dtype == "Q8_0" and found.info["w"].shape == WEIGHTS.shape and found.num_params == WEIGHTS.size
    assert np.abs(found["w"].numpy() - WEIGHTS).max() < 0.02
    assert found.num_bytes == WEIGHTS.size // 32 * 34


def test_expanding_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'weightspace\[gguf\]'"):
        dtypes.decode(np.zeros(34, np.uint8), dtypes.dtype("Q8_0"))
    with pytest.raises(MissingDependencyError, match="'gguf', which is not installed"):
        dtypes.decode(np.zeros(36, np.uint8), dtypes.dtype("Q8_1"))


def test_a_block_format_that_the_package_lacks_is_named() -> None:
    with pytest.raises(FormatError, match="cannot expand dtype 'Q8_K'"):
        dtypes.decode(np.zeros(292, np.uint8), dtypes.dtype("Q8_K"))


def test_a_split_model_opens_by_its_first_piece_and_a_later_piece_alone(tmp_path: Path) -> None:
    tensors = {f"t{number}": np.full((4, 8), number, np.float32) for number in range(4)}
    written(tmp_path / "m.gguf", tensors, split_max_tensors=2)
    first, second = sorted(tmp_path.glob("*.gguf"))
    whole = ws.open(first)
    assert list(whole) == ["t0", "t1", "t2", "t3"] and whole["t3"][0, 0] == 3 and whole.files == (first, second)
    assert list(ws.open(second)) == ["t2", "t3"]
    assert whole.metadata["general.name"] == "tiny"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(FormatError, match=r"piece 'm-00002-of-00002.gguf' of this split model is not there") as caught:
        ws.open(first)
    assert caught.value.reason == "missing"
    second.write_bytes(first.read_bytes())
    with pytest.raises(FormatError, match="the tensor 't0' lies in another piece too"):
        ws.open(first)
    second.write_bytes(kept)
    alone = written(tmp_path / "x-00001-of-00002.gguf", {"t": WEIGHTS})
    alone.with_name("x-00002-of-00002.gguf").write_bytes(alone.read_bytes())
    with pytest.raises(FormatError, match="says it is one of 1 pieces, its name says one of 2"):
        ws.open(alone)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name: str = "w", dims: tuple[int, ...] = (4,), code: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offset)


def made(*entries: bytes, pairs: tuple[bytes, ...] = (), version: int = 3, data: int = 64, tensors: int | None = None) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(entries) if tensors is None else tensors, len(pairs)) + b"".join(pairs + entries)
    return head + bytes(-len(head) % 32) + bytes(data)


def test_the_handmade_header_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(made(entry(), entry("v", offset=32), version=2))
    assert list(ws.open(path)) == ["w", "v"]


@pytest.mark.parametrize(
    ("content", "reason", "says"),
    [
        (made(entry(), version=1), "unsupported", "has version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "unsupported", "this GGUF file is big-endian"),
        (made(tensors=1 << 40), "hostile", "claims 1099511627776 tensors"),
        (made(tensors=500), "hostile", "claims 500 tensors and 0 metadata keys"),
        (made(entry(), entry(offset=32)), "hostile", "the tensor 'w' stands twice"),
        (made(entry(), entry("v", offset=0)), "hostile", "tensor 'v' at offset 0 overlaps another"),
        (made(entry(offset=8)), "hostile", "is not aligned to 32 bytes"),
        (made(entry(dims=(1 << 62,))), "truncated", "the file has"),
        (made(entry(dims=(1,) * 9)), "hostile", "claims 9 dimensions"),
        (made(entry(code=4)), "unsupported", "has the unknown type 4"),
        (made(entry(code=2)), "corrupt", r"of shape \[4\] cannot be cut into blocks of 32"),
        (
            made(entry(), pairs=(text("k") + struct.pack("<IB", 0, 1), text("k") + struct.pack("<IB", 0, 1))),
            "hostile",
            "key 'k' stands twice",
        ),
        (made(entry(), pairs=(text("k") + struct.pack("<I", 77),)), "corrupt", "a metadata value has the unknown type 77"),
        (made(entry(), pairs=(text("k") + struct.pack("<IIQ", 9, 8, 1 << 50),)), "hostile", "claims 1125899906842624 elements"),
        (made(entry(), pairs=(text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6,)), "corrupt", "nests arrays too deep"),
        (made(entry(), pairs=(struct.pack("<Q", 1 << 40) + b"long name......",)), "truncated", "reaches beyond the file"),
        (made(entry(), pairs=(text("general.alignment") + struct.pack("<II", 4, 0),)), "hostile", "has the alignment 0"),
        (b"GGUF\x03\x00", "truncated", "expected 4 bytes"),
    ],
)
def test_damaged_and_hostile_headers_are_refused_in_one_line(tmp_path: Path, content: bytes, reason: str, says: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=says) as caught:
        ws.open(path)
    assert caught.value.reason == reason and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_truncations_and_mutations_give_a_checkpoint_or_one_clear_error(tmp_path: Path) -> None:
    whole = written(tmp_path / "w.gguf", {"a": WEIGHTS[:1], "b": np.arange(6.0, dtype=np.float64)}).read_bytes()
    random, path = np.random.default_rng(2), tmp_path / "m.gguf"
    for length in random.integers(0, len(whole) - 40, 60):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            ws.open(path).state_dict()
    for _ in range(200):
        broken = bytearray(whole)
        broken[random.integers(0, 300)] = random.integers(0, 256)
        broken[random.integers(len(whole) - 12_600, len(whole) - 12_000)] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            assert ws.open(path).id
        except FormatError as error:
            assert "\n" not in str(error)
