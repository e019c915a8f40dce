"""Weights & Biases: the folders that its offline (and online) runs leave, `wandb/offline-run-*/`."""

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside.documents import load_json, load_yaml, parse_json
from weightspace.zoo.metrics import History, flat, number_in_text, whole
from weightspace.zoo.readers import tracker_reader
from weightspace.zoo.readers.wandb_log import MAGIC, fields, records
from weightspace.zoo.runs.run import MAX_VALUES, Run, plain_values, seed_of, utc, utc_text

_HISTORY, _SUMMARY, _CONFIG, _STATS, _ARTIFACT, _RUN, _EXIT, _ENVIRONMENT = 2, 3, 5, 7, 8, 17, 18, 26
_OWN_ARTIFACTS = frozenset({"wandb-history", "wandb-events", "job", "code", "run_table"})
MAX_ARTIFACTS = 10_000


def _logs(source: str) -> Iterator[Path]:
    """The log itself, those of a run's folder, of a `wandb` folder or of one that holds such a folder."""
    if "://" in source:
        return
    path = Path(source)
    if path.is_file():
        if path.suffix == ".wandb":
            yield path
        return
    for place in (path, path / "wandb"):
        yield from sorted(place.glob("run-*.wandb"))
        for folder in sorted(place.glob("*run-*")):
            if folder.is_dir() and not folder.is_symlink():  # latest-run is a link to one of the others
                yield from sorted(folder.glob("run-*.wandb"))


def sniff(source: str) -> bool:
    """A run's log or folder, or a folder of such."""
    try:
        log = next(_logs(source), None)
        if log is None or not log.is_file():
            return False
        with log.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


@tracker_reader("wandb", sniff=sniff)
def read(source: str) -> Iterator[Run]:
    """Yield the runs in the order of their folders' names, which is by start; a damaged log gives what stands before the damage."""
    found = False
    for log in _logs(source):
        found = True
        yield _Log(log).run()
    if not found:
        raise RecordError(f"{source}: no run-*.wandb there; name a 'wandb' folder or one of its run folders")


