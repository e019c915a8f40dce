"""Products of the activations of two networks, added up in float64 as they come, and the similarities that they give."""

import torch
from jaxtyping import Float
from torch import Tensor

DEAD = 1e-12  # of the largest variance: below it a member responds to nothing


class Products:
    """Sums of products between members of a and members of b, and of the squares of each."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """Begin with nothing.

        Args:
            sizes: of the groups that number the members together.
        """
        self.sizes = sizes
        self.cross = self.left = self.right = torch.zeros((), dtype=torch.float64)

    def add(self, x: Float[Tensor, "*samples members"], y: Float[Tensor, "*samples members"], weight: float = 1.0) -> None:
        """Take in values of a and of b."""
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        self.cross = self.cross.to(x.device) + weight * (x.T @ y)
        self.left = self.left.to(x.device) + weight * x.square().sum(0)
        self.right = self.right.to(x.device) + weight * y.square().sum(0)

    def similarity(self, *, normalised: bool) -> Tensor:
        """The products as (*sizes of a, *sizes of b), divided by the lengths if asked for; zero where a member has none."""
        values = self.cross
        if normalised:
            values = _reciprocal(self.left)[:, None] * values * _reciprocal(self.right)
        return values.reshape(*self.sizes, *self.sizes)


class Gathering:
    """The part of some products that one place contributes, around its own means (merged as by Chan, Golub and LeVeque, 1983)."""

    def __init__(self, total: Products, *, centred: bool) -> None:
        """Begin with nothing.

        Args:
            total: what the products are added to.
            centred: whether means are taken off.
        """
        self.total, self.centred, self.count = total, centred, 0
        self._means = torch.zeros(()), torch.zeros(())

    def add(self, x: Float[Tensor, "samples cells members"], y: Float[Tensor, "samples cells members"]) -> None:
        """Take in some more samples of a and of b; each cell has means of its own."""
        if not self.centred:
            self.total.add(x, y)
            return
        now = x.mean(0), y.mean(0)
        self.total.add(x - now[0], y - now[1])
        before, self.count = self.count, self.count + len(x)
        share = len(x) / self.count
        apart = now[0] - self._means[0].to(x), now[1] - self._means[1].to(y)
        if before:
            self.total.add(*apart, before * share)
        self._means = now[0] - (1 - share) * apart[0], now[1] - (1 - share) * apart[1]


def _reciprocal(squares: Tensor) -> Tensor:
    """One over the roots; zero for what is zero."""
    alive = squares > DEAD * squares.max()
    return torch.where(alive, torch.where(alive, squares, 1.0).rsqrt(), 0.0)
