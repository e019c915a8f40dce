"""A merge on its way to the disk: tensors into files, what is said of them beside, then the name."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from weightspace import identity
from weightspace.adapters import save_adapter
from weightspace.analysis.merging.execute import Run, torch_dtype
from weightspace.analysis.merging.health import Measured, Measuring
from weightspace.analysis.merging.plan import Plan, Step
from weightspace.analysis.merging.prepare import (
    Models,
    folder_of,
)
from weightspace.analysis.merging.read_ahead import ReadAhead, reading_ahead
from weightspace.analysis.merging.recipe import Source
from weightspace.analysis.merging.report import CARD, MANIFEST, RECIPE, Report, card, config, json_text, manifest, recipe_text, versions
from weightspace.analysis.merging.tokenizer import config_changes
from weightspace.analysis.merging.tokenizer_files import tokenizer_files
from weightspace.analysis.merging.undo import UNDO, keep_parents
from weightspace.analysis.merging.write import Open, Shard, Writer, fresh_folder, shards
from weightspace.checkpoint import Checkpoint, checkpoint_of
from weightspace.opening import open as open_anything
from weightspace.provenance import stated
from weightspace.storage import FileSpan
from weightspace.symmetry import Symmetry

SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
COMPANIONS = {"generation_config.json", "preprocessor_config.json", "processor_config.json"}
"""Files of a model's folder that are copied as they are."""


@dataclass(frozen=True)
class Progress:
    """How far a merge has come: tensors, and bytes of the result."""

    done: int
    found: int
    bytes_done: int
    bytes_found: int


@dataclass(frozen=True)
class Prepared:
    """A recipe with its models opened and its plan made: all that can be known before any tensor is read."""

    models: Models
    plan: Plan


@dataclass(frozen=True)
class Making:
    """A result on its way to the disk.

    Attributes:
        prepared: what it is made of.
        run: that makes it.
        moved: what aligned its models.
        result: what was made already, in memory; None where tensors are made one after another.
        target: the file or folder that is to appear.
    """

    prepared: Prepared
    run: Run
    moved: Mapping[Source, Symmetry]
    result: Checkpoint | None
    target: Path

    @property
    def plan(self) -> Plan:
        """Of the merge."""
        return self.run.plan

    @property
    def is_file(self) -> bool:
        """Whether a lone file is wanted."""
        return self.target.suffix == SUFFIX

    def shards(self, limit: int) -> list[Shard]:
        """The files of the result."""
        infos, name = [step.info for step in self.plan.steps], self.target.name if self.is_file else None
        cut = shards(infos, self.plan.aliases, {"format": "pt"}, None if self.is_file else limit, name)
        unknown = ["0" * 64] * len(_taken(self.prepared, self.run))  # until all is read
        return cut if len(cut) > 1 else [replace(cut[0], metadata={"format": "pt", **stated(description(self.plan), unknown)})]

    def read_of(self, step: Step) -> list[FileSpan]:
        """What of a step's parts lies in files as it is."""
        storages = (self.run.models[part.source].storages[part.name] for part in step.all_parts)
        return [one for one in storages if isinstance(one, FileSpan)]

    def pieces(self, step: Step, measuring: Measuring) -> Iterator[Tensor]:
        """Make a tensor, or take it from what was made."""
        if self.result is None or step.is_copy:
            yield from self.run.pieces(step, measuring)
            return
        tensor = self.result[step.name].to(torch_dtype(step.dtype))
        measuring.add(tensor.float(), [self.run.models[part.source][part.name].float() for part in step.all_parts])
        yield tensor

    @property
    def fingerprint(self) -> str:
        """Of everything that the bytes depend on."""
        moved = {str(source): Checkpoint.of(element.tensors()).id for source, element in self.moved.items()}
        told = {f"{source} {place}": _id(found) for (source, place), found in self.run.evidence.items()}
        mended = "" if self.result is None else self.result.id
        parents = {name: _stamp(checkpoint) for name, checkpoint in self.prepared.models.parents.items()}
        said = [self.plan.recipe.to_json(), sorted(parents.items()), versions(), str(self.run.device), moved, told, mended]
        said.append([str(source) for source in self.plan.sources])  # not all that the recipe names, where it selects
        return str(blake3(json.dumps(said, sort_keys=True).encode()).hexdigest())

    @property
    def parents(self) -> dict[str, str]:
        """Ids of what went in, by what the recipe calls it."""
        return parents_of(self.prepared, self.run)


