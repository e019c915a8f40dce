"""Identity of tensors, models and architectures: BLAKE3 over content, the same whatever the container, order or sharding."""

from collections.abc import Iterable, Sequence
from typing import Any

from blake3 import blake3


def tensor_hasher(dtype: str, shape: Sequence[int]) -> Any:
    """Start the hash of one tensor: feed it the little-endian, C-contiguous bytes, then take `.digest()`.

    The type and shape go first, closed by a newline, so that no two tensors share an input.
    """
    return blake3(f"{dtype}[{','.join(map(str, shape))}]\n".encode())


def unread_hash(source: str, offset: int, dtype: str, shape: Sequence[int]) -> bytes:
    """Hash a tensor that nobody has read: what names the content of its file (such as its SHA-256), and where in it the tensor lies.

    The same file gives the same hashes wherever it lies; they are never equal to those of tensors that were read.
    """
    return bytes(blake3(f"weightspace unread 1\n{source}\n{offset}\n{dtype}[{','.join(map(str, shape))}]".encode()).digest())


def model_id(rows: Iterable[tuple[str, str, Sequence[int], bytes]]) -> bytes:
    """Hash a model from (name, dtype, shape, tensor hash) of all its tensors, tied ones under each of their names.

    Rows are sorted by name, so their order does not count. The tensor hash covers dtype and shape already.
    """
    hasher = blake3(b"weightspace model 1\n")
    for name, _, _, digest in sorted(rows, key=lambda row: row[0]):
        raw = name.encode("utf-8", "surrogatepass")
        hasher.update(len(raw).to_bytes(8, "little") + raw + digest)
    return bytes(hasher.digest())


def weights_id(digests: Iterable[bytes]) -> bytes:
    """Hash a model from its tensor hashes alone: equal for models whose tensors were only renamed."""
    return bytes(blake3(b"weightspace weights 1\n" + b"".join(sorted(digests))).digest())


def architecture_id(rows: Iterable[tuple[str, Sequence[int]]]) -> bytes:
    """Hash names and shapes: the architecture's fingerprint, equal for all trainings of one network in any dtype."""
    hasher = blake3(b"weightspace architecture 1\n")
    for name, shape in sorted((name, tuple(shape)) for name, shape in rows):
        raw = name.encode("utf-8", "surrogatepass")
        hasher.update(len(raw).to_bytes(8, "little") + raw + f"[{','.join(map(str, shape))}]".encode())
    return bytes(hasher.digest())
