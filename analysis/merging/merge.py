"""Merging from a recipe to a file: the one function that opens, checks, aligns, combines, mends and writes."""

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
from weightspace.adapters import extract_adapter, save_adapter
from weightspace.analysis.connectivity import repair_many
from weightspace.analysis.merging.execute import Run, one_thread, torch_dtype
from weightspace.analysis.merging.health import Measured, Measuring
from weightspace.analysis.merging.plan import Plan, Step
from weightspace.analysis.merging.planner import plan
from weightspace.analysis.merging.prepare import (
    Models,
    Opener,
    SpecOf,
    alignment,
    folder_of,
    gather_evidence,
    open_models,
    task_at,
    with_vocabularies,
)
from weightspace.analysis.merging.read_ahead import ReadAhead, reading_ahead
from weightspace.analysis.merging.recipe import Recipe, Source
from weightspace.analysis.merging.report import CARD, MANIFEST, RECIPE, Report, card, config, json_text, manifest, recipe_text, versions
from weightspace.analysis.merging.select import select
from weightspace.analysis.merging.tokenizer import config_changes
from weightspace.analysis.merging.tokenizer_files import tokenizer_files
from weightspace.analysis.merging.undo import UNDO, keep_parents
from weightspace.analysis.merging.write import SHARD_BYTES, Open, Shard, Writer, expect_room, fresh_folder, growing, shards
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError, one_line
from weightspace.opening import open as open_anything
from weightspace.provenance import stated
from weightspace.storage import FileSpan
from weightspace.symmetry import Symmetry, act

SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
FOREIGN = {".bin", ".ckpt", ".gguf", ".h5", ".keras", ".npy", ".npz", ".onnx", ".pkl", ".pt", ".pth", ".tar", ".th", ".zip"}
"""Suffixes of files that are not written; others are of folders, as in `Llama-3.1-8B`."""

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


def prepare(recipe: Path | str | Mapping[str, Any] | Recipe, opener: Opener = open_anything) -> Prepared:
    """Open the models of a recipe and plan its merge.

    Args:
        recipe: a YAML file or its text, plain values, or a `Recipe`.
        opener: opens a model by what the recipe calls it.

    Raises:
        MergeError, FormatError, UnknownNameError: no recipe, a model that is not there, an unknown method or parameter. Everything
            else that is wrong stands in the plan's `problems`.
    """
    read = Recipe.read(recipe)
    models = with_vocabularies(open_models(read, opener), read)
    made = plan(read, models.ready, models.stored)
    return Prepared(models, replace(made, problems=(*models.problems, *made.problems), notes=(*models.notes, *made.notes)))


