"""Models as the tables of a pushed zoo claim them: checked against each other, and against the weights when these have come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from weightspace import dtypes, identity
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import FormatError, one_line
from weightspace.storage import Storage
from weightspace.zoo import reading
from weightspace.zoo.records import TensorRow

_STATISTICS = ("num_zero", "num_nan", "num_inf", "minimum", "maximum", "mean", "std", "l1", "l2", "skewness", "kurtosis")


@dataclass(frozen=True)
class Claimed:
    """One model as the tables claim it.

    Attributes:
        id: of the model, in hex.
        info: its tensors in order.
        hashes: of their contents, in hex, by name.
    """

    id: str
    info: Mapping[str, TensorInfo]
    hashes: Mapping[str, str]

    def checkpoint(self, storage: Callable[[str], Storage]) -> Checkpoint:
        """Put it together.

        Args:
            storage: gives the bytes of a content.
        """
        return Checkpoint(self.info, {name: storage(self.hashes[name]) for name in self.info}, "safetensors")

    def measured(self, found: Checkpoint, where: str) -> tuple[TensorRow, ...]:
        """Read the weights once: what the catalog keeps of each tensor.

        Raises:
            FormatError: they are not those of this model.
        """
        [rows] = reading.measured([(found, tuple(found.info))])
        if reading.finished(found, rows).id.hex() != self.id:
            raise not_its_own(where, self.id)
        return tuple(rows)


def not_its_own(where: str, model: str) -> FormatError:
    """Tensors are not those of which a model's id is made."""
    return FormatError(
        f"{where}: the tensors of model {model[:12]} are not those that its id names", reason="corrupt", advice="push the zoo again"
    )


def claimed(tables: Mapping[str, pa.Table], where: str) -> list[Claimed]:
    """The models of a pushed zoo, in the order of the table.

    Args:
        tables: checked one by one.
        where: they come from, for messages.

    Raises:
        FormatError: what one table says does not follow from the others.
    """
    models = tables["models"].to_pylist()
    shapes = {row["hash"]: row for row in tables["tensors"].to_pylist()} if "tensors" in tables else {}
    for row in shapes.values():
        _expect_sizes(row, where)
    rows: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in models}
    by_position = [("model", "ascending"), ("position", "ascending")]
    for row in tables["model_tensors"].sort_by(by_position).to_pylist() if "model_tensors" in tables else ():
        if row["tensor"] not in shapes or row["model"] not in rows:
            raise _corrupt(where, f"table 'model_tensors' names what no other table has ({one_line(str(row['tensor']), 80)})")
        rows[row["model"]].append(row)
    return [_claimed(model, rows[model["id"]], shapes, where) for model in models]


def _expect_sizes(row: Mapping[str, Any], where: str) -> None:
    if row["dtype"] not in dtypes.DTYPES:
        raise _corrupt(where, f"a tensor has the unknown dtype '{one_line(str(row['dtype']), 40)}'")
    numel = dtypes.numel(row["shape"])
    true = numel, dtypes.num_bytes(dtypes.dtype(row["dtype"]), tuple(row["shape"]))
    if (row["numel"], row["nbytes"]) != true:
        said = f"{row['numel']} elements in {row['nbytes']} bytes for tensor {row['hash'][:12]}"
        raise _corrupt(where, f"table 'tensors' says {said}, which has {true[0]} in {true[1]}")


def _claimed(model: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, Any], where: str) -> Claimed:
    info: dict[str, TensorInfo] = {}
    hashes: dict[str, str] = {}
    for row in rows:
        name, owner, digest = row["name"], row["alias_of"], row["tensor"]
        if owner is not None and (owner == name or hashes.get(owner) != digest or info[owner].alias_of is not None):
            tied = f"tensor '{one_line(name, 80)}' of model {model['id'][:12]} is tied to '{one_line(str(owner), 80)}'"
            raise _corrupt(where, f"{tied}, which is no earlier tensor of the model with the same content")
        info[name] = TensorInfo(name, shapes[digest]["dtype"], tuple(shapes[digest]["shape"]), owner)
        hashes[name] = digest
    digests = {name: bytes.fromhex(digest) for name, digest in hashes.items()}
    if identity.model_id((name, one.dtype, one.shape, digests[name]) for name, one in info.items()).hex() != model["id"]:
        raise not_its_own(where, model["id"])
    true = {
        "weights_id": identity.weights_id(digests.values()).hex(),
        "architecture": identity.architecture_id((name, one.shape) for name, one in info.items()).hex(),
        "num_params": sum(one.numel for one in info.values() if one.is_parameter),
        "num_bytes": sum(one.nbytes for one in info.values() if one.alias_of is None),
        "num_tensors": len(info),
    }
    for key, value in true.items():
        if model[key] != value:
            said = f"table 'models' says {key} {one_line(str(model[key]), 70)} of model {model['id'][:12]}"
            raise _corrupt(where, f"{said}, its tensors say {value}")
    return Claimed(model["id"], info, hashes)


def _corrupt(where: str, what: str) -> FormatError:
    return FormatError(f"{where}: {what}", reason="corrupt", advice="push the zoo again")


def with_measured(tables: Mapping[str, pa.Table], rows: Iterator[tuple[str, TensorRow]]) -> dict[str, pa.Table]:
    """The same tables with statistics as they were measured here, in place of what others say of weights that came.

    Args:
        tables: of a pushed zoo.
        rows: (model, tensor) of all weights that were read.
    """
    known: dict[str, TensorRow] = {}
    finite: dict[str, bool] = {}
    for model, row in rows:
        known[row[4].hex()] = row
        finite[model] = finite.get(model, True) and not (row[8] or row[9])
    if not known:
        return dict(tables)
    hashes, models = tables["tensors"]["hash"].to_pylist(), tables["models"]["id"].to_pylist()
    tensors = tables["tensors"]
    for at, name in enumerate(_STATISTICS, 7):
        said = tensors[name].to_pylist()
        true = [known[digest][at] if digest in known else said[k] for k, digest in enumerate(hashes)]
        tensors = _put(tensors, name, true)
    said = tables["models"]["is_finite"].to_pylist()
    flags = [finite.get(model, said[k]) for k, model in enumerate(models)]
    return {**tables, "tensors": tensors, "models": _put(tables["models"], "is_finite", flags)}


def _put(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, name, pa.array(values, _KINDS.get(name, pa.float64())))


_KINDS = {"is_finite": pa.bool_(), **dict.fromkeys(_STATISTICS[:3], pa.int64()), **dict.fromkeys(_STATISTICS[-2:], pa.float32())}

__all__ = ["Claimed", "claimed", "not_its_own", "with_measured"]
