"""Networks of a catalog query as metanets read them: weights, specs, modules, and what is to be predicted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    and model_id not in (select model_id from tags where key = 'metanet')
)
select name, architecture_id, run_key, source_item, split, {asked} from networks where {where} order by model_id
"""


@dataclass(frozen=True)
class Network:
    """One network of a query.

    Attributes:
        row: what the catalog says: name, architecture_id, run_key, source_item, split and what was asked for.
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
    columns = ", ".join(f'({expression}) as "{name}"' for name, expression in (asked or {}).items()) or "1"
    rows = zoo.sql(_QUERY.format(asked=columns, where=where or "true")).to_pylist()
    firsts = {row["architecture_id"]: row["name"] for row in reversed(rows)}
    architectures = {at: _architecture(zoo, name, needs_module) for at, name in firsts.items()}
    found = []
    with zoo.reading():  # opened once for all of them
        for row in rows:
            known = architectures[row["architecture_id"]]
            try:
                if isinstance(known, WeightSpaceError):
                    raise known
                found.append(Network(row, zoo.open(row["name"]), *known))
            except WeightSpaceError as error:
                left_out(row["name"], error)
    return found


def _architecture(zoo: "Zoo", model: str, needs_module: bool) -> "tuple[SymmetrySpec, nn.Module | None] | WeightSpaceError":
    """The spec of a model's architecture and, where it is needed, its module; or why there is none."""
    from weightspace.metanets.low_rank import adapter_spec
    from weightspace.modules import module_for

    try:
        checkpoint = zoo.checkpoint(model)
        spec = adapter_spec(checkpoint) if checkpoint.kind == "adapter" else zoo.spec(model)
        return spec, module_for(checkpoint, load=False) if needs_module else None
    except WeightSpaceError as error:
        return error


def networks_in(zoo: "Zoo", models: Sequence[str], asked: Mapping[str, str], needs_module: bool) -> list[Network]:
    """Find named networks, catalogued or files; what else is asked for is in the catalog alone.

    Raises:
        RecordError: one is in no catalog, and something is asked for.
        WeightSpaceError: one cannot be opened, or has no spec or module.
    """
    found = []
    for place, model in enumerate(models):
        checkpoint = zoo.checkpoint(model)
        row = {"name": model, "architecture_id": -1 - place, "run_key": None, "source_item": None, "split": None}
        if asked:
            known = networks_of(zoo, f"id = '{checkpoint.id}'", LeftOut(), asked=asked) if zoo.catalog.exists() else []
            if not known:
                raise RecordError(
                    f"model '{model}' is in no catalog, but the predictor was made with {', '.join(asked.values())}; ingest it first"
                )
            row = known[0].row | {"name": model}
        architecture = _architecture(zoo, model, needs_module)
        if isinstance(architecture, WeightSpaceError):
            raise architecture
        found.append(Network(row, checkpoint, *architecture))
    return found


def weights_of(networks: Sequence[Network]) -> "WeightSet":
    """Read their weights.

    Raises:
        MetanetError: there are none.
    """
    from weightspace.metanets import WeightSet

    if not networks:
        raise MetanetError("the query finds no networks that a metanet can read; widen --where, or give the architectures a spec")
    modules = [one.module for one in networks if one.module is not None]
    return WeightSet.of(
        [one.checkpoint for one in networks], [one.spec for one in networks], modules=modules if len(modules) == len(networks) else None
    )


def batches_of(networks: Sequence[Network], size: int = 256) -> Iterator[list[Network]]:
    """Networks of one architecture at a time, at most so many."""
    members: dict[int, list[Network]] = {}
    for one in networks:
        members.setdefault(one.row["architecture_id"], []).append(one)
    for found in members.values():
        yield from (found[start : start + size] for start in range(0, len(found), size))


def numbers_in(networks: Sequence[Network], column: str) -> list[float]:
    """A column of numbers.

    Raises:
        RecordError: one is something else.
    """
    found = []
    for one in networks:
        value = one.row[column]
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            raise RecordError(f"'{column}' of model '{one.row['name']}' is {value!r}, expected a number; choose another column") from None
    return found


__all__ = ["Network", "batches_of", "networks_in", "networks_of", "numbers_in", "weights_of"]