def _stamp(checkpoint: Checkpoint) -> list[str]:
    """What changes when a model does: of its files, or its id where it is in memory."""
    files = [(file, file.stat()) for file in checkpoint.files]
    return [f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}" for file, status in files] or [checkpoint.id]


def _id(tensors: Mapping[str, Tensor]) -> str:
    """Of the content of tensors in a file, or in memory."""
    return checkpoint_of(tensors).id


def description(plan: Plan) -> dict[str, Any]:
    """What the result says of how it was made."""
    return {"kind": "merge", **plan.recipe.to_dict()}


def _taken(prepared: Prepared, run: Run) -> dict[str, Checkpoint]:
    """What went in, by what the recipe calls it: all that was opened, but for what selection left out."""
    left = set(prepared.plan.sources) - set(run.plan.sources)
    stay = {name for source in prepared.models.ready if source not in left for name in (str(source), source.model, *source.adapters)}
    gone = {name for source in left for name in (str(source), source.model, *source.adapters)} - stay
    return {name: checkpoint for name, checkpoint in prepared.models.parents.items() if name not in gone}


def parents_of(prepared: Prepared, run: Run) -> dict[str, str]:
    """Ids of what went in; what was read to its end on the way is not read again."""
    return {name: checkpoint.remember(run.digests).id for name, checkpoint in _taken(prepared, run).items()}


def written(making: Making, jobs: int, shard_bytes: int, force: bool, progress: Callable[[Progress], None] | None) -> Checkpoint:
    """Make the tensors into their files, then put what is said of them beside, then give the whole its name."""
    plan, target = making.plan, making.target
    cut = making.shards(shard_bytes)
    telling = _Telling(progress, len(plan.steps), plan.num_bytes)
    kept: dict[str, dict[str, Any]] = {}
    with Writer(target, cut, making.fingerprint) as writer, reading_ahead(_spans(making, cut)) as ahead:
        for shard in cut:
            found = writer.done(shard)
            if found is None:
                with writer.writing(shard) as opened:
                    found = dict(_put(making, opened, jobs, telling, ahead))
                writer.close(shard, found)
            else:
                telling.add(len(found), sum(shard.info[name].nbytes for name in found))
            kept |= found
        report = _report(making, kept)
        if len(cut) == 1:
            writer.restate(cut[0], stated(description(plan), tuple(report.parents.values())))
        if making.is_file:
            writer.beside({f"{target.stem}.{MANIFEST}": manifest(plan, report), f"{target.stem}.md": card(plan, report)})
        else:
            writer.beside(_beside(making, report, cut))
        if plan.recipe.keep != "none":
            ready = {str(source): checkpoint for source, checkpoint in making.prepared.models.adapted.items()}
            keep_parents(open_anything(writer.folder / (cut[0].name if len(cut) == 1 else INDEX)), plan.recipe, ready, writer.folder / UNDO)
        writer.finish(force)
    return open_anything(target)


def adapter_written(making: Making, force: bool) -> Checkpoint:
    """Write an adapter's folder, with the manifest and the card."""
    adapter, target = making.result, making.target
    assert adapter is not None
    hashes = {name: digest.hex() for name, digest in adapter.tensor_hashes.items()}
    said = adapter.metadata["extraction"]
    kept = [f"'{name}': rank {one['rank']} keeps {one['energy']:.1%} of the change" for name, one in said["kept"].items()]
    left = [f"'{name}' changed by {norm:.3g} and is not in the adapter" for name, norm in said["left_out"].items()]
    report = Report(adapter.id, making.parents, {}, hashes, (*making.plan.notes, *kept, *left))
    with fresh_folder(target, force) as folder:
        save_adapter(adapter, folder, stated(description(making.plan), tuple(making.parents.values())))
        for name, text in (
            (MANIFEST, manifest(making.plan, report)),
            (CARD, card(making.plan, report)),
            (RECIPE, recipe_text(making.plan.recipe)),
        ):
            (folder / name).write_text(text, "utf-8")
    return open_anything(target)


