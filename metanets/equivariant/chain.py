"""Feedforward chains: architectures in which each layer reads what the one before it makes, and nothing else."""

from weightspace.errors import MetanetError
from weightspace.metanets.layout import Layout, Slot


def chain(name: str, layout: Layout) -> tuple[str, ...]:
    """The neuron groups of a chain of layers, from its inputs to its outputs.

    Args:
        name: of the metanet that asks.
        layout: of the architecture; vectors of any number may stand on its neurons (biases, gains and statistics of norms).

    Raises:
        MetanetError: it is no chain.
    """
    matrices: list[Slot] = []
    for slot in layout.slots:
        if len(slot.groups) not in (1, 2) or len(set(slot.groups)) < len(slot.groups):
            raise _no_chain(name, f"'{slot.key}' is indexed by {' x '.join(slot.groups) or 'nothing'}")
        if len(slot.groups) == 2:
            matrices.append(slot)
    reads = {slot.groups[slot.sources[0]]: slot for slot in matrices}
    makes = {slot.groups[1 - slot.sources[0]] for slot in matrices}
    starts = [group for group in reads if group not in makes]
    if len(reads) < len(matrices) or len(makes) < len(matrices) or len(starts) != 1:
        raise _no_chain(name, "its layers branch, meet or return")
    groups = [starts[0]]
    while groups[-1] in reads:
        slot = reads[groups[-1]]
        groups.append(slot.groups[1 - slot.sources[0]])
    stray = next((slot.key for slot in layout.slots if not set(slot.groups) <= set(groups)), None)
    if stray is not None:
        raise _no_chain(name, f"'{stray}' stands on no neurons of it")
    return tuple(groups)


def _no_chain(name: str, why: str) -> MetanetError:
    return MetanetError(
        f"metanet '{name}' reads chains of linear and convolutional layers, but {why}; use 'unf', which reads any architecture"
    )


__all__ = ["chain"]
