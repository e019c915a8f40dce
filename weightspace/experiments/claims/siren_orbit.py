"""That 256 published weight files of one image are one network in other orders and signs of its hidden units, and that matching finds them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.analysis.connectivity.distance import distance
from weightspace.analysis.matching import match, orbit_distance
from weightspace.errors import AnalysisError
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.experiments.data import real_checkpoints
from weightspace.symmetry import StateDict, act

EACH, FREQUENCY = 12, 30.0


class Sine(nn.Module):
    """The activation of a SIREN (Sitzmann et al., arXiv:2006.09661)."""

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        return torch.sin(FREQUENCY * x)


@claim(
    "siren-orbit",
    statement="Sign flips and permutations of hidden units are what separates weights of sinusoidal networks that are the same function.",
    source="Kalogeropoulos et al., Scale equivariant graph metanetworks, arXiv:2406.10685, section 4; orbit files of odyboufalaki's metanetwork autoencoders",
    topic="symmetry",
    needs="real checkpoints",
)
def siren_orbit(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match some of the published files to the first by signed permutations."""
    folder = real_checkpoints() / "inr_orbit"
    files = sorted(folder.glob("orbit_*.pth"))
    if len(files) < 2:
        raise AnalysisError(
            f"expected the files orbit_*.pth in {folder}, found {len(files)}; set WEIGHTSPACE_REAL_CHECKPOINTS to where they are"
        )
    states = [dict(ws.open(file).state_dict()) for file in files]
    names = list(states[0])
    linear = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    module = nn.Sequential(nn.Linear(2, 32), Sine(), nn.Linear(32, 32), Sine(), nn.Linear(32, 1))
    renamed = dict(zip(linear, ("0", "2", "4"), strict=True))
    networks = [{f"{renamed[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor for name, tensor in one.items()} for one in states]
    inputs = torch.rand(256, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    spec = ws.trace(module, inputs)
    first, rows = networks[0], []
    for seed in seeds:
        chosen = 1 + torch.randperm(len(networks) - 1, generator=torch.Generator().manual_seed(seed))[:EACH]
        rows.append([_compared(module, spec, inputs, first, networks[int(at)]) for at in chosen])
    means = {key: [sum(one[key] for one in row) / len(row) for row in rows] for key in rows[0][0]}
    yield at_most("relative difference of the functions, before matching", means["function"], 1e-4)
    yield at_least("relative distance of the weights, before matching", means["before"], 0.5)
    yield at_most("after matching by signed permutations", means["after"], 1e-4, baseline=means["before"], against="before")
    yield at_most("between canonical forms", means["orbit"], 1e-4, baseline=means["before"], against="before")


def _compared(module: nn.Module, spec: ws.SymmetrySpec, inputs: Tensor, a: StateDict, b: StateDict) -> dict[str, float]:
    size = sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5
    first, second = (torch.func.functional_call(module, dict(one), (inputs,)) for one in (a, b))
    return {
        "function": float((first - second).norm() / first.norm()),
        "before": distance(a, b) / size,
        "after": distance(a, act(match(a, b, spec, restarts=3).element, b)) / size,
        "orbit": orbit_distance(a, b, spec) / size,
    }
