"""Networks of a catalog query as metanets read them: weights, specs, modules, and what is to be predicted."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from weightspace.cli.left_out import LeftOut
from weightspace.errors import MetanetError, RecordError, WeightSpaceError

if TYPE_CHECKING:
    from torch import nn

    from weightspace.checkpoint import Checkpoint
    from weightspace.metanets import WeightSet
    from weightspace.spec import SymmetrySpec
    from weightspace.zoo.zoo import Zoo

_QUERY = """
with first_runs as (select model_id, arg_min(run_id, file_id) as run_id from files group by model_id),
networks as (
    select model_table.*, runs.key as run_key, source_item, split, hyperparameters
    from model_table left join first_runs using (model_id) left join runs using (run_id) where kind in ('full', 'adapter')
    and model_id not in (select model_id from tags where key in ('metanet', 'generator'))
)
select name, id, architecture_id, run_key, source_item, split, {asked} from networks where {where} order by model_id
"""


@dataclass(frozen=True)
class Network:
    """One network of a query.

    Attributes:
        row: what the catalog says: name, id, architecture_id, run_key, source_item, split and what was asked for.
        checkpoint: its weights, not read yet.
        spec: of its architecture.
        module: the architecture, for metanets that run networks.
    """

    row: dict[str, Any]
    checkpoint: "Checkpoint"
    spec: "SymmetrySpec"
    module: "nn.Module | None"

    @property
    def group(self) -> str:
        """What may not be in two splits: the datum it was fitted to, else its run, else itself."""
        return str(self.row["source_item"] or self.row["run_key"] or self.row["name"])


def networks_of(
    zoo: "Zoo", where: str | None, left_out: LeftOut, *, asked: Mapping[str, str] | None = None, needs_module: bool = False
) -> list[Network]:
    """Find the networks of a query; what cannot be read is left out.

    Args:
        zoo: with the catalog.
        where: a condition on the columns of `model_table`, and `split`, `source_item` and `hyperparameters` of the run.
        left_out: is told of those that have no spec, or no module where one is needed.
        asked: further columns by name: SQL expressions over the same columns.
        needs_module: whether the metanet runs the networks.
    """
    rows = rows_of(zoo, where, asked)
    known = _Architectures(zoo, needs_module)
    found = []
    with zoo.reading():  # opened once for all of them
        for row in rows:
            try:
                checkpoint = zoo.open(row["name"])
                found.append(Network(row, checkpoint, *known.of(checkpoint)))
            except WeightSpaceError as error:
                left_out(row["name"], error)
    return found


def rows_of(zoo: "Zoo", where: str | None, asked: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What the catalog says of the networks of a query, metanets and generators left out; see `networks_of`."""
    columns = ", ".join(f'({expression}) as "{name}"' for name, expression in (asked or {}).items()) or "1"
    found: list[dict[str, Any]] = zoo.sql(_QUERY.format(asked=columns, where=where or "true")).to_pylist()
    return found


class _Architectures:
    """Specs and modules, found once for all networks that are alike.

    Equal names and shapes may go with another activation, whose symmetries and function are others: a network that a population made is
    known by what its module prints besides and by the tensors that it does not save, such as the base of an adapter; and a spec that a
    configuration was looked at for is made for each network.
    """

    def __init__(self, zoo: "Zoo", needs_module: bool) -> None:
        self.zoo, self.needs_module = zoo, needs_module
        self.specs: dict[tuple[str, str], SymmetrySpec | WeightSpaceError] = {}
        self.modules: dict[tuple[str, str], nn.Module] = {}

    def of(self, checkpoint: "Checkpoint") -> "tuple[SymmetrySpec, nn.Module | None]":
        """The spec of a checkpoint and, where it is needed, its module.

        Raises:
            WeightSpaceError: there is none.
        """
        from weightspace.modules import module_builders, module_for, population_recipe

        name = population_recipe(checkpoint).get("name")
        is_made_here = isinstance(name, str) and name in module_builders and checkpoint.kind != "adapter"
        module = module_for(checkpoint, load=False) if is_made_here or self.needs_module else None
        key = (checkpoint.architecture_id, "" if module is None else f"{module} {_unsaved(module)}")
        spec = self.specs.get(key)
        if spec is None or (not is_made_here and not isinstance(spec, WeightSpaceError) and _is_of_configuration(spec)):
            spec = self.specs[key] = self._spec(checkpoint)
        if isinstance(spec, WeightSpaceError):
            raise spec
        return spec, self.modules.setdefault(key, module) if module is not None and self.needs_module else None

    def _spec(self, checkpoint: "Checkpoint") -> "SymmetrySpec | WeightSpaceError":
        from weightspace.metanets.low_rank import adapter_spec

        try:
            return adapter_spec(checkpoint) if checkpoint.kind == "adapter" else self.zoo.spec(checkpoint)
        except WeightSpaceError as error:
            return error


def _unsaved(module: "nn.Module") -> str:
    """A digest of the tensors of a module that its state does not hold."""
    saved, made = module.state_dict(), hashlib.sha256()
    for name, tensor in module.named_buffers():
        if name not in saved:
            made.update(name.encode() + tensor.detach().cpu().double().numpy().tobytes())
    return made.hexdigest()


