"""Places: which training run a checkpoint file belongs to, and at which step, told from where it lies."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

STEP, EPOCH = "step", "epoch"
MAX_LEVELS = 3  # folders between a checkpoint's file and the folder that carries its step: iter_0001000/mp_rank_00/model.pt

WEIGHT_SUFFIXES = frozenset(".safetensors .pt .pth .bin .ckpt .th .h5 .hdf5 .keras .npz .onnx .gguf .msgpack .joblib .pkl".split())
MAIN_STEMS = frozenset(
    "model pytorch_model adapter_model tf_model flax_model consolidated weights checkpoint checkpoints ckpt net state_dict".split()
)
_OTHER_SUFFIXES = frozenset(".png .jpg .jpeg .gif .svg .pdf .json .jsonl .yaml .yml .txt .log .csv .npy .md .py .html .mp4 .wav".split())
_COLLECTIONS = frozenset("checkpoints ckpts ckpt checkpoint weights models snapshots saved_models".split())
_SHARD = re.compile(r"-\d{5}-of-\d{5}$|\.(safetensors|bin|weights)(\.index)?$")
_MARK = re.compile(r"(?<![a-z])(global_?step|step|iteration|iter|update|epoch|ep|checkpoint|ckpt)s?[-_=. ]?(\d{1,12})([km]?)(?![a-z0-9])")
_RANK = {"epoch": 1, "ep": 1, "checkpoint": 2, "ckpt": 2}  # a name with several marks is told by its step first
_FINAL = re.compile(r"(?:^|[-_.])(?:last|best|final|latest)(?:[-_.](?:model|weights|ckpt|checkpoint|v\d+))?$")
_SEED = re.compile(r"(?<![a-z])(?:seed[-_= ]?|s=)(\d{1,18})(?![a-z0-9])")
_RAW = re.compile(r"\d{1,15}")
_MIN_STRIDE = 10  # 0.pt, 1.pt, 2.pt are more often members of a zoo than steps of one training


@dataclass(frozen=True)
class Place:
    """Where a checkpoint stands in a training.

    Attributes:
        run: path that names the run: its folder, or `folder/stem` where trainings share a folder; None when nothing shows one.
        folder: where the run's own files may lie, never outside the root.
        step: None for a run's final or best weights, whose names give no number.
        unit: `step` or `epoch`, what `step` counts.
        evidence: what showed it, in one phrase.
        seed: a seed that the names tell.
    """

    run: Path | None
    folder: Path
    step: int | None
    unit: str
    evidence: str
    seed: int | None = None


@dataclass(frozen=True)
class _Mark:
    prefix: str
    step: int
    unit: str


@dataclass(frozen=True)
class _Shelf:
    """The step-numbered names of one folder: for each prefix its steps, and one of its names."""

    names: frozenset[str]
    series: Mapping[str, frozenset[int]]
    samples: Mapping[str, str]
    are_raw_steps: bool


def place_in_run(path: Path, root: Path) -> Place | None:
    """Tell the place of one checkpoint file or folder below a root; the short form of `Places` for a single one.

    A name with a number is only a step. For a run there must be a second step beside it, or the marks of a known
    trainer: trainer_state.json, Lightning's version folders, DeepSpeed's `latest`, Megatron's iteration file, Ray
    Tune's params.json.

    Example:
        >>> place_in_run(Path("baseline_epoch_9.pt"), Path("nowhere"))
        Place(run=None, folder=PosixPath('.'), step=9, unit='epoch', evidence="the name 'baseline_epoch_9.pt'", seed=None)
    """
    return Places(root).of(path)


def stem_of(name: str) -> str:
    """Strip the suffixes and the shard number of a checkpoint's file name.

    Example:
        >>> stem_of("model-00001-of-00002.safetensors"), stem_of("run.step=3.ckpt"), stem_of("a.weights.h5")
        ('model', 'run.step=3', 'a')
    """
    dot = name.rfind(".")
    stem = name[:dot] if dot > 0 and (name[dot:].lower() in WEIGHT_SUFFIXES or name[dot:] == ".json") else name
    return _SHARD.sub("", stem) if "-of-" in stem or "." in stem else stem


def seed_in(path: Path, root: Path) -> int | None:
    """Read a seed such as `seed0`, `seed_03` or `s=3` from a name or the folders above it, up to the root's own name."""
    for part in (path, *path.parents):
        seed = _seed(part.name)
        if seed is not None or part == root:
            return seed
    return None


