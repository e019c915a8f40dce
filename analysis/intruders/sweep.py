"""A sweep of lambda: how a tuned model does as its intruder dimensions are scaled, beside what stands for them as a control."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weightspace.analysis.intruders.directions import Directions, Which, directions
from weightspace.analysis.intruders.examining import GAP, Definition
from weightspace.analysis.intruders.mitigation import scaled_tensor
from weightspace.analysis.intruders.pairing import Model, Pairing, paired
from weightspace.errors import AnalysisError, TaskError
from weightspace.linalg import Cache
from weightspace.task import Task, numbers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Evaluate = Callable[[dict[str, Tensor]], Any]
"""A function of a state dict that returns a number, or numbers by name."""

INTRUDERS = "intruders"
_FIXED = ("scaled", "lambda", "scaled_layers", "changed_norm")


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was measured at each lambda.

    Attributes:
        rows: `scaled` (`intruders` or a control), `lambda`, `scaled_layers` (how many have something scaled), `changed_norm`
            (Frobenius norm of what was changed), and each quantity that the evaluation returns.
        notes: what is to be known of the controls.
    """

    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def quantities(self) -> list[str]:
        """Names of what was measured."""
        return [name for name in self.rows[0] if name not in _FIXED]

    @property
    def kinds(self) -> list[str]:
        """What was scaled: intruders first, then the controls."""
        return list(dict.fromkeys(row["scaled"] for row in self.rows))

    @property
    def table(self) -> list[dict[str, Any]]:
        """The rows."""
        return list(self.rows)

    def plot(self) -> "Figure":
        """Draw each quantity against lambda."""
        from weightspace.analysis.intruders.plot import sweep_drawn

        return sweep_drawn(self)

    def __repr__(self) -> str:
        return f"<Sweep of {len(self.rows)} rows: {', '.join(self.kinds)}; {', '.join(self.quantities)}>"


def sweep(
    base: Model,
    tuned: Model,
    lambdas: Sequence[float],
    evaluate: Task | Evaluate,
    controls: Sequence[str] = ("neighbour",),
    which: Which = "top",
    *,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    gap: float = GAP,
    cache: Cache | None = None,
    generator: torch.Generator | None = None,
    layers: str = "*",
    embeddings: bool = False,
    device: torch.device | str | None = None,
) -> Sweep:
    """Scale the intruders of a tuned model by each lambda and measure it, and beside it controls scaled by the same lambda.

    The causal test of Shuttleworth et al. (arXiv:2410.21228), section 5. An adapter is measured in its base. What is scaled is chosen
    once; a lambda of 1 is the tuned model itself, measured once.

    Args:
        base: a matrix or a model.
        tuned: the same after training, or an adapter of the base.
        lambdas: 0 removes, 1 changes nothing, more amplifies.
        evaluate: a Task, or a function of a state dict that returns a number or numbers by name.
        controls: what is scaled in the intruders' place (see `CONTROLS`), one series each.
        which: see `mitigate`, as for all that follows.
        k: how many vectors of a layer are looked at.
        epsilon: the similarity under which a vector is an intruder.
        side: whose vectors count.
        gap: of the guard.
        cache: keeps the base's singular vectors.
        generator: the source of chance of a random control.
        layers: a pattern of their names.
        embeddings: whether to look at embeddings, too.
        device: where to work.

    Raises:
        AnalysisError: as `mitigate`; no lambda; or no intruder to scale.
        TaskError: an evaluation that returns no numbers.
    """
    if not lambdas:
        raise AnalysisError("expected lambdas to sweep, found none; 0, 0.25, 0.5, 0.75 and 1 are usual")
    if not all(torch.isfinite(torch.tensor(lam)) for lam in lambdas):
        raise AnalysisError(f"expected finite lambdas, found {list(lambdas)}; 0 removes, 1 changes nothing")
    pairing = paired(base, tuned, layers=layers, embeddings=embeddings, device=device)
    definition = Definition(k, epsilon, side, gap)
    kinds: dict[str, str | None] = {INTRUDERS: None, **{one: one for one in controls}}
    chosen = {
        name: directions(pairing, which, definition, control=control, cache=cache, generator=generator) for name, control in kinds.items()
    }
    if not chosen[INTRUDERS]:
        raise AnalysisError(
            f"no intruder among the first {k} vectors of {len(pairing.layers)} layers, so nothing to scale; give which= ranks by layer"
        )
    held = pairing.tuned.state_dict()
    unchanged = _values(evaluate, held)
    rows = []
    for name, scaled in chosen.items():
        for lam in lambdas:
            values = unchanged if lam == 1 else _values(evaluate, held | _scaled(pairing, scaled, lam))
            norm = sum(one.norm(lam) ** 2 for one in scaled.values()) ** 0.5
            rows.append({"scaled": name, "lambda": float(lam), "scaled_layers": len(scaled), "changed_norm": norm, **values})
    return Sweep(tuple(rows), tuple(_notes(chosen, lambdas)))


def _scaled(pairing: Pairing, chosen: Mapping[str, Directions], lam: float) -> dict[str, Tensor]:
    """The tensors that change, under each of their names."""
    made: dict[str, Tensor] = {}
    for name, one in chosen.items():
        tensor = scaled_tensor(pairing, one, lam)
        made |= {other: tensor for other, stored in pairing.tuned.info.items() if name in (other, stored.alias_of)}
    return made


def _notes(chosen: Mapping[str, Mapping[str, Directions]], lambdas: Sequence[float]) -> list[str]:
    notes = []
    intruders = chosen[INTRUDERS]
    for name, scaled in chosen.items():
        if len(scaled) < len(intruders):
            notes.append(f"{name}: nothing to scale in {len(intruders) - len(scaled)} of {len(intruders)} layers")
        short = sum(
            one.norm(lam) < 0.99 * intruders[layer].norm(lam) for layer, one in scaled.items() if one.is_rest for lam in [min(lambdas)]
        )
        if short:
            notes.append(f"{name}: {short} of {len(scaled)} layers have less of the update besides their intruders than is to be taken")
    return notes


def _values(evaluate: Task | Evaluate, state_dict: dict[str, Tensor]) -> dict[str, float]:
    values = numbers_of(evaluate.evaluate(state_dict) if isinstance(evaluate, Task) else evaluate(dict(state_dict)))
    if not values or set(values) & set(_FIXED):
        raise TaskError(
            f"the evaluation returned {', '.join(values) or 'nothing'}; expected numbers by names other than {', '.join(_FIXED)}"
        )
    return values
