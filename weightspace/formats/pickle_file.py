"""Pickles that are no torch file (joblib, scikit-learn, plain pickle), bare or compressed: recognised, listed, never loaded."""

import bz2
import lzma
import re
import zlib
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.containers import pickle_safety, pickles
from weightspace.errors import FormatError
from weightspace.formats import checkpoint_format, torch_legacy
from weightspace.storage import SourceFile

LOOK = 1 << 22  # bytes that are looked at, packed and unpacked, to list what the pickle names
ADVICE = "load it with the code that made it, in a place you trust, and save the weights as safetensors"

_PICKLE = re.compile(rb"\x80[\x02-\x05]|\(dp|\(lp|\(i\w|[}\]]q\x00|c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
_LZ4 = b"\x04\x22\x4d\x18"  # a frame that joblib writes; its first block begins with literal bytes, so the pickle shows


def sniff(path: Path, head: bytes) -> bool:
    """The first opcodes of a pickle, bare or behind a compressor's magic."""
    if torch_legacy.sniff(path, head):
        return False
    if head.startswith(_LZ4):
        return _PICKLE.search(head[:32]) is not None
    return _PICKLE.match(_unpacked(head, 64)[1]) is not None


@checkpoint_format("pickle", sniff=sniff)
def open_pickle(path: Path) -> Checkpoint:
    """Refuse the file, and say what it is and what loading it would need.

    Raises:
        FormatError: always.
    """
    file = SourceFile.at(path)
    packing, raw = _unpacked(file.read(0, min(file.size, LOOK)), LOOK)
    named = pickles.named(raw)
    code = [one for one in named if not pickle_safety.is_inert(one)]
    dangerous = [one for one in code if pickle_safety.is_dangerous(one)]
    kind = f"a pickle{f' packed by {packing}' if packing else ''}"
    if dangerous:
        raise FormatError(
            f"{kind} that would run code: {pickle_safety.listed(dangerous)}", reason="needs-code", advice=pickle_safety.ADVICE
        )
    if code or packing == "lz4":
        what = f" (it names {pickle_safety.listed(code)})" if code else ""
        raise FormatError(f"{kind} that needs code to load{what}", reason="needs-code", advice=ADVICE)
    if any(one.module.startswith("numpy") for one in named):
        raise FormatError(f"{kind} of numpy arrays", reason="unsupported", advice="save the arrays with numpy.savez instead")
    raise FormatError(f"{kind} of plain Python data without tensors", reason="unsupported", advice="name a file of weights")


def _unpacked(raw: bytes, limit: int) -> tuple[str, bytes]:
    """Unpack the beginning of a file; what is not packed, or is damaged, comes back as far as it goes."""
    try:
        if raw[:2] == b"\x1f\x8b":
            return "gzip", zlib.decompressobj(31).decompress(raw, limit)
        if raw[:1] == b"x" and raw[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
            return "zlib", zlib.decompressobj().decompress(raw, limit)
        if raw[:3] == b"BZh":
            return "bzip2", bz2.BZ2Decompressor().decompress(raw, limit)
        if raw[:5] == b"\xfd7zXZ" or raw[:3] == b"\x5d\x00\x00":
            return "xz", lzma.LZMADecompressor(memlimit=1 << 28).decompress(raw, limit)
        if raw[:4] == _LZ4:
            return "lz4", b""
    except (zlib.error, OSError, lzma.LZMAError, EOFError):
        return "", b""
    return "", raw[:limit]
