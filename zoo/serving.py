"""Serving a zoo's catalog to other machines by DuckDB's own protocol, until it is interrupted."""

import contextlib
import fcntl
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator

import duckdb

from weightspace.errors import CatalogError, one_line
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.literals import quoted
from weightspace.zoo.served import NONCE, ServedCatalog, load_quack, token

ADDRESS = "127.0.0.1:9494"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_GLANCE = 0.2  # seconds between looks for a writer that waits


def serve(
    catalog: Catalog,
    address: str = ADDRESS,
    *,
    write: bool = False,
    seconds: float | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve a catalog.

    For reading alone, a process beside it that wants to write is let through: the server stops listening and starts again when that
    is done, and clients wait meanwhile. With writing, the server has the catalog for itself, and everybody goes through it.

    Args:
        catalog: of a zoo in a folder.
        address: host and port to listen at. The traffic is not encrypted: for others than this machine put a proxy with TLS before it.
        write: take writes.
        seconds: for how long; without end by default.
        ready: called once it listens.

    Raises:
        CatalogError: the catalog is itself served, the extension or the token is missing, or the address cannot be listened at.
    """
    if isinstance(catalog, ServedCatalog):
        raise CatalogError(f"{catalog.path}: is served already; serve the folder of a zoo")
    read = re.fullmatch(r"(?:quack:)?(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?P<port>:\d{1,5})?", address)
    if read is None:
        raise CatalogError(f"'{one_line(address, 120)}' is no address to listen at; write HOST:PORT, as in {ADDRESS}")
    with catalog.reading():
        pass  # it is there, whole and of this version
    uri = f"quack:{read['host']}{read['port'] or ':9494'}"
    _expect_free(read["host"].strip("[]"), int((read["port"] or ":9494")[1:]))
    ends = time.monotonic() + seconds if seconds is not None else float("inf")
    tell: Callable[[], None] = ready
    while time.monotonic() < ends:
        with catalog._locked(exclusive=write), _listening(catalog, uri, write, is_local=read["host"] in _LOCAL):
            tell()
            tell = _silent
            while time.monotonic() < ends and (write or not _somebody_waits(catalog)):
                time.sleep(min(_GLANCE, max(0.0, ends - time.monotonic())))


def _expect_free(host: str, port: int) -> None:
    """See that nothing listens there: DuckDB's server would share the port, and half of the clients would meet the other one."""
    try:
        [(family, kind, _, _, place), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise CatalogError(f"{host}:{port}: cannot be listened at ({said}); choose another address, or end what listens there") from None


def _silent() -> None:
    """Say nothing."""


def _somebody_waits(catalog: Catalog) -> bool:
    """Whether a writer has closed the gate to readers, and waits for those that are there to leave."""
    with contextlib.suppress(FileNotFoundError), (catalog.home / "gate").open("rb") as gate:
        try:
            fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _listening(catalog: Catalog, uri: str, write: bool, *, is_local: bool) -> Iterator[None]:
    nonce = secrets.token_hex(16) if write else ""
    with _opened(catalog, write, nonce) as connection:
        options = f"token = {quoted(token())}, allow_other_hostname = {str(not is_local).lower()}"
        try:
            connection.execute(f"call quack_serve({quoted(uri)}, {options})")
        except duckdb.Error as error:
            said = one_line(str(error).splitlines()[0].replace(token(), "..."), 200)
            raise CatalogError(f"{uri}: cannot be listened at ({said}); choose another port, or end what listens there") from None
        try:
            yield
        finally:
            connection.execute(f"call quack_stop({quoted(uri)})")
            if write:
                connection.execute("delete from meta where key = 'writer'")
                (catalog.home / NONCE).unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(catalog: Catalog, write: bool, nonce: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the catalog's file so that a client can do nothing but ask, or change, this catalog."""
    try:
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        connection.execute(f"attach {quoted(str(catalog.path))} as zoo {'' if write else '(read_only)'}")
    except duckdb.Error as error:
        raise CatalogError(f"{catalog.path}: cannot be opened ({one_line(str(error), 200)}); close it elsewhere, and try again") from None
    with connection:
        load_quack(connection)
        place = f"{quoted(str(catalog.home.parent))} as folder, {str(write).lower()} as is_writable, {quoted(nonce)} as nonce"
        connection.execute(f"create macro memory.main.place() as table select {place}")
        connection.execute("use zoo")
        if write:
            # The row that writers change, so that they take turns.
            connection.execute("delete from meta where key = 'writer'")
            connection.execute("insert into meta values ('writer', '')")
            (catalog.home / NONCE).write_text(nonce, "ascii")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        yield connection


__all__ = ["ADDRESS", "serve"]
