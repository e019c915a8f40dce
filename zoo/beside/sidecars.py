"""Sidecars: what the small files beside a checkpoint say about it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside import licences
from weightspace.zoo.beside.cards import ModelCard, read_card
from weightspace.zoo.beside.documents import MAX_ROWS, Row, csv_rows, load_json, read_text
from weightspace.zoo.metrics import COUNTERS, MAX_NAME, Metric, flat, metrics_of, number_in_text, split_name, step_of, whole
from weightspace.zoo.runs.places import EPOCH, MAIN_STEMS, STEP, WEIGHT_SUFFIXES, Place, stem_of

T = TypeVar("T")
Value = str | int | float | bool

RESULT_FILES = ("metrics.json", "all_results.json", "eval_results.json", "test_results.json", "train_results.json", "metrics.csv")
COMPANIONS = frozenset(
    "generation_config.json tokenizer.json tokenizer_config.json tokenizer.model vocab.json vocab.txt merges.txt special_tokens_map.json "
    "added_tokens.json preprocessor_config.json processor_config.json chat_template.jinja spiece.model".split()
)
_TRAINER = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|random_states)")
_FILE_COLUMNS = ("file", "path", "checkpoint", "model", "name", "filename")
_QUALITY = re.compile(
    r"(?:^|[_/.@ -])(loss|acc|accuracy|err|error|f1|auc|auroc|psnr|ssim|bleu|rouge\w*|perplexity|ppl|mse|mae|rmse|nll|bpc|bpb|fid|r2|score|m?iou|m?ap"
    r"|precision|recall|wer|cer|reward|return|top-?_?[15])(?:$|[_/.@ -])",
    re.IGNORECASE,
)
_RESULT_BRANCH = re.compile(r"(metrics|results|scores)\.", re.IGNORECASE)
MAX_FACTS = 1000


@dataclass(frozen=True)
class TrainerState:
    """What a Hugging Face trainer_state.json says.

    Attributes:
        global_step, epoch, best_metric, best_checkpoint: as in the file.
        rows: rows in its log.
        history: losses and results of all rows with their steps; those of `global_step` are also in `Sidecars.metrics`.
    """

    global_step: int | None = None
    epoch: float | None = None
    best_metric: float | None = None
    best_checkpoint: str | None = None
    rows: int = 0
    history: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Sidecars:
    """What lies beside one checkpoint.

    Attributes:
        config: config.json; adapter_config: adapter_config.json.
        companions: names of the tokenizer and generation files.
        trainer_state, card: when there are such files.
        licence: the card's, else that of a licence file.
        metrics: what was measured about this checkpoint.
        hyperparameters: the other plain values of a `<stem>.json`, nested keys joined with dots.
        files: names of the files that all this came from.
        notes: what was damaged or could not be told, a line each.
    """

    config: Mapping[str, Any] | None = None
    adapter_config: Mapping[str, Any] | None = None
    companions: tuple[str, ...] = ()
    trainer_state: TrainerState | None = None
    card: ModelCard | None = None
    licence: str | None = None
    metrics: tuple[Metric, ...] = ()
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """What the files of one folder say, read once for all checkpoints in it; made by `folder_sidecars`.

    Attributes:
        directory: the folder.
        names: its entries.
        bare: what holds for every checkpoint in it.
        whole: the same with the metrics that belong to the folder's one model.
        by_file: rows that name a file: the file's base name or stem, then the parts of its path and the metrics.
        by_step: rows without a file, by unit and step.
        only: the stem of the folder's checkpoint when it has only one.
        above: the folder above, whose tables may name files down here.
    """

    directory: Path
    names: frozenset[str]
    bare: Sidecars
    whole: Sidecars
    by_file: Mapping[str, Sequence[tuple[tuple[str, ...], tuple[Metric, ...]]]]
    by_step: Mapping[tuple[str, int], Sequence[Metric]]
    only: str | None = None
    above: "Folder | None" = None


def read_sidecars(checkpoint: Path, place: Place | None = None) -> Sidecars:
    """Read what lies beside one checkpoint file, or inside a checkpoint folder; the short form for a single one."""
    directory = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return for_checkpoint(folder_sidecars(directory, [one.name for one in directory.iterdir()]), checkpoint, place)


def folder_sidecars(directory: Path, names: Iterable[str], above: Folder | None = None) -> Folder:
    """Read the shared sidecars of a folder once. Never fails: what is damaged becomes a note.

    Metrics that name no checkpoint (`metrics.json`, model-index results and the like) are taken for the folder's model
    when it has only one: one stem, formats and shards apart, or a file with a name such as `model.safetensors`.
    """
    known = frozenset(names)
    low = {name.lower(): name for name in sorted(known, reverse=True)}
    reader = _Reader(directory, known)
    config, adapter = reader.mapping("config.json"), reader.mapping("adapter_config.json")
    state = reader.get("trainer_state.json", lambda path: _trainer_state(load_json(path)))
    card = reader.get(low.get("readme.md", ""), read_card)
    licence = card.licence if card else None
    for candidate in licences.FILE_NAMES if licence is None else ():
        licence = licence or reader.get(low.get(candidate, ""), lambda path: licences.guess_licence(read_text(path)[: licences.HEAD]))
    tables = _Tables(known)
    for name in RESULT_FILES:
        reader.get(name, tables.add_csv if name.endswith(".csv") else tables.add_json)
    bare = Sidecars(
        config,
        adapter,
        tuple(sorted(known & COMPANIONS)),
        state,
        card,
        licence,
        files=tuple(reader.read),
        notes=tuple(reader.notes),
    )
    now = tuple(one for one in state.history if one.step == state.global_step) if state else ()
    metrics = _distinct((*tables.whole, *now, *(card.metrics if card else ())))
    # Asked only where it matters: the names of 20,000 checkpoints without shared metrics are not gone through.
    only = _only_stem(known) if metrics else None
    return Folder(directory, known, bare, replace(bare, metrics=metrics), tables.by_file, tables.by_step, only, above)


def for_checkpoint(folder: Folder, checkpoint: Path, place: Place | None = None) -> Sidecars:
    """Tell what a folder's files say about one checkpoint in it, or about the folder itself when that is the checkpoint.

    Rows of a table belong to the file they name (by base name, stem, or the end of its path), else to the checkpoint
    whose place in its run has their step.
    """
    name = "" if checkpoint == folder.directory else checkpoint.name
    stem = stem_of(name)
    shared = folder.whole if not name or stem in MAIN_STEMS or stem == folder.only else folder.bare
    own = _own_file(folder, name, stem)
    rows: tuple[Metric, ...] = ()
    table: Folder | None = folder
    while table is not None:
        if table.by_file:
            rows += _rows_of(table, checkpoint, folder.directory, stem)
        table = table.above
    if place is not None and place.step is not None and folder.by_step:
        rows += tuple(folder.by_step.get((place.unit, place.step), ()))
    if not own and not rows:
        unclaimed = shared is folder.bare and folder.whole.metrics
        return replace(shared, notes=(*shared.notes, _UNCLAIMED)) if unclaimed else shared
    read = _Reader(folder.directory, folder.names)
    facts = read.get(own, lambda path: _facts(load_json(path))) if own else None
    metrics, hyperparameters = facts or ((), {})
    return replace(
        shared,
        metrics=_distinct((*metrics, *rows, *shared.metrics)),
        hyperparameters=hyperparameters,
        files=(*shared.files, *read.read),
        notes=(*shared.notes, *read.notes),
    )


_UNCLAIMED = "metrics beside several checkpoints name none of them and were left out; add a column 'file', or '<name>.json' for each"


def _only_stem(names: Iterable[str]) -> str | None:
    stems = {stem_of(name) for name in names if PurePath(name).suffix.lower() in WEIGHT_SUFFIXES and not _TRAINER.match(name)}
    return stems.pop() if len(stems) == 1 else None


def _own_file(folder: Folder, name: str, stem: str) -> str | None:
    own = f"{stem}.json"
    if own not in folder.names:
        own = f"{name}.json"
        if own not in folder.names:
            return None
    return own if name and own not in _SHARED else None


_SHARED = frozenset({"config.json", "adapter_config.json", "trainer_state.json", *RESULT_FILES, *COMPANIONS})


def _rows_of(table: Folder, checkpoint: Path, folder: Path, stem: str) -> tuple[Metric, ...]:
    """Find the rows of a table that mean a checkpoint by a path that ends like its own."""
    keys = [(checkpoint.name, checkpoint.parent.parts), (stem or checkpoint.name, checkpoint.parent.parts)]
    if stem in MAIN_STEMS and folder != table.directory:
        keys.append((folder.name, folder.parent.parts))  # a row `seed0` means seed0/model.pt
    found: list[Metric] = []
    for key, above in dict.fromkeys(keys):
        for parts, metrics in table.by_file.get(key, ()):
            # A bare name means what lies beside the table; a path from another machine still ends alike.
            is_beside = not parts and above == table.directory.parts
            is_end = parts and (parts == above[-len(parts) :] or (parts[-1] == above[-1] and PurePath(*parts).is_absolute()))
            if is_beside or is_end:
                found += metrics
    return tuple(found)


class _Reader:
    """Reads files of one folder; whatever goes wrong becomes a note."""

    def __init__(self, directory: Path, names: frozenset[str]) -> None:
        self._directory, self._names = directory, names
        self.read: list[str] = []
        self.notes: list[str] = []

    def get(self, name: str, read: Callable[[Path], T]) -> T | None:
        if not name or name not in self._names:
            return None
        try:
            made = read(self._directory / name)
        except RecordError as error:
            self.notes.append(one_line(str(error).replace(f"{self._directory}/", "", 1), 300))
            return None
        self.read.append(name)
        return made

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        return self.get(name, lambda path: _mapping(load_json(path), path))


def _mapping(value: object, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RecordError(f"{path}: expected a JSON object, found {type(value).__name__}; write one")
    return value


class _Tables:
    """Metrics of result files, sorted by whom they name."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._stems: frozenset[str] | None = None
        self.by_file: dict[str, list[tuple[tuple[str, ...], tuple[Metric, ...]]]] = {}
        self.by_step: dict[tuple[str, int], list[Metric]] = {}
        self.whole: tuple[Metric, ...] = ()

    def add_json(self, path: Path) -> None:
        said = load_json(path)
        if isinstance(said, list):
            self._add_rows([row for row in said[:MAX_ROWS] if isinstance(row, dict)])
            return
        rest = dict(_mapping(said, path))
        for key in [key for key, value in rest.items() if isinstance(value, dict) and self._names_file(key)]:
            row = rest.pop(key)
            self._add_file(key, metrics_of(row))
        self.whole += metrics_of(rest)

    def add_csv(self, path: Path) -> None:
        rows: list[Row] = []
        for row in csv_rows(path):
            if len(rows) == MAX_ROWS:
                raise RecordError(f"{path}: has more than {MAX_ROWS} rows; split it by folder")
            rows.append(row)
        self._add_rows(rows)

    def _add_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            low = {key.lower(): value for key, value in row.items()}
            step = step_of(low)
            if "value" in low and ("metric" in low or "name" in low):
                metric = str(low.pop("metric") if "metric" in low else low.pop("name"))
                low[metric] = low.pop("value")
            file = next((low[key] for key in _FILE_COLUMNS if isinstance(low.get(key), str) and low[key].strip()), None)
            numbers = {key: number_in_text(value) for key, value in low.items()}
            metrics = tuple(_metric(key, value, step) for key, value in numbers.items() if value is not None and key not in COUNTERS)
            if file is not None:
                self._add_file(file.strip(), metrics)
            elif step is not None:
                epoch, finer = whole(low.get("epoch")), step_of({**low, "epoch": None})
                for unit, at in ((EPOCH, epoch), (STEP, finer)):
                    if at is not None:
                        self.by_step.setdefault((unit, at), []).extend(metrics)
            elif len(rows) == 1:
                self.whole += metrics

    def _add_file(self, file: str, metrics: tuple[Metric, ...]) -> None:
        path = PurePath(file.replace("\\", "/"))
        parts = tuple(part for part in path.parts[:-1] if part != "..")
        self.by_file.setdefault(path.name, []).append((parts, metrics))

    def _names_file(self, key: str) -> bool:
        if self._stems is None:
            self._stems = frozenset(stem_of(name) for name in self._names if PurePath(name).suffix.lower() in WEIGHT_SUFFIXES)
        name = PurePath(key).name
        return name in self._stems or PurePath(name).suffix.lower() in WEIGHT_SUFFIXES


