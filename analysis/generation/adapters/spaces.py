"""Spaces of adapters: few coordinates for each, the same whatever matrix stands between its factors."""

import abc
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.adapters.factors import Stacked, aligned, balanced, closed, opened, pairs_in, sums_of_products
from weightspace.analysis.generation.latent.principal import Principal
from weightspace.analysis.generation.target import Target
from weightspace.errors import UnknownNameError

Rows = Float[Tensor, "networks _"]
ROUNDING = 1e-6
"""Directions of less than this share of the largest variance are none."""


class AdapterSpace(nn.Module, abc.ABC):
    """Coordinates of adapters, and adapters by their coordinates."""

    def __init__(self, target: Target, size: int) -> None:
        """Make one that knows no adapters yet.

        Args:
            target: of adapters.
            size: coordinates; those beyond what the adapters span are zero.

        Raises:
            GenerationError: the target is no adapter.
        """
        super().__init__()
        self.target, self.size = target, size
        self.pairs = pairs_in(target)
        factors = {name for pair in self.pairs for name in (pair.a, pair.b)}
        self.rest = Target({name: shape for name, shape in target.shapes.items() if name not in factors})

    @abc.abstractmethod
    def learn(self, tensors: Mapping[str, Tensor]) -> Rows:
        """Span the space of some adapters, and tell their coordinates."""

    @abc.abstractmethod
    def grow(self, coordinates: Rows) -> dict[str, Tensor]:
        """Adapters by their coordinates, stacked."""

    def _beside(self, tensors: Mapping[str, Tensor]) -> Rows:
        """What is no factor, in rows."""
        if not self.rest.shapes:
            return next(iter(tensors.values())).new_zeros(len(next(iter(tensors.values()))), 0)
        return self.rest.flat(tensors)

    def _in_order(self, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: made[name] for name in self.target.shapes}


class FactorSpace(AdapterSpace):
    """Principal components of the factors themselves, brought into a frame first."""

    def __init__(self, target: Target, size: int, frame: Callable[[Stacked], Stacked]) -> None:
        """Make it; see `AdapterSpace`.

        Args:
            target: of adapters.
            size: coordinates.
            frame: what is done with the factors of each update.
        """
        super().__init__(target, size)
        self.frame = frame
        self.mean = nn.Buffer(torch.zeros(target.numel))
        self.principal = Principal(target.numel, min(size, target.numel))

    def learn(self, tensors: Mapping[str, Tensor]) -> Rows:
        """Bring adapters into the frame and find their principal components."""
        framed = closed([self.frame(one) for one in opened(tensors, self.pairs)], self.pairs, self.target)
        flat = self.target.flat({**tensors, **framed})
        self.mean = nn.Buffer(flat.mean(0))
        self.principal = Principal.of(flat - self.mean, self.size)
        return _filled(self.principal.shrink(flat - self.mean), self.size)

    def grow(self, coordinates: Rows) -> dict[str, Tensor]:
        """Factors by their principal components, in the frame."""
        return self.target.tensors(self.mean + self.principal.grow(coordinates[:, : len(self.principal.basis)]))


class ProductSpace(AdapterSpace):
    """Principal components of the products: a point is a weighted sum of the adapters' products, cut to their rank.

    Products are never written out: their inner products are `<B A, B' A'> = sum((B^T B') * (A A'^T))`, and sums of them are factors
    side by side. The adapters themselves are kept.
    """

    def __init__(self, target: Target, size: int) -> None:
        """Make it; see `AdapterSpace`."""
        super().__init__(target, size)
        self.adapters = nn.Buffer(torch.zeros(0, target.numel))
        self.shares = nn.Buffer(torch.zeros(size, 0))

    def learn(self, tensors: Mapping[str, Tensor]) -> Rows:
        """Find the principal components by the products' inner products."""
        self.adapters = nn.Buffer(self.target.flat(tensors).clone())
        beside = self._beside(tensors).double()
        inner = beside @ beside.T
        for b, a in opened(tensors, self.pairs):
            count, rank = len(b), a.shape[1]
            left, right = b.mT.flatten(0, 1), a.flatten(0, 1)
            inner = inner + ((left @ left.T) * (right @ right.T)).view(count, rank, count, rank).sum((1, 3))
        centred = inner - inner.mean(0) - inner.mean(1, keepdim=True) + inner.mean()
        values, vectors = torch.linalg.eigh(centred)
        values, vectors = values.flip(0)[: self.size], vectors.flip(1)[:, : self.size]
        root = torch.where(values > ROUNDING * values[0].clamp_min(0), values, 0.0).sqrt()
        inverse = torch.where(root > 0, 1 / root.clamp_min(torch.finfo(root.dtype).tiny), 0.0)
        like = self.adapters
        self.shares = nn.Buffer(_filled(vectors * inverse, self.size).T.contiguous().to(like))
        return _filled(vectors * root, self.size).to(like)

    def grow(self, coordinates: Rows) -> dict[str, Tensor]:
        """Sum the products by their shares, and cut the sums to the adapters' rank."""
        known = self.target.tensors(self.adapters)
        shares = coordinates @ self.shares + 1 / len(self.adapters)
        made = self.rest.tensors(shares @ self._beside(known)) if self.rest.shapes else {}
        found = [sums_of_products((b, a), shares, a.shape[1]) for b, a in opened(known, self.pairs)]
        return self._in_order({**made, **closed(found, self.pairs, self.target)})


def _filled(coordinates: Rows, size: int) -> Rows:
    return torch.nn.functional.pad(coordinates, (0, size - coordinates.shape[-1]))


def _as_they_are(found: Stacked) -> Stacked:
    return found


FRAMES: Mapping[str, Callable[[Stacked], Stacked]] = {"aligned": aligned, "balanced": balanced, "raw": _as_they_are}
SPACES = (*FRAMES, "products")


def adapter_space(name: str, target: Target, size: int) -> AdapterSpace:
    """Make a space by name.

    Args:
        name: `aligned`, `balanced`, `products`, or `raw`, which leaves factors as they are found, to compare with.
        target: of adapters.
        size: coordinates.

    Raises:
        UnknownNameError: there is no such space.
        GenerationError: the target is no adapter.
    """
    if name not in SPACES:
        raise UnknownNameError.of("space of adapters", name, SPACES)
    return ProductSpace(target, size) if name == "products" else FactorSpace(target, size, FRAMES[name])


__all__ = ["SPACES", "AdapterSpace", "FactorSpace", "ProductSpace", "adapter_space"]
