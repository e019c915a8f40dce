"""The Small CNN Zoo: a matrix with a network in every row, and tables of what its columns and rows are (arXiv:2002.11448)."""

import gzip
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.dtypes import dtype
from weightspace.errors import FormatError, RecordError, one_line
from weightspace.formats.numpy import SINGLE, open_npy
from weightspace.storage import FileSpan, Storage, Strided
from weightspace.zoo.beside.documents import csv_rows
from weightspace.zoo.metrics import Metric, number, split_name, whole
from weightspace.zoo.readers.model_zoos import Found, Network, Training, folders_below, zoo_reader
from weightspace.zoo.readers.split_files import digest
from weightspace.zoo.runs.run import Run, Value, plain_value

MAX_METRICS = 1 << 30  # bytes of the unpacked table; 270,000 rows are about 80 MB
SPLIT_SEED = 0
_WEIGHTS, _LAYOUT, _METRICS = "weights.npy", "layout.csv", "metrics.csv.gz"
_SHAPE = re.compile(r"[(\[]?\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)?\s*,?\s*[)\]]?")


def sniff(source: Path) -> bool:
    """A folder, or one above such folders, with weights.npy and one of the tables that belong to it."""
    return bool(_datasets(source))


def _datasets(source: Path) -> list[Path]:
    if not source.is_dir():
        return []
    return [
        one for one in folders_below(source, 1) if (one / _WEIGHTS).is_file() and ((one / _LAYOUT).is_file() or (one / _METRICS).is_file())
    ]


@zoo_reader("small-cnn-zoo", sniff=sniff)
def read(source: Path) -> Found:
    """Yield a training for every `modeldir`, with its checkpoints in order, each a row that is read when it is asked for.

    Kernels are turned from TensorFlow's order (height, width, in, out) to torch's (out, in, height, width), and layers named
    `conv2d.weight`. With a file of shuffled row numbers (`*split.csv` there or `<folder>_split.csv` beside the folder) runs get
    the split that nfn introduced: of the final rows in that order the last half is test, and of the others, shuffled by
    `random.Random(0)`, four fifths train.
    """
    found = _datasets(source)
    if not found:
        raise RecordError(f"{source}: no {_WEIGHTS} with {_LAYOUT} and {_METRICS} there; name the folder of a dataset")
    for folder in found:
        try:
            yield from _dataset(folder)
        except (RecordError, FormatError) as error:
            yield f"{error}; nothing of {folder.name} was read after that"


def _dataset(folder: Path) -> Found:
    matrix = _matrix(folder / _WEIGHTS)
    slots = _layout(folder / _LAYOUT, matrix)
    table = _Table(folder / _METRICS)
    if table.rows != matrix.rows:
        raise RecordError(
            f"{folder}: {_WEIGHTS} has {matrix.rows} rows and {_METRICS} {table.rows}, so that they cannot be told apart; copy or download both again"
        )
    splits: dict[int, str] = {}
    tags = {"dataset": folder.name}
    file = _split_file(folder)
    if file is None:
        yield f"{folder}: no file of shuffled row numbers ({folder.name}_split.csv); its runs have no split"
    else:
        try:
            splits = _splits(file, table)
            tags |= {"split_file": file.name, "split_hash": digest(file), "split_seed": str(SPLIT_SEED)}
        except RecordError as error:
            yield f"{error}; its runs have no split"
    for name, rows in table.runs():
        yield _training(folder, name, rows, table, matrix, slots, next((splits[row] for row in rows if row in splits), None), tags)
    if table.nameless:
        yield f"{folder / _METRICS}: {table.nameless} rows have no modeldir or no step, first row {table.first_nameless}; they were left out"


@dataclass(frozen=True)
class _Matrix:
    """Where rows lie."""

    path: Path
    span: FileSpan
    dtype: str
    rows: int
    columns: int

    def row(self, number: int) -> FileSpan:
        size = self.columns * self.itemsize
        return FileSpan(self.span.file, self.span.offset + number * size, size)

    @property
    def itemsize(self) -> int:
        return int(dtype(self.dtype).bits) // 8


