"""Embeddings: vectors that metanets give to models, kept in the catalog, and the models nearest to one by cosine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weightspace.errors import CatalogError, RecordError, UnknownNameError, one_line
from weightspace.zoo import query
from weightspace.zoo.model_table import COLUMNS
from weightspace.zoo.write import Connection

MAX_DIMENSION = 1 << 16
_ADVICE = "run 'weightspace embed' to make some"
_FIXED = frozenset(COLUMNS) - {"name"}


def write_embeddings(connection: Connection, metanet: str, version: str, vectors: Mapping[str, Any], folder: Path) -> int:
    """Write embeddings, in place of what the same models had of the same metanet and version; see `Zoo.record_embeddings`."""
    if not metanet or not version:
        raise RecordError("an embedding needs the name of its metanet and its version; give both")
    if not vectors:
        return 0
    stacked = _stacked(vectors)
    rows = dict(
        zip(_numbers(connection, list(vectors), folder), range(len(stacked)), strict=False)
    )  # of two names of one model the last counts
    kept = stacked[list(rows.values())]
    starts = pa.array(np.arange(0, kept.size + 1, kept.shape[1]), pa.int32())
    table = pa.table({"model_id": pa.array(rows, pa.int32()), "vector": pa.ListArray.from_arrays(starts, pa.array(kept.reshape(-1)))})
    connection.register("fresh", table)
    same = "embeddings.metanet = ? and embeddings.version = ?"
    connection.execute(f"delete from embeddings using fresh where embeddings.model_id = fresh.model_id and {same}", [metanet, version])
    others = connection.execute(f"select len(vector) from embeddings where {same} limit 1", [metanet, version]).fetchall()
    if others and others[0][0] != kept.shape[1]:
        raise RecordError(
            f"embeddings of '{_shown(metanet)}', version '{one_line(version, 40)}', have {others[0][0]} numbers, these have {kept.shape[1]}; "
            "record them under another version"
        )
    connection.execute("insert into embeddings select model_id, ?, ?, vector from fresh", [metanet, version])
    connection.unregister("fresh")
    return len(rows)


def _stacked(vectors: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    made = [_vector(model, vector) for model, vector in vectors.items()]
    lengths = {len(one): model for one, model in zip(made, vectors, strict=True)}
    if len(lengths) > 1:
        (length, model), (other, another) = list(lengths.items())[:2]
        raise RecordError(
            f"the embedding of '{one_line(model, 120)}' has {length} numbers and that of '{one_line(another, 120)}' {other}; one metanet gives one length"
        )
    return np.stack(made)


def _vector(what: str, given: Any) -> npt.NDArray[np.float32]:
    """Read a vector from numbers, an array or a tensor.

    Raises:
        RecordError: it is none, or not all of it is finite as float32.
    """
    try:
        with np.errstate(over="ignore"):
            made = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given, dtype=np.float32)
    except (TypeError, ValueError):
        raise RecordError(f"the embedding of '{one_line(what, 120)}' is {type(given).__name__}, expected numbers") from None
    if made.ndim != 1 or not 0 < len(made) <= MAX_DIMENSION:
        raise RecordError(
            f"the embedding of '{one_line(what, 120)}' has shape {list(made.shape)}, expected 1 to {MAX_DIMENSION} numbers in a row"
        )
    if not np.isfinite(made).all():
        raise RecordError(
            f"the embedding of '{one_line(what, 120)}' has {int((~np.isfinite(made)).sum())} numbers that are not finite; leave it out"
        )
    return made


def _numbers(connection: Connection, models: Sequence[str], folder: Path) -> list[int]:
    """Surrogate ids of models: by name all at once, and one by one what is an id or a path."""
    connection.register("wanted", pa.table({"name": pa.array(models, pa.string())}))
    known = dict(connection.execute("select name, model_id from models semi join wanted using (name)").fetchall())
    connection.unregister("wanted")
    return [known[model] if model in known else query.resolve(connection, model, folder) for model in models]


@dataclass(frozen=True)
class _Source:
    """Which embeddings are meant: of one metanet in one version, so that all have one length."""

    metanet: str
    version: str
    count: int


def _source(connection: Connection, metanet: str | None, version: str | None) -> _Source:
    """Find the embeddings that are meant: of the only metanet where none is named, in the version that was written last where none is."""
    rows = connection.execute("select metanet, version, count(*) from embeddings group by all order by max(rowid)").fetchall()
    found = [_Source(*row) for row in rows]
    if not found:
        raise CatalogError(f"this zoo has no embeddings yet; {_ADVICE}")
    names = list(dict.fromkeys(one.metanet for one in found))
    if metanet is None and len(names) > 1:
        raise CatalogError(
            f"this zoo has embeddings of {len(names)} metanets ({one_line(', '.join(map(_shown, names)), 300)}); name one with --metanet"
        )
    named = names[0] if metanet is None else _named(connection, metanet, names)
    chosen = [one for one in found if one.metanet == named]
    versions = [one for one in chosen if version is None or one.version == version]
    if not versions:
        raise UnknownNameError.of(f"version of '{_shown(named)}'", str(version), [one.version for one in chosen])
    return versions[-1]


def _named(connection: Connection, metanet: str, names: Sequence[str]) -> str:
    """Find a metanet as embeddings name it: by that name, its first digits, or the catalog's name of the model with that id."""
    if metanet in names:
        return metanet
    begun = [name for name in names if len(metanet) >= 4 and name.startswith(metanet.lower())]
    if len(begun) == 1:
        return begun[0]
    ids = connection.execute("select lower(hex(id)) from models where name = ?", [metanet]).fetchall()
    known = [name for name in names if (name,) in ids]
    if not known:
        raise UnknownNameError.of("metanet with embeddings", metanet, map(_shown, names))
    return known[0]


