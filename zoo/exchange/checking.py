"""What tables of another zoo must be before a catalog takes them in: keys that are hashes, nothing missing, no claim on files elsewhere."""

from collections.abc import Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from weightspace.errors import CatalogError, one_line

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
_UNIQUE: Mapping[str, str] = {"models": "id", "tensors": "hash", "runs": "key"}
_HASH = "^[0-9a-f]{64}$"


def check_tables(tables: Mapping[str, pa.Table]) -> None:
    """See that tables can be taken in, since a catalog's own rules cannot be told to its database.

    Args:
        tables: as `export_tables` gives them, or as somebody else says that it does.

    Raises:
        CatalogError: a column is missing, something in it is missing, no hash or there twice, or a shape is none.
    """
    for name, table in tables.items():
        try:
            _check(name, table)
        except pa.ArrowException as error:
            raise _unfit(name, one_line(str(error), 120)) from None


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
    if name in _UNIQUE and pc.count_distinct(table[_UNIQUE[name]]).as_py() < table.num_rows:
        raise _unfit(name, f"something in column '{_UNIQUE[name]}' stands there twice")
    if name == "tensors":
        sizes = pc.list_flatten(table["shape"])
        if sizes.null_count or (pc.min(sizes).as_py() or 0) < 0:
            raise _unfit(name, "a shape has gaps or negative sizes")


def check_places(files: pa.Table) -> None:
    """See that files which count as unchanged without a look at them (stamp 0) are those of a zoo's own store.

    Any other is opened only while its name, size and time are those that its row tells: whoever made the table had to know them.

    Raises:
        CatalogError: a file elsewhere is claimed to be of the store.
    """
    for row in files.select(["model", "path", "stamp"]).to_pylist():
        path, model = row["path"], row["model"]
        is_own = PurePosixPath(path) == PurePosixPath(".weightspace", "store", model[:2], f"{model}.safetensors")
        if "://" in path or not (row["stamp"] or path.startswith("hf:") or is_own):
            raise _unfit("files", f"'{one_line(path, 80)}' is no file of the store, nor one that was seen")


def _unfit(name: str, why: str) -> CatalogError:
    return CatalogError(f"table '{name}' does not fit ({why}); export it again")


__all__ = ["check_places", "check_tables"]
