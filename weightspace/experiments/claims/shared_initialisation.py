"""That a plain reader of implicit networks lives off their shared initialisation."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.experiments.claim import Finding, above, at_least, at_most, claim
from weightspace.experiments.perceptron_zoo import implicit, learned
from weightspace.metanets import Examples, Predictor, WeightBatch, WeightSet
from weightspace.symmetry import act

CHANCE = 0.2  # twice the chance of ten classes


@claim(
    "shared-initialisation",
    statement="A linear reader tells the class of implicit networks that share their initialisation, but not once neurons are permuted or each has its own.",
    source="De Luigi et al., inr2vec, arXiv:2302.05438; Navon et al., arXiv:2301.12780",
    topic="metanets",
)
def shared_initialisation(seeds: Sequence[int]) -> Iterator[Finding]:
    """Read the digit from raw weights of sinusoidal networks, as they are and permuted; deep sets are the reader that does not see the permutation."""
    plain, moved, own, changed = [], [], [], []
    for seed in seeds:
        parts = implicit(seed, shared=True)
        reader, other = (learned(parts, family, seed, "classification") for family in ("raw", "deepsets"))
        turned = permuted(parts[2], seed)
        plain.append(accuracy(reader, parts[2]))
        moved.append(accuracy(reader, turned))
        changed.append(float((other.predict(turned.networks) != other.predict(parts[2].networks)).double().mean()))
        apart = implicit(seed)
        own.append(accuracy(learned(apart, "raw", seed, "classification"), apart[2]))
    yield at_least("accuracy of a linear reader, one initialisation for all", plain, 0.9)
    yield above("the same", plain, own, "an initialisation for each")
    yield at_most("the same, neurons of the networks to be told permuted", moved, CHANCE)
    yield at_most("accuracy of a linear reader, an initialisation for each", own, CHANCE)
    yield at_most("share of answers of deep sets that the permutation changes", changed, 0.01)


def accuracy(reader: Predictor, part: Examples) -> float:
    """Of the digits that a reader tells."""
    return float((reader.predict(part.networks) == part.targets).double().mean())


def permuted(part: Examples, seed: int) -> Examples:
    """The same networks with the hidden neurons of each in an order of its own."""
    [batch], generator = part.networks.batches, torch.Generator().manual_seed(seed)
    rows = [{name: tensor[at] for name, tensor in batch.tensors.items()} for at in range(len(batch))]
    orders = [{one.name: torch.randperm(one.size, generator=generator) for one in batch.spec.movable} for _ in rows]
    states = [dict(act(batch.spec.element(order), row)) for order, row in zip(orders, rows, strict=True)]
    again = WeightBatch.stack(states, batch.spec, module=batch.module)
    return Examples(WeightSet((again,), part.networks.places), part.targets)
