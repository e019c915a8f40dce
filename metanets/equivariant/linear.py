"""The equivariant linear layer: every map of a basis, as one matrix product for each thing that is carried."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.metanets.equivariant.basis import Basis, Cell, Place, Term
from weightspace.metanets.equivariant.product import averages, product

Pooling = Literal["mean", "max"]
Values = Mapping[str, Float[Tensor, "networks ... channels"]]
"""Features by slot key: (networks, *sizes of the kept dimensions, channels)."""


class EquivariantLinear(nn.Module):
    """A linear layer on all slots at once that commutes with the permutations of an architecture.

    With `pooling="max"`, what is not carried is reduced by its maximum, and the layer is equivariant without being linear.
    """

    def __init__(
        self,
        basis: Basis,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        pooling: Pooling = "mean",
        rectify: bool = False,
        mixer: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        """Draw its weights: those that sum into one output have the variance 1 / (how many there are), as UNF has it.

        Args:
            basis: of the maps.
            inputs: channels by slot key, of one place (those folded into it come on top).
            outputs: the same of what is made.
            pooling: what becomes of the dimensions that an output does not share.
            rectify: whether a ReLU follows.
            mixer: makes what stands in place of a matrix where a single dimension is carried, from channels read and written; it may
                let the members of that dimension see each other, each alike.
        """
        super().__init__()
        self.basis, self.pooling, self.rectify = basis, pooling, rectify
        self.inputs = {key: inputs[key] * frame.folds for key, frame in basis.frames.items()}
        self.outputs = {key: outputs[key] * frame.folds for key, frame in basis.frames.items()}
        self.averaged = _averaged(basis) if pooling == "mean" else dict.fromkeys(basis.frames, ())
        self.maps = nn.ModuleList(self._map(term, mixer) for term in basis.terms)
        self._draw()

    def _map(self, term: Term, mixer: Callable[[int, int], nn.Module] | None) -> nn.Module:
        read, written = self._width(self.inputs, term.reads), self._width(self.outputs, term.writes)
        if mixer is not None and len(term.signature) == 1:
            return mixer(read, written)
        return nn.Linear(read, written, bias=not term.signature)  # what is invariant is carried by the empty signature alone

    @staticmethod
    def _width(channels: Mapping[str, int], places: Sequence[Place]) -> int:
        return sum(channels[place.slot] for place in places)

    def _draw(self) -> None:
        fans = dict.fromkeys(self.basis.frames, 0)
        for term in self.basis.terms:
            for key in {place.slot for place in term.writes}:
                fans[key] += self._width(self.inputs, term.reads)
        for term, made in zip(self.basis.terms, self.maps, strict=True):
            if isinstance(made, nn.Linear):
                for place, rows in zip(
                    term.writes, torch.split(made.weight, [self.outputs[place.slot] for place in term.writes]), strict=True
                ):
                    nn.init.normal_(rows.data, std=fans[place.slot] ** -0.5)
                if made.bias is not None:
                    nn.init.zeros_(made.bias)

    def forward(self, values: Values) -> dict[str, Tensor]:
        """Map features of all slots."""
        reader = _Reader(values, self.averaged, self.pooling)
        sums: dict[str, dict[tuple[Cell, ...], list[Tensor]]] = {key: {} for key in self.basis.frames}
        whole: dict[str, tuple[Tensor, Tensor]] = {}
        for term, made in zip(self.basis.terms, self.maps, strict=True):
            read = [reader(place) for place in term.reads]
            carried = torch.cat(read, -1) if len(read) > 1 else read[0]
            widths = [self.outputs[place.slot] for place in term.writes]
            if isinstance(made, nn.Linear) and len(term.signature) > 1:
                for place, rows in zip(term.writes, torch.split(made.weight, widths), strict=True):
                    if place.is_whole:
                        whole[place.slot] = (_spread(carried, place), rows)
                    else:
                        _add(sums, place, F.linear(carried, rows))
            else:
                for place, part in zip(term.writes, torch.split(made(carried), widths, -1), strict=True):
                    _add(sums, place, part)
        return {key: _write(found, whole.get(key), self.rectify) for key, found in sums.items()}


def _averaged(basis: Basis) -> dict[str, tuple[int, ...]]:
    """For each slot of several dimensions, those along each of which its mean is read."""
    found: dict[str, list[int]] = {key: [] for key in basis.frames}
    for term in basis.terms:
        for place in term.reads:
            if len(place.rest) == 1 and place.cells and all(len(cell) == 1 for cell in place.pattern):
                found[place.slot].append(place.rest[0][0])
    return {key: tuple(sorted(set(axes))) for key, axes in found.items()}


class _Reader:
    """Reads places of slots; each is reduced once for all that asks for it."""

    def __init__(self, values: Values, averaged: Mapping[str, Sequence[int]], pooling: Pooling) -> None:
        self.pooling = pooling
        self.known: dict[tuple[str, tuple[Cell, ...], tuple[Cell, ...]], Tensor] = {}
        for slot, tensor in values.items():
            dimensions = tuple((j,) for j in range(tensor.ndim - 2))
            whole, *means = averages(tensor, [1 + j for j in averaged[slot]]) if averaged[slot] else (tensor,)
            self.known[slot, dimensions, ()] = whole
            for j, mean in zip(averaged[slot], means, strict=True):
                self.known[slot, (*dimensions[:j], *dimensions[j + 1 :]), ((j,),)] = mean

    def __call__(self, place: Place) -> Tensor:
        """(networks, *sizes of the cells, channels)."""
        order = sorted(place.cells)
        found = self._reduced(place.slot, tuple(order), place.rest)
        return found if order == list(place.cells) else found.permute(0, *(1 + order.index(cell) for cell in place.cells), found.ndim - 1)

    def _reduced(self, slot: str, cells: tuple[Cell, ...], rest: tuple[Cell, ...]) -> Tensor:
        key = (slot, cells, rest)
        if key not in self.known:
            self.known[key] = self._reduce(slot, cells, rest)
        return self.known[key]

    def _reduce(self, slot: str, cells: tuple[Cell, ...], rest: tuple[Cell, ...]) -> Tensor:
        if not rest:
            return _diagonal(self.known[slot, tuple(sorted((j,) for cell in cells for j in cell)), ()], cells)
        before = tuple(sorted((*cells, rest[-1])))
        values, at = self._reduced(slot, before, rest[:-1]), 1 + before.index(rest[-1])
        return values.mean(at) if self.pooling == "mean" else values.amax(at)


def _diagonal(values: Tensor, cells: Sequence[Cell]) -> Tensor:
    """Take the diagonal of each cell of several dimensions: (networks, *sizes of the cells, channels), a view."""
    if all(len(cell) == 1 for cell in cells):
        return values
    last = values.ndim - 2
    names = list(range(last))
    view = values.movedim(-1, 1)  # so that dimensions are at the end
    for cell in cells:
        kept = cell[0]
        for other in cell[1:]:
            view = view.diagonal(dim1=2 + names.index(kept), dim2=2 + names.index(other))
            names = [name for name in names if name not in (kept, other)] + [kept]
    return view.permute(0, *(2 + names.index(cell[0]) for cell in cells), 1)


def _spread(values: Tensor, place: Place) -> Tensor:
    """Lay what was carried along the cells of the place's pattern, of length one along those that it has not."""
    order = [place.cells.index(cell) if cell in place.cells else -1 for cell in place.pattern]
    present = [at for at in order if at >= 0]
    turned = values if present == sorted(present) else values.permute(0, *(1 + at for at in present), values.ndim - 1)
    sizes = iter(turned.shape[1:-1])
    return turned.reshape(len(values), *(next(sizes) if at >= 0 else 1 for at in order), values.shape[-1])


