"""Tables of a catalog as Parquet files, with hive partitions where they are large."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from weightspace.errors import CatalogError
from weightspace.zoo.exchange.tables import KEYS, TABLES

LARGE = 1_000_000  # rows of a table above which it is cut by the first digits of its models' ids


def is_parquet(source: str | Path) -> bool:
    """Whether a folder holds the tables of a zoo as Parquet files."""
    folder = Path(source) / "models"
    return folder.is_dir() and next(folder.rglob("*.parquet"), None) is not None


def write_parquet(tables: Iterable[tuple[str, pa.Table]], folder: Path, *, large: int = LARGE) -> list[Path]:
    """Write each table to `folder/<table>/`, large ones in partitions `shard=h<two digits>`; returns the files.

    The letter keeps readers from taking some of the shards for numbers. Hashes are text, as hex digits, since engines differ in how
    they show, compare and join bytes; compressed they take little more than these would.

    Args:
        tables: by name; a name may come several times, with parts of its table.
        folder: new, or empty.
        large: rows above which a table is partitioned; one that comes in parts is.

    Raises:
        CatalogError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CatalogError(f"{folder}: is not empty; name a new folder")
    written: list[Path] = []
    count = itertools.count()
    try:
        for name, group in itertools.groupby(tables, key=lambda one: one[0]):
            parts = (table for _, table in group)
            begun = list(itertools.islice(parts, 2))
            is_large = name in KEYS and (len(begun) > 1 or begun[0].num_rows > large)
            for table in itertools.chain(begun, parts):
                _write(table, folder / name, KEYS[name] if is_large else None, next(count), written)
    except OSError as error:
        raise CatalogError(f"{folder}: cannot be written ({error.strerror or error}); check permissions and free space") from None
    return written


def _write(table: pa.Table, folder: Path, key: str | None, number: int, written: list[Path]) -> None:
    """Write a table, or a part of one: in partitions by the first digits of a key where there is one."""
    if key is not None:
        digits = pc.utf8_slice_codeunits(pc.fill_null(table[key], "00"), 0, 2)
        table = table.append_column("shard", pc.binary_join_element_wise("h", digits, ""))
    ds.write_dataset(
        table,
        folder,
        format="parquet",
        partitioning=ds.partitioning(pa.schema([("shard", pa.string())]), flavor="hive") if key is not None else None,
        file_options=ds.ParquetFileFormat().make_write_options(compression="zstd"),
        basename_template=f"{number}-{{i}}.parquet",
        existing_data_behavior="overwrite_or_ignore",  # of parts that came before
        max_partitions=4096,
        file_visitor=lambda file: written.append(Path(file.path)),
    )


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
