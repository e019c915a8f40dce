"""CNN Wild Park: a split file with accuracies, and checkpoints of ray.tune that hold their architecture's settings beside the weights."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from weightspace.errors import FormatError, RecordError
from weightspace.formats import open_checkpoint
from weightspace.zoo.metrics import Metric, number, whole
from weightspace.zoo.readers.model_zoos import Found, Network, Training, zoo_reader
from weightspace.zoo.readers.split_files import Listed, digest, listed, split_files
from weightspace.zoo.runs.run import Run, Value, plain_values, seed_of

_STEP = re.compile(r"checkpoint_(\d{1,12})")


def sniff(source: Path) -> bool:
    """A split file that scores its paths, such as cnn_park_splits.json."""
    return bool(split_files(source, column="score"))


@zoo_reader("cnn-wild-park", sniff=sniff)
def read(source: Path) -> Found:
    """Yield a training for every run folder of the split file, with its epochs; a run stands in one split, or in none.

    Settings (`residual`, `activation`, widths, ...) come from the last checkpoint's `config`.
    """
    root = source if source.is_dir() else source.parent
    files = split_files(source, column="score")
    if not files:
        raise RecordError(f"{source}: no split file with paths and scores; name cnn_park_splits.json or its folder")
    for file in files:
        yield from _of_file(file, root)


def _of_file(file: Path, root: Path) -> Found:
    runs: dict[PurePosixPath, list[Listed]] = {}
    absent: list[str] = []
    for one in listed(file, root):
        if one.path is None:
            absent.append(one.said)
        runs.setdefault(PurePosixPath(one.said).parent.parent, []).append(one)
    if absent:
        yield f"{file.name} names {len(absent)} files that are not below {root}, first '{absent[0]}'"
    tags = {"split_file": file.name, "split_hash": digest(file)}
    for said, lines in runs.items():
        folder = next((one.path.parent.parent for one in lines if one.path is not None), Path(said))
        yield _training(folder, lines, tags)


def _training(folder: Path, lines: list[Listed], tags: dict[str, str]) -> Training:
    networks: dict[Path, Network] = {}
    metrics: list[Metric] = []
    for one in lines:
        step, score = _step(one), number(one.values.get("score"))
        if one.path is not None:
            networks[one.path] = Network(one.path, step)
        if score is not None:
            metrics.append(Metric("acc", score, "test", step))
    ordered = sorted(networks.values(), key=lambda one: (one.step is None, one.step or 0))
    settings, notes = _settings(ordered)
    splits = sorted({one.split for one in lines})
    if len(splits) > 1:
        notes.append(f"its checkpoints stand in the splits {' and '.join(splits)}; it was given none, since a split by checkpoint leaks")
    run = Run(
        key=f"cnn-wild-park:{folder}",
        name=folder.name,
        source="cnn-wild-park",
        seed=seed_of(settings),
        hyperparameters=settings,
        tags=tags,
        metrics=tuple(metrics),
        notes=tuple(notes),
        split=splits[0] if len(splits) == 1 else None,
    )
    return Training(run, tuple(ordered))


def _step(one: Listed) -> int | None:
    """The step of the split file, where it has one, else that of the checkpoint's folder."""
    said = whole(one.values.get("step"))
    found = _STEP.fullmatch(Path(one.said).parent.name)
    return said if said is not None else int(found[1]) if found else None


def _settings(networks: list[Network]) -> tuple[dict[str, Value], list[str]]:
    """The settings that the last readable checkpoint holds; nothing of it is executed."""
    for network in reversed(networks):
        assert isinstance(network.weights, Path)
        try:
            config: Any = open_checkpoint(network.weights).metadata.get("config")
        except FormatError:
            continue  # the catalog's quarantine will say why
        if isinstance(config, Mapping):
            return plain_values(config), []
        return {}, [f"{network.weights}: has no plain 'config' beside its weights; the run's settings are not known"]
    return {}, []
