"""The symmetry specification chosen for each architecture of a zoo, kept in its catalog."""

import contextlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from weightspace.architectures import spec_for
from weightspace.checkpoint import Checkpoint
from weightspace.errors import CatalogError
from weightspace.spec import SymmetrySpec
from weightspace.spec_text import CONFIGURATION

if TYPE_CHECKING:
    from weightspace.zoo.catalog import Catalog


def chosen(catalog: "Catalog", checkpoint: Checkpoint) -> SymmetrySpec:
    """The spec of a checkpoint: the one kept for its architecture, else what its module or its names tell, which is kept from then on.

    The module of a network that a population made is traced. A spec that was made so, or with values of a configuration, is made again
    for each checkpoint, since equal names and shapes may go with another activation or number of heads; one that a person chose is
    for all.

    Raises:
        SymmetryError: none is kept, and no known architecture fits.
        RecordError: the data that a population's network was trained on is not there any more.
    """
    kept = _kept(catalog, checkpoint)
    if kept is not None and not any(note.startswith(CONFIGURATION) for note in kept.notes):
        return kept
    spec = _of_population(checkpoint) or spec_for(checkpoint)
    if kept is None:
        with contextlib.suppress(CatalogError):  # a zoo that cannot be written to is still good to ask
            _keep(catalog, checkpoint, spec)
    return spec


def choose(catalog: "Catalog", checkpoint: Checkpoint, spec: SymmetrySpec) -> None:
    """Keep a spec for the architecture of a checkpoint, in place of any other.

    Raises:
        SymmetryError, ShapeMismatchError: it is of another architecture.
        CatalogError: no model of this architecture is in the catalog.
    """
    spec.check(checkpoint)
    own = replace(spec, notes=tuple(note for note in spec.notes if not note.startswith(CONFIGURATION)))
    if not _keep(catalog, checkpoint, own):
        raise CatalogError("no model of this architecture is in the catalog; 'weightspace ingest' takes one in")


@dataclass(frozen=True)
class _Architecture:
    """A module with inputs for it, told apart by what it prints."""

    text: str
    module: Any = field(compare=False)
    inputs: Any = field(compare=False)


def _of_population(checkpoint: Checkpoint) -> SymmetrySpec | None:
    """Trace the module of a network that a population made; None for others."""
    from weightspace.modules import module_for, population_recipe, task_builders

    recipe = population_recipe(checkpoint)
    name = recipe.get("name")
    if not isinstance(name, str) or name not in task_builders:
        return None
    module = module_for(checkpoint, load=False)
    inputs = next(iter(task_builders[name](module, recipe, "test").batches))[0][:2]
    return replace(_traced(_Architecture(f"{module} {tuple(inputs.shape)}", module, inputs)), notes=(f"{CONFIGURATION}population {name}",))


@lru_cache(maxsize=512)
def _traced(architecture: _Architecture) -> SymmetrySpec:
    from weightspace.tracing import trace

    return trace(architecture.module, architecture.inputs)


def _kept(catalog: "Catalog", checkpoint: Checkpoint) -> SymmetrySpec | None:
    if not catalog.exists():
        return None
    with catalog.reading() as connection:
        row = connection.execute("select spec from architectures where fingerprint = ?", [_fingerprint(checkpoint)]).fetchone()
    return SymmetrySpec.from_yaml(row[0]) if row and row[0] else None


def _keep(catalog: "Catalog", checkpoint: Checkpoint, spec: SymmetrySpec) -> bool:
    """Write a spec; whether there is such an architecture."""
    if not catalog.exists():
        return False
    with catalog.writing() as connection:
        changed = connection.execute(
            "update architectures set spec = ? where fingerprint = ? returning 1", [spec.to_yaml(), _fingerprint(checkpoint)]
        ).fetchall()
    return bool(changed)


def _fingerprint(checkpoint: Checkpoint) -> bytes:
    return bytes.fromhex(checkpoint.architecture_id)