def _seed(name: str) -> int | None:
    found = _SEED.search(name.lower())
    return int(found.group(1)) if found else None


class Places:
    """Places of the checkpoints below one root; each folder is listed once.

    Example:
        places = Places(root)
        for path in paths:
            place = places.of(path)
    """

    def __init__(self, root: Path, listing: Callable[[Path], Iterable[str]] = os.listdir) -> None:
        """Remember the root, above which nothing is looked at, and how a folder is listed."""
        self._root, self._listing = root, listing
        self._shelves: dict[Path, _Shelf] = {}
        self._folders: dict[tuple[Path, int], Place | None] = {}
        self._finals: dict[tuple[Path, str], Place | None] = {}
        self._bases: dict[Path, tuple[Path, Path]] = {}
        self._seeds: dict[Path, int | None] = {}

    def of(self, path: Path) -> Place | None:
        """Tell the place of a checkpoint; None when neither its name nor its folders give a step."""
        parent = path.parent
        found = self._of_name(path, parent) or self._of_final(path) or self._of_folder(parent, MAX_LEVELS)
        if found is None:
            return None
        seed = _seed(path.name)
        if seed is None:
            if parent not in self._seeds:
                self._seeds[parent] = seed_in(parent, self._root)
            seed = self._seeds[parent]
        return found if seed is None else replace(found, seed=seed)

    def _of_folder(self, folder: Path, levels: int) -> Place | None:
        """The place that a folder gives to what lies in it."""
        if levels == 0 or not folder.is_relative_to(self._root):
            return None
        key = folder, levels
        if key not in self._folders:
            found = self._of_name(folder, folder.parent)
            if found is None:
                found = self._of_folder(folder.parent, levels - 1)
            elif (above := self._of_folder(folder.parent, 1)) and (above.step, above.unit) == (found.step, found.unit):
                found = above  # checkpoint-500/global_step500
            self._folders[key] = found
        return self._folders[key]

    def _of_name(self, node: Path, parent: Path) -> Place | None:
        mark = _mark(node.name)
        if mark is None:
            if not _RAW.fullmatch(stem_of(node.name)) or not self._shelf(parent).are_raw_steps:
                return None
            return self._place(parent, "", int(stem_of(node.name)), STEP, f"numbered files beside '{node.name}'")
        layout = self._layout(node, parent)
        if layout:
            return self._place(parent, "", mark.step, mark.unit, layout)
        steps = self._shelf(parent).series.get(mark.prefix, frozenset())
        count = len(steps) + (mark.step not in steps)
        if count > 1:
            beside = f"{count} steps beside each other" + (f" named '{mark.prefix}'" if mark.prefix else "")
            return self._place(parent, mark.prefix, mark.step, mark.unit, beside)
        return Place(None, parent, mark.step, mark.unit, f"the name '{node.name}'")

    def _of_final(self, path: Path) -> Place | None:
        """The place of `last.ckpt`, `best.pt` or a trainer's final `model.safetensors` beside numbered checkpoints of one run."""
        stem = stem_of(path.name).lower()
        final = _FINAL.search(stem)
        if not final and stem not in MAIN_STEMS:
            return None
        key = path.parent, _generic(stem[: final.start()] if final else "")
        if key not in self._finals:
            self._finals[key] = self._final(*key)
        return self._finals[key]

    def _final(self, parent: Path, prefix: str) -> Place | None:
        samples = self._shelf(parent).samples
        names = samples.values() if not prefix else [samples[prefix]] if prefix in samples else []
        places = [place for name in names if (place := self._of_name(parent / name, parent)) and place.run]
        if len({place.run for place in places}) != 1:
            return None
        return replace(places[0], step=None, evidence="numbered checkpoints of one run beside it")

    def _place(self, parent: Path, prefix: str, step: int, unit: str, evidence: str) -> Place:
        if parent not in self._bases:
            # The run is named alike whether the user gives the run's folder or one above; only reading stays below the root.
            run = parent.parent if parent.name.lower() in _COLLECTIONS else parent
            self._bases[parent] = run, run if run.is_relative_to(self._root) else parent
        run, folder = self._bases[parent]
        return Place(run / prefix if prefix else run, folder, step, unit, evidence)

    def _layout(self, node: Path, parent: Path) -> str | None:
        """Name the trainer whose layout a numbered file or folder has."""
        name = node.name.lower()
        if parent.name == "checkpoints" and parent != self._root:
            above = parent.parent
            if re.fullmatch(r"version_\d+", above.name) or "hparams.yaml" in self._shelf(above).names:
                return "a Lightning log folder"
        if not name.startswith(("iter_", "checkpoint", "global")):
            return None
        beside = self._shelf(parent).names
        if name.startswith("iter_") and "latest_checkpointed_iteration.txt" in beside:
            return "a Megatron folder"
        if name.startswith("checkpoint_") and not {"params.json", "result.json"}.isdisjoint(beside):
            return "a Ray Tune trial"
        if re.fullmatch(r"global_?step\d+", name) and ("latest" in beside or any("_states" in one for one in self._shelf(node).names)):
            return "a DeepSpeed folder"
        if re.fullmatch(r"checkpoint-\d+", name) and "trainer_state.json" in self._shelf(node).names:
            return "a Hugging Face trainer's folder"
        return None

    def _shelf(self, folder: Path) -> _Shelf:
        """List a folder once; outside the root there is nothing."""
        if folder not in self._shelves:
            names: frozenset[str] = frozenset()
            if folder.is_relative_to(self._root):
                try:
                    names = frozenset(self._listing(folder))
                except OSError:
                    pass  # a file, or gone: it has no names beside each other
            series: dict[str, set[int]] = {}
            samples: dict[str, str] = {}
            raw = set()
            for name in sorted(names):
                mark = _mark(name)
                if mark:
                    series.setdefault(mark.prefix, set()).add(mark.step)
                    samples.setdefault(mark.prefix, name)
                elif _RAW.fullmatch(stem_of(name)):
                    raw.add(int(stem_of(name)))
            steps = raw - {0}
            regular = len(steps) > 1 and math.gcd(*steps) >= _MIN_STRIDE
            self._shelves[folder] = _Shelf(names, {prefix: frozenset(found) for prefix, found in series.items()}, samples, regular)
        return self._shelves[folder]


@lru_cache(maxsize=1 << 16)
def _mark(name: str) -> _Mark | None:
    """Read the step or epoch in a name, and what stands before it."""
    low = name.lower()
    if low[low.rfind(".") :] in _OTHER_SUFFIXES:
        return None
    marks = list(_MARK.finditer(low))
    if not marks:
        return None
    word, digits, thousands = min(marks, key=lambda found: _RANK.get(found.group(1), 0)).groups()
    step = int(digits) * {"": 1, "k": 1000, "m": 1_000_000}[thousands]
    return _Mark(_generic(name[: marks[0].start()]), step, EPOCH if _RANK.get(word) == 1 else STEP)


def _generic(prefix: str) -> str:
    """What tells one series from another in a folder: nothing, for names such as `model_`."""
    bare = prefix.strip("-_.=+ ")
    return "" if bare.lower() in MAIN_STEMS else bare
