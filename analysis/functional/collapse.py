"""Neural collapse: how far the features before the last layer have fallen onto one point a class, and those onto a simplex.

Papyan, Han and Donoho, Prevalence of Neural Collapse during the terminal phase of deep learning training (arXiv:2008.08186).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.connectivity.layers import Calls, is_transposed_linear
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IGNORED = -100  # a target that is none
NEGLIGIBLE = 1e-10  # of the largest eigenvalue: directions in which class means do not differ


@dataclass(frozen=True)
class NeuralCollapse:
    """What is left until collapse; every number but `nc4`'s complement falls to 0.

    Attributes:
        layer: whose inputs are the features.
        classes: that occur in the data.
        counts: examples of each.
        nc1: `Tr(S_W S_B^+) / C`, the within-class scatter in units of the scatter of class means; S_B and the centre of the class means count
            each class once, S_W each example.
        nc1_traces: the variant `Tr(S_W) / Tr(S_B)`.
        cdnv: class-distance normalised variance, `(v_i + v_j) / (2 |m_i - m_j|^2)`, mean over pairs (Galanti et al., arXiv:2112.15121).
        equinorm: of the centred class means: standard deviation of their norms over the mean.
        equiangular: standard deviation of their pairwise cosines.
        max_angle: mean of `|cosine + 1 / (C - 1)|`, the distance from the widest angles.
        rows_equinorm: likewise of the classifier's rows; NaN without one row a class.
        rows_equiangular: likewise.
        rows_max_angle: likewise.
        nc3: `|W / |W| - M / |M||^2`, rows against centred class means; NaN without one row a class.
        nc4: share of examples whose nearest class mean is not the class that the network says.
        cosines: pairwise cosines of the centred class means.
    """

    layer: str
    classes: tuple[int, ...]
    counts: tuple[int, ...]
    nc1: float
    nc1_traces: float
    cdnv: float
    equinorm: float
    equiangular: float
    max_angle: float
    rows_equinorm: float
    rows_equiangular: float
    rows_max_angle: float
    nc3: float
    nc4: float
    cosines: Float[Tensor, "classes classes"]

    def values(self) -> dict[str, float]:
        """Every number by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.type is float}

    def plot(self) -> "Figure":
        """Draw the cosines of the class means beside the numbers."""
        from weightspace.plotting import BLUE, canvas, far_axis, name_axis, note, style

        values = self.values()
        widest = -1 / (len(self.classes) - 1)
        with style():
            figure, [[table, bars]] = canvas(1, 2, size=(3.9, 3.2))
            image = table.imshow(self.cosines.cpu().numpy(), vmin=-1, vmax=1, interpolation="nearest")
            table.grid(False)
            for axis in (table.xaxis, table.yaxis):
                name_axis(axis, [str(one) for one in self.classes])
            figure.colorbar(image, ax=table, label="cosine of class means")
            note(table, f"collapsed: {widest:.3f} off the diagonal")
            bars.barh(range(len(values)), list(values.values()), color=BLUE, height=0.7)
            bars.set(ylim=(len(values) - 0.4, -0.6))
            far_axis(bars, "x")
            name_axis(bars.yaxis, list(values))
            note(bars, f"input of '{self.layer}', {sum(self.counts):,} examples; collapsed: 0")
        return figure


def neural_collapse(task: Task, weights: Checkpoint | StateDict, *, layer: str | None = None) -> NeuralCollapse:
    """Measure neural collapse on a task of classification, whose batches end in classes; two passes over the data.

    The paper speaks of balanced classes. Where they are not, class means are not weighted by how many examples they are of: the centre is the
    mean of the class means, not of the examples, and so are S_B, the angles and norms (NC1, NC2) and NC3; S_W is over all examples, so that
    frequent classes weigh more in it.

    Args:
        task: the module and its data.
        weights: of the network.
        layer: the linear layer that gives the logits; by default the last one that runs.

    Raises:
        UnknownNameError: the module has no such layer.
        AnalysisError: no linear layer runs, batches do not end in classes, or there are fewer than two.
    """
    state = state_of(weights)
    layer = _classifier(task, state, layer)
    sums: dict[int, Tensor] = {}
    squares: dict[int, float] = {}
    counts: dict[int, int] = {}
    scatter: Tensor = torch.zeros((), dtype=torch.float64)
    origin: Tensor | None = None
    for features, targets, _ in _examples(task, state, layer):
        if not len(features):
            continue
        origin = features[0] if origin is None else origin
        for label in sorted(set(targets.tolist())):
            mine = features[targets == label] - origin
            sums[label] = sums.get(label, 0) + mine.sum(0)
            squares[label] = squares.get(label, 0.0) + float(mine.square().sum())
            counts[label] = counts.get(label, 0) + len(mine)
            scatter = scatter.to(mine.device) + mine.T @ mine
    classes = sorted(counts)
    if len(classes) < 2 or origin is None:
        raise AnalysisError(f"expected examples of two or more classes, found {len(classes)}; give data with several")
    sizes = torch.tensor([counts[label] for label in classes], dtype=torch.float64, device=scatter.device)
    means = torch.stack([sums[label] for label in classes]) / sizes[:, None]
    # Sums of squares around one point, so what rounding leaves may be below zero.
    variances = (torch.tensor([squares[label] for label in classes]).to(sizes) / sizes - means.square().sum(1)).clamp(min=0)
    within = (scatter - (means.T * sizes) @ means) / sizes.sum()
    wrong = _disagreeing(task, state, layer, means + origin, classes)
    return _collapsed(layer, classes, sizes, means, variances, within, _rows(task, state, layer, classes), wrong)


