"""Small text documents that others wrote, JSON, YAML and CSV, read within bounds."""

import csv
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from weightspace.errors import RecordError, one_line

MAX_DOCUMENT = 16 << 20  # parsed JSON takes about twenty times the memory of its text
MAX_YAML = 1 << 20
MAX_YAML_DEPTH = 64
MAX_YAML_SCALAR = 1 << 16
MAX_ROWS = 200_000
MAX_FIELD = 1 << 20

Row = Mapping[str, Any]

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path, limit: int = MAX_DOCUMENT) -> str:
    """Read a regular file of at most `limit` bytes as UTF-8.

    Raises:
        RecordError: it is no regular file, too large or not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(f"{path}: is not a regular file; name a file")
        if status.st_size > limit:
            raise RecordError(f"{path}: has {status.st_size} bytes, at most {limit} are read; make it smaller")
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None
    if len(raw) > limit:
        raise RecordError(f"{path}: grew over {limit} bytes while it was read; try again")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: expected UTF-8 text, byte {error.start} is none; save it as UTF-8") from None


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse one JSON document; NaN and Infinity, which Python's writers produce, are let through as floats.

    Raises:
        RecordError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: expected JSON, found {_short(error)}; write it again") from None


def load_json(path: Path, limit: int = MAX_DOCUMENT) -> Any:
    """Read and parse one JSON file."""
    return parse_json(read_text(path, limit), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document of plain values: no aliases, no tags that make objects, no deep nesting.

    Raises:
        RecordError: anything else, found before a value is built (an alias bomb is gigabytes; the C loader's recursion
            overflows the stack on deep nesting, which no exception handler survives).
    """
    if len(text) > MAX_YAML:
        raise RecordError(f"{where}: has {len(text)} characters of YAML, at most {MAX_YAML} are read; make it smaller")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise RecordError(f"{where}: has a YAML alias, which is not expanded; write the value out")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_YAML_SCALAR:
                raise RecordError(f"{where}: has a YAML value of {len(event.value)} characters; make it shorter")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise RecordError(f"{where}: YAML nested deeper than {MAX_YAML_DEPTH}; make it flatter")
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{where}: expected YAML, found {_short(error)}; write it again") from None


def load_yaml(path: Path) -> Any:
    """Read and parse one YAML file."""
    return parse_yaml(read_text(path, MAX_YAML), str(path))


def csv_rows(path: Path, limit: int | None = MAX_DOCUMENT) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header line; without a limit the file is streamed, a line of at most 1 MiB at a time.

    Raises:
        RecordError: no header, a field over the bound, not UTF-8.
    """
    _check_size(path, limit)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(_lines(stream, path), restval=None)
            for row in reader:
                yield {key.strip(): value for key, value in row.items() if isinstance(key, str) and value is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path}: expected CSV in UTF-8, found {_short(error)}; write it again") from None


def json_rows(path: Path, limit: int | None = MAX_DOCUMENT) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file; a last line that is cut off is left out, as a writer may be at work.

    Raises:
        RecordError: a line that is no JSON object, or over 1 MiB.
    """
    _check_size(path, limit)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for at, line in enumerate(_lines(stream, path), 1):
                if not line.strip():
                    continue
                try:
                    row = parse_json(line, f"{path} line {at}")
                except RecordError:
                    if not line.endswith("\n"):
                        return
                    raise
                if not isinstance(row, dict):
                    raise RecordError(f"{path} line {at}: expected a JSON object, found {type(row).__name__}; write one object a line")
                yield row
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: expected JSON lines in UTF-8, found {_short(error)}; write it again") from None


def _check_size(path: Path, limit: int | None) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(f"{path}: is not a regular file; name a file")
    if limit is not None and status.st_size > limit:
        raise RecordError(f"{path}: has {status.st_size} bytes, at most {limit} are read; make it smaller")


def _lines(stream: Any, path: Path) -> Iterator[str]:
    """Yield lines, refusing one that would fill the memory."""
    while line := stream.readline(MAX_FIELD):
        if len(line) >= MAX_FIELD:
            raise RecordError(f"{path}: has a line of more than {MAX_FIELD} characters; break it up")
        yield line


def _short(error: Exception) -> str:
    return one_line(" ".join(str(error).split()) or type(error).__name__, 120)
