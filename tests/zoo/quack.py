"""Whether DuckDB has the extension here by which catalogs are served."""

import duckdb

from weightspace.errors import CatalogError
from weightspace.zoo.served import load_quack


def missing_quack() -> str:
    """Why the protocol cannot be spoken here; nothing where it can."""
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
            load_quack(connection)
    except CatalogError as error:
        return str(error)
    return ""
