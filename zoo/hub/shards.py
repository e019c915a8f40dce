"""The weights of a pushed zoo: each distinct tensor once, under its hash, in shards that are named by what they hold."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import FormatError, one_line
from weightspace.formats.safetensors import header, open_safetensors, save
from weightspace.remote.opening import ZOO
from weightspace.storage import Storage

INDEX = ZOO
INDEX_SCHEMA = pa.schema([("hash", pa.string()), ("shard", pa.string())])
SHARD_BYTES = 1 << 29
Opened = Callable[[str], Checkpoint]


@dataclass(frozen=True)
class Wanted:
    """A tensor that is to be sent: by its hash, and where to find it.

    Attributes:
        info: dtype and shape, under the hash for a name.
        model: id of the first model that holds it.
        name: of the tensor there.
    """

    info: TensorInfo
    model: str
    name: str


@dataclass(frozen=True)
class Shard:
    """Tensors that are sent as one file."""

    tensors: tuple[Wanted, ...]

    @property
    def name(self) -> str:
        """Its name, which follows from the tensors in it."""
        return hashlib.sha256("\n".join(sorted(one.info.name for one in self.tensors)).encode()).hexdigest()[:16]

    @property
    def path(self) -> str:
        """Its path in the repository."""
        return path_of(self.name)

    @property
    def num_bytes(self) -> int:
        """Bytes of the file."""
        head, _ = header({one.info.name: one.info for one in self.tensors}, {})
        return len(head) + sum(one.info.nbytes for one in self.tensors)

    def rows(self) -> Iterator[tuple[str, str]]:
        """What the index says of it: each hash with its name."""
        yield from ((one.info.name, self.name) for one in self.tensors)

    def write(self, opened: Opened, folder: Path, begun: Callable[[str], None]) -> Path:
        """Write the file, and see that each tensor in it is what its hash says.

        Args:
            opened: opens a model by its id.
            folder: where to.
            begun: is told the id of each model that is read from now on.

        Raises:
            FormatError: a model is gone, or not what it was when it was catalogued.
        """
        info: dict[str, TensorInfo] = {}
        storages: dict[str, Storage] = {}
        labels: dict[str, str] = {}
        for model, tensors in _by_model(self.tensors):
            begun(model)
            checkpoint = opened(model)
            for one in tensors:
                if one.name not in checkpoint.storages:
                    raise _changed(model)
                info[one.info.name], storages[one.info.name] = one.info, checkpoint.storages[one.name]
                labels[one.info.name] = model
        path = save(Checkpoint(info, storages, "memory"), folder / f"{self.name}.safetensors")
        written = open_safetensors(path)
        wrong = next((name for name in written.info if written.tensor_hash(name).hex() != name), None)
        if wrong is not None:
            path.unlink()
            raise _changed(labels[wrong])
        return path


def _changed(model: str) -> FormatError:
    return FormatError(
        f"the weights of model {model[:12]} are not those that were catalogued",
        reason="corrupt",
        advice="see what 'weightspace check' says, or ingest it again",
    )


def _by_model(tensors: Iterable[Wanted]) -> Iterator[tuple[str, list[Wanted]]]:
    found: dict[str, list[Wanted]] = {}
    for one in tensors:
        found.setdefault(one.model, []).append(one)
    yield from found.items()


def path_of(shard: str) -> str:
    """Where a shard lies in a repository."""
    return f"weights/{shard}.safetensors"


def planned(tables: Mapping[str, pa.Table], known: Iterable[str]) -> tuple[list[Shard], tuple[str, ...]]:
    """Lay out what is new, by what the catalog says; nothing is opened.

    Args:
        tables: of the models.
        known: hashes of tensors that need not be sent.

    Returns:
        The shards, and names of models with tensors that cannot stand in one.
    """
    names = dict(zip(tables["models"]["id"].to_pylist(), tables["models"]["name"].to_pylist(), strict=True))
    unread = {row["id"] for row in tables["models"].select(["id", "is_finite"]).to_pylist() if row["is_finite"] is None}
    described = {row["hash"]: row for row in tables["tensors"].select(["hash", "dtype", "shape"]).to_pylist()}
    seen, unsendable, shards, open_shard, size = set(known), dict[str, None](), list[Shard](), list[Wanted](), 0
    columns = tables["model_tensors"].select(["model", "name", "tensor"])
    for model, name, digest in zip(*(columns[column].to_pylist() for column in ("model", "name", "tensor")), strict=True):
        if digest in seen or model in unread:
            continue
        one = TensorInfo(digest, described[digest]["dtype"], tuple(described[digest]["shape"]))
        if not _is_sendable(one):
            unsendable[names[model]] = None
            continue
        seen.add(digest)
        open_shard.append(Wanted(one, model, name))
        size += one.nbytes
        if size >= SHARD_BYTES:
            shards.append(Shard(tuple(open_shard)))
            open_shard, size = [], 0
    return [*shards, Shard(tuple(open_shard))] if open_shard else shards, tuple(unsendable)


def _is_sendable(info: TensorInfo) -> bool:
    element = dtypes.dtype(info.dtype)
    return element.kind != "quantized" and element.name != "C128"


def index_table(rows: Sequence[tuple[str, str]]) -> pa.Table:
    """The index of shards, or a part of it."""
    return pa.table({"hash": [digest for digest, _ in rows], "shard": [shard for _, shard in rows]}, schema=INDEX_SCHEMA)


def checked_index(table: pa.Table, where: str) -> dict[str, str]:
    """Which shard holds which tensor.

    Raises:
        FormatError: the table does not say it.
    """
    fits = {"hash", "shard"} <= {*table.column_names} and all(pa.types.is_string(table.schema.field(one).type) for one in ("hash", "shard"))
    if not fits or table["hash"].null_count or table["shard"].null_count:
        raise FormatError(f"{where}: {INDEX} does not say which shard holds which tensor", reason="corrupt", advice="push the zoo again")
    wrong = next((one for one in table["shard"].unique().to_pylist() if len(one) != 16 or set(one) - set("0123456789abcdef")), None)
    if wrong is not None:
        raise FormatError(
            f"{where}: {INDEX} names '{one_line(wrong, 80)}', which is no name of a shard", reason="hostile", advice="do not use it"
        )
    return dict(zip(table["hash"].to_pylist(), table["shard"].to_pylist(), strict=True))


__all__ = ["INDEX", "Shard", "Wanted", "checked_index", "index_table", "path_of", "planned"]
