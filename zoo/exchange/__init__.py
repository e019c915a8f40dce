"""Catalogs as tables keyed by content, so that what one zoo knows another can take in."""

from pathlib import Path
from typing import TYPE_CHECKING

from weightspace.errors import CatalogError
from weightspace.zoo.exchange.parquet import is_parquet, read_parquet, write_parquet
from weightspace.zoo.exchange.tables import TABLES, export_tables, import_tables

PART = 4_000_000  # rows that are in memory at once

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo


def chosen(zoo: "Zoo", where: str | None) -> list[int]:
    """Surrogate ids of the models that fit a condition, all without one.

    Raises:
        CatalogError: no model fits.
    """
    found: list[int] = zoo.models(where)["model_id"].to_pylist()
    if not found:
        raise CatalogError(
            f"no model fits {where}; 'weightspace ls' lists those that there are" if where else "the zoo holds no models; ingest some first"
        )
    return found


def export_zoo(zoo: "Zoo", folder: Path, where: str | None = None) -> list[Path]:
    """Write what a catalog knows of models as Parquet files; returns them.

    Args:
        zoo: whose catalog.
        folder: new, or empty.
        where: SQL over `model_table`; all models by default.

    Raises:
        CatalogError: no model fits, or the folder cannot be written.
    """
    wanted = chosen(zoo, where)
    with zoo.catalog.reading() as connection:
        return write_parquet(export_tables(connection, wanted, part_rows=PART), folder)


def import_zoo(zoo: "Zoo", folder: Path) -> int:
    """Take in what `export_zoo` wrote and this catalog does not have; returns how many models are new.

    Raises:
        CatalogError: the folder holds no such tables, or damaged ones; nothing is written then.
    """
    tables = read_parquet(folder)
    zoo.create()
    with zoo.catalog.writing() as connection:
        return import_tables(connection, tables)


__all__ = ["TABLES", "chosen", "export_tables", "export_zoo", "import_tables", "import_zoo", "is_parquet", "read_parquet", "write_parquet"]
