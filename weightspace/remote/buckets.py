"""Object stores and other file systems that fsspec knows, as places of files."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from weightspace.errors import FormatError, one_line
from weightspace.remote import client
from weightspace.remote.file import RemoteFile

Result = TypeVar("Result")

CHUNK = 8 << 20  # bytes of one request


def files_at(address: str) -> list[RemoteFile]:
    """The file at an address such as `s3://bucket/model.safetensors`, or those in the folder there.

    Raises:
        FormatError: nothing is there, it cannot be read, or no package for such addresses is installed.
    """
    system, path = system_at(address)

    def look() -> list[Any]:
        system.invalidate_cache()
        if system.isdir(path):
            return [one for one in system.ls(path, detail=True) if one["type"] == "file"]
        return [system.info(path)]

    found = _asked(address, look)
    scheme = address.partition("://")[0]
    return [_file(f"{scheme}://{str(one['name']).removeprefix(f'{scheme}://')}", one) for one in found]


def file_at(address: str) -> RemoteFile | None:
    """One file at an address; None where there is none.

    Raises:
        FormatError: it cannot be asked for.
    """
    system, path = system_at(address)
    try:
        found = system.info(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _refusal(address, error) from None
    return _file(address, found) if found["type"] == "file" else None


def _file(address: str, found: Any) -> RemoteFile:
    keys = ("ETag", "etag", "sha256", "checksum", "LastModified", "mtime", "created")
    said = next((found[key] for key in keys if found.get(key)), "")
    version = str(said.timestamp() if isinstance(said, datetime) else said)  # some list a time as a number, and tell it as a date
    size = int(found["size"] or 0)
    return RemoteFile(address, size, version, partial(fetch, address, version, size))


def fetch(address: str, version: str, size: int, offset: int, count: int) -> Iterator[bytes]:
    """Yield a range of a file, as long as the file is the one that was looked at."""
    system, path = system_at(address)

    def look() -> RemoteFile:
        system.invalidate_cache()
        return _file(address, system.info(path))

    for start in range(offset, offset + count, CHUNK):
        end = min(start + CHUNK, offset + count)
        block = _asked(address, partial(_block, system, path, start, end))
        # Asked after the block, so that nothing of another file passes; not every file system takes a condition with a range.
        now = _asked(address, look)
        if (now.version, now.size) != (version, size):
            raise FormatError(f"{address}: has changed since it was looked at", reason="unreadable", advice="open it again")
        yield block


def _block(system: Any, path: str, start: int, end: int) -> bytes:
    block: bytes = system.cat_file(path, start=start, end=end)
    if len(block) != end - start:
        raise OSError(f"asked for {end - start} bytes, got {len(block)}")
    return block


def _asked(address: str, ask: Callable[[], Result]) -> Result:
    """Ask, and once more after trouble that may pass; most file systems have asked several times by then."""
    for pause in (client.PAUSES[0], None):
        try:
            return ask()
        except Exception as error:
            if pause is None or isinstance(error, FileNotFoundError | PermissionError | FormatError):
                raise _refusal(address, error) from None
            time.sleep(pause)
    raise AssertionError  # the last turn returns or raises


def system_at(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address, **_bounds(address))
    except ImportError as error:
        raise FormatError(
            f"{address}: {one_line(str(error), 120)}", reason="unsupported", advice="install the package that it names"
        ) from None
    except Exception as error:
        raise _refusal(address, error) from None
    return system, path


def _bounds(address: str) -> dict[str, Any]:
    """How long an object store may say nothing; its library waits for half an hour. What the user has set stands."""
    from fsspec.config import conf

    if address.partition("://")[0] not in ("s3", "s3a") or "config_kwargs" in conf.get("s3", {}):
        return {}
    return {"config_kwargs": {"connect_timeout": client.CONNECT, "read_timeout": client.QUIET, "retries": {"max_attempts": 1}}}


def _refusal(address: str, error: Exception) -> FormatError:
    if isinstance(error, FormatError):
        return error
    if isinstance(error, FileNotFoundError):
        return FormatError(f"{address}: is not there", reason="missing", advice="check the address")
    said = f"{type(error).__name__}: {one_line(str(error), 120)}"
    return FormatError(f"{address}: cannot be read ({said})", reason="unreadable", advice="check the address and the credentials")


__all__ = ["file_at", "files_at", "system_at"]
