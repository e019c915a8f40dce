"""torch.save's format before 1.6: five pickles in a row, then the storages one after another."""

from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.containers import pickle_safety, pickles, torch_tree
from weightspace.containers.pickles import Pickle, Value
from weightspace.containers.torch_tensors import ITEMSIZE, StorageRef, Tensors, storage_dtype
from weightspace.errors import FormatError
from weightspace.formats import checkpoint_format
from weightspace.storage import FileSpan, SourceFile, part

MAGIC = 0x1950A86A20F9469CFC6C
FIRST_READ = 1 << 18
_MAGIC_BYTES = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")  # LONG1, protocols 2 and up
_MAGIC_TEXT = b"L%d" % MAGIC  # protocols 0 and 1


def sniff(path: Path, head: bytes) -> bool:
    """A pickle of torch's magic number."""
    return _MAGIC_BYTES in head[:32] or head.startswith(_MAGIC_TEXT)


@checkpoint_format("torch-legacy", sniff=sniff)
def open_torch_legacy(path: Path) -> Checkpoint:
    """Read the pickles statically and find where each storage lies."""
    file = SourceFile.at(path)
    magic, version, system, found, keys = _pickles(file)
    if magic.value != MAGIC or version.value != 1001:
        given = version.value if type(version.value) is int else type(version.value).__name__
        raise FormatError(
            f"expected torch's protocol 1001, found {given}",
            reason="unsupported",
            advice="save it again with a newer torch",
        )
    if isinstance(system.value, dict) and system.value.get("little_endian") is False:
        raise FormatError(
            "its tensors are in big-endian order, expected little", reason="unsupported", advice="save it again on a little-endian machine"
        )
    pickle_safety.refuse_code(found)  # before its storages are looked for: a hostile file should say so first
    return torch_tree.checkpoint(found, Tensors(_Storages(file, found, keys)), format="torch-legacy", path=path, files=(path,))


def _pickles(file: SourceFile) -> list[Pickle]:
    """Read the five pickles at the beginning of the file, taking more of it until they are complete."""
    size = FIRST_READ
    while True:
        size = min(size, file.size, pickles.MAX_BYTES)
        raw, at, made = file.read(0, size), 0, []
        try:
            for _ in range(5):
                made.append(pickles.read(raw, at))
                at = made[-1].end
        except FormatError as error:
            if error.reason != "truncated" or size == min(file.size, pickles.MAX_BYTES):
                raise
            size *= 8
        else:
            return made


class _Storages:
    """The storages behind the pickles: each an eight-byte count of elements, then the elements."""

    def __init__(self, file: SourceFile, found: Pickle, keys: Pickle) -> None:
        kinds = {pid[2]: storage_dtype(pid[1]) for pid in found.persistent if _is_storage(pid)}
        self._known: dict[str, StorageRef] = {}
        at = keys.end
        if not isinstance(keys.value, list) or not all(isinstance(key, str) and key in kinds for key in keys.value):
            raise FormatError("its list of storages names one that no tensor uses", advice="copy or download it again")
        for key in keys.value:
            size = int.from_bytes(file.read(at, 8), "little", signed=True) * ITEMSIZE[kinds[key]]
            self._known[key] = StorageRef(key, kinds[key], FileSpan(file, at + 8, size))
            at += 8 + size

    def __call__(self, pid: Value) -> StorageRef:
        if not _is_storage(pid) or pid[2] not in self._known:
            raise FormatError("a tensor's storage is not in the file", reason="missing", advice="copy or download it again")
        found = self._known[pid[2]]
        itemsize = ITEMSIZE[found.dtype]
        if type(pid[4]) is not int or found.bytes.nbytes != pid[4] * itemsize or storage_dtype(pid[1]) != found.dtype:
            raise FormatError(
                f"storage '{pid[2][:40]}' claims {pid[4]} elements, {found.bytes.nbytes // itemsize} are stored",
                reason="corrupt",
                advice="copy or download it again",
            )
        if len(pid) < 6 or pid[5] is None:
            return found
        view_key, offset, count = pid[5]
        return StorageRef((found.key, view_key), found.dtype, part(found.bytes, offset * itemsize, count * itemsize))


def _is_storage(pid: Value) -> bool:
    return isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[2], str)
