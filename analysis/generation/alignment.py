"""Networks of a zoo brought into one frame before they are learned from, or shown in many: alignment and augmentation."""

import torch

from weightspace.analysis.generation.material import Material, stacked
from weightspace.analysis.matching.many import match_many
from weightspace.errors import GenerationError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act


def aligned(material: Material, how: str, *, generator: torch.Generator) -> Material:
    """Move all networks into one space; see `match_many` for the ways.

    With `reference` every network is matched to the first, a match each; `universe` then goes on from there.

    Raises:
        UnknownNameError: no such way.
        GenerationError: the symmetry is not known, or there is one network alone.
    """
    networks, spec = _networks(material, "aligned")
    found = match_many(networks, spec, how, reference=None if how == "merge" else 0, generator=generator)
    return material.of(stacked([act(element, one) for element, one in zip(found.elements, networks, strict=True)]))


def augmented(material: Material, copies: int, *, generator: torch.Generator) -> Material:
    """Add copies of every network, each moved by a random permutation of its neurons.

    Raises:
        GenerationError: the symmetry is not known.
    """
    networks, spec = _networks(material, "augmented")
    assert material.networks is not None
    at = torch.arange(len(networks)).repeat(1 + copies)
    moved = [act(spec.random(generator, discrete=True), networks[k]) for k in at[len(networks) :].tolist()]
    return material.take(at).of(stacked([*networks, *moved]))


def _networks(material: Material, what: str) -> tuple[list[dict[str, torch.Tensor]], SymmetrySpec]:
    if material.networks is None:
        raise GenerationError(f"no networks were given that could be {what}; give some, or leave it out")
    spec = material.networks.spec
    if len(material.networks) < 2:
        raise GenerationError(f"one network alone cannot be {what}; give more, or leave it out")
    return [{name: tensor[at] for name, tensor in material.networks.tensors.items()} for at in range(len(material.networks))], spec


__all__ = ["aligned", "augmented"]
