"""Three NP or HNP layers, ours or nfn's, in a process of their own, measured from inside; `metanet_nfn.py` runs this file."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = 3
Shapes = Sequence[Sequence[int]]


def ours(kind: str, shapes: Shapes, channels: int, networks: int, kernels: str) -> tuple[nn.Module, Callable[[], list[Tensor]]]:
    """Our layers; with `kernels="multiplied"` each cell of a kernel has its own channels, as nfn has it."""
    from weightspace.metanets import Layout
    from weightspace.metanets.equivariant.basis import Basis, foldable
    from weightspace.metanets.equivariant.linear import EquivariantLinear
    from weightspace.spec import SymmetrySpec

    names = [f"h{at}" for at in range(len(shapes) + 1)]
    tensors, groups = {}, {}
    for at, shape in enumerate(shapes):
        tensors[f"{at}.weight"] = " ".join([names[at + 1], names[at], *map(str, shape[2:])])
        tensors[f"{at}.bias"] = names[at + 1]
        groups[names[at]], groups[names[at + 1]] = {"size": shape[1]}, {"size": shape[0]}
    for end in (names[0], names[-1]):
        groups[end]["kind"] = "fixed"  # type: ignore[assignment]
    layout = Layout.of(SymmetrySpec.parse(tensors, groups=groups))
    basis = Basis.of(layout, foldable(layout) if kind == "HNP" else ())
    cells = {slot.key: slot.cells for slot in layout.slots}
    wide = {key: channels * (count if kernels == "multiplied" else 1) for key, count in cells.items()}
    layers = nn.ModuleList(EquivariantLinear(basis, wide if at else cells, wide, rectify=at < LAYERS - 1) for at in range(LAYERS))
    inputs = {slot.key: basis.frames[slot.key].fold(torch.randn(networks, *layout.shape(slot))) for slot in layout.slots}

    def forward() -> list[Tensor]:
        values = inputs
        for layer in layers:
            values = layer(values)
        return list(values.values())

    return layers, forward


def theirs(kind: str, shapes: Shapes, channels: int, networks: int, kernels: str) -> tuple[nn.Module, Callable[[], list[Tensor]]]:
    """The layers of nfn."""
    from nfn.common import WeightSpaceFeatures, network_spec_from_wsfeat  # type: ignore[import-not-found]
    from nfn.layers import HNPLinear, NPLinear  # type: ignore[import-not-found]

    inputs = WeightSpaceFeatures(
        [torch.randn(networks, 1, *shape) for shape in shapes], [torch.randn(networks, 1, shape[0]) for shape in shapes]
    )
    spec = network_spec_from_wsfeat(inputs)
    make = {"NP": NPLinear, "HNP": HNPLinear}[kind]
    layers = nn.ModuleList(make(spec, channels if at else 1, channels) for at in range(LAYERS))

    def forward() -> list[Tensor]:
        values = inputs
        for at, layer in enumerate(layers):
            values = layer(values)
            values = values.map(torch.relu) if at < LAYERS - 1 else values
        return [*values.weights, *values.biases]

    return layers, forward


def taken(run: Callable[[], Any], repeats: int) -> float:
    """Median of processor milliseconds."""
    found = []
    for _ in range(repeats + 1):
        started = time.process_time()
        run()
        found.append(1e3 * (time.process_time() - started))
    return statistics.median(found[1:])


def main(whose: str, kind: str, shapes: str, channels: str, networks: str, kernels: str, repeats: str) -> None:
    """Measure one case and print it as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make = {"ours": ours, "theirs": theirs}[whose]
    layers, forward = make(kind, json.loads(shapes), int(channels), int(networks), kernels)
    gradients = [torch.randn_like(one) for one in forward()]

    def alone() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.backward(forward(), gradients)

    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "parameters": sum(parameter.numel() for parameter in layers.parameters()),
                "forward": taken(alone, int(repeats)),
                "both": taken(both, int(repeats)),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
