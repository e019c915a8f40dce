"""Run folders: a training without a tracker, told by the files its trainer left in its folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside.documents import MAX_ROWS, Row, csv_rows, json_rows, load_json, load_yaml
from weightspace.zoo.metrics import COUNTERS, History, number_in_text, step_of
from weightspace.zoo.runs.places import Place
from weightspace.zoo.runs.run import Run, Value, plain_values, seed_of

SETTINGS = (
    "hparams.yaml",
    "hparams.json",
    "args.json",
    "args.yaml",
    "training_args.json",
    "train_config.json",
    "params.json",
    ".hydra/config.yaml",
    "config.yaml",
    "config.yml",
    "config.json",
)
_MODEL_CONFIG = frozenset({"model_type", "architectures", "transformers_version", "_class_name"})  # describes a network, not its training
_TRAINER_KEYS = ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps")


def read_run_folder(place: Place) -> Run | None:
    """Read what is known of a run from its folder, once for all its checkpoints; None when the place shows no run.

    Settings come from hparams.yaml, args.json, config.yaml and the like, the first that says a thing; metrics from the log
    of the latest trainer_state.json, or a metrics.csv or metrics.jsonl with steps. Where several trainings share a
    folder, only files named after the run's stem count. Never fails: what is damaged becomes a note.
    """
    if place.run is None:
        return None
    is_own = place.run == place.folder
    stem = "" if is_own else place.run.name
    settings: dict[str, Value] = {}
    history, notes = History(), []
    for name in SETTINGS if is_own else (f"{stem}.yaml", f"{stem}.yml", f"{stem}.json"):
        try:
            said = _settings(place.folder / name)
        except RecordError as error:
            notes.append(_note(error, place.folder))
            continue
        settings = {**plain_values(said), **settings}
    for log in _logs(place.folder) if is_own else ():
        try:
            if _read_log(log, history, settings):
                break
        except RecordError as error:
            notes.append(_note(error, place.folder))
    seed = seed_of(settings)
    return Run(
        key=f"folder:{place.run.absolute()}",
        name=place.run.absolute().name,
        source="folder",
        seed=seed if seed is not None else place.seed,
        hyperparameters=settings,
        metrics=history.metrics(),
        notes=(*notes, *history.notes()),
    )


def _settings(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    said = load_json(path) if path.suffix == ".json" else load_yaml(path)
    return said if isinstance(said, dict) and _MODEL_CONFIG.isdisjoint(said) else {}


def _logs(folder: Path) -> list[Path]:
    """Where a run's history may stand, the most complete first: the last checkpoint's trainer state holds all before it."""
    states = []
    try:
        for entry in os.scandir(folder):
            tail = entry.name.removeprefix("checkpoint-")
            if tail != entry.name and tail.isdigit() and len(tail) < 16:
                states.append((int(tail), Path(entry.path) / "trainer_state.json"))
    except OSError:
        pass  # the folder went away: a run without a history
    latest = [path for _, path in sorted(states, reverse=True)[:8]]
    return [folder / "trainer_state.json", *latest, folder / "metrics.csv", folder / "metrics.jsonl", folder / "progress.csv"]


def _read_log(path: Path, history: History, settings: dict[str, Value]) -> bool:
    """Feed a log into the history; false when there is none."""
    if not path.is_file():
        return False
    if path.name == "trainer_state.json":
        said = load_json(path)
        if not isinstance(said, dict) or not isinstance(said.get("log_history"), list):
            return False
        settings.update({key: value for key, value in plain_values({k: said.get(k) for k in _TRAINER_KEYS}).items() if key not in settings})
        log = [row for row in said["log_history"][:MAX_ROWS] if isinstance(row, dict)]
        rows: list[Row] = [{("train_loss" if key == "loss" else key): value for key, value in row.items()} for row in log]
    else:
        rows = list(csv_rows(path) if path.suffix == ".csv" else json_rows(path))
        # A table of checkpoints is not the log of one run.
        if not any(step_of(row) is not None for row in rows) or any(
            key.lower() in ("file", "path", "checkpoint", "model") for key in rows[0]
        ):
            return False
    for row in rows:
        step = step_of(row)
        for key, value in row.items():
            read = number_in_text(value)
            if read is not None and key not in COUNTERS:
                history.add(key, read, step)
    return bool(rows)


def _note(error: RecordError, folder: Path) -> str:
    return one_line(str(error).replace(f"{folder}/", "", 1), 300)
