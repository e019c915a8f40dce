"""The model zoos of HSG: trial folders of ray.tune with a line of JSON an epoch, and `checkpoint_<epoch>/checkpoints` (arXiv:2209.14764)."""

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.errors import RecordError
from weightspace.zoo.beside.documents import json_rows, load_json
from weightspace.zoo.metrics import History, flat, number, split_name, whole
from weightspace.zoo.readers.model_zoos import Found, Network, Training, zoo_reader
from weightspace.zoo.runs.run import Run, plain_values, seed_of

SPLIT_SEED, TRAIN, VAL = 42, 0.7, 0.15
MAX_RESULTS = 1 << 28  # bytes of one result.json: every line repeats the whole configuration
_CHECKPOINT = re.compile(r"checkpoint_(\d{1,12})")
_UNSET = -999  # what the trainer writes for the training metrics of the first, untrained epoch
_RULE = f"70/15/15 of the sorted trial folders, shuffled with seed {SPLIT_SEED}"


def sniff(source: Path) -> bool:
    """Folders with a result.json and a `checkpoint_*/checkpoints`."""
    return source.is_dir() and any((one / "result.json").is_file() and _networks(one) for one in _folders(source))


@zoo_reader("hsg", sniff=sniff)
def read(source: Path) -> Found:
    """Yield a training for every trial folder, split 70/15/15 by trial.

    The zoos' own loader shuffles the folders in whatever order the file system lists them; here they are sorted first. `dataset.pt` is
    a pickle of a class of theirs and is not read: everything in it lies in the trial folders.
    """
    trials = [one for one in _folders(source) if (one / "result.json").is_file() or _networks(one)]
    if not trials:
        raise RecordError(
            f"{source}: no trial folders with result.json and checkpoint_<epoch>/checkpoints; unpack a zoo's raw archive, not dataset.pt"
        )
    splits = _splits(trials)
    tags = {"zoo": source.name, "split_rule": _RULE}
    layers = _layers(source / "index_dict.json")
    for trial in trials:
        yield _training(trial, splits[trial], tags | layers)


def _folders(source: Path) -> list[Path]:
    return sorted(one for one in source.iterdir() if one.is_dir() and not one.is_symlink() and not one.name.startswith("."))


def _splits(trials: list[Path]) -> dict[Path, str]:
    shuffled = list(trials)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    train, val = int(TRAIN * len(shuffled)), int(VAL * len(shuffled))
    names = ["train"] * train + ["val"] * val + ["test"] * (len(shuffled) - train - val)
    return dict(zip(shuffled, names, strict=True))


def _layers(path: Path) -> dict[str, str]:
    """The zoo's own list of layers, as text."""
    try:
        said = load_json(path) if path.is_file() else {}
    except RecordError:
        return {}
    return {"layers": str(said["layer"])} if isinstance(said, dict) and "layer" in said else {}


def _networks(trial: Path) -> tuple[Network, ...]:
    """Checkpoints by epoch; where an epoch is written with and without zeros in front, the longer name counts."""
    found: dict[int, Path] = {}
    for folder in sorted(trial.iterdir(), key=lambda one: (len(one.name), one.name)):
        epoch = _CHECKPOINT.fullmatch(folder.name)
        if epoch and (folder / "checkpoints").is_file():
            found[int(epoch[1])] = folder / "checkpoints"
    return tuple(Network(path, step) for step, path in sorted(found.items()))


def _training(trial: Path, split: str, tags: dict[str, str]) -> Training:
    notes: list[str] = []
    history, config = History(), _config(trial, notes)
    try:
        for row in json_rows(trial / "result.json", limit=MAX_RESULTS):
            said = row.get("config")
            config = config or (said if isinstance(said, dict) else {})
            step = whole(row.get("training_iteration"))
            for key, value in flat({name: one for name, one in row.items() if name not in ("config", "training_iteration")}):
                if split_name(key)[1] and number(value) != _UNSET:
                    history.add(key, value, step)
    except RecordError as error:
        notes.append(str(error))
    settings = plain_values(config)
    run = Run(
        key=f"hsg:{trial}",
        name=trial.name,
        source="hsg",
        seed=seed_of(settings),
        hyperparameters=settings,
        tags=tags,
        metrics=history.metrics(),
        notes=(*notes, *history.notes()),
        split=split,
    )
    return Training(run, _networks(trial))


def _config(trial: Path, notes: list[str]) -> Mapping[str, Any]:
    """The trial's own settings; every line of its results repeats them where there is no params.json."""
    path = trial / "params.json"
    try:
        said = load_json(path) if path.is_file() else {}
    except RecordError as error:
        notes.append(str(error))
        return {}
    return said if isinstance(said, dict) else {}
