"""That the units of an averaged network vary less than its parents', the more so the deeper, and that REPAIR mends much of the barrier."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench, Weights
from weightspace.experiments.claim import Finding, at_least, below, claim
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist1d-cnn", 32, 1000
CUT = 0.6


@claim(
    "repair",
    statement="Hidden units of an averaged pair of matched networks lose their variance, layer by layer; restoring it takes away 60 to 100 percent of the barrier.",
    source="Jordan et al., REPAIR, arXiv:2211.08403, abstract and section 3",
    topic="connectivity",
)
def repair_variance(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match convolutions without norms by activations, and measure the middle before and after."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    first: list[float] = []
    last: list[float] = []
    cuts: dict[str, list[float]] = {"loss": [], "accuracy": []}
    for a, b in zip(networks[::2], networks[1::2], strict=True):
        moved = bench.align("activation, inner", a, b)
        shares = _variances(bench.module, a, moved, examples)
        first.append(shares[0])
        last.append(shares[-1])
        plain, mended = (barrier(a, moved, bench.test, POINTS, repair=mend, statistics=bench.train).barriers for mend in (None, "repair"))
        for quantity, own in cuts.items():
            own.append(1 - mended[quantity].interpolated / plain[quantity].interpolated)
    yield below("variance of the last layer's units half-way, parents = 1", last, [1.0] * len(last), "that of the parents")
    yield below("the same", last, first, "the first layer's")
    for quantity, own in cuts.items():
        yield at_least(f"share of the {quantity} barrier that REPAIR takes away", own, CUT)


def _variances(module: nn.Sequential, a: Weights, b: Weights, examples: Examples) -> list[float]:
    """Of each convolution half-way between two networks: its channels' variance over the mean of the parents', on average."""
    middle = {name: (tensor + b[name]) / 2 for name, tensor in a.items()}
    of_a, of_b, of_middle = (_spread(module, one, examples.test) for one in (a, b, middle))
    return [float((own.sum() * 2) / (one + other).sum()) for own, one, other in zip(of_middle, of_a, of_b, strict=True)]


def _spread(module: nn.Sequential, weights: Mapping[str, Tensor], inputs: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    layers = [layer for layer in module if isinstance(layer, nn.Conv1d)]
    hooks = [layer.register_forward_hook(lambda _, __, made: seen.append(made.detach().var((0, 2)))) for layer in layers]
    with torch.no_grad():
        torch.func.functional_call(module, dict(weights), (inputs,))
    for hook in hooks:
        hook.remove()
    return seen
