"""The specs that come with the package: one YAML file a family, found by the names of a checkpoint's tensors.

A file's first document is the whole family; each further one is a variant that says only what it changes. Besides what a spec's
file has (see `weightspace.spec_text`), a document has

    family: BERT                          # in the first document
    recognised: [embeddings.word_embeddings.weight, "encoder.layer.{i}.output.dense.weight"]   # all of them are there
    absent: [pooler.dense.weight]         # none of them is
    chain: relu                           # in place of groups and tensors: a plain chain with this activation

Names are as the bare model has them: what comes before the first recognised one (`module.`, `model.`, `0.auto_model.`) is taken
off every name that begins with it; heads stand beside the bare model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from weightspace.checkpoint import Checkpoint
from weightspace.documents import load
from weightspace.errors import SymmetryError, WeightSpaceError
from weightspace.inference import chain
from weightspace.spec import SymmetrySpec
from weightspace.spec_sizes import Configuration, Header, headers
from weightspace.spec_text import build
from weightspace.templates import Template

if TYPE_CHECKING:
    import torch

_OWN = ("family", "recognised", "absent", "chain")


@dataclass(frozen=True)
class Variant:
    """One document of a family's file.

    Attributes:
        family: what the family is called.
        recognised: names that are all there.
        absent: names of which none is there.
        document: its rows and groups.
        activation: of a family that is a plain chain.
    """

    family: str
    recognised: tuple[Template, ...]
    absent: tuple[Template, ...]
    document: Mapping[str, Any]
    activation: str | None = None

    def prefixes(self, names: Mapping[str, Header]) -> Iterator[str]:
        """What stands before the names of the bare model, for each way in which the tensors can be of this variant."""
        for prefix in dict.fromkeys(found for name in names if (found := self.recognised[0].ends(name)) is not None):
            bare = list(_bare(names, prefix))
            if all(_any(one, bare) for one in self.recognised) and not any(_any(one, bare) for one in self.absent):
                yield prefix

    def spec(self, known: Mapping[str, Header], prefix: str, configuration: Configuration) -> SymmetrySpec:
        """The spec for tensors whose names have a prefix.

        Raises:
            SymmetryError: the tensors are not of this variant after all, or sizes are not told.
        """
        names = _bare(known, prefix)
        if len(names) < len(known):
            raise SymmetryError(
                f"names are the same with and without '{prefix}'; expected one model in the checkpoint, so open that one alone"
            )
        back = {name: bare for bare, name in names.items()}
        bare = {b: replace(known[name], alias_of=back.get(known[name].alias_of or "")) for b, name in names.items()}
        if self.activation is not None:
            made = chain(bare, self.activation)
        else:
            made = build(self.document, bare, configuration, f"the spec of {self.family}")
        return replace(
            made,
            tensors={names[bare]: axes for bare, axes in made.tensors.items()},
            aliases={names.get(a, a): names[b] for a, b in made.aliases.items()},
            statistics=frozenset(names[bare] for bare in made.statistics),
            gains={names[gain]: tuple(names[reader] for reader in readers) for gain, readers in made.gains.items()},
        )


@lru_cache(maxsize=1)
def variants() -> tuple[Variant, ...]:
    """All variants of all families, those that say more before the family that they vary."""
    made: list[Variant] = []
    for file in sorted(resources.files(__package__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            base, *changes = load(file.read_text("utf-8"), file.name)
            made += [_variant(_changed(base, change)) for change in changes] + [_variant(base)]
    return tuple(made)


def families() -> tuple[str, ...]:
    """Names of the families that come with the package."""
    return tuple(dict.fromkeys(variant.family for variant in variants()))


def spec_for(weights: "Checkpoint | Mapping[str, torch.Tensor]", sizes: Mapping[str, Any] | None = None) -> SymmetrySpec:
    """Find the symmetry of a checkpoint by its tensors' names: a family that comes with the package, else a plain chain.

    Args:
        weights: a checkpoint or state dict; a `config.json` beside a checkpoint tells what shapes do not, such as the number of heads.
        sizes: such values by name, where there is no configuration: `{"num_attention_heads": 12}`.

    Raises:
        SymmetryError: no family and no chain fits, or a size is not told.

    Example:
        >>> import torch
        >>> spec_for({"fc1.weight": torch.ones(8, 2), "fc2.weight": torch.ones(3, 8)})
        <SymmetrySpec: 2 tensors, 1 neuron group, 2^15.3 permutations, not proved>
        fc1.weight  fc1 2
        fc2.weight  3 fc1'
        group  size  kind        symmetry  per
        fc1    8     permutable  none
    """
    known = headers(weights)
    refusals: list[str] = []
    for variant in variants():
        for prefix in variant.prefixes(known):
            try:
                spec = variant.spec(known, prefix, Configuration.of(weights, sizes))
                spec.check(weights)
            except WeightSpaceError as error:
                refusals.append(f"the tensors look like {variant.family}, but {error}")
            else:
                return spec
    if refusals:
        raise SymmetryError(refusals[0])
    try:
        return chain(known)
    except SymmetryError as error:
        raise SymmetryError(f"no family that comes with the package fits, and {error} (families: {', '.join(families())})") from None


def _bare(names: Mapping[str, Header], prefix: str) -> dict[str, str]:
    """Names without a prefix, and what each stands for: its part that all names have goes from all, the rest from those that have it."""
    parts = prefix.split(".")[:-1]
    wrappers = ["".join(f"{part}." for part in parts[:n]) for n in range(len(parts), -1, -1)]
    wrapper = next(one for one in wrappers if all(name.startswith(one) for name in names))
    rest = prefix.removeprefix(wrapper)
    return {name.removeprefix(wrapper).removeprefix(rest): name for name in names}


def _any(template: Template, names: list[str]) -> bool:
    return any(template.match(name) is not None for name in names)


def _variant(document: Mapping[str, Any]) -> Variant:
    recognised, absent = (tuple(map(Template, document.get(key) or ())) for key in ("recognised", "absent"))
    rows = {key: value for key, value in document.items() if key not in _OWN}
    return Variant(document["family"], recognised, absent, rows, document.get("chain"))


def _changed(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A family's document with what a variant changes; the variant's rows come first, and `null` takes a row away."""
    made = {**base, **change}
    for key in ("groups", "tensors", "aliases", "gains"):
        merged = {**(change.get(key) or {}), **{k: v for k, v in (base.get(key) or {}).items() if k not in (change.get(key) or {})}}
        made[key] = {name: value for name, value in merged.items() if value is not None}
    return made


__all__ = ["Variant", "families", "spec_for", "variants"]
