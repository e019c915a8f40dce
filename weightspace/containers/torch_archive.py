"""Torch's way of laying storages into a zip archive: where a pickle's persistent ids lead."""

from weightspace.containers.archive import Archive
from weightspace.containers.pickles import Value
from weightspace.containers.torch_tensors import ITEMSIZE, StorageRef, storage_dtype
from weightspace.errors import FormatError


def root_of(archive: Archive) -> str:
    """Find the folder inside the archive that holds everything, with its slash.

    Raises:
        FormatError: no data.pkl, or bytes in an order that this machine's files do not have.
    """
    root = next((name.removesuffix("data.pkl") for name in archive if name.endswith("/data.pkl") and name.count("/") == 1), None)
    if root is None:
        raise FormatError("its archive has no data.pkl", reason="corrupt", advice="copy or download it again")
    order = archive.read(f"{root}byteorder", 16) if f"{root}byteorder" in archive else b"little"
    if order != b"little":
        raise FormatError(
            f"its tensors are in {order.decode('ascii', 'replace')}-endian order, expected little",
            reason="unsupported",
            advice="save it again on a little-endian machine",
        )
    return root


class ArchiveStorages:
    """Finds the storage of an id ('storage', type, key, location, size), and checks it against its member."""

    def __init__(self, archive: Archive, root: str) -> None:
        self._archive, self._root = archive, root
        self._known: dict[str, StorageRef] = {}

    def __call__(self, pid: Value) -> StorageRef:
        """Find one storage.

        Raises:
            FormatError: an id of another form, no such member, or one of another size.
        """
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[2], str) or type(pid[4]) is not int:
            raise FormatError("a storage is not named as torch names it", advice="copy or download it again")
        _, kind, key, location, size = pid
        dtype = storage_dtype(kind)
        if location == "meta":
            raise FormatError("it is on the meta device and has no values", reason="unsupported", advice="save the model with its weights")
        known = self._known.get(key)
        if known is None or known.dtype != dtype:
            known = self._known[key] = StorageRef(key, dtype, self._archive.storage(f"{self._root}data/{key}"))
        if known.bytes.nbytes != size * ITEMSIZE[dtype]:
            raise FormatError(
                f"storage '{key[:40]}' claims {size} elements of {dtype}, its member has {known.bytes.nbytes} bytes",
                reason="corrupt" if 0 <= size * ITEMSIZE[dtype] < known.bytes.nbytes else "truncated",
                advice="copy or download it again",
            )
        return known