def _matrix(path: Path) -> _Matrix:
    array = open_npy(path)
    if SINGLE not in array.info:
        raise RecordError(f"{path}: expected a matrix of numbers; save weights row by row")
    info, span = array.info[SINGLE], array.storages[SINGLE]
    if len(info.shape) != 2 or not isinstance(span, FileSpan) or not dtype(info.dtype).is_float:
        raise RecordError(
            f"{path}: expected a C-ordered little-endian matrix of floats, found {info.dtype} of shape {list(info.shape)}; save it row by row"
        )
    return _Matrix(path, span, info.dtype, *info.shape)


@dataclass(frozen=True)
class _Slot:
    """A tensor among the columns: its torch name and shape, and how to step through it."""

    name: str
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _layout(path: Path, matrix: _Matrix) -> list[_Slot]:
    if not path.is_file():
        raise RecordError(f"{path}: is missing, and nothing else says which columns are which tensor; bring it back")
    slots: list[_Slot] = []
    covered = 0
    for at, row in enumerate(csv_rows(path), 2):
        start, end, said = whole(row.get("start_idx")), whole(row.get("end_idx")), _SHAPE.fullmatch(str(row.get("shape", "")).strip())
        if start is None or end is None or said is None or not row.get("varname"):
            raise RecordError(f"{path} line {at}: expected varname, start_idx, end_idx and shape; download it again")
        shape = tuple(int(n) for n in (said[1] or "").replace(" ", "").split(",") if n)
        if not 0 <= start <= end <= matrix.columns or int(np.prod(shape, dtype=object)) != end - start:
            raise RecordError(
                f"{path} line {at}: '{one_line(row['varname'], 80)}' of shape {list(shape)} does not fit columns {start} to {end} of {matrix.columns}; download it again"
            )
        slots.append(_slot(str(row["varname"]), start, shape))
        covered += end - start
    if covered != matrix.columns or len({slot.name for slot in slots}) != len(slots):
        raise RecordError(
            f"{path}: its {len(slots)} tensors hold {covered} of {matrix.columns} columns, expected each column once; download it again"
        )
    return slots


def _slot(varname: str, start: int, shape: tuple[int, ...]) -> _Slot:
    """Translate a variable: `sequential/conv2d/kernel:0` is `conv2d.weight`, with axes in torch's order."""
    *scope, last = varname.removesuffix(":0").split("/")
    scope = scope[1:] if len(scope) > 1 and scope[0].startswith("sequential") else scope
    stride = tuple(int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape)))
    if last == "kernel" and len(shape) > 1:
        order = (len(shape) - 1, len(shape) - 2, *range(len(shape) - 2))
        shape, stride = tuple(shape[axis] for axis in order), tuple(stride[axis] for axis in order)
    return _Slot(".".join([*scope, {"kernel": "weight"}.get(last, last)]), start, shape, stride)


def _checkpoint(matrix: _Matrix, slots: list[_Slot], number: int) -> Checkpoint:
    """One row as a network; nothing is read yet."""
    row = matrix.row(number)
    info = {slot.name: TensorInfo(slot.name, matrix.dtype, slot.shape) for slot in slots}
    storages: dict[str, Storage] = {slot.name: Strided(row, matrix.itemsize, slot.start, slot.shape, slot.stride) for slot in slots}
    return Checkpoint(info, storages, "npy", path=matrix.path, files=(matrix.path,))