def _collapsed(
    layer: str, classes: Sequence[int], sizes: Tensor, means: Tensor, variances: Tensor, within: Tensor, rows: Tensor | None, wrong: float
) -> NeuralCollapse:
    # The global mean is that of the class means, as for balanced classes, of which the paper speaks.
    centred = means - means.mean(0)
    between = centred.T @ centred / len(classes)
    norms = _simplex(centred)
    of_rows: Mapping[str, float] = _simplex(rows - rows.mean(0)) if rows is not None else dict.fromkeys(norms, math.nan)
    pairs = torch.triu_indices(len(classes), len(classes), 1)
    apart = (means[pairs[0]] - means[pairs[1]]).square().sum(1)
    cdnv = (variances[pairs[0]] + variances[pairs[1]]) / (2 * apart)
    duality = math.nan
    if rows is not None and float(rows.norm()) > 0 and float(centred.norm()) > 0:
        duality = float((rows / rows.norm() - centred / centred.norm()).square().sum())
    spread = float(between.trace())
    return NeuralCollapse(
        layer,
        tuple(classes),
        tuple(int(size) for size in sizes),
        nc1=float((within * _inverse(between)).sum()) / len(classes) if spread > 0 else math.nan,
        nc1_traces=max(float(within.trace()), 0.0) / spread if spread > 0 else math.nan,
        cdnv=float(cdnv.mean()) if bool((apart > 0).all()) else math.nan,
        **norms,
        **{f"rows_{name}": value for name, value in of_rows.items()},
        nc3=duality,
        nc4=wrong,
        cosines=_cosines(centred),
    )


def _simplex(vectors: Tensor) -> dict[str, float]:
    """How far vectors are from being equally long and equally far apart."""
    lengths, count = vectors.norm(dim=1), len(vectors)
    if not bool((lengths > 0).all()):
        return dict.fromkeys(("equinorm", "equiangular", "max_angle"), math.nan)
    cosines = _cosines(vectors)[~torch.eye(count, dtype=torch.bool, device=vectors.device)]
    return {
        "equinorm": float(lengths.std(correction=0) / lengths.mean()),
        "equiangular": float(cosines.std(correction=0)),
        "max_angle": float((cosines + 1 / (count - 1)).abs().mean()),
    }


def _cosines(vectors: Tensor) -> Tensor:
    unit: Tensor = nn.functional.normalize(vectors, dim=1)
    return unit @ unit.T


def _inverse(symmetric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    held = values > NEGLIGIBLE * values[-1]
    inverse: Tensor = (vectors[:, held] / values[held]) @ vectors[:, held].T
    return inverse


def _classifier(task: Task, state: StateDict, layer: str | None) -> str:
    linear = [name for name, module in task.module.named_modules() if isinstance(module, nn.Linear) or is_transposed_linear(module)]
    if layer is not None:
        if layer not in linear:
            raise UnknownNameError.of("linear layer", layer, linear)
        return layer
    calls = Calls.of(task, state)
    ran = [name for name in calls.names if name in linear]
    if not ran:
        raise AnalysisError(
            f"expected a linear layer that gives the logits, module {type(task.module).__name__} runs none; use another module"
        )
    return next((name for name in reversed(ran) if name in calls.outputs), ran[-1])


def _examples(task: Task, state: StateDict, layer: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features (examples, units), classes and what the network says, of each batch."""
    taken: list[tuple[Tensor, Tensor]] = []
    for batch, _ in task.run(state, {layer: lambda given, made: taken.append((given.clone(), made.clone()))}):
        features, logits = (torch.cat([one[part].flatten(0, -2) for one in taken]).double() for part in (0, 1))
        taken.clear()
        targets = batch[-1] if isinstance(batch, tuple | list) else None
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.numel() != len(features):
            raise AnalysisError(
                f"expected batches that end in a class for each of the {len(features)} inputs of layer '{layer}'; "
                "give a task of classification, or name the layer that gives the logits"
            )
        known = targets.flatten() != IGNORED
        if not bool(torch.isfinite(features).all()):
            raise AnalysisError(f"the inputs of layer '{layer}' are not finite; look at the network that gives them")
        yield features[known], targets.flatten()[known], logits[known].argmax(1)


def _disagreeing(task: Task, state: StateDict, layer: str, means: Tensor, classes: Sequence[int]) -> float:
    """NC4: examples for which the nearest class mean is not what the network says."""
    labels = torch.tensor(list(classes), device=means.device)
    wrong = total = 0
    for features, _, said in _examples(task, state, layer):
        nearest = labels[torch.cdist(features, means).argmin(1)]
        wrong, total = wrong + int((nearest != said).sum()), total + len(said)
    return wrong / total


def _rows(task: Task, state: StateDict, layer: str, classes: Sequence[int]) -> Tensor | None:
    """The classifier's row of each class; none where its weight is computed, or has no row of that number."""
    module = task.module.get_submodule(layer)
    parameters = dict(task.module.named_parameters(remove_duplicate=False))
    named = tensors_of(task.module, state)  # a tied weight stands under its first name alone
    weight = next(
        (state[named[name]] for name, one in parameters.items() if one is getattr(module, "weight", None) and name in named), None
    )
    if weight is None:
        return None
    rows = (weight.T if is_transposed_linear(module) else weight).detach().double().to(task.device)
    return rows[list(classes)] if classes[0] >= 0 and classes[-1] < len(rows) else None


__all__ = ["NeuralCollapse", "neural_collapse"]
