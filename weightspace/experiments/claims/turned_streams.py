"""That a residual stream through RMS norms can be turned by any orthogonal matrix, and one through layer norms cannot."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

import weightspace as ws
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.symmetry import act

INPUTS, WIDTH, OUTPUTS = 6, 16, 5


@claim(
    "turned-streams",
    statement="A network whose residual stream runs through RMS norms computes the same when the stream is turned by an orthogonal matrix; with layer norms it does not.",
    source="Ashkboos et al., SliceGPT, arXiv:2401.15024, section 3; Theus et al., arXiv:2506.22712, section 3",
    topic="symmetry",
)
def turned_streams(seeds: Sequence[int]) -> Iterator[Finding]:
    """Turn the stream of two gated blocks in float64 by an element of the traced group, and run the turned weights with layer norms, too."""
    found = [_changes(seed) for seed in seeds]
    yield at_least("relative change of the weights", [one[0] for one in found], 0.5)
    yield at_most("relative change of the outputs, RMS norms", [one[1] for one in found], 1e-10)
    yield at_least("the same, layer norms", [one[2] for one in found], 1e-2)


class Stream(nn.Module):
    """Two blocks beside a stream, each behind a norm without gain, no biases."""

    def __init__(self, norm: Callable[[Tensor, Sequence[int]], Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.start, self.head = nn.Linear(INPUTS, WIDTH, bias=False), nn.Linear(WIDTH, OUTPUTS, bias=False)
        self.up = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        stream = self.start(x)
        for up, down in zip(self.up, self.down, strict=True):
            stream = stream + down(nn.functional.gelu(up(self.norm(stream, (WIDTH,)))))
        made: Tensor = self.head(self.norm(stream, (WIDTH,)))
        return made


def _changes(seed: int) -> tuple[float, float, float]:
    """Of the weights, and of the outputs with both norms."""
    generator = torch.Generator().manual_seed(seed)
    modules = []
    for norm in (rms_norm, layer_norm):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules.append(Stream(norm).double().eval())
    inputs = torch.randn(32, INPUTS, generator=generator, dtype=torch.float64)
    weights = {name: tensor.detach() for name, tensor in modules[0].state_dict().items()}
    moved = dict(act(ws.trace(modules[0], inputs).random(generator), weights))
    outputs = [[torch.func.functional_call(module, one, (inputs,)) for one in (weights, moved)] for module in modules]
    changes = [float((before - after).norm() / before.norm()) for before, after in outputs]
    start = weights["start.weight"]
    return float((start - moved["start.weight"]).norm() / start.norm()), changes[0], changes[1]
