"""Zip archives read strictly: where each member's bytes lie in the file, with every claim of both directories checked."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from weightspace.errors import FormatError, one_line
from weightspace.storage import FileSpan, Inflated, SourceFile, Storage, part

TAIL = 1 << 16  # the end record and its comment lie within this many bytes of the end; small archives fit whole
MAX_MEMBERS = 300_000
MAX_DIRECTORY = 1 << 28
MAX_RATIO, FREE = 200, 1 << 26  # a compressed member may not grow more than this, unless it stays under FREE bytes
STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_MARK = b"PK\x03\x04"
_COPY = "copy or download it again"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        name: its path inside the archive.
        offset: where its bytes begin in the archive, behind the local header.
        size: bytes when unpacked.
        packed: bytes in the file.
        method: 0 stored, 8 deflated.
        checksum: CRC-32 of its bytes when unpacked; of stored ones torch may leave it out.
    """

    name: str
    offset: int
    size: int
    packed: int
    method: int
    checksum: int


def first_name(head: bytes) -> str | None:
    """Read the name of the first member from the first bytes of a file; None where the file is no zip archive."""
    if len(head) < 30 or not head.startswith(_LOCAL_MARK):
        return None
    length = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + length].decode("utf-8", "replace") if len(head) >= 30 + length else None


