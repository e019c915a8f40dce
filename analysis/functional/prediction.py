"""Sparse prediction: how many units of one network a unit of another needs to be told from them, by linear maps with an L1 penalty.

Li, Yosinski et al., Convergent Learning (arXiv:1511.07543), section 4: error against the number of non-zero weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.functional.recording import chosen, flat, recorded_pairs
from weightspace.analysis.moments import Moments, variances
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PENALTIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
STEPS, CONVERGED = 2000, 1e-7


@dataclass(frozen=True)
class Prediction:
    """Linear maps with an L1 penalty from the units of one layer to those of another network's.

    Attributes:
        penalties: largest first; units have variance 1, so no weight is left at 1.
        weights: for each penalty the weights (others, units), between units of variance 1.
        nonzeros: for each, how many weights a unit has on average.
        errors: for each, the mean share of a unit's variance that is not explained, on the samples that fitted it.
        held_out: likewise on samples that did not.
    """

    penalties: tuple[float, ...]
    weights: tuple[Float[Tensor, "others units"], ...]
    nonzeros: tuple[float, ...]
    errors: tuple[float, ...]
    held_out: tuple[float, ...]

    def values(self) -> dict[str, float]:
        """Non-zero weights and errors by key "what@penalty"."""
        found = {"nonzeros": self.nonzeros, "error": self.errors, "error_held_out": self.held_out}
        return {f"{what}@{penalty:g}": value for what, all in found.items() for penalty, value in zip(self.penalties, all, strict=True)}

    def plot(self) -> "Figure":
        """Draw error against non-zero weights (as figure 5 of the paper)."""
        from weightspace.plotting import BLUE, VERMILION, canvas, style

        with style():
            figure, [[axes]] = canvas()
            axes.plot(self.nonzeros, self.errors, color=BLUE, marker="o", markersize=3, label="samples of the fit")
            axes.plot(self.nonzeros, self.held_out, color=VERMILION, marker="o", markersize=3, label="held out")
            axes.set(xlabel="non-zero weights for a unit", ylabel="unexplained share of variance", ylim=(0, None))
            axes.legend()
        return figure


def predict_sparsely(moments: Moments, held_out: Moments, penalties: Sequence[float] = PENALTIES) -> Prediction:
    """Minimise `|y - W x|^2 / 2 samples + penalty |W|_1` for units of variance 1, from second moments alone.

    By accelerated proximal gradients (Beck and Teboulle, 2009), all units at once, each penalty from the solution of the larger one.
    Units that do not vary predict nothing and are left out as goals.

    Args:
        moments: of the samples that are fitted.
        held_out: of others.
        penalties: above 0.

    Raises:
        AnalysisError: no unit varies, or a penalty that is not positive.
    """
    if not penalties or min(penalties) <= 0:
        raise AnalysisError(f"expected penalties above 0, found {list(penalties)}; give some between 0.001 and 1")
    x, y, between = (sums.cross / sums.count for sums in (moments.x, moments.y, moments.between))
    inputs, goals = (~variances(one).isnan() for one in (x, y))
    if not bool(inputs.any() and goals.any()):
        raise AnalysisError("expected units that vary, found none in one of the layers; give other data, or another layer")
    scale, unit = x.diag()[inputs].rsqrt(), y.diag()[goals].rsqrt()
    gram = x[inputs][:, inputs] * scale * scale[:, None]
    target = between[inputs][:, goals].T * scale * unit[:, None]
    weights, found = torch.zeros_like(target), []
    for penalty in sorted(penalties, reverse=True):
        weights = _lasso(gram, target, penalty, weights)
        found.append(weights)
    test = [sums.cross / sums.count for sums in (held_out.x, held_out.y, held_out.between)]
    gram_test, target_test = test[0][inputs][:, inputs] * scale * scale[:, None], test[2][inputs][:, goals].T * scale * unit[:, None]
    power_test = test[1].diag()[goals] * unit.square()
    return Prediction(
        tuple(sorted(penalties, reverse=True)),
        tuple(found),
        tuple(float((one != 0).sum(1).double().mean()) for one in found),
        tuple(_error(one, gram, target, torch.ones_like(unit)) for one in found),
        tuple(_error(one, gram_test, target_test, power_test) for one in found),
    )


def sparse_prediction(
    task: Task,
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    *,
    layers: Sequence[str] | None = None,
    positions: str = "samples",
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, Prediction]:
    """Predict each layer's units of b from those of a; every second example of a batch is held out.

    Args:
        task: module and data of both.
        a: the network that predicts.
        b: the one that is predicted.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences; see `weightspace.analysis.functional.recording`.
        penalties: above 0.
    """
    names = chosen(task, a, layers)
    fitted, held_out = {name: Moments() for name in names}, {name: Moments() for name in names}
    for name, left, right in recorded_pairs(task, a, b, names, positions=positions):
        for part, moments in enumerate((fitted, held_out)):
            moments[name].add(flat(left[part::2]), flat(right[part::2]))
    return {name: predict_sparsely(fitted[name], held_out[name], penalties) for name in names}


def _lasso(gram: Tensor, target: Tensor, penalty: float, start: Tensor) -> Tensor:
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    weights, ahead, momentum = start, start, 1.0
    for _ in range(STEPS):
        moved = ahead - step * (ahead @ gram - target)
        new = moved.sign() * (moved.abs() - step * penalty).clamp(min=0)
        if float((new - weights).abs().max()) <= CONVERGED * step:
            return new
        after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        # Momentum that points uphill is dropped (O'Donoghue and Candes, 2015), so that the error falls all the way.
        if float(((ahead - new) * (new - weights)).sum()) > 0:
            after, momentum = 1.0, 1.0
        ahead = new + (momentum - 1) / after * (new - weights)
        weights, momentum = new, after
    return weights


def _error(weights: Tensor, gram: Tensor, target: Tensor, power: Tensor) -> float:
    errors = power - 2 * (weights * target).sum(1) + ((weights @ gram) * weights).sum(1)
    alive = power > 0
    return float((errors[alive] / power[alive]).clamp(min=0).mean())


__all__ = ["PENALTIES", "Prediction", "predict_sparsely", "sparse_prediction"]
