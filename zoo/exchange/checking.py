"""What tables of another zoo must be before a catalog takes them in: keys that are hashes, nothing missing, no claim on files elsewhere."""

from collections.abc import Mapping
from pathlib import PurePosixPath

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from weightspace.errors import CatalogError, one_line
from weightspace.formats.compact import SUFFIXES

_HASHES: Mapping[str, tuple[str, ...]] = {
    "models": ("id", "weights_id", "architecture"), "tensors": ("hash",), "model_tensors": ("model", "tensor"), "files": ("model",),
    "tags": ("model",), "edges": ("parent", "child"), "pair_measurements": ("a", "b"), "embeddings": ("model",),
}  # fmt: skip
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "models": ("name", "kind", "num_params", "num_bytes", "num_tensors"), "tensors": ("dtype", "shape", "numel", "nbytes"),
    "model_tensors": ("position", "name"), "runs": ("key",), "files": ("path", "stamp"), "metrics": ("name", "value"), "tags": ("key",),
    "edges": ("kind",), "measurements": ("measure", "version", "parameters"), "pair_measurements": ("measure", "version", "parameters"),
    "embeddings": ("metanet", "version"),
}  # fmt: skip
_UNIQUE: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "models": (("id",),), "tensors": (("hash",),), "runs": (("key",),), "model_tensors": (("model", "position"), ("model", "name")),
    "metrics": (("model", "run", "name", "split", "step"),), "tags": (("model", "key"),), "edges": (("parent", "child", "kind", "evidence"),),
    "measurements": (("model", "tensor", "measure", "version", "parameters", "key"),), "embeddings": (("model", "metanet", "version"),),
    "pair_measurements": (("a", "b", "measure", "version", "parameters", "key"),),
}  # fmt: skip
_HASH = "^[0-9a-f]{64}$"
_ABSURD: Mapping[str, tuple[tuple[str, str], ...]] = {
    "models": (("num_params < 0 or num_bytes < 0 or num_tensors < 0", "a model has fewer than no parameters, bytes or tensors"),),
    "tensors": (
        ("numel < 0 or nbytes < 0", "a tensor has fewer than no elements or bytes"),
        ("coalesce(list_product(shape), 1) <> numel", "a tensor has another number of elements than its shape"),
        ("least(num_zero, num_nan, num_inf) < 0 or greatest(num_zero, num_nan, num_inf) > numel", "a tensor has more zeros, NaN or infinities than elements"),
        ("not (isfinite(minimum) and isfinite(maximum) and isfinite(mean) and isfinite(std) and isfinite(l1) and isfinite(l2) "
         "and isfinite(skewness) and isfinite(kurtosis))", "a statistic is not finite"),
        ("minimum > maximum or std < 0 or l1 < 0 or l2 < 0", "a minimum is above its maximum, or a spread or norm below zero"),
    ),
    "model_tensors": (("position < 0", "a position is below zero"),),
    "files": (("size < 0 or num_files < 0", "a file has a size or number below zero"),),
    "metrics": (("not isfinite(value)", "a metric is not finite"),),
    "measurements": (("not isfinite(value)", "a measurement is not finite"),),
    "pair_measurements": (("not isfinite(value)", "a measurement is not finite"),),
    "edges": (("not confidence between 0 and 1", "a confidence is no probability"), ("parent = child", "a model comes from itself")),
    "embeddings": (
        ("vector is null or len(vector) not between 1 and 65536", "a vector is empty or has more than 65536 numbers"),
        ("not list_bool_and(list_transform(vector, lambda x: coalesce(isfinite(x), false)))", "a vector is not finite"),
    ),
}  # fmt: skip
"""What no row may be, as SQL, and how to say it; unknown numbers (NULL) may be."""


def check_tables(tables: Mapping[str, pa.Table]) -> None:
    """See that tables can be taken in, since a catalog's own rules cannot be told to its database.

    Args:
        tables: as `export_tables` gives them, or as somebody else says that it does.

    Raises:
        CatalogError: a column is missing, something in it is missing, no hash or there twice, a shape is none, or a number cannot be.
    """
    with duckdb.connect() as connection:
        for name, table in tables.items():
            try:
                _check(name, table)
                _check_numbers(connection, name, table)
            except (pa.ArrowException, duckdb.Error) as error:
                raise _unfit(name, one_line(str(error).splitlines()[0], 120)) from None


def _check(name: str, table: pa.Table) -> None:
    for column in (*_HASHES.get(name, ()), *_REQUIRED.get(name, ())):
        if column not in table.column_names:
            raise _unfit(name, f"there is no column '{column}'")
        if table[column].null_count:
            raise _unfit(name, f"column '{column}' has gaps")
    for column in _HASHES.get(name, ()):
        wrong = table[column].filter(pc.invert(pc.match_substring_regex(table[column], _HASH)))
        if len(wrong):
            raise _unfit(name, f"'{one_line(str(wrong[0]), 80)}' in column '{column}' is no hash of 64 digits")
    for columns in _UNIQUE.get(name, ()):
        known = [column for column in columns if column in table.column_names]
        if table.group_by(known).aggregate([]).num_rows < table.num_rows:
            what = " and ".join(f"'{column}'" for column in known)
            raise _unfit(name, f"something in column{'s' if len(known) > 1 else ''} {what} stands there twice")
    if name == "tensors":
        sizes = pc.list_flatten(table["shape"])
        if sizes.null_count or (pc.min(sizes).as_py() or 0) < 0:
            raise _unfit(name, "a shape has gaps or negative sizes")


def _check_numbers(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("given", table)
    for condition, said in _ABSURD.get(name, ()):
        if connection.execute(f"select 1 from given where {condition} limit 1").fetchall():
            raise _unfit(name, said)
    connection.unregister("given")


def check_places(files: pa.Table) -> None:
    """See that files which count as unchanged without a look at them (stamp 0) are those of a zoo's own store.

    Any other is opened only while its name, size and time are those that its row tells: whoever made the table had to know them.

    Raises:
        CatalogError: a file elsewhere is claimed to be of the store.
    """
    for row in files.select(["model", "path", "stamp"]).to_pylist():
        path, model = row["path"], row["model"]
        names = [f"{model}{suffix}" for suffix in SUFFIXES]
        is_own = PurePosixPath(path) in [PurePosixPath(".weightspace", "store", model[:2], name) for name in names]
        if "://" in path or not (row["stamp"] or path.startswith("hf:") or is_own):
            raise _unfit("files", f"'{one_line(path, 80)}' is no file of the store, nor one that was seen")


def _unfit(name: str, why: str) -> CatalogError:
    return CatalogError(f"table '{name}' does not fit ({why}); export it again")


__all__ = ["check_places", "check_tables"]
