"""Matching: which catalogued checkpoints belong to which imported runs, by path, then step, then time; never by a guess."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from weightspace.zoo.runs.run import Run

SLACK = timedelta(seconds=60)  # a last checkpoint may be written while its run is being closed
_FOLDER_KEYS = frozenset(
    "output_dir out_dir outdir save_dir savedir checkpoint_dir ckpt_dir checkpoints_dir checkpoint_path ckpt_path log_dir logdir logging_dir "
    "work_dir workdir run_dir dirpath default_root_dir model_dir exp_dir experiment_dir save_path output_path".split()
)
_COMMON_NAMES = frozenset("model models run runs test train checkpoint checkpoints weights output outputs data default".split())


@dataclass(frozen=True)
class File:
    """A catalogued checkpoint, as far as matching needs it.

    Attributes:
        path: absolute.
        modified: UTC.
        step: step or epoch, when its name says so.
        run: key of the folder run it belongs to, when its place says so.
    """

    path: Path
    modified: datetime
    step: int | None = None
    run: str | None = None


@dataclass(frozen=True)
class Match:
    """A checkpoint that belongs to an imported run.

    Attributes:
        run: the run's key.
        file: the checkpoint.
        step: the file's step.
        evidence: why, in one phrase.
    """

    run: str
    file: File
    step: int | None
    evidence: str


def match_runs(runs: Iterable[Run], files: Sequence[File]) -> list[Match]:
    """Match each checkpoint to one run at most.

    In this order, and only where exactly one run is left:

    1. the run names the file as an artifact, or its artifact folder holds it;
    2. a hyperparameter such as `output_dir` names a folder above the file (the deepest wins);
    3. a folder above the file, or the file itself, has the run's name or native id;
    4. several runs are left by 2 or 3: those that logged the file's step, then those that ran when the file was written;
    5. nothing named it: it was written while exactly one run was running, and that run, if it logged steps, came to the file's step.

    A name or relative path that fits folders in several places means none of them. Files of one folder run go together: they follow what 1 to 4 found for one of them, and 5 counts for them only when
    it finds the same run for all.
    """
    index = _Index([_Candidate.of(run) for run in runs])
    claims = [index.named(file) for file in files]
    bases: dict[tuple[str, tuple[str, ...]], set[tuple[str, ...]]] = {}
    for claim in claims:
        if claim:
            bases.setdefault((claim.how, claim.said), set()).add(claim.base)
    sure: dict[int, tuple[_Candidate, str]] = {}
    timed: dict[int, tuple[_Candidate, str]] = {}
    for number, (file, claim) in enumerate(zip(files, claims, strict=True)):
        if claim and len(bases[claim.how, claim.said]) == 1:
            chosen = _narrow(claim.runs, file)
            if chosen:
                sure[number] = chosen[0], f"{claim.how} '{'/'.join(claim.said).removeprefix('/')}'{chosen[1]}"
            continue
        running = index.running(file.modified)
        if len(running) == 1 and (file.step is None or not running[0].steps or file.step <= max(running[0].steps)):
            timed[number] = running[0], "time: written while no other run was running"
    _follow(files, sure, timed)
    found = {**timed, **sure}
    return [Match(found[number][0].key, files[number], files[number].step, found[number][1]) for number in sorted(found)]


@dataclass(frozen=True)
class _Claim:
    """Runs that name a file: how, by which path or name, and what stands before that in the file's path."""

    runs: "Sequence[_Candidate]"
    how: str
    said: tuple[str, ...]
    base: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What matching needs of a run, so that the points of a thousand runs are not held."""

    key: str
    names: tuple[str, ...]
    artifacts: tuple[PurePath, ...]
    artifact_folders: tuple[PurePath, ...]
    folders: tuple[PurePath, ...]
    steps: frozenset[int]
    started: datetime | None
    ended: datetime | None

    @classmethod
    def of(cls, run: Run) -> "_Candidate":
        paths = [(path, text.endswith("/")) for text in run.artifacts if (path := _local(text))]
        said = (value for key, value in run.hyperparameters.items() if key.rpartition(".")[2].lower() in _FOLDER_KEYS)
        folders = [path for value in said if isinstance(value, str) and (path := _local(value))]
        # One bare word is a name: `out` or `model.pt` alone would fit a folder of every run.
        bare = [path.name for path in folders if len(path.parts) == 1]
        native = re.split("[:/#]", run.key)[-1]
        names = (name for name in (run.name, native, *bare) if _is_telling(name))
        return cls(
            run.key,
            tuple(dict.fromkeys(names)),
            tuple(path for path, is_folder in paths if not is_folder and len(path.parts) > 1),
            tuple(path for path, is_folder in paths if is_folder and len(path.parts) > 1),
            tuple(dict.fromkeys(path for path in folders if len(path.parts) > 1)),
            frozenset(point.step for point in run.metrics if point.step is not None),
            run.started,
            run.ended,
        )

    def ran_at(self, time: datetime) -> bool:
        return self.started is not None and self.started <= time and (self.ended is None or time <= self.ended + SLACK)


def _is_telling(name: str) -> bool:
    """A short number or an everyday word names a folder of every project."""
    return len(name) > (5 if name.isdigit() else 1) and "/" not in name and name.lower() not in _COMMON_NAMES


def _local(text: str) -> PurePath | None:
    """Read a path that a tracker names; None for one on another machine, or one that says nothing (`.`)."""
    if "://" in text or text.startswith("file:"):
        parts = urlsplit(text)
        if parts.scheme != "file":
            return None
        text = unquote(parts.path)
    path = PurePath(text)
    return None if ".." in path.parts or path.parts in ((), ("/",)) or "\0" in text else path


class _Index:
    """Runs by the paths and names they give, so that a file is looked up and not compared with each run."""

    def __init__(self, runs: Sequence[_Candidate]) -> None:
        self._files: dict[tuple[str, ...], list[_Candidate]] = {}
        self._outputs: dict[tuple[str, ...], list[_Candidate]] = {}
        self._folders: dict[tuple[str, ...], list[_Candidate]] = {}
        self._names: dict[str, list[_Candidate]] = {}
        for run in runs:
            for table, paths in ((self._files, run.artifacts), (self._outputs, run.artifact_folders), (self._folders, run.folders)):
                for path in paths:
                    table.setdefault(path.parts, []).append(run)
            for name in run.names:
                self._names.setdefault(name, []).append(run)
        self._lengths = {id(table): sorted({len(parts) for parts in table}) for table in (self._files, self._outputs, self._folders)}
        timed = [(run.started, run) for run in runs if run.started is not None and run.ended is not None]
        self._by_start = sorted(timed, key=lambda one: one[0])
        self._starts = [start for start, _ in self._by_start]

    def named(self, file: File) -> _Claim | None:
        """Find the runs that name a file most closely, and how."""
        parts = file.path.parts
        above = [parts[:end] for end in range(len(parts), 0, -1)]  # a checkpoint may be a folder: its own path counts
        for table, how, places in (
            (self._files, "artifact", [parts]),
            (self._outputs, "artifact folder", above),
            (self._folders, "output folder", above),
        ):
            for place in places:
                said = self._ending(table, place)
                if said:
                    return _Claim(table[said], how, said, place[: -len(said)])
        for at in range(len(parts) - 1, 0, -1):
            part = file.path.stem if at == len(parts) - 1 and parts[at] not in self._names else parts[at]
            if part in self._names:
                return _Claim(self._names[part], "name", (part,), parts[:at])
        return None

    def _ending(self, table: dict[tuple[str, ...], list[_Candidate]], place: tuple[str, ...]) -> tuple[str, ...]:
        """The longest path in a table that is this place, or a relative one with which it ends."""
        ends = (place[-length:] for length in reversed(self._lengths[id(table)]) if length <= len(place))
        return next((end for end in ends if end in table), ())

    def running(self, time: datetime) -> list[_Candidate]:
        """Runs with a known start and end that were running at a time."""
        return [run for _, run in self._by_start[: bisect_right(self._starts, time)] if run.ran_at(time)]


def _narrow(candidates: Sequence[_Candidate], file: File) -> tuple[_Candidate, str] | None:
    left = list(dict.fromkeys(candidates))
    if len(left) == 1:
        return left[0], ""
    by_step = [run for run in left if file.step in run.steps] if file.step is not None else []
    if len(by_step) == 1:
        return by_step[0], f", step {file.step}"
    by_time = [run for run in by_step or left if run.ran_at(file.modified)]
    return (by_time[0], ", time") if len(by_time) == 1 else None


def _follow(files: Sequence[File], sure: dict[int, tuple[_Candidate, str]], timed: dict[int, tuple[_Candidate, str]]) -> None:
    """Let the files of one folder run go together, in place."""
    groups: dict[str, list[int]] = {}
    for number, file in enumerate(files):
        if file.run is not None:
            groups.setdefault(file.run, []).append(number)
    for numbers in groups.values():
        leaders = {sure[number][0] for number in numbers if number in sure}
        by_time = {timed[number][0] for number in numbers if number in timed}
        if len(leaders) == 1:
            leader = leaders.pop()
            for number in numbers:
                sure.setdefault(number, (leader, "run: beside checkpoints of this run"))
        elif len(by_time) != 1 or leaders or not all(number in timed for number in numbers):
            for number in numbers:
                timed.pop(number, None)