def _shown(metanet: str) -> str:
    """The name of a metanet, or the first digits of its id."""
    return metanet[:12] if len(metanet) == 64 else one_line(metanet, 120)


def embeddings(connection: Connection, metanet: str | None, version: str | None) -> pa.Table:
    """All embeddings of a metanet; see `Zoo.embeddings`."""
    source = _source(connection, metanet, version)
    return query.arrow(
        connection,
        "select name as model, vector from embeddings join models using (model_id) where metanet = ? and version = ? order by model_id",
        [source.metanet, source.version],
    )


def similar(
    connection: Connection, model: Any, folder: Path, *, metanet: str | None, version: str | None, limit: int, where: str | None
) -> pa.Table:
    """The models nearest to one, or to a vector; see `Zoo.similar`."""
    source = _source(connection, metanet, version)
    number = query.resolve(connection, model, folder) if isinstance(model, str) else None
    wanted = _embedding_of(connection, source, str(model), number) if number is not None else _vector("the query", model)
    if number is None:
        _expect_length(connection, source, len(wanted))
    if not wanted.any():
        raise RecordError("the query is all zeros, which has no direction; nothing is similar to it")
    among = f"and model_id in (select model_id from model_table\nwhere {where}\n)" if where else ""
    # In float64, where no square of a float32 overflows or vanishes. What is zero or damaged has no cosine, and is left out.
    cosine = "case when len(vector) = ? then list_cosine_similarity(vector::double[], ?::double[]) end"
    nearest = query.arrow(
        connection,
        f"""
        with found as materialized (  -- else every cosine is taken twice, once for the condition
            select model_id, {cosine} as cosine from embeddings where metanet = ? and version = ? and model_id is distinct from ? {among}
        )
        select model_id, greatest(-1, least(1, cosine)) as similarity from found where isfinite(cosine) order by cosine desc, model_id limit ?
        """,
        [len(wanted), wanted.tolist(), source.metanet, source.version, number, limit],
    )
    connection.register("nearest", nearest)
    ids = nearest["model_id"].to_pylist()
    rows = query.arrow(
        connection,
        f"select similarity, found.* from model_rows({ids}::integer[]) as found join nearest using (model_id) order by similarity desc, model_id",
    )
    connection.unregister("nearest")
    return rows.select(["name", "similarity", *(one for one in rows.column_names if one not in _FIXED | {"name", "similarity"})])


def _expect_length(connection: Connection, source: _Source, length: int) -> None:
    known = "select len(vector) from embeddings where metanet = ? and version = ? limit 1"
    [(expected,)] = connection.execute(known, [source.metanet, source.version]).fetchall()
    if length != expected:
        raise RecordError(f"the query has {length} numbers, embeddings of '{_shown(source.metanet)}' have {expected}")


def _embedding_of(connection: Connection, source: _Source, model: str, number: int) -> npt.NDArray[np.float32]:
    found = connection.execute(
        "select vector from embeddings where model_id = ? and metanet = ? and version = ?", [number, source.metanet, source.version]
    ).fetchall()
    if not found:
        raise CatalogError(
            f"model '{one_line(model, 120)}' has no embedding of '{_shown(source.metanet)}', which {source.count} others have; {_ADVICE}"
        )
    return _vector(model, found[0][0])
