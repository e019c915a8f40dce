"""One hypernetwork, ours or a peer's, timed in a process of its own; `hypernetworks.py` runs this file in either environment."""

import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

CONDITIONS, EMBEDDING, TASKS, BATCH = 4, 16, 5, 16
WIDE, SMALL, CHUNK = 64, 32, 256
ROUNDS, LEAST = 7, 0.1
"""Repetitions of a timing, each of at least so many seconds of processor time; the fastest counts."""

Make = Callable[[list[int]], list[Any]]
"""Makes the weights of some conditions: the tensors of one network, or stacked ones of several."""


def ours(kind: str, shapes: dict[str, tuple[int, ...]]) -> tuple[list[Any], Make]:
    """Our hypernetworks."""
    import torch

    from weightspace.analysis.generation import Target
    from weightspace.analysis.generation.fitting import make

    settings = {
        "mip": {"hidden": WIDE, "depth": 3},
        "mlp": {"hidden": WIDE, "depth": 2, "embedding": EMBEDDING},
        "chunked": {"hidden": SMALL, "depth": 2, "embedding": EMBEDDING, "chunk": CHUNK},
    }[kind]
    made: Any = make(kind, Target(shapes), (CONDITIONS,) if kind == "mip" else (), settings)
    given = torch.rand(BATCH, CONDITIONS) if kind == "mip" else torch.arange(BATCH) % TASKS
    if kind != "mip":
        made.code.know(torch.arange(TASKS))
    return list(made.parameters()), lambda at: list((made.weights(given[at[0]]) if len(at) == 1 else made(given[at])).values())


def hyperlight(shapes: dict[str, tuple[int, ...]]) -> tuple[list[Any], Make]:
    """HyperLight's, with its defaults: the magnitude-invariant one."""
    import hyperlight as hl  # type: ignore[import-not-found]  # in the peer's environment
    import torch

    made = hl.HyperNet(input_shapes={"g": (CONDITIONS,)}, output_shapes=shapes, hidden_sizes=[WIDE] * 3)
    given = torch.rand(BATCH, CONDITIONS)
    return list(made.parameters()), lambda at: list(made(g=given[at]).values())


def hypnettorch(kind: str, shapes: dict[str, tuple[int, ...]]) -> tuple[list[Any], Make]:
    """The full and chunked ones of hypnettorch."""
    import torch
    from hypnettorch.hnets import HMLP, ChunkedHMLP  # type: ignore[import-not-found]  # in the peer's environment

    common: dict[str, Any] = {"cond_in_size": EMBEDDING, "num_cond_embs": TASKS, "verbose": False}
    if kind == "mlp":
        made = HMLP(list(shapes.values()), layers=(WIDE, WIDE), **common)
    else:
        made = ChunkedHMLP(list(shapes.values()), CHUNK, chunk_emb_size=EMBEDDING, layers=(SMALL, SMALL), **common)

    def make(at: list[int]) -> list[Any]:
        found = made(cond_id=[k % TASKS for k in at] if len(at) > 1 else at[0])
        return [torch.stack(parts) for parts in zip(*found, strict=True)] if len(at) > 1 else list(found)

    return list(made.parameters()), make


def milliseconds(what: Callable[[], Any]) -> float:
    """The processor time of one call, the fastest of several rounds."""
    what()
    best, count = float("inf"), 1
    for _ in range(ROUNDS):
        while True:
            start = time.process_time()
            for _ in range(count):
                what()
            taken = time.process_time() - start
            if taken >= LEAST:
                break
            count *= 2
        best = min(best, 1000 * taken / count)
    return best


def main(tool: str, kind: str, told: str) -> None:
    """Time one, and print what was found as JSON."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shapes = {name: tuple(shape) for name, shape in json.loads(told)}
    if tool == "ours":
        parameters, make = ours(kind, shapes)
    else:
        parameters, make = hyperlight(shapes) if tool == "hyperlight" else hypnettorch(kind, shapes)

    def forward(at: list[int]) -> None:
        with torch.no_grad():
            make(at)

    def backward(at: list[int]) -> None:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(sum(tensor.square().sum() for tensor in make(at)))

    one, many = [0], list(range(BATCH))
    found = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "shapes": [[list(tensor.shape) for tensor in make(at)] for at in (one, many)],
        "ms": {f"{what.__name__} of {len(at)}": milliseconds(partial(what, at)) for what in (forward, backward) for at in (one, many)},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