def _add(sums: Mapping[str, dict[tuple[Cell, ...], list[Tensor]]], place: Place, values: Tensor) -> None:
    sums[place.slot].setdefault(place.pattern, []).append(_spread(values, place))


def _write(found: Mapping[tuple[Cell, ...], list[Tensor]], whole: tuple[Tensor, Tensor] | None, rectify: bool) -> Tensor:
    """Sum what was mapped to a slot, the small before the large, then write on its diagonals."""
    *diagonals, plain = sorted(found, key=len)
    parts = _sums(found[plain])
    at_once = rectify and not diagonals
    made = product(*whole, parts, rectify=at_once) if whole is not None else parts[0].relu() if at_once else parts[0]
    for pattern in diagonals:
        for part in _sums(found[pattern]):
            _diagonal(made, pattern).add_(part)
    return made.relu() if rectify and diagonals else made


def _sums(parts: Sequence[Tensor]) -> list[Tensor]:
    """Add each part to a larger one that has all its dimensions; what is left are parts that share none of them as a whole."""
    left: list[Tensor] = []
    for part in sorted(parts, key=lambda part: -part.numel()):
        for at, larger in enumerate(left):
            if all(n in (1, m) for n, m in zip(part.shape, larger.shape, strict=True)):
                left[at] = larger + part
                break
        else:
            left.append(part)
    return left


__all__ = ["EquivariantLinear", "Pooling", "Values"]
