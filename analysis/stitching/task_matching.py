"""Task-loss matching: a stitch trained through two frozen networks, on what the stitched network answers."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.stitching.chain import Chain, in_eval
from weightspace.analysis.stitching.fitting import Pair, crossing, fit_stitches
from weightspace.analysis.stitching.layer import Affine, Stitch
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, batch_inputs, logits_of, moved, taken

TARGETS = ("labels", "front", "end", "mean")
"""What the stitched network is to answer: as the task's loss says, or as the front's network does, the end's, or their mean (of logits)."""

Progress = Callable[[int, int], None]
"""Is told how many steps are done, and of how many."""

CACHED = 2**28
"""Bytes of features that are kept at most; more are computed anew in each epoch."""


def match_task(
    front: Chain,
    end: Chain,
    task: Task,
    pair: Pair,
    start: str | Stitch = "linear",
    *,
    targets: str = "labels",
    temperature: float = 1.0,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    sparsity: float = 0.0,
    norms: bool = False,
    generator: torch.Generator | None = None,
    progress: Progress = lambda done, total: None,
) -> Stitch:
    """Train a stitch by the answers of the stitched network, through a front and an end that stay as they are.

    Csiszarik et al. (arXiv:2110.14633), whose settings are the defaults: least squares first, then Adam; soft targets where the question is how alike
    two networks are, since labels can teach a stitch what neither says. With `norms` as Bansal et al. (arXiv:2106.07682): batch norms before and
    after the map, folded into it at the end. They begin with the statistics of the data, so that training begins from `start` (a departure).

    Args:
        front: whose features are taken.
        end: through which the stitch is trained.
        task: the data, and the loss for labels.
        pair: a cut of the front (-1 is the input), a cut of the end.
        start: a kind of stitches to find one by on the data of the task, or a stitch between these cuts.
        targets: what is to be answered.
        temperature: by which logits are divided in soft targets.
        epochs: through the data; the batches of the task are shuffled, and the examples in each.
        learning_rate: of Adam.
        weight_decay: of Adam.
        batch_size: examples a step, at most.
        sparsity: factor of the sum of absolute weights, added to the loss.
        norms: whether there are batch norms before and after the map while it is trained.
        generator: shuffles, and draws a random start.
        progress: is told of every epoch.

    Returns:
        A new stitch, as it is after the last step.

    Raises:
        UnknownNameError: no such targets, or no such kind.
        AnalysisError: there is no data, the loss is no number, or a setting is out of range.
    """
    if targets not in TARGETS:
        raise UnknownNameError.of("targets", targets, TARGETS)
    if not (temperature > 0 and epochs >= 0 and batch_size > 1):
        raise AnalysisError(
            f"expected a temperature above 0, epochs of 0 or more and batches of 2 or more, found {temperature}, {epochs} and {batch_size}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    found = start if isinstance(start, Stitch) else fit_stitches(front, end, task, [pair], start, generator=generator)[pair]
    with in_eval(front, end):
        through = _Through(front, end, task, pair, targets, temperature)
        trained = _Normed(deepcopy(found), through) if norms else _Plain(deepcopy(found))
        parameters = list(trained.parameters())
        optimizer = torch.optim.Adam(parameters, learning_rate, weight_decay=weight_decay)
        for epoch in range(epochs):
            for example in through.examples(batch_size, generator):
                loss = through.loss(trained, example)
                if sparsity:
                    loss = loss + sparsity * trained.affine().weight.abs().sum()
                if not bool(torch.isfinite(loss)):
                    raise AnalysisError(
                        f"the loss of the stitched network became {loss.item()} in epoch {epoch + 1}; take a smaller learning rate"
                    )
                # Of the stitch alone: the networks are to have no gradients left in them.
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.grad = gradient
                optimizer.step()
            progress(epoch + 1, epochs)
        return trained.folded()


@dataclass
class _Example:
    """A part of a batch.

    Attributes:
        batch: itself.
        features: what crosses at the front's cut.
        answers: soft targets, if any.
    """

    batch: Any
    features: Tensor
    answers: Tensor | None

    def part(self, rows: Tensor) -> "_Example":
        """Some of its examples."""
        here = rows.to(self.features.device)
        return _Example(taken(self.batch, rows), self.features[here], None if self.answers is None else self.answers[here])


class _Through:
    """Data with what is asked of the end behind a stitch."""

    def __init__(self, front: Chain, end: Chain, task: Task, pair: Pair, targets: str, temperature: float) -> None:
        self.front, self.end, self.task, self.pair, self.targets, self.temperature = front, end, task, pair, targets, temperature
        kept: list[_Example] = []
        size = 0
        for example in self._computed():
            kept.append(example)
            size += example.features.nbytes
            if size > CACHED:
                break
        if not kept:
            raise AnalysisError("expected data to train a stitch on, found no batches; give the task some")
        self.kept = kept if size <= CACHED else None

    def batches(self) -> Iterator[_Example]:
        """Every batch with the features that it gives."""
        return iter(self.kept) if self.kept is not None else self._computed()

    def examples(self, size: int, generator: torch.Generator) -> Iterator[_Example]:
        """Parts of batches, shuffled; the batches as well where they are all at hand."""
        batches = self.batches()
        if self.kept is not None:
            batches = (self.kept[at] for at in torch.randperm(len(self.kept), generator=generator).tolist())
        for batch in batches:
            order = torch.randperm(len(batch.features), generator=generator)
            yield from (batch.part(rows) for rows in order.tensor_split(math.ceil(len(order) / size)))

    def loss(self, stitch: nn.Module, example: _Example) -> Float[Tensor, ""]:
        """Of the stitched network."""
        args, kwargs = batch_inputs(example.batch)
        outputs = self.end.run((*args, *self.end.ordered(kwargs)), stitch(example.features), start=self.pair[1])
        if example.answers is None:
            loss: Tensor = self.task.loss(outputs, example.batch)
            return loss
        answered = (logits_of(outputs) / self.temperature).log_softmax(-1)
        wanted = (example.answers / self.temperature).softmax(-1)
        # The square keeps gradients of one size at all temperatures (Hinton et al., arXiv:1503.02531).
        return -(wanted * answered).sum(-1).mean() * self.temperature**2

    def _computed(self) -> Iterator[_Example]:
        device = next((one.device for one in [*self.end.parameters(), *self.end.buffers()]), torch.device("cpu"))
        for batch in self.task.batches:
            features = next(crossing(self.front, [batch], [self.pair[0]]))[self.pair[0]].to(device)
            with torch.no_grad():
                answers = [logits_of(chain(*args, **kwargs)) for chain in self._teachers() for args, kwargs in [batch_inputs(batch)]]
            yield _Example(moved(batch, device), features, sum(answers[1:], answers[0]) / len(answers) if answers else None)

    def _teachers(self) -> list[Chain]:
        return {"labels": [], "front": [self.front], "end": [self.end], "mean": [self.front, self.end]}[self.targets]


class _Plain(nn.Module):
    """A stitch as it is."""

    def __init__(self, stitch: Stitch) -> None:
        super().__init__()
        self.stitch = stitch

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.stitch(features)
        return made

    def affine(self) -> Affine:
        """The map that it is."""
        return Affine(self.stitch.weight, self.stitch.bias)

    def folded(self) -> Stitch:
        """The stitch."""
        return self.stitch


class _Normed(nn.Module):
    """A stitch with a batch norm before its map and one after it, which change nothing at the beginning."""

    def __init__(self, stitch: Stitch, through: _Through) -> None:
        super().__init__()
        self.stitch, self.through = stitch, through
        given, taken_ = stitch.weight.shape
        self.before, self.after = nn.BatchNorm1d(taken_).to(stitch.weight), nn.BatchNorm1d(given).to(stitch.weight)
        for norm in (self.before, self.after):
            self._measure(norm)
            mean, variance = _statistics(norm)
            with torch.no_grad():
                norm.weight.copy_((variance + norm.eps).sqrt())
                norm.bias.copy_(mean)

    def forward(self, features: Tensor) -> Tensor:
        rows = _along_units(self.before, self.stitch.bridge.rows(features).to(self.stitch.weight.dtype))
        return self.stitch.bridge.back(_along_units(self.after, rows @ self.stitch.weight.T + self.stitch.bias))

    def affine(self) -> Affine:
        """The map between the norms."""
        return Affine(self.stitch.weight, self.stitch.bias)

    def folded(self) -> Stitch:
        """A stitch that maps as the three do, with the statistics of all data."""
        self._measure(self.before)
        self._measure(self.after)
        with torch.no_grad():
            (scale, shift), (scale_after, shift_after) = (_as_affine(norm) for norm in (self.before, self.after))
            weight = scale_after[:, None] * self.stitch.weight * scale
            bias = scale_after * (self.stitch.weight @ shift + self.stitch.bias) + shift_after
        return Stitch(self.stitch.bridge, Affine(weight, bias)).to(self.stitch.weight)

    def _measure(self, norm: nn.BatchNorm1d) -> None:
        """Set running statistics to those of all data."""
        mean, variance = _statistics(norm)
        total, squares, count = torch.zeros_like(mean, dtype=torch.float64), torch.zeros_like(mean, dtype=torch.float64), 0
        with torch.no_grad():
            for example in self.through.batches():
                rows = self.stitch.bridge.rows(example.features).to(self.stitch.weight.dtype)
                if norm is self.after:
                    scale, shift = _as_affine(self.before)
                    rows = (rows * scale + shift) @ self.stitch.weight.T + self.stitch.bias
                flat = rows.flatten(0, 1).double()
                total, squares, count = total + flat.sum(0), squares + flat.square().sum(0), count + len(flat)
            mean.copy_(total / count)
            variance.copy_((squares / count - (total / count).square()).clamp(min=0))


def _statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    return mean, variance


def _along_units(norm: nn.BatchNorm1d, rows: Float[Tensor, "batch places units"]) -> Float[Tensor, "batch places units"]:
    if norm.training and rows.shape[:2].numel() < 2:
        raise AnalysisError("a batch of one example has no statistics, which batch norms need; use larger batches, or norms=False")
    normed: Tensor = norm(rows.flatten(0, 1))
    return normed.reshape(rows.shape)


def _as_affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Factor and shift of each unit by the running statistics."""
    mean, variance = _statistics(norm)
    scale: Tensor = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


__all__ = ["TARGETS", "Progress", "match_task"]