def _is_of_configuration(spec: "SymmetrySpec") -> bool:
    from weightspace.spec_text import CONFIGURATION

    return any(note.startswith(CONFIGURATION) for note in spec.notes)


def networks_in(zoo: "Zoo", models: Sequence[str], asked: Mapping[str, str], needs_module: bool) -> list[Network]:
    """Find named networks, catalogued or files; what else is asked for is in the catalog alone.

    Raises:
        RecordError: one is in no catalog, and something is asked for.
        WeightSpaceError: one cannot be opened, or has no spec or module.
    """
    found, architectures = [], _Architectures(zoo, needs_module)
    for model in models:
        checkpoint = zoo.checkpoint(model)
        row = {"name": model, "run_key": None, "source_item": None, "split": None}
        if asked:
            known = networks_of(zoo, f"id = '{checkpoint.id}'", LeftOut(), asked=asked) if zoo.catalog.exists() else []
            if not known:
                raise RecordError(
                    f"model '{model}' is in no catalog, but the predictor was made with {', '.join(asked.values())}; ingest it first"
                )
            row = known[0].row | {"name": model}
        found.append(Network(row, checkpoint, *architectures.of(checkpoint)))
    return found


def sound_weights(networks: Sequence[Network], left_out: LeftOut) -> "tuple[list[Network], WeightSet | None]":
    """Read the weights of networks.

    Args:
        networks: to be read.
        left_out: is told of those that cannot be, or whose weights are not all finite.

    Returns:
        Those that are left, in their order, and their weights; none where nothing is left.
    """
    import torch

    try:
        weights = weights_of(networks)
    except WeightSpaceError:  # of which of them?
        networks = [one for one in networks if _is_readable(one, left_out)]
        if not networks:
            return [], None
        weights = weights_of(networks)
    sound = weights.gather([batch.is_finite() for batch in weights.batches])
    for at in (~sound).nonzero()[:, 0].tolist():
        left_out(networks[at].row["name"], MetanetError("holds weights that are not finite, or not so as 32-bit floats"))
    kept = torch.arange(len(networks))[sound]
    return [networks[at] for at in kept.tolist()], weights.take(kept) if len(kept) else None


def weights_of(networks: Sequence[Network]) -> "WeightSet":
    """Read the weights of networks, whatever they are.

    Raises:
        MetanetError: there are none.
        WeightSpaceError: one cannot be read.
    """
    from weightspace.metanets import WeightSet

    if not networks:
        raise MetanetError("the query finds no networks that a metanet can read; widen --where, or give the architectures a spec")
    modules = [one.module for one in networks if one.module is not None]
    return WeightSet.of(
        [one.checkpoint for one in networks], [one.spec for one in networks], modules=modules if len(modules) == len(networks) else None
    )


def _is_readable(network: Network, left_out: LeftOut) -> bool:
    try:
        weights_of([network])
    except WeightSpaceError as error:
        left_out(network.row["name"], error)
        return False
    return True


def batches_of(networks: Sequence[Network], left_out: LeftOut, size: int = 256) -> "Iterator[tuple[list[Network], WeightSet]]":
    """Networks of one architecture at a time, at most so many, with their weights; `left_out` is told of those that cannot be read."""
    members: dict[tuple[SymmetrySpec, int], list[Network]] = {}
    for one in networks:
        members.setdefault((one.spec, id(one.module)), []).append(one)
    for found in members.values():
        for start in range(0, len(found), size):
            some, weights = sound_weights(found[start : start + size], left_out)
            if weights is not None:
                yield some, weights


def numbers_in(networks: Sequence[Network], column: str) -> list[float]:
    """A column of numbers.

    Raises:
        RecordError: one is something else, or not finite.
    """
    found = []
    for one in networks:
        value = one.row[column]
        try:
            found.append(float(value))
            if not math.isfinite(found[-1]):
                raise ValueError
        except (TypeError, ValueError):
            raise RecordError(
                f"'{column}' of model '{one.row['name']}' is {value!r}, expected a number; leave it out by --where, or choose another column"
            ) from None
    return found


def specs_for(networks: Sequence[Network], family: str) -> "list[SymmetrySpec]":
    """The specs to build a metanet for.

    One that reads one architecture takes no notice of scales and signs, so that networks which differ in their activations alone are
    one architecture to it.
    """
    from weightspace.metanets import metanets

    specs = list({one.spec: None for one in networks})
    if len(specs) == 1 or metanets[family].any_architecture:
        return specs
    return list({_permuting(spec): None for spec in specs})


def _permuting(spec: "SymmetrySpec") -> "SymmetrySpec":
    plain = {name: replace(group, symmetry="none") if group.symmetry in ("scale", "sign") else group for name, group in spec.groups.items()}
    return replace(spec, groups=plain, proved=False)


__all__ = ["Network", "batches_of", "networks_in", "networks_of", "numbers_in", "rows_of", "sound_weights", "specs_for", "weights_of"]
