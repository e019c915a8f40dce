"""Strict zip reading: honest archives of every kind read as zipfile reads them, tricks are refused."""

import io
import struct
import zipfile
from pathlib import Path

import pytest

from weightspace import storage
from weightspace.containers.archive import Archive
from weightspace.errors import FormatError
from weightspace.storage import SourceFile


def written(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refused(path: Path, message: str, reason: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        Archive(SourceFile.at(path))
    assert caught.value.reason == reason


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_read_back(tmp_path: Path, compression: int) -> None:
    members = {"a/data.pkl": b"x" * 1000, "a/ä": bytes(range(256)) * 300, "a/empty": b""}
    archive = Archive(SourceFile.at(written(tmp_path / "a.zip", members, compression)))
    assert list(archive) == list(members)
    for name, data in members.items():
        assert archive.read(name, 1 << 20) == data
        assert bytes(storage.read(archive.storage(name))) == data


def test_64_bit_fields_and_streamed_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("wide", "w", force_zip64=True) as stream:
        stream.write(b"hello")
    assert Archive(SourceFile.at(path)).read("wide", 10) == b"hello"

    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

        def seek(self, *args: object) -> int:
            raise OSError

    sink = Unseekable()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("streamed", b"hello")  # sizes follow the data, the local header has zeros
    path.write_bytes(sink.getvalue())
    assert Archive(SourceFile.at(path)).read("streamed", 10) == b"hello"


def test_an_archive_inside_a_file(tmp_path: Path) -> None:
    inner = written(tmp_path / "a.zip", {"x": b"12345"}).read_bytes()
    (tmp_path / "outer").write_bytes(b"before" + inner + b"after" * 20_000)
    archive = Archive(SourceFile.at(tmp_path / "outer"), 6, len(inner))
    assert archive.read("x", 10) == b"12345"
    assert bytes(storage.read(archive.storage("x"))) == b"12345"


def test_a_member_that_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x", b"1")
        archive.writestr("x", b"2")
    refused(path, "member 'x' stands twice in its archive; do not load this file", "hostile")


def test_members_that_overlap(tmp_path: Path) -> None:
    raw = bytearray(written(tmp_path / "a.zip", {"aa": b"1" * 50, "bb": b"1" * 50}).read_bytes())
    second = raw.rindex(b"PK\x01\x02")
    name = second + 46
    raw[name : name + 2] = b"aa"  # the same bytes under a second name would be caught as a duplicate ...
    raw[second + 42 : second + 46] = struct.pack("<L", 0)
    (tmp_path / "a.zip").write_bytes(raw)
    refused(tmp_path / "a.zip", "stands twice", "hostile")
    raw[30:32] = raw[name : name + 2] = b"cc"  # ... and under another name as a disagreement
    (tmp_path / "a.zip").write_bytes(raw)
    refused(tmp_path / "a.zip", "member 'aa': its own header and the directory disagree", "hostile")


def test_a_member_that_swallows_the_next(tmp_path: Path) -> None:
    raw = bytearray(written(tmp_path / "a.zip", {"aa": b"1" * 50, "bb": b"2" * 50}).read_bytes())
    first = raw.index(b"PK\x01\x02")
    for at in (18, 22, first + 20, first + 24):  # packed and unpacked size, in both headers
        raw[at : at + 4] = struct.pack("<L", 60)
    (tmp_path / "a.zip").write_bytes(raw)
    refused(tmp_path / "a.zip", "member 'aa' overlaps what follows it at byte", "hostile")


def test_a_local_header_that_disagrees(tmp_path: Path) -> None:
    raw = bytearray(written(tmp_path / "a.zip", {"aa": b"1" * 50}).read_bytes())
    raw[22:26] = struct.pack("<L", 49)
    (tmp_path / "a.zip").write_bytes(raw)
    refused(tmp_path / "a.zip", "its own header and the directory disagree", "hostile")


def test_bombs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", {"bomb": b"\0" * (80 << 20)}, zipfile.ZIP_DEFLATED)
    refused(path, r"member 'bomb' unpacks \d+ bytes to 83886080", "hostile")
    small = Archive(SourceFile.at(written(tmp_path / "b.zip", {"x": b"\0" * 5000}, zipfile.ZIP_DEFLATED)))
    with pytest.raises(FormatError, match="has 5000 bytes, more than the 4000 that are read at once"):
        small.read("x", 4000)


def test_a_deflated_member_that_lies_about_its_size(tmp_path: Path) -> None:
    raw = bytearray(written(tmp_path / "a.zip", {"aa": b"1" * 50}, zipfile.ZIP_DEFLATED).read_bytes())
    first = raw.index(b"PK\x01\x02")
    for at in (22, first + 24):
        raw[at : at + 4] = struct.pack("<L", 40)
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(FormatError, match="unpacks to other than the 40 bytes it claims"):
        Archive(SourceFile.at(tmp_path / "a.zip")).read("aa", 1000)


def test_encryption_and_other_methods(tmp_path: Path) -> None:
    raw = bytearray(written(tmp_path / "a.zip", {"aa": b"1" * 50}).read_bytes())
    first = raw.index(b"PK\x01\x02")
    encrypted = bytearray(raw)
    encrypted[first + 8] |= 1
    (tmp_path / "a.zip").write_bytes(encrypted)
    refused(tmp_path / "a.zip", "member 'aa' is encrypted and cannot be read", "unsupported")
    refused(written(tmp_path / "b.zip", {"x": b"1" * 50}, zipfile.ZIP_BZIP2), "packed with method 12, which cannot be read", "unsupported")


def test_absurd_counts_and_truncation(tmp_path: Path) -> None:
    raw = bytearray(written(tmp_path / "a.zip", {"aa": b"1" * 50}).read_bytes())
    (tmp_path / "a.zip").write_bytes(raw[:-30])
    refused(tmp_path / "a.zip", "no directory at its end", "truncated")
    (tmp_path / "a.zip").write_bytes(raw + b"more")
    refused(tmp_path / "a.zip", "goes on behind its end record", "corrupt")
    end = raw.rindex(b"PK\x05\x06")
    raw[end + 8 : end + 12] = struct.pack("<HH", 60_000, 60_000)
    (tmp_path / "a.zip").write_bytes(raw)
    refused(tmp_path / "a.zip", "claims 60000 members", "hostile")
    with pytest.raises(FormatError, match="no member 'zz'"):
        Archive(SourceFile.at(written(tmp_path / "b.zip", {"x": b""}))).read("zz", 10)
