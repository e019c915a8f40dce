"""Tables of how alike, and how well linearly predicted from each other, the values are that cross at all cuts of all networks of a zoo."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.costs import device_of
from weightspace.errors import AnalysisError
from weightspace.task import Task, batch_inputs, batch_size, moved

FEWEST = 8
"""Samples: debiased HSIC needs four, and a fit is judged on the other half of them."""

Place = tuple[str, int]
"""A network, and one of its cuts."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Similarities of all cuts of some networks; a sample is an example, and each unit at each place a feature.

    Attributes:
        rows: which row and column a cut has.
        cka: debiased linear CKA; NaN where one does not vary.
        fit: share of the variance at the column's cut, on examples that the fit has not seen, which ridge regression on the row's explains; at most 1,
            below 0 where it is worse than the mean; NaN where the column does not vary.
        samples: on how many examples they rest.
    """

    rows: Mapping[Place, int]
    cka: Float[Tensor, "cuts cuts"]
    fit: Float[Tensor, "cuts cuts"]
    samples: int


def tables_of(
    chains: Mapping[str, Chain],
    task: Task,
    *,
    samples: int = 256,
    ridge: float = 1e-2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tables:
    """Run each network once over some examples and compare all its cuts with those of all others.

    Of each cut some matrices of samples x samples are kept, whatever its width, and all pairs are three products of matrices: with the smoother
    `S = K_hx (K_xx + r I)^-1` of the row, fitted on every other sample, the squared error on the held-out ones is
    `tr K'_hh - 2 <S, K'_hx> + <S'S, K'_xx>` with the kernels K' of the column.

    Args:
        chains: networks by name, which take the same inputs.
        task: the data, of which the first `samples` examples are taken.
        samples: examples.
        ridge: as a share of the mean of the kernel's diagonal.
        progress: is told of every network.

    Raises:
        AnalysisError: fewer than eight examples, or values that are not finite.
    """
    batches = _first(task, samples)
    rows: dict[Place, int] = {}
    held: list[tuple[Tensor, ...]] = []
    for done, (name, chain) in enumerate(chains.items()):
        inputs = [_inputs(chain, batch) for batch in batches]
        values: list[Any] = [None] * len(inputs)
        for at in range(len(chain.cuts)):
            with torch.no_grad():
                values = [chain.run(given, value, start=at - 1, stop=at) for given, value in zip(inputs, values, strict=True)]
            rows[name, at] = len(rows)
            held.append(_described(torch.cat([value.flatten(1) for value in values]), f"{name}, cut '{chain.cuts[at].name}'", ridge))
        progress(done + 1, len(chains))
    hollow, smoother, squared, across, own, total = (torch.stack(parts) for parts in zip(*held, strict=True))
    norms = hollow.square().sum(1).sqrt()
    norms = torch.where(norms > 0, norms, torch.nan)
    error = total - 2 * smoother @ across.T + squared @ own.T
    cka = (hollow @ hollow.T / (norms * norms[:, None])).clamp(max=1.0)
    return Tables(
        rows, cka, (1 - error / torch.where(total > 0, total, torch.nan)).clamp(max=1.0), sum(int(batch_size(one)) for one in batches)
    )


def _described(features: Tensor, where: str, ridge: float) -> tuple[Tensor, ...]:
    """Of one cut: the U-centred kernel, the smoother with its square, both parts of the kernel that a column needs, and its held-out variance.

    In float32, of which the sums over samples squared lose nothing that sampling would not.
    """
    if not bool(torch.isfinite(features).all()):
        raise AnalysisError(f"expected finite values, found NaN or infinite ones in network {where}; leave it out")
    x = features.double() - features[0].double()  # exactly zero where nothing varies
    x = x / x.abs().max().clamp(min=1e-300)
    seen, unseen = x[::2] - x[::2].mean(0), x[1::2] - x[::2].mean(0)
    inner, across = seen @ seen.T, unseen @ seen.T
    shrunk = inner + torch.eye(len(inner), dtype=inner.dtype, device=inner.device) * (ridge * inner.diag().mean()).clamp(min=1e-30)
    smoother = torch.linalg.solve(shrunk, across.T).T
    parts = (_hollow(x @ x.T), smoother, smoother.T @ smoother, across, inner)
    return (*(part.flatten().float().cpu() for part in parts), unseen.square().sum().float().cpu())


def _hollow(kernel: Tensor) -> Tensor:
    """U-centring (Szekely and Rizzo, 2014): inner products of what it gives are unbiased HSICs, up to a factor."""
    n = len(kernel)
    bare = kernel - kernel.diag().diag()
    sums = bare.sum(0)
    made = bare - (sums + sums[:, None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return made - made.diag().diag()


def _inputs(chain: Chain, batch: Any) -> tuple[Any, ...]:
    args, kwargs = batch_inputs(moved(batch, device_of(chain)))
    return (*args, *chain.ordered(kwargs))


def _first(task: Task, samples: int) -> list[Any]:
    """The batches of a task that together hold so many examples; the last is cut."""
    from weightspace.analysis.stitching.patchwork import batch_like

    found, count = [], 0
    for batch in task.batches:
        if count >= samples:
            break
        found.append(batch_like([batch], samples - count))
        count += int(batch_size(found[-1]))
    if count < FEWEST:
        raise AnalysisError(f"expected {FEWEST} examples or more to compare networks on, found {count}; give the task more data")
    return found


__all__ = ["FEWEST", "Place", "Tables", "tables_of"]
