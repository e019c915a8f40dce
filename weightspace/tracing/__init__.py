"""From an `nn.Module` and example inputs to its symmetry specification, by following axes through the graph of torch.export."""

from typing import Any

from torch import nn

from weightspace.spec import SymmetrySpec


def trace(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> SymmetrySpec:
    """Derive which neuron groups index each axis of each parameter and persistent buffer of a module.

    Every operation of the graph says which axes are the same, which are cut from one another, and which have an order that
    matters. What no rule knows is fixed and named in `spec.notes`. The spec is derived, not proved: see `weightspace.proof`.

    Args:
        module: read in eval mode; it is left as it is.
        example_inputs: inputs on which it runs; sizes in the graph are those that they lead to.
        kwargs: inputs by keyword.

    Raises:
        SymmetryError: the path through the module depends on data, or torch.export cannot read it.

    Example:
        >>> import torch
        >>> trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4))
        <SymmetrySpec: 4 tensors, 1 neuron group, 2^15.3 permutations, not proved>
        0.weight  layer0 in
        0.bias    layer0
        2.weight  out layer0'
        2.bias    out
        group   size  kind        symmetry  per
        layer0  8     permutable  scale
        in      4     fixed       none
        out     3     fixed       none
    """
    from weightspace.tracing.derivation import derive

    return derive(module, example_inputs, kwargs)


__all__ = ["trace"]