class Archive(Mapping[str, Member]):
    """The members of a zip file by name, in the order of its directory."""

    def __init__(self, file: SourceFile, start: int = 0, length: int | None = None) -> None:
        """Read and check the directory of an archive that is a file, or lies inside one from `start` on.

        Raises:
            FormatError: no zip file, truncated, or members that stand twice, overlap, are encrypted, or grow absurdly.
        """
        self.file, self._start = file, start
        self._length = file.size - start if length is None else length
        self._tail_at = max(0, self._length - TAIL)
        self._tail = file.read(start + self._tail_at, self._length - self._tail_at)
        self._members: dict[str, Member] = {}
        self._read_directory()

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def storage(self, name: str) -> Storage:
        """Where a member's bytes can be read from, lazily.

        Raises:
            FormatError: no such member.
        """
        member = self._found(name)
        packed = FileSpan(self.file, self._start + member.offset, member.packed)
        return packed if member.method == STORED else Inflated(packed, member.size, member.checksum, 0, member.size)

    def part(self, name: str, offset: int, count: int) -> Storage:
        """Where a range of a member's bytes can be read from, lazily.

        Raises:
            FormatError: no such member, or a shorter one.
        """
        return part(self.storage(name), offset, count)

    def read(self, name: str, limit: int) -> bytes:
        """Read one member whole, at most `limit` bytes of it.

        Raises:
            FormatError: no such member, or it is larger or damaged.
        """
        member = self._found(name)
        if max(member.size, member.packed) > limit:
            raise FormatError(
                f"member '{one_line(name, 80)}' has {member.size} bytes, more than the {limit} that are read at once",
                reason="hostile",
                advice="do not load this file",
            )
        raw = self._bytes(member.offset, member.packed)
        if member.method == STORED:
            return raw
        try:
            unpacked = zlib.decompressobj(-15).decompress(raw, member.size + 1)
        except zlib.error as error:
            raise FormatError(f"member '{one_line(name, 80)}' does not unpack ({error})", advice=_COPY) from None
        if len(unpacked) != member.size or zlib.crc32(unpacked) != member.checksum:
            raise FormatError(f"member '{one_line(name, 80)}' unpacks to other than the {member.size} bytes it claims", advice=_COPY)
        return unpacked

    def _found(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            raise FormatError(f"its archive has no member '{one_line(name, 80)}'", reason="missing", advice=_COPY)
        return member

    def _bytes(self, offset: int, count: int) -> bytes:
        at = offset - self._tail_at
        if 0 <= at and at + count <= len(self._tail):
            return self._tail[at : at + count]
        if offset + count > self._length:
            raise FormatError(
                f"expected {count} bytes at offset {offset}, the archive has {self._length}", reason="truncated", advice=_COPY
            )
        return self.file.read(self._start + offset, count)

    def _read_directory(self) -> None:
        count, size, start = self._end_record()
        if count > MAX_MEMBERS or size > MAX_DIRECTORY or count * _ENTRY.size > size:
            raise FormatError(f"its directory of {size} bytes claims {count} members", reason="hostile", advice="do not load this file")
        raw, at = self._bytes(start, size), 0
        spans = []
        for _ in range(count):
            header, member, at = self._entry(raw, at)
            if member.name in self._members:
                raise FormatError(
                    f"member '{one_line(member.name, 80)}' stands twice in its archive", reason="hostile", advice="do not load this file"
                )
            self._members[member.name] = member
            spans.append((header, member.offset + member.packed, member.name))
        if at != size:
            raise FormatError(f"its directory has {size} bytes, its {count} members take {at}", advice=_COPY)
        spans.sort()
        for (_, end, name), (following, _, _) in zip(spans, [*spans[1:], (start, 0, "")], strict=True):
            if end > following:
                raise FormatError(
                    f"member '{one_line(name, 80)}' overlaps what follows it at byte {following}",
                    reason="hostile",
                    advice="do not load this file",
                )

    def _end_record(self) -> tuple[int, int, int]:
        """Find the number of members, and the bytes and offset of the directory."""
        at = self._tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(self._tail):
            raise FormatError("its archive has no directory at its end", reason="truncated", advice=_COPY)
        _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(self._tail, at)
        if at + _END.size + comment != len(self._tail):  # another reader could take other bytes for the end
            raise FormatError("its archive goes on behind its end record", reason="corrupt", advice=_COPY)
        if at >= _LOCATOR.size and self._tail[at - _LOCATOR.size : at].startswith(b"PK\x06\x07"):
            _, _, where, _ = _LOCATOR.unpack_from(self._tail, at - _LOCATOR.size)
            mark, _, _, _, disk, first_disk, here, count, size, start = _END64.unpack(self._bytes(where, _END64.size))
            if mark != b"PK\x06\x06":
                raise FormatError("its archive's 64-bit end record is damaged", advice=_COPY)
        if disk or first_disk or here != count:
            raise FormatError("its archive is one of several parts", reason="unsupported", advice="join the parts first")
        if start + size > self._tail_at + at:
            raise FormatError(
                f"its directory of {size} bytes at {start} does not lie before the end record", reason="truncated", advice=_COPY
            )
        return count, size, start

    def _entry(self, raw: bytes, at: int) -> tuple[int, Member, int]:
        """Read one directory entry and the local header that it points to: header offset, member, next entry's offset."""
        mark, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, _, _, _, header = _ENTRY.unpack_from(
            raw, at
        )
        at += _ENTRY.size
        end = at + name_length + extra_length + comment_length
        if mark != b"PK\x01\x02" or end > len(raw):
            raise FormatError("its archive's directory is damaged", advice=_COPY)
        raw_name = raw[at : at + name_length]
        name = raw_name.decode("utf-8" if flags & 0x800 else "cp437", "replace")
        size, packed, header = _wide(raw[at + name_length : at + name_length + extra_length], size, packed, header)
        problem = self._problem(name, flags, method, size, packed)
        if problem:
            reason = "unsupported" if "cannot" in problem else "hostile"
            raise FormatError(f"member '{one_line(name, 80)}' {problem}", reason=reason, advice="save it again uncompressed")
        local = self._bytes(header, _LOCAL.size + name_length)
        mark, _, local_flags, local_method, _, _, local_crc, local_packed, local_size, local_name, local_extra = _LOCAL.unpack_from(local)
        agrees = (mark, local_method, local[_LOCAL.size :], local_name) == (_LOCAL_MARK, method, raw_name, name_length)
        streamed = local_flags & 8 and not (local_crc or local_packed or local_size)
        for here, there in ((local_crc, crc), (local_packed, packed), (local_size, size)):
            agrees = agrees and (streamed or here in (there, 0xFFFFFFFF))
        if not agrees:
            raise FormatError(
                f"member '{one_line(name, 80)}': its own header and the directory disagree",
                reason="hostile",
                advice="do not load this file",
            )
        return header, Member(name, header + _LOCAL.size + local_name + local_extra, size, packed, method, crc), end

    def _problem(self, name: str, flags: int, method: int, size: int, packed: int) -> str:
        if flags & 1:
            return "is encrypted and cannot be read"
        if method not in (STORED, DEFLATED):
            return f"is packed with method {method}, which cannot be read"
        if method == STORED and size != packed:
            return f"is stored in {packed} bytes but claims {size}"
        if size > FREE and size > MAX_RATIO * packed:
            return f"unpacks {packed} bytes to {size}"
        return ""


def _wide(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Replace 32-bit fields that are all ones by the 64-bit values in the extra field."""
    if 0xFFFFFFFF not in (size, packed, header):
        return size, packed, header
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if at + 4 + length > len(extra):
            break
        if kind == 1:
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            values = [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in (size, packed, header)]
            return values[0], values[1], values[2]
        at += 4 + length
    return size, packed, header