class _Log:
    """What accumulates while the log of one run is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = History()
        self.config: dict[str, Any] = {}
        self.summary: dict[str, object] = {}
        self.logged: set[str] = set()
        self.tags: dict[str, str] = {}
        self.artifacts: dict[str, None] = {}
        self.notes: list[str] = []
        self.run_id = path.stem.removeprefix("run-")
        self.name = ""
        self.started: datetime | None = None
        self.last: datetime | None = None
        self.exit_code: int | None = None

    def run(self) -> Run:
        """Read the log and tell the run."""
        try:
            for record in records(self.path):
                for number, value in fields(record):
                    if isinstance(value, bytes):
                        self._take(number, value)
        except (RecordError, OSError) as error:
            self.notes.append(one_line(str(error), 300))
        self._files_beside()
        for key, last in self.summary.items():
            if key not in self.logged:
                self.history.add(key, last, None)
        settings = plain_values({key: value for key, value in self.config.items() if key != "_wandb"})
        status = None if self.exit_code is None else "failed" if self.exit_code else "finished"
        if self.exit_code is None:
            self.notes.append("the log has no end: the run was killed or is still running")
        return Run(
            key=f"wandb:{self.tags.get('project', '')}/{self.run_id}",
            name=self.name or self.run_id,
            source="wandb",
            seed=seed_of(settings),
            hyperparameters=settings,
            tags=self.tags,
            status=status,
            started=self.started,
            ended=self.last if self.exit_code is not None else None,
            metrics=self.history.metrics(),
            artifacts=tuple(self.artifacts),
            notes=(*self.notes, *self.history.notes()),
        )

    def _take(self, kind: int, message: bytes) -> None:
        if kind == _HISTORY:
            self._take_history(message)
        elif kind == _STATS:
            time = next((_time(stamp) for number, stamp in fields(message) if number == 2 and isinstance(stamp, bytes)), None)
            for key, value in _items(message, item=3):
                self.history.add(f"system.{key}", value, None, time)
        elif kind == _SUMMARY:
            for key, value in _items(message, item=1):
                if not key.startswith("_") and len(self.summary) < MAX_VALUES:
                    self.summary.update(flat({key: value}))
        elif kind == _CONFIG:
            self.config.update(_items(message, item=1))
        elif kind == _RUN:
            self._take_run(message)
        elif kind == _EXIT:
            self.exit_code = next((code for number, code in fields(message) if number == 1 and isinstance(code, int)), 0)
        elif kind == _ENVIRONMENT:
            said = _texts(message)
            self.tags.update({name: said[number] for name, number in (("program", 6), ("root", 11)) if number in said})
        elif kind == _ARTIFACT and len(self.artifacts) < MAX_ARTIFACTS:
            self._take_artifact(message)

    def _take_history(self, message: bytes) -> None:
        row = dict(_items(message, item=1))
        counter = next((value for number, value in fields(message) if number == 2 and isinstance(value, bytes)), None)
        step = whole(row.get("_step"))
        if counter is not None and step is None:
            step = next((value for number, value in fields(counter) if number == 1 and isinstance(value, int)), 0)
        time = utc(row.get("_timestamp"))
        self.last = max(filter(None, (self.last, time)), default=None)
        for key, value in flat({key: value for key, value in row.items() if not key.startswith("_")}):
            if len(self.logged) < MAX_VALUES:
                self.logged.add(key)
            self.history.add(key, value, step, time)

    def _take_run(self, message: bytes) -> None:
        said = _texts(message)
        self.run_id, self.name = said.get(1, self.run_id), said.get(8, self.name)
        names = ((2, "entity"), (3, "project"), (6, "group"), (7, "job_type"), (9, "notes"), (12, "sweep"), (13, "host"))
        self.tags.update({name: said[number] for number, name in names if said.get(number)})
        labels = [value.decode("utf-8", "replace") for number, value in fields(message) if number == 10 and isinstance(value, bytes)]
        if labels:
            self.tags["tags"] = ", ".join(labels)
        for number, value in fields(message):
            if number == 4 and isinstance(value, bytes):
                self.config.update(_items(value, item=1))
            elif number == 17 and isinstance(value, bytes):
                self.started = self.last = _time(value)

    def _take_artifact(self, message: bytes) -> None:
        if _texts(message).get(3) in _OWN_ARTIFACTS:
            return
        manifests = (value for number, value in fields(message) if number == 12 and isinstance(value, bytes))
        for manifest in manifests:
            for number, entry in fields(manifest):
                if number == 4 and isinstance(entry, bytes) and len(self.artifacts) < MAX_ARTIFACTS:
                    said = _texts(entry)
                    self.artifacts.update(dict.fromkeys(said[at] for at in (1, 6) if said.get(at)))

    def _files_beside(self) -> None:
        """Fill gaps from files/config.yaml, wandb-summary.json and wandb-metadata.json, which online runs have."""
        folder = self.path.parent / "files"
        for name, use in (
            ("config.yaml", self._use_config),
            ("wandb-summary.json", self._use_summary),
            ("wandb-metadata.json", self._use_metadata),
        ):
            path = folder / name
            if not os.path.lexists(path):
                continue
            try:
                said = load_yaml(path) if path.suffix == ".yaml" else load_json(path)
            except RecordError as error:
                self.notes.append(one_line(str(error), 300))
                continue
            if isinstance(said, dict):
                use(said)

    def _use_config(self, said: Mapping[str, Any]) -> None:
        unwrapped = {key: value["value"] if isinstance(value, dict) and "value" in value else value for key, value in said.items()}
        self.config = {**unwrapped, **self.config}

    def _use_summary(self, said: Mapping[str, Any]) -> None:
        self.summary = {**dict(flat({key: value for key, value in said.items() if not str(key).startswith("_")})), **self.summary}

    def _use_metadata(self, said: Mapping[str, Any]) -> None:
        self.started = self.started or utc_text(said.get("startedAt"))
        self.tags = {**{key: said[key] for key in ("program", "root", "host") if isinstance(said.get(key), str)}, **self.tags}


def _items(message: bytes, item: int) -> Iterator[tuple[str, Any]]:
    """Yield key and JSON value of repeated items; a nested key is joined with dots."""
    for number, entry in fields(message):
        if number != item or not isinstance(entry, bytes):
            continue
        keys, value = [], None
        for at, part in fields(entry):
            if isinstance(part, bytes) and at in (1, 2):
                keys.append(part.decode("utf-8", "replace"))
            elif isinstance(part, bytes) and at == 16:
                value = parse_json(part, "a logged value")
        if keys:
            yield ".".join(keys), value


def _texts(message: bytes) -> dict[int, str]:
    """Text fields by number, the last of each; what is no text comes out as noise that nobody asks for."""
    return {
        number: value.decode("utf-8", "replace") for number, value in fields(message) if isinstance(value, bytes) and len(value) < 1 << 16
    }


def _time(message: bytes) -> datetime | None:
    """Read a protobuf Timestamp."""
    parts = {number: value for number, value in fields(message) if isinstance(value, int)}
    seconds = number_in_text(parts.get(1))
    return utc(seconds + parts.get(2, 0) / 1e9) if seconds is not None else None
