"""Tables: metrics that people keep themselves, as CSV or JSON lines."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside.documents import Row, csv_rows, json_rows
from weightspace.zoo.metrics import COUNTERS, History, flat, number_in_text, step_of
from weightspace.zoo.readers import tracker_reader
from weightspace.zoo.runs.run import Run, Value, plain_value, seed_of, utc, utc_text

MAX_RUNS = 100_000
MAX_TABLE = 64 << 20  # the runs may stand in any order, so that all points are held at once
RUN_COLUMNS = ("run", "run_id", "run_name")
TIME_COLUMNS = ("time", "timestamp", "_timestamp")
FILE_COLUMNS = ("file", "path", "checkpoint")
_PARAMETER = ("param.", "params.", "config.", "hyperparameters.")


def _is(source: str, *suffixes: str) -> bool:
    path = Path(source)
    return "://" not in source and path.suffix.lower() in suffixes and path.is_file()


@tracker_reader("csv", sniff=lambda source: _is(source, ".csv"))
def read_csv(source: str) -> Iterator[Run]:
    """Yield the runs of a CSV file.

    Columns: `run` (or run_id, run_name; without it the file is one run, named like the file), `step` or `epoch`, `time`
    (ISO, or seconds since 1970), `seed`, `file` (or path, checkpoint: an artifact). Every other column is a metric where it
    holds numbers, its split taken off the front (`test_accuracy`); text, and columns that begin with `config.`,
    `param.` or `params.`, are hyperparameters. With columns `metric` and `value` a row is one point.
    """
    yield from _runs(csv_rows(Path(source), limit=MAX_TABLE), Path(source), "csv")


@tracker_reader("jsonl", sniff=lambda source: _is(source, ".jsonl", ".ndjson"))
def read_jsonl(source: str) -> Iterator[Run]:
    """Yield the runs of a JSON-lines file: the keys of each object are as the columns of a CSV file, nested ones joined with dots."""
    yield from _runs((dict(flat(row)) for row in json_rows(Path(source), limit=MAX_TABLE)), Path(source), "jsonl")


class _Gathered:
    """What accumulates about one run."""

    def __init__(self) -> None:
        self.history = History()
        self.settings: dict[str, Value] = {}
        self.artifacts: dict[str, None] = {}
        self.times: list[float] = []


def _runs(rows: Iterable[Row], path: Path, source: str) -> Iterator[Run]:
    gathered: dict[str, _Gathered] = {}
    for row in rows:
        low = {key.lower(): value for key, value in row.items() if value not in ("", None)}
        name = one_line(next((str(low[key]) for key in RUN_COLUMNS if key in low), path.stem), 500)
        if name not in gathered and len(gathered) >= MAX_RUNS:
            raise RecordError(f"{path}: has more than {MAX_RUNS} runs; split the file")
        _take(low, gathered.setdefault(name, _Gathered()))
    if not gathered:
        raise RecordError(f"{path}: has no rows; write a header line and a row a step")
    for name, one in gathered.items():
        yield Run(
            key=f"{source}:{path.absolute()}#{name}",
            name=name,
            source=source,
            seed=seed_of(one.settings),
            hyperparameters=one.settings,
            started=utc(min(one.times, default=None)),
            ended=utc(max(one.times, default=None)),
            metrics=one.history.metrics(),
            artifacts=tuple(one.artifacts),
            notes=one.history.notes(),
        )


def _take(row: Row, run: _Gathered) -> None:
    step = step_of(row)
    said = next((row[key] for key in TIME_COLUMNS if key in row), None)
    time = utc_text(said) or utc(number_in_text(said))
    if time:
        run.times = [min([time.timestamp(), *run.times]), max([time.timestamp(), *run.times])]
    is_point = "metric" in row and "value" in row
    for key, value in row.items():
        if key in COUNTERS or key in RUN_COLUMNS or key in TIME_COLUMNS or (is_point and key in ("metric", "value")):
            continue
        prefix = next((one for one in _PARAMETER if key.startswith(one)), "")
        read = number_in_text(value)
        if key in FILE_COLUMNS and isinstance(value, str):
            run.artifacts[value] = None
        elif prefix or key == "seed" or isinstance(value, bool) or (isinstance(value, str) and read is None and not _is_not_finite(value)):
            plain = plain_value(value)
            if plain is not None:
                run.settings[key.removeprefix(prefix)] = plain
        else:
            run.history.add(key, float("nan") if isinstance(value, str) and read is None else value if read is None else read, step, time)
    if is_point:
        run.history.add(str(row["metric"]), number_in_text(row["value"]), step, time)


def _is_not_finite(text: str) -> bool:
    return text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
