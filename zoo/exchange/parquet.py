"""Tables of a catalog as Parquet files, with hive partitions where they are large."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from weightspace.errors import CatalogError
from weightspace.zoo.exchange.tables import TABLES

LARGE = 1_000_000  # rows of a table above which it is cut by the first digits of its models' ids
_KEYS = ("model", "id", "hash", "child", "a")


def is_parquet(source: str | Path) -> bool:
    """Whether a folder holds the tables of a zoo as Parquet files."""
    folder = Path(source) / "models"
    return folder.is_dir() and next(folder.rglob("*.parquet"), None) is not None


def write_parquet(tables: Iterable[tuple[str, pa.Table]], folder: Path, *, large: int = LARGE) -> list[Path]:
    """Write each table to `folder/<table>/`, large ones in partitions `shard=<two digits>`; returns the files.

    Raises:
        CatalogError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CatalogError(f"{folder}: is not empty; name a new folder")
    written: list[Path] = []
    try:
        for name, table in tables:
            key = next((one for one in _KEYS if one in table.column_names), None)
            is_large = table.num_rows > large and key is not None
            if is_large:
                table = table.append_column("shard", pc.utf8_slice_codeunits(pc.fill_null(table[key], "00"), 0, 2))
            schema = pa.schema([("shard", pa.string())]) if is_large else None
            ds.write_dataset(
                table,
                folder / name,
                format="parquet",
                partitioning=ds.partitioning(schema, flavor="hive") if schema else None,
                max_partitions=4096,
                file_visitor=lambda file: written.append(Path(file.path)),
            )
    except OSError as error:
        raise CatalogError(f"{folder}: cannot be written ({error.strerror or error}); check permissions and free space") from None
    return written


def read_parquet(folder: Path) -> Mapping[str, pa.Table]:
    """Read what `write_parquet` wrote.

    Raises:
        CatalogError: there are no such tables, or one is damaged.
    """
    found = {}
    for name in TABLES:
        if (folder / name).is_dir():
            try:
                table = ds.dataset(folder / name, format="parquet", partitioning="hive").to_table()
            except (pa.ArrowException, OSError) as error:
                raise CatalogError(f"{folder / name}: cannot be read ({str(error).splitlines()[0]}); export it again") from None
            found[name] = table.drop_columns(["shard"]) if "shard" in table.column_names else table
    if "models" not in found:
        raise CatalogError(f"{folder}: holds no tables of a zoo; expected a folder 'models' with Parquet files")
    return found


__all__ = ["LARGE", "is_parquet", "read_parquet", "write_parquet"]
