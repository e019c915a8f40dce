"""Schema migrations: numbered steps forward, one file each, that bring a catalog of an older version to this one."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import duckdb

from weightspace.errors import CatalogError

Step = Callable[[duckdb.DuckDBPyConnection], None]


@dataclass(frozen=True)
class Migration:
    """One step forward.

    Attributes:
        version: that the step leads to, from the one before.
        run: changes the catalog, inside a transaction that is not its own.
        is_readable: whether what reads this version also reads the one before: where a step only adds what no reader needs.
    """

    version: int
    run: Step
    is_readable: bool = False


_found: dict[int, Migration] = {}


def migration(version: int, *, is_readable: bool = False) -> Callable[[Step], Step]:
    """Register a function as the step that leads to a version; its file lies beside this one."""

    def register(run: Step) -> Step:
        if version in _found:
            raise ValueError(f"two migrations lead to version {version}: {_found[version].run.__module__} and {run.__module__}")
        _found[version] = Migration(version, run, is_readable)
        return run

    return register


@cache
def migrations() -> Mapping[int, Migration]:
    """Every step there is, by the version that it leads to."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return MappingProxyType(dict(sorted(_found.items())))


def version_of(connection: duckdb.DuckDBPyConnection) -> str:
    """The schema version that a catalog says it has; 'none' where it says nothing, all of them where it says several."""
    said = [value for (value,) in connection.execute("select value from meta where key = 'schema_version'").fetchall()]
    return " and ".join(str(value) for value in said) or "none"


def pending(version: str, current: int, known: Mapping[int, Migration]) -> list[Migration] | None:
    """The steps from a version to the current one, in order; None where none lead there, as from a newer version."""
    if not version.isdecimal() or not 0 < int(version) <= current:
        return None
    steps = [known[number] for number in range(int(version) + 1, current + 1) if number in known]
    return steps if len(steps) == current - int(version) else None


def migrate(connection: duckdb.DuckDBPyConnection, steps: list[Migration]) -> None:
    """Take steps one after the other, and write down the version; the caller's transaction makes it all or nothing.

    Raises:
        CatalogError: a step fails; it says which.
    """
    for step in steps:
        try:
            step.run(connection)
            connection.execute("update meta set value = ? where key = 'schema_version'", [str(step.version)])
        except duckdb.Error as error:
            said = next((line for line in str(error).splitlines() if line), "")
            raise CatalogError(
                f"the step to schema version {step.version} failed ({said}); the catalog is what it was: "
                "look at it with 'weightspace check --quick', or restore it from a backup"
            ) from None


__all__ = ["Migration", "migrate", "migration", "migrations", "pending", "version_of"]
