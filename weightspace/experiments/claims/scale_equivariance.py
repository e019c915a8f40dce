"""That graph metanets see rescaled neurons as other networks unless they are built for scales."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

import weightspace as ws
from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.metanets import WeightBatch, build
from weightspace.symmetry import act


@claim(
    "scale-equivariance",
    statement="Metanets that are equivariant to scales read a ReLU network and its rescaled copy alike; those that know permutations alone do not.",
    source="Kalogeropoulos et al., Scale Equivariant Graph Metanetworks, arXiv:2406.10685, abstract",
    topic="metanets",
)
def scale_equivariance(seeds: Sequence[int]) -> Iterator[Finding]:
    """Rescale and permute hidden neurons of random perceptrons, in float64; how far vectors move, as a share of their distance between networks."""
    ours = [_moved("scalegmn", seed) for seed in seeds]
    graphs = [_moved("neural_graph", seed) for seed in seeds]
    permuted = [_moved("neural_graph", seed, discrete=True) for seed in seeds]
    yield at_most("how far ScaleGMN's vectors move by scales", ours, 1e-6, baseline=graphs, against="neural graphs")
    yield above("how far vectors of neural graphs move by scales", graphs, permuted, "by permutations alone")
    yield at_most("how far vectors of neural graphs move by permutations alone", permuted, 1e-6)


@torch.no_grad()
def _moved(family: str, seed: int, *, discrete: bool = False, count: int = 16) -> float:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)) for _ in range(count)]
        spec = ws.trace(modules[0], torch.randn(2, 8))
        net = build(family, spec).double().eval()
    states = [{name: tensor.double() for name, tensor in module.state_dict().items()} for module in modules]
    copies = [dict(act(spec.random(generator, discrete=discrete), state)) for state in states]
    before, after = (net(WeightBatch.stack(some, spec, dtype=torch.float64)) for some in (states, copies))
    return float((after - before).norm() / (before - before.mean(0)).norm())
