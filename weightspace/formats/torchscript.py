"""TorchScript archives: the parameters and buffers of a compiled module, found in its attributes; its code is read, never run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.containers import pickle_safety, pickles
from weightspace.containers.archive import Archive, first_name
from weightspace.containers.pickles import Call, Global, Value
from weightspace.containers.torch_archive import ArchiveStorages, root_of
from weightspace.containers.torch_tensors import Tensors
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format
from weightspace.storage import SourceFile, Storage

MAX_CODE = 16 << 20
MAX_MODULES = 1_000_000
MAX_DEPTH = 64
_BEGINNING = re.compile(r"[^/]+/(?:data/\d+|constants\.pkl|code/.+)")
_CLASS = re.compile(r"^class (\w+)\(Module\):\n  __parameters__ = \[([^\]]*)\]\n  __buffers__ = \[([^\]]*)\]", re.MULTILINE)


def sniff(path: Path, head: bytes) -> bool:
    """A zip file with a pickle of data, a pickle of constants, and code."""
    name = first_name(head)
    if name is None or "/" not in name or name.endswith((".npy", "/data.pkl")):
        return False
    try:
        return is_script(Archive(SourceFile.at(path)))
    except FormatError:  # a damaged archive that begins as torch writes them: opening it says what is wrong
        return _BEGINNING.fullmatch(name) is not None


def is_script(archive: Archive) -> bool:
    """Whether an archive holds a compiled module."""
    return any(name.endswith("/constants.pkl") and f"{name[:-13]}data.pkl" in archive for name in archive)


@checkpoint_format("torchscript", sniff=sniff)
def open_torchscript(path: Path) -> Checkpoint:
    """Walk the attributes of a saved module down to the tensors that its code declares as parameters and buffers."""
    return read(Archive(SourceFile.at(path)))


def read(archive: Archive) -> Checkpoint:
    """Read an archive that `is_script`."""
    path, root = archive.file.path, root_of(archive)
    found = pickles.read(archive.read(f"{root}data.pkl", pickles.MAX_BYTES))
    pickle_safety.refuse_code(found)
    tensors = Tensors(ArchiveStorages(archive, root))
    info: dict[str, TensorInfo] = {}
    kept: dict[str, Storage] = {}
    first: dict[Any, str] = {}
    for name, value in _state(found.value, _Code(archive, root), tensors):
        one = tensors.tensor(value)
        owner = first.setdefault(one.place, name) if one.bytes.nbytes else name
        info[name], kept[name] = TensorInfo(name, one.dtype, one.shape, None if owner == name else owner), one.bytes
    if not info:
        raise FormatError("its module has no parameters and no buffers", reason="unsupported", advice="name a file of weights")
    metadata = {"class": str(found.value.function).removeprefix("__torch__.")}
    return Checkpoint(info, kept, "torchscript", path=path, files=(path,), metadata=metadata)


class _Code:
    """What the code of an archive declares of its classes."""

    def __init__(self, archive: Archive, root: str) -> None:
        self._archive, self._root = archive, root
        self._declared: dict[Global, frozenset[str] | None] = {}

    def declared(self, kind: Global) -> frozenset[str] | None:
        """Names of the parameters and buffers of a class; None where its code is not there."""
        if kind not in self._declared:
            self._declared[kind] = self._read(kind)
        return self._declared[kind]

    def _read(self, kind: Global) -> frozenset[str] | None:
        member = f"{self._root}code/{kind.module.replace('.', '/')}.py"
        if member not in self._archive:
            return None
        text = self._archive.read(member, MAX_CODE).decode("utf-8", "replace")
        for name, parameters, buffers in _CLASS.findall(text):
            if name == kind.name:
                return frozenset(re.findall(r'"([^"]*)"', parameters + buffers))
        return None


def _state(top: Value, code: _Code, tensors: Tensors) -> Iterator[tuple[str, Call]]:
    """List the tensors of a module and its submodules, parameters and buffers of each before its submodules."""
    stack: list[tuple[tuple[str, ...], Value]] = [((), top)]
    for _ in range(MAX_MODULES):
        if not stack:
            return
        keys, module = stack.pop()
        if not isinstance(module, Call) or not isinstance(module.function, Global) or not isinstance(module.state, dict):
            continue
        if len(keys) > MAX_DEPTH:
            break
        declared = code.declared(module.function)
        inner: list[tuple[tuple[str, ...], Value]] = []
        for key, value in module.state.items():
            if not isinstance(key, str) or not isinstance(value, Call):
                continue
            if not tensors.is_tensor(value):
                inner.append(((*keys, key), value))
            elif declared is None or key in declared:
                yield ".".join((*keys, key)), value
        stack.extend(reversed(inner))
    raise FormatError(f"its modules are nested without end at '{one_line('.'.join(keys), 80)}'", reason="hostile", advice="do not load it")
