"""Heads: what a metanet's vectors are turned into, and what is lost where that is wrong; one class each, by a decorator."""

import abc
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.registry import Registry


class Head(nn.Module, abc.ABC):
    """Turns vectors into predictions of a target."""

    @abc.abstractmethod
    def fit_targets(self, targets: Float[Tensor, " networks"]) -> None:
        """Look at the targets to be learned, once and before training."""

    @abc.abstractmethod
    def loss(self, vectors: Float[Tensor, "networks dim"], targets: Float[Tensor, " networks"]) -> Float[Tensor, ""]:
        """What is lost on some networks, in mean."""

    @abc.abstractmethod
    def predict(self, vectors: Float[Tensor, "networks dim"]) -> Float[Tensor, " networks"]:
        """The target of each network, in its own units; of a class, its number."""

    @abc.abstractmethod
    def judge(self, predicted: Float[Tensor, " networks"], targets: Float[Tensor, " networks"]) -> dict[str, float]:
        """Metrics of predictions."""


heads: Registry[Callable[..., Head]] = Registry("head")


def head(name: str) -> Callable[[Callable[..., Head]], Callable[..., Head]]:
    """Register a class as a head; it is called with the length of the vectors, then settings by keyword."""
    return lambda make: heads.add(name, make)


@head("regression")
class Regression(Head):
    """A number, by squared error in units of its deviation over the networks trained on."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)
        self.mean, self.std = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))

    def fit_targets(self, targets: Float[Tensor, " networks"]) -> None:
        """Take their mean and deviation.

        Raises:
            MetanetError: they are all the same.
        """
        if (targets == targets[0]).all():
            raise MetanetError(
                f"all {len(targets)} networks to learn from have the target {float(targets[0]):g}, so there is nothing to learn; "
                "choose another target, or networks that differ in it"
            )
        self.mean.copy_(targets.mean())
        self.std.copy_(targets.double().std(correction=0))

    def loss(self, vectors: Float[Tensor, "networks dim"], targets: Float[Tensor, " networks"]) -> Float[Tensor, ""]:
        """Mean squared error."""
        return nn.functional.mse_loss(self.linear(vectors)[:, 0], (targets - self.mean) / self.std)

    def predict(self, vectors: Float[Tensor, "networks dim"]) -> Float[Tensor, " networks"]:
        """The number."""
        predicted: Tensor = self.linear(vectors)[:, 0] * self.std + self.mean
        return predicted

    def judge(self, predicted: Float[Tensor, " networks"], targets: Float[Tensor, " networks"]) -> dict[str, float]:
        """Kendall's tau, the share of variance explained, the root of the mean squared error."""
        error, spread = (predicted - targets).double().square().mean(), targets.double().var(correction=0)
        explained = 1 - float(error / spread) if spread > 0 else float("nan")
        return {"tau": kendall(predicted, targets), "r2": explained, "rmse": float(error.sqrt())}


@head("ranking")
class Ranking(Regression):
    """An order, by the logistic loss of every pair in a batch (RankNet, Burges et al. 2005); predictions are scores, not the target's units."""

    def loss(self, vectors: Float[Tensor, "networks dim"], targets: Float[Tensor, " networks"]) -> Float[Tensor, ""]:
        """Mean over the pairs whose targets differ."""
        scores = self.linear(vectors)[:, 0]
        sign = torch.sign(targets[:, None] - targets[None, :])
        lost = nn.functional.softplus(-(scores[:, None] - scores[None, :]) * sign) * sign.abs()
        return lost.sum() / sign.abs().sum().clamp_min(1)

    def judge(self, predicted: Float[Tensor, " networks"], targets: Float[Tensor, " networks"]) -> dict[str, float]:
        """Kendall's tau."""
        return {"tau": kendall(predicted, targets)}


@head("classification")
class Classification(Head):
    """A class, by cross entropy."""

    def __init__(self, dim: int, *, classes: int = 2) -> None:
        super().__init__()
        self.linear, self.classes = nn.Linear(dim, classes), classes

    def fit_targets(self, targets: Float[Tensor, " networks"]) -> None:
        """See that they are classes.

        Raises:
            MetanetError: one is not a whole number from 0 to below the number of classes, or they are all the same.
        """
        if ((targets < 0) | (targets >= self.classes) | (targets != targets.round())).any():
            found = sorted({float(one) for one in targets})
            raise MetanetError(
                f"expected classes from 0 to {self.classes - 1}, found targets from {found[0]:g} to {found[-1]:g}; "
                "number the classes, or predict the number by 'regression'"
            )
        if (targets == targets[0]).all():
            raise MetanetError(
                f"all {len(targets)} networks to learn from are of class {int(targets[0])}, so there is nothing to learn; "
                "choose another target, or networks that differ in it"
            )

    def loss(self, vectors: Float[Tensor, "networks dim"], targets: Float[Tensor, " networks"]) -> Float[Tensor, ""]:
        """Mean cross entropy."""
        return nn.functional.cross_entropy(self.linear(vectors), targets.long())

    def predict(self, vectors: Float[Tensor, "networks dim"]) -> Float[Tensor, " networks"]:
        """The likeliest class."""
        predicted: Tensor = self.linear(vectors).argmax(1).to(vectors.dtype)
        return predicted

    def judge(self, predicted: Float[Tensor, " networks"], targets: Float[Tensor, " networks"]) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": float((predicted == targets).double().mean())}


def kendall(a: Float[Tensor, " networks"], b: Float[Tensor, " networks"]) -> float:
    """Kendall's tau-b of two orders; NaN where one is constant, as one network alone is."""
    from scipy.stats import kendalltau

    if len(a) < 2:
        return float("nan")
    return float(kendalltau(a.numpy(force=True), b.numpy(force=True)).statistic)


__all__ = ["Classification", "Head", "Ranking", "Regression", "head", "heads", "kendall"]