def _metric(key: str, value: float, step: int | None) -> Metric:
    name, split = split_name(one_line(key, MAX_NAME))
    return Metric(name, value, split, step)


def _trainer_state(said: object) -> TrainerState:
    if not isinstance(said, dict):
        raise RecordError(f"trainer_state.json: expected a JSON object, found {type(said).__name__}; write one")
    log = said.get("log_history")
    rows = [row for row in log[:MAX_ROWS] if isinstance(row, dict)] if isinstance(log, list) else []
    history: list[Metric] = []
    for row in rows:
        kept = {("train_loss" if key == "loss" else key): value for key, value in row.items() if key == "loss" or split_name(key)[1]}
        history += metrics_of(kept, whole(row.get("step")))
    best = said.get("best_model_checkpoint")
    return TrainerState(
        global_step=whole(said.get("global_step")),
        epoch=number_in_text(said.get("epoch")),
        best_metric=number_in_text(said.get("best_metric")),
        best_checkpoint=best if isinstance(best, str) else None,
        rows=len(rows),
        history=tuple(history),
    )


def _facts(said: object) -> tuple[tuple[Metric, ...], dict[str, Value]]:
    """Tell the metrics of a `<stem>.json` from its other values: by a branch `metrics`, `results` or `scores`, or by a name for quality."""
    if not isinstance(said, dict):
        return (), {}
    step = step_of(said)
    metrics: list[Metric] = []
    others: dict[str, Value] = {}
    for key, value in flat(said):
        branch = _RESULT_BRANCH.match(key)
        read = number_in_text(value) if not isinstance(value, str) else None
        if read is not None and (branch or _QUALITY.search(key)):
            metrics.append(_metric(key[branch.end() :] if branch else key, read, step))
        elif isinstance(value, str | int | float) and len(others) < MAX_FACTS and not branch:
            others[key] = one_line(value, 500) if isinstance(value, str) else value
    return tuple(metrics), others


def _distinct(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """Keep the first of those that tell the same thing: all_results.json repeats what eval_results.json says."""
    kept: dict[tuple[str, str | None, int | None], Metric] = {}
    for one in metrics:
        kept.setdefault((one.name, one.split, one.step), one)
    return tuple(kept.values())