def prepare_given(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Prepared:
    """Plan a merge of models that are at hand, adapters applied, by what the recipe calls them (`model+adapter`).

    Raises:
        MergeError: the recipe brings vocabularies together, which lie beside the models' files.
    """
    if recipe.tokenizer_source or recipe.tokenizer:
        raise MergeError(
            "the recipe brings vocabularies together, for which the models' tokenizers are needed; get the models back with --parent and merge them"
        )
    ready = {source: models[str(source)] for source in recipe.sources}
    return Prepared(Models(ready, ready, ready, {str(source): one for source, one in ready.items()}), plan(recipe, ready))


def merge(
    recipe: Path | str | Mapping[str, Any] | Recipe | Prepared,
    out: str | Path | None = None,
    *,
    opener: Opener = open_anything,
    jobs: int = 1,
    device: str | torch.device = "cpu",
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    spec_of: SpecOf | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Merge models as a recipe says.

    One tensor is worked on at a time, of a large one a run of rows: memory does not grow with the models. Values are combined in
    float32 (float64 where an input or `dtype` is) and rounded once, in one thread for each tensor, so that the result is the same
    bit for bit with any number of `jobs`. A run that was killed goes on at the file in which it was.

    Args:
        recipe: a YAML file or its text, plain values, a `Recipe`, or what `prepare` returned.
        out: a folder, as the Hub has models, or a `.safetensors` file; None for a checkpoint whose tensors are computed when read.
        opener: opens a model by what the recipe calls it.
        jobs: tensors that are worked on at once.
        device: where values are combined.
        shard_bytes: bytes of tensors in a file of a folder, at most.
        force: replace a merge that is there.
        spec_of: finds the names of a model's axes where the recipe aligns; by default by its architecture.
        progress: called after each tensor.

    Returns:
        The merged model, with recipe and parents.

    Raises:
        MergeError: the recipe cannot be carried out; nothing is left under the final name.

    Example:
        >>> import tempfile, torch, weightspace as ws
        >>> folder = Path(tempfile.mkdtemp())
        >>> paths = [str(ws.save({"w": torch.full((2,), value)}, folder / f"{value}.safetensors")) for value in (1.0, 3.0)]
        >>> merge({"merge_method": "linear", "models": paths, "parameters": {"weight": 1}}, folder / "merged.safetensors")["w"]
        tensor([2., 2.])
    """
    prepared = recipe if isinstance(recipe, Prepared) else prepare(recipe, opener)
    plan = prepared.plan.expect_possible()
    target = None if out is None else _target(Path(out), prepared, force)
    _keep_slabs()
    with one_thread():
        moved = alignment(plan, prepared.models.ready, spec_of) if plan.recipe.align else {}
        models = {source: act(moved[source], one) if source in moved else one for source, one in prepared.models.ready.items()}
        run = Run(plan, models, gather_evidence(plan, models, opener), _device(device), _ids(prepared) if plan.method.chance else {})
        run.expect_copies()
        if plan.recipe.select is not None:
            run = replace(run, plan=select(run, task_at(plan.recipe.select.task).evaluate, prepared.models.stored))
        result = _repaired(run) if plan.recipe.repair else None
        result = _extracted(run, result or run.lazily()) if plan.recipe.adapter else result
        if target is None:
            return replace(result or run.lazily(), recipe=_stated(plan), parents=tuple(_parents(prepared, run).values()))
        if result is not None and result.kind == "adapter":
            return _adapter_written(_Making(prepared, run, moved, result, target), force)
        return _written(_Making(prepared, run, moved, result, target), jobs, shard_bytes, force, progress)


def _device(named: str | torch.device) -> torch.device:
    """See that values can be combined there."""
    try:
        found = torch.device(named)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        said = one_line(str(error).split("\n")[0], 120)
        raise MergeError(f"device '{named}' cannot be used ({said}); name one that this machine has, such as cpu") from None
    return found


def _ids(prepared: Prepared) -> dict[Source, str]:
    """What tells inputs apart: the ids of everything that each is made of."""
    ids = {name: checkpoint.id for name, checkpoint in prepared.models.parents.items()}
    return {
        source: ids.get(str(source)) or "+".join(ids[name] for name in (source.model, *source.adapters)) for source in prepared.models.ready
    }


def _stated(plan: Plan) -> dict[str, Any]:
    """What the result says of how it was made."""
    return {"kind": "merge", **plan.recipe.to_dict()}


def _taken(prepared: Prepared, run: Run) -> dict[str, Checkpoint]:
    """What went in, by what the recipe calls it: all that was opened, but for what selection left out."""
    left = set(prepared.plan.sources) - set(run.plan.sources)
    stay = {name for source in prepared.models.ready if source not in left for name in (str(source), source.model, *source.adapters)}
    gone = {name for source in left for name in (str(source), source.model, *source.adapters)} - stay
    return {name: checkpoint for name, checkpoint in prepared.models.parents.items() if name not in gone}


def _parents(prepared: Prepared, run: Run) -> dict[str, str]:
    """Ids of what went in; what was read to its end on the way is not read again."""
    return {name: checkpoint.remember(run.digests).id for name, checkpoint in _taken(prepared, run).items()}


def _target(out: Path, prepared: Prepared, force: bool) -> Path:
    """See that the result can be written, before work begins."""
    plan = prepared.plan
    if out.suffix.lower() in FOREIGN and not out.is_dir():
        raise MergeError(f"{out}: has the suffix '{out.suffix}'; name a {SUFFIX} file, or a folder")
    if out.suffix == SUFFIX and plan.recipe.adapter:
        raise MergeError(f"{out}: an adapter is a folder of two files; name a folder")
    if out.exists() and not force:
        raise MergeError(f"{out}: exists already; choose another name, or replace it with --force")
    if out.is_dir() and not (out / MANIFEST).is_file():
        raise MergeError(f"{out}: is a folder that was not written by a merge; choose another name, or remove it yourself")
    for beside in (f"{out.stem}.{MANIFEST}", f"{out.stem}.md", f"{out.stem}.{UNDO}") if out.suffix == SUFFIX else ():
        if out.with_name(beside).exists() and not force and not growing(out).exists():
            raise MergeError(
                f"{out.with_name(beside)}: exists already, and would be written beside the result; choose another name, or use --force"
            )
    place = out.resolve()
    for name, checkpoint in prepared.models.parents.items():
        if any(place in (file.resolve(), *file.resolve().parents) for file in checkpoint.files):
            raise MergeError(f"{out}: is where '{one_line(name, 80)}' lies, which is merged; choose another name")
    expect_room(out, plan.num_bytes)
    return out


def _repaired(run: Run) -> Checkpoint:
    """The result with its activations mended, in memory: it has to be run."""
    how = run.plan.recipe.repair
    assert how is not None
    lazy = run.lazily()
    step = next(step for step in run.plan.steps if not step.is_copy)
    found = repair_many(task_at(how.task), lazy, [run.models[part.source] for part in step.parts], mode=how.mode)
    return Checkpoint.of(found.state_dict)


def _extracted(run: Run, merged: Checkpoint) -> Checkpoint:
    """The result as an adapter of the base."""
    how, base = run.plan.recipe.adapter, run.plan.recipe.base_model
    assert how is not None and base is not None
    tuned = replace(merged, metadata=run.models[base].metadata)  # whose config says what is tied
    return extract_adapter(run.models[base], tuned, rank=how.rank, alpha=how.alpha, targets=how.targets)


@dataclass(frozen=True)
class _Making:
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
        return cut if len(cut) > 1 else [replace(cut[0], metadata={"format": "pt", **stated(_stated(self.plan), unknown)})]

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
        return _parents(self.prepared, self.run)


def _stamp(checkpoint: Checkpoint) -> list[str]:
    """What changes when a model does: of its files, or its id where it is in memory."""
    files = [(file, file.stat()) for file in checkpoint.files]
    return [f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}" for file, status in files] or [checkpoint.id]


def _id(tensors: Mapping[str, Tensor]) -> str:
    """Of the content of tensors in a file, or in memory."""
    return (tensors if isinstance(tensors, Checkpoint) else Checkpoint.of(tensors)).id


def _written(making: _Making, jobs: int, shard_bytes: int, force: bool, progress: Callable[[Progress], None] | None) -> Checkpoint:
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
            writer.restate(cut[0], stated(_stated(plan), tuple(report.parents.values())))
        if making.is_file:
            writer.beside({f"{target.stem}.{MANIFEST}": manifest(plan, report), f"{target.stem}.md": card(plan, report)})
        else:
            writer.beside(_beside(making, report, cut))
        if plan.recipe.keep != "none":
            ready = {str(source): checkpoint for source, checkpoint in making.prepared.models.adapted.items()}
            keep_parents(open_anything(writer.folder / (cut[0].name if len(cut) == 1 else INDEX)), plan.recipe, ready, writer.folder / UNDO)
        writer.finish(force)
    return open_anything(target)


def _adapter_written(making: _Making, force: bool) -> Checkpoint:
    """Write an adapter's folder, with the manifest and the card."""
    adapter, target = making.result, making.target
    assert adapter is not None
    hashes = {name: digest.hex() for name, digest in adapter.tensor_hashes.items()}
    said = adapter.metadata["extraction"]
    kept = [f"'{name}': rank {one['rank']} keeps {one['energy']:.1%} of the change" for name, one in said["kept"].items()]
    left = [f"'{name}' changed by {norm:.3g} and is not in the adapter" for name, norm in said["left_out"].items()]
    report = Report(adapter.id, making.parents, {}, hashes, (*making.plan.notes, *kept, *left))
    with fresh_folder(target, force) as folder:
        save_adapter(adapter, folder, stated(_stated(making.plan), tuple(making.parents.values())))
        for name, text in (
            (MANIFEST, manifest(making.plan, report)),
            (CARD, card(making.plan, report)),
            (RECIPE, recipe_text(making.plan.recipe)),
        ):
            (folder / name).write_text(text, "utf-8")
    return open_anything(target)


def _put(making: _Making, opened: Open, jobs: int, telling: "_Telling", ahead: ReadAhead) -> Iterator[tuple[str, dict[str, Any]]]:
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


def _spans(making: _Making, cut: Sequence[Shard]) -> list[FileSpan]:
    """What will be read, in order."""
    steps = {step.name: step for step in making.plan.steps}
    return [span for shard in cut for name in shard.offsets for span in making.read_of(steps[name])]


def _report(making: _Making, kept: Mapping[str, Mapping[str, Any]]) -> Report:
    plan = making.plan
    hashes = {step.name: str(kept[step.name]["blake3"]) for step in plan.steps}
    rows = [(step.name, step.dtype, step.shape, bytes.fromhex(hashes[step.name])) for step in plan.steps]
    rows += [(name, *next(row[1:] for row in rows if row[0] == owner)) for name, owner in plan.aliases.items()]
    measured = {name: Measured.read(kept[name]) for name in hashes}
    return Report(identity.model_id(rows).hex(), making.parents, measured, hashes, plan.notes)


def _beside(making: _Making, report: Report, cut: Sequence[Shard]) -> dict[str, str | bytes]:
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
        provenance = stated(_stated(plan), tuple(report.parents.values()))
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


def _keep_slabs() -> None:
    """Show glibc's allocator a large block: it learns from the largest that was freed, and from then on keeps the memory of slabs.

    Otherwise it gives that back and gets it anew, page by page, for every slab.
    """
    torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8)
