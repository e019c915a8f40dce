"""MLflow's file store: a tree of small files, `mlruns/<experiment>/<run>/{meta.yaml,metrics,params,tags}`."""

import os
from collections.abc import Iterator
from pathlib import Path

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside.documents import load_yaml, read_text
from weightspace.zoo.metrics import History, number_in_text, whole
from weightspace.zoo.readers import tracker_reader
from weightspace.zoo.readers.mlflow_values import make_run, milliseconds
from weightspace.zoo.runs.run import MAX_VALUES, Run

MAX_LINE = 4096
MAX_LEVELS = 8  # a metric named a/b/c lies in folders a/b


def sniff(source: str) -> bool:
    """A folder `mlruns`, or one that holds it, with an experiment's meta.yaml in it."""
    return "://" not in source and next(_experiments(Path(source)), None) is not None


def _experiments(root: Path) -> Iterator[Path]:
    for place in (root / "mlruns", root):
        found = False
        for folder in _folders(place):
            if (folder / "meta.yaml").is_file() and not (folder / "metrics").is_dir():
                found = True
                yield folder
        if found:
            return


@tracker_reader("mlflow-files", sniff=sniff)
def read(source: str) -> Iterator[Run]:
    """Yield the runs of all experiments, deleted ones left out; a damaged run comes with a note and what could be read."""
    for experiment in _experiments(Path(source)):
        try:
            meta = load_yaml(experiment / "meta.yaml")
        except RecordError:
            meta = None
        name = meta.get("name") if isinstance(meta, dict) else None
        for folder in _folders(experiment):
            if (folder / "meta.yaml").is_file():
                run = _run(folder, str(name or experiment.name))
                if run is not None:
                    yield run


def _run(folder: Path, experiment: str) -> Run | None:
    notes: list[str] = []
    try:
        meta = load_yaml(folder / "meta.yaml")
    except RecordError as error:
        notes.append(one_line(str(error), 300))
        meta = {}
    if not isinstance(meta, dict) or meta.get("lifecycle_stage") == "deleted":
        return None
    history = History()
    for key, path in _files(folder / "metrics"):
        try:
            _points(path, key, history)
        except OSError as error:
            notes.append(f"metric {one_line(key, 80)}: cannot be read ({error.strerror})")
    return make_run(
        str(meta.get("run_id") or folder.name),
        {**{key: meta.get(key) for key in ("run_name", "status", "start_time", "end_time", "artifact_uri")}, "experiment": experiment},
        _texts(folder / "params", notes),
        _texts(folder / "tags", notes),
        history,
        tuple(notes),
    )


def _points(path: Path, key: str, history: History) -> None:
    """Read lines of `milliseconds value step`, the last of which may be half written."""
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE):
            words = line.decode("utf-8", "replace").split()
            if len(words) >= 2:
                value = number_in_text(words[1])
                step = whole(words[2]) if len(words) > 2 else 0
                history.add(key, float("nan") if value is None else value, step, milliseconds(number_in_text(words[0])))


def _texts(folder: Path, notes: list[str]) -> dict[str, str]:
    """Read a folder of one small text file a key."""
    said: dict[str, str] = {}
    for key, path in _files(folder):
        try:
            said[key] = read_text(path, 1 << 16)
        except RecordError as error:
            notes.append(one_line(str(error), 300))
    return said


def _files(folder: Path, prefix: str = "", levels: int = MAX_LEVELS) -> Iterator[tuple[str, Path]]:
    """Yield key and path of the regular files in a folder and below, sorted; links are not followed."""
    for entry in _entries(folder)[:MAX_VALUES]:
        if entry.is_file(follow_symlinks=False):
            yield f"{prefix}{entry.name}", Path(entry.path)
        elif levels and entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/", levels - 1)


def _folders(folder: Path) -> list[Path]:
    return [Path(one.path) for one in _entries(folder) if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        return sorted(os.scandir(folder), key=lambda one: one.name)
    except (OSError, ValueError):
        return []
