"""Training a predictor: mixed precision, early stopping, several processes, and going on where it was stopped."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from weightspace.errors import MetanetError
from weightspace.metanets.examples import Examples
from weightspace.metanets.predictor import Predictor

if TYPE_CHECKING:
    from accelerate import Accelerator
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Schedule:
    """How a predictor is trained: AdamW with a cosine to zero, the best epoch by the validation networks kept.

    Attributes:
        epochs: at most.
        batch_size: networks a step, over all processes together.
        learning_rate: at its highest, after the first tenth of the steps.
        weight_decay: of AdamW.
        patience: epochs without a better validation loss after which it stops.
        precision: `bf16` computes in bfloat16 where that is safe.
        clip: largest norm of the gradient.
        seed: of the order of the networks.
    """

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 20
    precision: Literal["fp32", "bf16"] = "fp32"
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Trained:
    """What training made.

    Attributes:
        predictor: with the parameters of the best epoch, calibrated on the validation networks.
        history: loss of training and validation, and the validation metrics, epoch by epoch.
        best_epoch: counted from 1.
    """

    predictor: Predictor
    history: tuple[Mapping[str, float], ...]
    best_epoch: int

    def plot(self) -> "Figure":
        """Draw the losses and metrics by epoch."""
        from weightspace.metanets.plotting import learning_curves

        return learning_curves(self.history, self.best_epoch)


State = dict[str, Any]
"""Everything that training goes on from: tensors, numbers and lists, as `torch.load(weights_only=True)` reads them."""


def train(
    predictor: Predictor,
    examples: Examples,
    validation: Examples,
    schedule: Schedule | None = None,
    *,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
    keep: Callable[[State], None] | None = None,
    state: State | None = None,
    accelerator: "Accelerator | None" = None,
) -> Trained:
    """Train a copy of a predictor.

    Args:
        predictor: to begin with; it is not changed.
        examples: to learn from.
        validation: to tell the best epoch by, and how wide intervals are.
        schedule: how to train.
        report: is called after every epoch with its number and what was measured.
        keep: is called after every epoch with the state, to be saved.
        state: a kept one, to go on from.
        accelerator: of Hugging Face's accelerate, for several processes or devices; each takes its share of every batch.

    Raises:
        MetanetError: there is nothing to learn from or to judge by, or the loss is not finite.
    """
    schedule = schedule or Schedule()
    if not len(examples) or not len(validation):
        raise MetanetError(f"{len(examples)} networks to learn from and {len(validation)} to judge by; expected at least one of each")
    model = copy.deepcopy(predictor)
    device = next(model.parameters()).device
    examples, validation = examples.to(device), validation.to(device)
    if state is None:
        model.fit_inputs(examples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    steps = max(1, schedule.epochs * -(-len(examples) // schedule.batch_size))
    rising = max(0.1, 1.5 / (steps + 1))  # it divides by the length of the rise, which may not be nothing
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=steps + 1, pct_start=rising)
    generator = torch.Generator().manual_seed(schedule.seed)
    best, history = {name: tensor.clone() for name, tensor in model.state_dict().items()}, []
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rates.load_state_dict(state["rates"])
        generator.set_state(state["generator"])
        best, history = state["best"], list(state["history"])
        torch.set_rng_state(state["chance"])
    loop = _Loop(model, optimizer, schedule, accelerator)
    for epoch in range(len(history) + 1, schedule.epochs + 1):
        if history and epoch - _best(history) > schedule.patience:
            break
        lost = loop.epoch(examples, torch.randperm(len(examples), generator=generator), rates)
        model.settle(examples)
        measured = {"loss": lost, **_judged(model, validation)}
        history.append(measured)
        if _best(history) == epoch:
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if report is not None:
            report(epoch, measured)
        if keep is not None:
            keep(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rates": rates.state_dict(),
                    "generator": generator.get_state(),
                    "chance": torch.get_rng_state(),  # of dropout
                    "best": best,
                    "history": history,
                }
            )
    model.load_state_dict(best)
    model.eval().calibrate(validation)
    return Trained(model, tuple(history), _best(history))


class _Loop:
    """Steps over the networks; with an accelerator every process takes its share of each batch."""

    def __init__(self, model: Predictor, optimizer: torch.optim.Optimizer, schedule: Schedule, accelerator: "Accelerator | None") -> None:
        self.model, self.optimizer, self.schedule, self.accelerator = model, optimizer, schedule, accelerator
        self.wrapped: Any = model if accelerator is None else accelerator.prepare_model(model)

    def epoch(self, examples: Examples, order: Tensor, rates: torch.optim.lr_scheduler.LRScheduler) -> float:
        """One pass; the mean loss."""
        self.model.train()
        total = 0.0
        for at in torch.split(order, self.schedule.batch_size):
            share = at if self.accelerator is None else at[self.accelerator.process_index :: self.accelerator.num_processes]
            share = share if len(share) else at[:1]
            device = examples.targets.device
            with torch.autocast(device.type, torch.bfloat16, enabled=self.schedule.precision == "bf16"):
                loss = self.wrapped(examples.take(share))
            if not loss.isfinite():
                raise MetanetError(
                    f"the loss became {float(loss.detach())} in training; lower the learning rate, or leave out networks that fell apart"
                )
            self.optimizer.zero_grad()
            if self.accelerator is None:
                loss.backward()
            else:
                self.accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
            self.optimizer.step()
            rates.step()
            total += float(loss.detach()) * len(at)
        return total / len(order)


@torch.no_grad()
def _judged(model: Predictor, validation: Examples) -> dict[str, float]:
    model.eval()
    parts = torch.split(torch.arange(len(validation)), 256)
    lost = sum(float(model.loss(validation.take(at))) * len(at) for at in parts) / len(validation)
    return {"validation_loss": lost} | {f"validation_{name}": value for name, value in model.judge(validation).items()}


def _best(history: list[Mapping[str, float]]) -> int:
    """The epoch of the least validation loss, counted from 1; not finite ones count as infinite."""
    lost = [one["validation_loss"] for one in history]
    return min(range(len(lost)), key=lambda at: lost[at] if lost[at] == lost[at] else float("inf")) + 1 if lost else 0


__all__ = ["Schedule", "State", "Trained", "train"]