class _Table:
    """The table of rows, in columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns = _columns(path)
        self.rows = len(next(iter(self._columns.values()), ()))
        missing = sorted({"modeldir", "step"} - self._columns.keys())
        if missing:
            raise RecordError(f"{path}: has no column '{missing[0]}', without which rows belong to no run; download it again")
        self._names = self._columns["modeldir"].cast("string").to_pylist()
        self._steps = [whole(step) for step in self._columns["step"].to_pylist()]
        bad = [row for row in range(self.rows) if not self._names[row] or self._steps[row] is None]
        self.nameless, self.first_nameless = len(bad), bad[0] if bad else None
        self._is_bad = set(bad)
        self._measured = [name for name in self._columns if not name.startswith("config.") and name not in ("modeldir", "step")]
        self._settings = [name for name in self._columns if name.startswith("config.")]

    def runs(self) -> Iterator[tuple[str, list[int]]]:
        """Names of runs, in order of first appearance, with their rows by step."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self._names):
            if row not in self._is_bad:
                found.setdefault(name, []).append(row)
        for name, rows in found.items():
            yield name, sorted(rows, key=self.step)

    def step(self, row: int) -> int:
        return self._steps[row] or 0

    def settings(self, row: int) -> dict[str, Value]:
        said = {name.removeprefix("config."): plain_value(self._columns[name][row].as_py()) for name in self._settings}
        return {name: value for name, value in said.items() if value is not None}

    def metrics(self, row: int) -> Iterator[Metric]:
        for name in self._measured:
            value = number(self._columns[name][row].as_py())
            if value is not None:
                bare, split = split_name(name)
                yield Metric(bare, value, split, self.step(row))

    def final(self) -> npt.NDArray[np.bool_]:
        """Which rows are of the last step."""
        steps = [self.step(row) for row in range(self.rows)]
        return np.asarray(np.equal(steps, max(steps, default=0)))


def _columns(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecordError(f"{path}: is missing, and nothing else says which rows are which run; bring it back")
    import pyarrow as pa
    from pyarrow import csv

    try:
        with gzip.open(path) as packed:
            raw = packed.read(MAX_METRICS + 1)
        if len(raw) > MAX_METRICS:
            raise RecordError(f"{path}: unpacks to more than {MAX_METRICS} bytes, which no such table has; download it again")
        table = csv.read_csv(pa.BufferReader(raw)).combine_chunks()
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise RecordError(f"{path}: expected a packed CSV table, found {one_line(str(error), 160)}; download it again") from None
    return dict(zip(table.column_names, table.columns, strict=True))


def _split_file(folder: Path) -> Path | None:
    inside = sorted(folder.glob("*split.csv"))
    beside = folder.parent / f"{folder.name}_split.csv"
    return inside[0] if inside else beside if beside.is_file() else None


def _splits(file: Path, table: _Table) -> dict[int, str]:
    """The split of every final row, by its number."""
    try:
        order = [int(line) for line in file.read_text("utf-8").split()]
    except ValueError as error:
        raise RecordError(f"{file}: expected a row number a line, found {one_line(str(error), 120)}; download it again") from None
    if any(not 0 <= row < table.rows for row in order) or len(set(order)) != len(order):
        raise RecordError(f"{file}: its row numbers do not fit {table.rows} rows, each once; take the file of this dataset")
    final = table.final()
    rows = [row for row in order if final[row]]
    half = int(0.5 * len(rows))
    others = list(range(half))
    random.Random(SPLIT_SEED).shuffle(others)
    train = int(0.8 * half)
    made = {rows[at]: "train" if place < train else "val" for place, at in enumerate(others)}
    return made | {row: "test" for row in rows[half:]}


def _training(
    folder: Path, name: str, rows: list[int], table: _Table, matrix: _Matrix, slots: list[_Slot], split: str | None, tags: dict[str, str]
) -> Training:
    settings = table.settings(rows[0])
    short = name.rstrip("/").rpartition("/")[2] or name
    run = Run(
        key=f"small-cnn-zoo:{folder}#{one_line(name, 500)}",
        name=f"{folder.name}/{one_line(short, 200)}",
        source="small-cnn-zoo",
        seed=whole(settings.get("random_seed")),
        hyperparameters=settings,
        tags=tags,
        metrics=tuple(metric for row in rows for metric in table.metrics(row)),
        split=split,
    )
    networks = tuple(Network(_checkpoint(matrix, slots, row), table.step(row), f"{folder.name}/{row:06d}") for row in rows)
    return Training(run, networks)
