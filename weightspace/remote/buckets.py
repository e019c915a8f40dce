"""Object stores and other file systems that fsspec knows, as places of files."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from weightspace.errors import FormatError, one_line
from weightspace.remote.file import RemoteFile

CHUNK = 8 << 20  # bytes of one request


def files_at(address: str) -> list[RemoteFile]:
    """The file at an address such as `s3://bucket/model.safetensors`, or those in the folder there.

    Raises:
        FormatError: nothing is there, it cannot be read, or no package for such addresses is installed.
    """
    system, path = _system(address)
    try:
        if system.isdir(path):
            found = [one for one in system.ls(path, detail=True) if one["type"] == "file"]
        else:
            found = [system.info(path)]
    except Exception as error:
        raise _refusal(address, error) from None
    scheme = address.partition("://")[0]
    return [_file(f"{scheme}://{str(one['name']).removeprefix(f'{scheme}://')}", one) for one in found]


def _file(address: str, found: Any) -> RemoteFile:
    version = next(
        (str(found[key]) for key in ("ETag", "etag", "sha256", "checksum", "LastModified", "mtime", "created") if found.get(key)), ""
    )
    return RemoteFile(address, int(found["size"] or 0), version, partial(fetch, address))


def fetch(address: str, offset: int, count: int) -> Iterator[bytes]:
    """Yield a range of a file."""
    system, path = _system(address)
    for start in range(offset, offset + count, CHUNK):
        end = min(start + CHUNK, offset + count)
        try:
            block = system.cat_file(path, start=start, end=end)
        except Exception as error:
            raise _refusal(address, error) from None
        yield block
        if len(block) < end - start:
            return


def _system(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise FormatError(
            f"{address}: {one_line(str(error), 120)}", reason="unsupported", advice="install the package that it names"
        ) from None
    except Exception as error:
        raise _refusal(address, error) from None
    return system, path


def _refusal(address: str, error: Exception) -> FormatError:
    if isinstance(error, FileNotFoundError):
        return FormatError(f"{address}: is not there", reason="missing", advice="check the address")
    said = f"{type(error).__name__}: {one_line(str(error), 120)}"
    return FormatError(f"{address}: cannot be read ({said})", reason="unreadable", advice="check the address and the credentials")


__all__ = ["files_at"]
