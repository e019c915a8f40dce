"""Split files: JSON that gives train, val and test their paths, with a label or score beside each path."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from blake3 import blake3

from weightspace.errors import RecordError
from weightspace.zoo.beside.documents import load_json

MAX_SPLIT_FILE = 1 << 28  # 60,000 absolute paths are about 8 MB
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Listed:
    """One line of a split file.

    Attributes:
        said: the path as the file has it.
        path: where that lies here; None when it is nowhere below the root.
        split: train, val or test.
        values: what the other columns say of it: `label`, `score`, `step`.
    """

    said: str
    path: Path | None
    split: str
    values: Mapping[str, Any] = field(default_factory=dict)


def is_split_file(path: Path, *, column: str | None = None) -> bool:
    """Whether a JSON file gives paths by split; with `column`, whether it has that beside them."""
    if path.suffix != ".json" or "split" not in path.stem or not path.is_file():
        return False
    try:
        tables = _tables(path)
    except RecordError:
        return False
    return any(bool(paths) and (column is None or column in others) for _, paths, others in tables)


def split_files(source: Path, *, column: str | None = None) -> list[Path]:
    """The split files that a path names: itself, or those that lie in it."""
    candidates = sorted(source.glob("*split*.json")) if source.is_dir() else [source]
    return [one for one in candidates if is_split_file(one, column=column)]


def listed(file: Path, root: Path) -> Iterator[Listed]:
    """Yield what a split file names, its paths looked for below a root, whatever machine they were written on.

    Raises:
        RecordError: it is not one, or a column is not as long as the paths.
    """
    rebase = _Rebase(root)
    for split, paths, others in _tables(file):
        for name, values in others.items():
            if len(values) != len(paths):
                raise RecordError(f"{file}: split '{split}' has {len(paths)} paths and {len(values)} of '{name}'; write it again")
        for at, said in enumerate(paths):
            if not isinstance(said, str):
                raise RecordError(f"{file}: split '{split}' has {type(said).__name__} among its paths, expected text; write it again")
            yield Listed(said, rebase(said), split, {name: values[at] for name, values in others.items()})


def digest(file: Path) -> str:
    """The first digits of a split file's BLAKE3, so that a split can be told from another of the same name."""
    return blake3(file.read_bytes()).hexdigest()[:16]


def _tables(file: Path) -> list[tuple[str, list[Any], dict[str, list[Any]]]]:
    """Split, paths and other columns; a bare list is one of paths."""
    said = load_json(file, MAX_SPLIT_FILE)
    found = []
    for split, table in said.items() if isinstance(said, dict) else ():
        columns = {"path": table} if isinstance(table, list) else table
        if split not in _SPLITS or not isinstance(columns, dict) or not isinstance(columns.get("path"), list):
            continue
        found.append((_SPLITS[split], columns["path"], {k: v for k, v in columns.items() if k != "path" and isinstance(v, list)}))
    if not found:
        raise RecordError(f'{file}: expected a JSON object {{"train": {{"path": [...]}}}}, found none; write one')
    return found


class _Rebase:
    """Looks for files below a root by ever shorter ends of the paths that were written elsewhere."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._dropped = 0  # leading parts that the last path lost: the next is likely to lose as many

    def __call__(self, said: str) -> Path | None:
        parts = PurePosixPath(said.replace("\\", "/")).parts
        if ".." in parts or "\0" in said:
            return None
        for dropped in (self._dropped, *range(len(parts))):
            here = self._root.joinpath(*parts[dropped:]) if dropped < len(parts) and parts[dropped] != "/" else None
            if here is not None and here.is_file():
                self._dropped = dropped
                return here
        there = Path(said)
        return there if there.is_absolute() and there.is_file() else None
