"""From an `nn.Module` and example inputs to its symmetry specification, by following axes through the graph of torch.export."""

from typing import Any

from torch import nn

from weightspace.spec import SymmetrySpec


def trace(module: nn.Module, *example_inputs: Any, prove: bool = True, **kwargs: Any) -> SymmetrySpec:
    """Derive which neuron groups index each axis of each parameter and persistent buffer of a module, and prove it.

    Every operation of the graph says which axes are the same, which are cut from one another, and which have an order that
    matters. What no rule knows is fixed and named in `spec.notes`. What the proof on redrawn weights refutes is fixed too.

    Args:
        module: read in eval mode; it is left as it is.
        example_inputs: inputs on which it runs; sizes in the graph are those that they lead to.
        prove: whether to prove what was derived (see `weightspace.proof.prove`), which runs the module some dozens of times.
        kwargs: inputs by keyword.

    Raises:
        SymmetryError: the path through the module depends on data, torch.export cannot read it, or its outputs are empty.
        TaskError: the module cannot be copied.

    Example:
        >>> import torch
        >>> trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4))
        <SymmetrySpec: 4 tensors, 1 neuron group, 2^15.3 permutations, proved>
        0.weight  layer0 in
        0.bias    layer0
        2.weight  out layer0'
        2.bias    out
        group   size  kind        symmetry  per
        layer0  8     permutable  scale
        in      4     fixed       none
        out     3     fixed       none
    """
    from weightspace import proof
    from weightspace.proof.arguments import expect_module, expect_values
    from weightspace.tracing.derivation import derive

    expect_module(module)
    if prove:
        expect_values(module, (example_inputs, kwargs))
    spec = derive(module, example_inputs, kwargs)
    return proof.prove(spec, module, *example_inputs, keywords=kwargs) if prove else spec


__all__ = ["trace"]