def _put(making: Making, opened: Open, jobs: int, telling: "_Telling", ahead: ReadAhead) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make and write the tensors of one file, several at a time; yields what is to be kept of each, in the order of the file."""
    steps = {step.name: step for step in making.plan.steps}

    def make(name: str) -> dict[str, Any]:
        measuring = Measuring()
        digest = opened.put(name, making.pieces(steps[name], measuring))
        return {"blake3": digest.hex(), **asdict(measuring.found)}

    with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {name: pool.submit(make, name) for name in opened.shard.offsets}
        try:
            for name, future in futures.items():
                while not wait([future], timeout=0.5).done:
                    pass  # a signal may reach another thread: it is acted on when this one wakes
                yield name, future.result()
                telling.add(1, steps[name].info.nbytes)
                ahead.reached(sum(one.nbytes for one in making.read_of(steps[name])))
        except BaseException:
            making.run.ended.set()
            pool.shutdown(cancel_futures=True)
            raise


def _spans(making: Making, cut: Sequence[Shard]) -> list[FileSpan]:
    """What will be read, in order."""
    steps = {step.name: step for step in making.plan.steps}
    return [span for shard in cut for name in shard.offsets for span in making.read_of(steps[name])]


def _report(making: Making, kept: Mapping[str, Mapping[str, Any]]) -> Report:
    plan = making.plan
    hashes = {step.name: str(kept[step.name]["blake3"]) for step in plan.steps}
    rows = [(step.name, step.dtype, step.shape, bytes.fromhex(hashes[step.name])) for step in plan.steps]
    rows += [(name, *next(row[1:] for row in rows if row[0] == owner)) for name, owner in plan.aliases.items()]
    measured = {name: Measured.read(kept[name]) for name in hashes}
    return Report(identity.model_id(rows).hex(), making.parents, measured, hashes, plan.notes)


def _beside(making: Making, report: Report, cut: Sequence[Shard]) -> dict[str, str | bytes]:
    """The further files of a model's folder, by name."""
    plan = making.plan
    made: dict[str, str | bytes] = {MANIFEST: manifest(plan, report), CARD: card(plan, report), RECIPE: recipe_text(plan.recipe)}
    models = making.prepared.models
    first = plan.recipe.base_model or plan.sources[0]
    lead, folder = models.stored[first], folder_of(models.stored[first])
    made |= tokenizer_files(models.common, models.folders, origin=str(first), chat_template=plan.recipe.chat_template)
    if folder is not None:
        made |= {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name in COMPANIONS and path.is_file()}

    def moved(said: Mapping[str, Any]) -> dict[str, Any]:
        return config_changes(models.common, said, models.vocabularies[first]) if models.common and first in models.vocabularies else {}

    said = config(plan, lead, moved(lead.metadata.get("config", {})))
    if said is not None:
        made["config.json"] = json_text(said)
    if "generation_config.json" in made and (changed := moved(lead.metadata["generation_config"])):
        made["generation_config.json"] = json_text({**lead.metadata["generation_config"], **changed})
    if len(cut) > 1:
        names = {name: shard.name for shard in cut for name in shard.info}
        provenance = stated(description(plan), tuple(report.parents.values()))
        made[INDEX] = json_text({"metadata": {"total_size": plan.num_bytes, **provenance}, "weight_map": dict(sorted(names.items()))})
    return made


class _Telling:
    """Adds up how far the work has come."""

    def __init__(self, tell: Callable[[Progress], None] | None, found: int, num_bytes: int) -> None:
        self._tell, self._so_far = tell, Progress(0, found, 0, num_bytes)

    def add(self, tensors: int, num_bytes: int) -> None:
        """Say that so much more is done."""
        so_far = self._so_far
        self._so_far = replace(so_far, done=so_far.done + tensors, bytes_done=so_far.bytes_done + num_bytes)
        if self._tell is not None:
            self._tell(self._so_far)
