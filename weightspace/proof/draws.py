"""Weights and inputs drawn at random, at which a network is well conditioned."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightspace.axes import leaves
from weightspace.errors import SymmetryError
from weightspace.proof.network import Network, change
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict


@dataclass(frozen=True, eq=False)
class Trial:
    """A network at weights and inputs drawn at random, and what it returns there."""

    network: Network
    state: StateDict
    inputs: tuple[Any, ...]
    outputs: tuple[Tensor, ...]

    def change(self, state: StateDict) -> float:
        """Relative change of the outputs at other weights."""
        with torch.no_grad():
            return change(self.network(state, self.inputs), self.outputs)

    def redrawn(self, name: str, generator: torch.Generator) -> StateDict:
        """The weights with one tensor, under all its names, drawn anew."""
        old = self.state[name]
        new = _random_values(self.network, name, old, generator, 1.0)
        return {other: new if tensor is old else tensor for other, tensor in self.state.items()}


def draw(
    lifted: Network,
    spec: SymmetrySpec,
    generator: torch.Generator,
    *,
    spread: float = 1.0,
    tolerance: float = 1e-9,
    louder: Mapping[str, float] | None = None,
) -> Trial:
    """Draw weights and inputs at which a network is well conditioned.

    Rounding every weight once must change the outputs far less than the tolerance: a deep network of steep units would
    otherwise amplify rounding, and a sound spec would fail. Matrices are drawn smaller until it holds.

    Args:
        lifted: the network.
        spec: whose tensors are drawn anew; the others stay as they are.
        generator: source of chance.
        spread: of the matrices, in units of the inverse root of their fan-in.
        tolerance: relative change that is to be told from rounding.
        louder: factors by tensor name, for tensors whose effect is weak.

    Raises:
        SymmetryError: the outputs are not numbers at any draw.
    """
    found, takes_any = None, True
    for _ in range(8):
        state = redraw(lifted, spec, generator, spread, louder or {})
        inputs = redraw_inputs(lifted.inputs, generator, as_given=not takes_any)
        with torch.no_grad():
            outputs = tuple(lifted(state, inputs))
        if any(output.isnan().any() for output in outputs):
            takes_any = not takes_any  # a logarithm, say, of an input
        else:
            found = Trial(lifted, state, inputs, outputs)
            if found.change(_rounded(state, generator)) < max(tolerance, lifted.tolerance) / 20:
                return found
        spread /= 2
    if found is None:
        raise SymmetryError("the module returns NaN at every random draw of its weights; see that it runs with ordinary weights and inputs")
    return found


def _rounded(state: StateDict, generator: torch.Generator) -> dict[str, Tensor]:
    """Every weight off by about one rounding, tied ones together."""
    made: dict[int, Tensor] = {}
    for tensor in state.values():
        if tensor.is_floating_point() and id(tensor) not in made:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            made[id(tensor)] = tensor * (1 + 2**-52 * noise)
    return {name: made.get(id(tensor), tensor) for name, tensor in state.items()}


def redraw(
    lifted: Network, spec: SymmetrySpec, generator: torch.Generator, spread: float = 1.0, louder: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Random values for every float tensor of a spec: at initialisation norms are ones and biases zero, and a wrong spec passes.

    Matrices are normal by the root of their fan-in, lookup tables normal, gains 1 +- .5, biases and running means
    +- .5, running variances positive, constant buffers as they are. Tied tensors stay tied.
    """
    louder, state, drawn = louder or {}, dict[str, Tensor](), dict[str, Tensor]()
    for name in [*spec.tensors, *spec.aliases]:
        owner = lifted.ties.get(name, name)
        if name not in lifted.state:
            continue  # an alias that this module does not have
        if owner in drawn:
            state[name] = drawn[owner]
            continue
        old = lifted.state[name]
        if not old.is_floating_point() or (name not in lifted.parameters and not _is_statistic(spec, name, old)):
            state[name] = old
        else:
            state[name] = _random_values(lifted, name, old, generator, spread) * louder.get(name, 1.0)
        drawn[owner] = state[name]
    return state


def _is_statistic(spec: SymmetrySpec, name: str, buffer: Tensor) -> bool:
    """Whether a buffer is to be drawn anew: one with groups, or all of whose entries are equal, as those of statistics at first.

    Other buffers, such as rotary frequencies, are constants, whose entries differ: a group that forgets them is found out.
    """
    return any(True for axis in spec.axes(name) for _ in leaves(axis)) or (
        buffer.numel() > 1 and bool((buffer == buffer.flatten()[0]).all())
    )


def _random_values(lifted: Network, name: str, old: Tensor, generator: torch.Generator, spread: float) -> Tensor:
    squeezed = [length for length in old.shape if length > 1]
    if len(squeezed) > 1 and name in lifted.parameters:
        fan_in = 1 if name in lifted.embeddings else max(math.prod(squeezed[1:]), 1)
        return torch.randn(old.shape, generator=generator, dtype=torch.float64) * spread / math.sqrt(fan_in)
    # Means that were all positive would leave every unit behind them dead, variances that were not would have no root.
    is_centred = "bias" in name.rpartition(".")[2] if name in lifted.parameters else not bool((old > 0).all())
    around = 0.0 if is_centred else 1.0
    return around - 0.5 + torch.rand(old.shape, generator=generator, dtype=torch.float64)


def redraw_inputs(inputs: Sequence[Any], generator: torch.Generator, *, scale: float = 1.0, as_given: bool = False) -> tuple[Any, ...]:
    """Random inputs of the same kind: floats normal, integers in the range of those given, masks kept.

    Args:
        inputs: leaves of the example inputs.
        generator: source of chance.
        scale: standard deviation of floats.
        as_given: floats are the given ones in another order, for a module that takes only some values.
    """
    return tuple(_redrawn(leaf, generator, scale, as_given) for leaf in inputs)


def _redrawn(leaf: Any, generator: torch.Generator, scale: float, as_given: bool) -> Any:
    if not isinstance(leaf, Tensor) or leaf.numel() == 0 or leaf.dtype == torch.bool or leaf.is_complex() or _is_mask(leaf):
        return leaf
    if not leaf.is_floating_point():
        return torch.randint(int(leaf.min()), int(leaf.max()) + 1, leaf.shape, generator=generator, dtype=leaf.dtype)
    if as_given:
        return leaf.flatten()[torch.randperm(leaf.numel(), generator=generator)].reshape(leaf.shape)
    return torch.randn(leaf.shape, generator=generator, dtype=torch.float64) * scale


def _is_mask(leaf: Tensor) -> bool:
    """Whether a tensor says what to look at: zeros and ones, both of them, or infinities to be added."""
    zeros, ones = leaf == 0, leaf == 1
    return bool((zeros | ones).all() and zeros.any() and ones.any()) or bool((~leaf.isfinite()).any())
