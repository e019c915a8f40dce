"""A network put into a wider space of the same architecture, its function unchanged: further members have no weights."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from weightspace.axes import Block, Leaf, leaves
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec, place
from weightspace.symmetry import StateDict, spread

NORMS = ("layer", "rms")
_BIAS_OF = {"weight": "bias", "gamma": "beta", "scale": "bias"}
_NORM_NAME = re.compile(r"(^|[._])(\w*norm\d*|ln\w*)([._]|$)", re.IGNORECASE)


def embed(
    weights: Checkpoint | StateDict,
    spec: SymmetrySpec,
    wide: SymmetrySpec,
    *,
    places: Mapping[str, Tensor] | None = None,
    norms: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Put a network into a wider space so that it computes the same.

    Members of the wider space that the network does not have get zeros on all their tensors: nobody hears them. Batch norms, whose
    members do not know of each other, stay right. A norm over members does not: its statistics would count the further
    ones. For such norms of a stream (before the blocks that read it, as in GPT-2 and Llama), named in `norms`, gains are
    divided by the root of how much wider the stream is, and for layer norms the further members carry the mean of the others,
    which leaves mean and variance as they were (up to the norm's epsilon). A scale that the code takes from a width, as the
    1 / sqrt(d_k) of attention, is not in the weights and not put right: widen the number of heads, not their size.

    Args:
        weights: a checkpoint or a state dict; it is not changed.
        spec: its symmetry.
        wide: the same architecture with larger groups.
        places: for groups that are larger, where each member goes, shape (*parents, n); the first places if left out.
        norms: `layer` or `rms` for each gain of a norm over members of a group that is larger.

    Raises:
        SymmetryError: the specs are of different architectures, or a norm over members was not named.
        ShapeMismatchError: weights that are not of the spec.

    Example:
        >>> spec, wide = (SymmetrySpec.parse({"fc1.weight": "h 2", "fc2.weight": "1 h'"}, sizes={"h": n}) for n in (1, 2))
        >>> embed({"fc1.weight": torch.ones(1, 2), "fc2.weight": torch.ones(1, 1)}, spec, wide)["fc2.weight"]
        tensor([[1., 0.]])
    """
    expect_alike(spec, wide)
    norms = dict(norms or {})
    _expect_norms(spec, wide, norms)
    made = padded(weights, spec, wide, places)
    centred: dict[str, Tensor] = {}
    for gain, kind in norms.items():
        (leaf,) = leaves(spec.axes(gain)[0])
        narrow, broad = spec.groups[leaf.group].size, wide.groups[leaf.group].size
        made[gain] = made[gain] * (narrow / broad) ** 0.5
        if kind == "layer":
            centred[leaf.group] = places[leaf.group] if places and leaf.group in places else torch.arange(narrow)
    left_out = {name for gain in norms for name in (gain, _bias_of(gain))} | spec.statistics
    for name in spec.tensors:
        if name not in left_out and made[name].is_floating_point():
            for group, live in centred.items():
                _fill_with_mean(wide, name, made[name], group, live)
    for name, owner in spec.aliases.items():
        if name in made:
            made[name] = made[owner]
    return made


def padded(
    weights: Checkpoint | StateDict, spec: SymmetrySpec, wide: SymmetrySpec, places: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Lay every tensor of a network into zeros of the wider shape; what has no row in the spec stays as it is."""
    spec.check(weights)
    made = {name: weights[name] for name in weights}
    for name in spec.tensors:
        tensor = weights[name].detach()
        made[name] = torch.zeros(wide.shape(name), dtype=tensor.dtype, device=tensor.device)
        for new, old in zip(wide.blocks(name, made[name]), spec.blocks(name, tensor), strict=True):
            new.view[tuple(_where(spec, name, old, places or {}))] = old.view
    for name, owner in spec.aliases.items():
        if name in made:
            made[name] = made[owner]
    return made


def expect_alike(spec: SymmetrySpec, other: SymmetrySpec) -> None:
    """See that two specs are of one architecture at two widths.

    Raises:
        SymmetryError: they differ by more than sizes of permutable groups.
    """
    sizes = {name: {"size": group.size} for name, group in spec.groups.items() if group.kind == "permutable" and name in other.groups}
    differences = spec.diff(other.with_groups(**sizes))
    if differences:
        raise SymmetryError(f"the two specs are not of one architecture at two widths ({differences[0]}); trace both, or correct one")


def _where(spec: SymmetrySpec, name: str, block: Block, places: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """For each dimension of a block, where its members go, to be broadcast with the others."""
    for j, term in enumerate(block.terms):
        if isinstance(term, Leaf) and term.group in places:
            yield spread(places[term.group], block.view.dim(), (*place(spec, name, block, j), j))
        else:
            yield spread(torch.arange(block.view.shape[j]), block.view.dim(), (j,))


def _fill_with_mean(wide: SymmetrySpec, name: str, tensor: Tensor, group: str, live: Tensor) -> None:
    """Give the further members of a group, on its producers' side, the mean of the live ones."""
    further = torch.ones(wide.groups[group].size, dtype=torch.bool, device=tensor.device)
    further[live] = False
    for block in wide.blocks(name, tensor):
        for j, term in enumerate(block.terms):
            if isinstance(term, Leaf) and term.group == group and not term.dual:
                mean = block.view.index_select(j, live).mean(j, keepdim=True)
                block.view.copy_(torch.where(spread(further, block.view.dim(), (j,)), mean, block.view))


def _bias_of(gain: str) -> str:
    """The name that the bias of a norm has beside its gain."""
    stem, dot, last = gain.rpartition(".")
    return stem + dot + _BIAS_OF.get(last, "bias")


def _expect_norms(spec: SymmetrySpec, wide: SymmetrySpec, norms: Mapping[str, str]) -> None:
    """See that every norm over members that become more is named, as far as names of tensors tell."""
    for gain, kind in norms.items():
        if kind not in NORMS:
            raise UnknownNameError.of(f"kind of norm (for '{gain}')", kind, NORMS)
        found = [leaf for axis in spec.axes(gain) for leaf in leaves(axis)]
        if len(found) != 1 or len(spec.axes(gain)) != 1 or spec.parents(found[0].group):
            raise SymmetryError(f"'{gain}' has axes '{' '.join(map(str, spec.axes(gain)))}', expected one group; name the gain of the norm")
    for name, axes in spec.tensors.items():
        if len(axes) != 1 or name in norms or name in {_bias_of(gain) for gain in norms} or not _NORM_NAME.search(name):
            continue
        stem = name.rpartition(".")[0]
        is_batch = any(s.rpartition(".")[0] == stem for s in spec.statistics)
        grown = [leaf.group for leaf in leaves(axes[0]) if wide.groups[leaf.group].size != spec.groups[leaf.group].size]
        if grown and not is_batch:
            raise SymmetryError(
                f"tensor '{name}' seems to belong to a norm over group '{grown[0]}', whose statistics further members would change; "
                f"name its gain in norms: {{'{name}': 'layer'}} or 'rms'"
            )
