"""Chunks come back bit for bit, whatever they are the difference from; what lies about its size is refused before it is expanded."""

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.store.files import Buffer
from weightspace.dtypes import DTYPES
from weightspace.errors import FormatError
from weightspace.packing import WAYS, Packed, pack, unpack, width_of
from weightspace.storage import Memory, part, read

WIDTHS = (1, 2, 4, 8)


@given(st.data(), st.sampled_from(WIDTHS), st.sampled_from(WAYS), st.booleans())
def test_a_chunk_comes_back_bit_for_bit(data: st.DataObject, width: int, way: str, is_based: bool) -> None:
    raw = data.draw(st.binary(min_size=1, max_size=40)) * width
    base = data.draw(st.binary(min_size=len(raw), max_size=len(raw))) if is_based else None
    chunk = np.frombuffer(raw, np.uint8)
    other = np.frombuffer(base, np.uint8) if base is not None else None
    assert unpack(pack(chunk, width, other, way), len(raw), width, other, way).tobytes() == raw


@pytest.mark.parametrize("way", WAYS)
def test_what_is_close_to_its_base_packs_better_than_alone(way: str) -> None:
    drawn = np.random.default_rng(0)
    base = drawn.normal(size=20_000).astype(np.float32)
    child = base + 1e-4 * drawn.normal(size=base.size).astype(np.float32)
    raw, other = child.view(np.uint8), base.view(np.uint8)
    assert len(pack(raw, 4, other, way)) < 0.7 * len(pack(raw, 4)) < 0.7 * raw.size


def test_width_of_every_dtype_divides_its_elements() -> None:
    assert {name: width_of(name) for name in ("F32", "C64", "C128", "BF16", "F4", "BOOL", "I64", "Q4_0")} == {
        "F32": 4, "C64": 4, "C128": 8, "BF16": 2, "F4": 1, "BOOL": 1, "I64": 8, "Q4_0": 1,
    }  # fmt: skip
    assert all(width_of(name) in WIDTHS for name in DTYPES)


@given(st.data())
def test_a_range_reads_as_the_range_of_the_whole(data: st.DataObject) -> None:
    drawn = np.random.default_rng(data.draw(st.integers(0, 9)))
    raw, base = drawn.integers(0, 4, 1000, np.uint8), drawn.integers(0, 4, 1000, np.uint8)
    packed = [pack(raw[at : at + 128], 2, base[at : at + 128], "difference") for at in range(0, 1000, 128)]
    whole = Packed(
        Buffer(b"ab" + b"".join(packed)), 2, tuple(map(len, packed)), 128, 1000, 2, Memory(base.tobytes()), "difference", 0, 1000
    )
    start = data.draw(st.integers(0, 1000))
    count = data.draw(st.integers(0, 1000 - start))
    assert read(part(whole, start, count)) == raw.tobytes()[start : start + count]
    assert read(part(part(whole, start, count), count // 2, count - count // 2)) == raw.tobytes()[start + count // 2 : start + count]


def test_a_chunk_that_expands_to_something_else_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    with pytest.raises(FormatError, match="a packed chunk of 512 bytes expands to 67108864 bytes; do not load this file"):
        unpack(bomb, 512, 1)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(512))
    with pytest.raises(FormatError, match="expands to a size that it does not tell"):
        unpack(silent, 512, 1)
    whole = bytearray(pack(np.arange(256, dtype=np.uint8), 2))
    with pytest.raises(FormatError, match="a packed chunk is damaged"):
        unpack(whole + b"more", 256, 2)
    whole[-1] ^= 1
    with pytest.raises(FormatError, match="a packed chunk is damaged"):
        unpack(whole, 256, 2)
    with pytest.raises(FormatError, match="a packed chunk is damaged"):
        unpack(b"no frame at all", 256, 2)
