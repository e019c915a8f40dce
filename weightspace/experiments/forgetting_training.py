"""A small GPT that learns Python's documentation and is then tuned on Python's code: in full, or by low-rank adapters, to one loss for all."""

import ast
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.gpt import GPT, WINDOW, Weights, encode, windows

MATRICES = ("q", "k", "v", "out", "up", "down")  # of each block: what is tuned, whatever the method
BLOCK, HELD_OUT = 4096, 16  # of the characters, each sixteenth block of 4,096 is never trained on
BATCH, PRE_RATE, DECAY = 24, 3e-3, 0.1
WARM_UP, EVERY, HOPELESS = 10, 5, 100  # steps; between two looks at the loss; after which a loss no better than at first ends a run
Text = Int[Tensor, " length"]


@dataclass(frozen=True)
class Size:
    """How large all is."""

    width: int = 256
    blocks: int = 2
    heads: int = 4
    modules: int | None = None  # of the standard library: None takes all
    pre_steps: int = 3000
    most_steps: int = 500
    windows: int = 96  # held-out windows that tell when to stop
    final_windows: int = 320  # and those that the results are taken on


@dataclass(frozen=True)
class Half:
    """One of the two texts: what is trained on, and windows that are not."""

    train: Text
    stop: Int[Tensor, "batch window"]
    final: Int[Tensor, "final window"]


class Texts(NamedTuple):
    """Both texts, and the size of their alphabet."""

    prose: Half
    code: Half
    characters: int


def texts(size: Size) -> Texts:
    """Prose: the language reference in `pydoc_data.topics` and all docstrings; code: the same modules without comments and docstrings, as `ast` writes them."""
    from pydoc_data.topics import topics

    prose, code = [str(text) for _, text in sorted(topics.items())], []
    files = sorted(file for file in Path(ast.__file__).parent.glob("*.py") if not file.name.startswith("_"))
    for file in files[: size.modules]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        prose += _docstrings(tree)
        code.append(ast.unparse(tree))
    parts = ["\n\n".join(prose), "\n\n".join(code)]
    numbers, characters = encode("".join(parts))
    at = len(parts[0])
    return Texts(_half(numbers[:at], size), _half(numbers[at:], size), characters)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Take the docstrings out of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            yield text
            node.body[0] = ast.Pass()


def _half(numbers: Text, size: Size) -> Half:
    blocks = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    train = torch.cat([block for at, block in enumerate(blocks) if at % HELD_OUT != HELD_OUT - 1])
    held_out = torch.cat([block for at, block in enumerate(blocks) if at % HELD_OUT == HELD_OUT - 1])
    starts = torch.linspace(0, len(held_out) - WINDOW - 1, size.windows + size.final_windows).long()
    # Those that stop a run lie evenly between those that judge it.
    stop = torch.zeros(len(starts), dtype=torch.bool)
    stop[torch.linspace(0, len(starts) - 1, size.windows).long()] = True
    return Half(train, windows(held_out, starts[stop]), windows(held_out, starts[~stop]))


def loss(module: nn.Module, seen: Int[Tensor, "batch window"]) -> Tensor:
    """Mean cross-entropy, in nats a character."""
    return nn.functional.cross_entropy(module(seen[:, :-1]).float().flatten(0, 1), seen[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(module: nn.Module, seen: Int[Tensor, "batch window"]) -> float:
    """The same on many windows, a few at a time, in float32."""
    parts = [seen[at : at + 64] for at in range(0, len(seen), 64)]
    return sum(loss(module, part).item() * len(part) for part in parts) / len(seen)


def pre_trained(cache: Path, prose: Half, characters: int, size: Size, seed: int = 0) -> GPT:
    """The base, from the cache if it is there."""
    torch.manual_seed(seed)
    module = GPT(characters, size.width, size.blocks, size.heads)
    file = cache / "base.safetensors"
    if not file.exists():
        started = time.process_time()
        for step in steps(module, list(module.parameters()), prose.train, seed, size.pre_steps, PRE_RATE, _one_cycle(size), DECAY):
            if step % 250 == 0:
                print(f"base: step {step}, {held_out_loss(module, prose.stop):.3f} nats, {time.process_time() - started:.0f} s", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        ws.save({name: tensor.detach().clone() for name, tensor in module.state_dict().items()}, file)
    module.load_state_dict(ws.open(file).state_dict())
    return module


def _one_cycle(size: Size) -> Callable[[int], float]:
    rise = max(1, size.pre_steps // 10)
    return lambda step: min(1.0, (step + 1) / rise) * (1 + math.cos(math.pi * step / size.pre_steps)) / 2


def steps(
    module: nn.Module,
    tuned: list[nn.Parameter],
    text: Text,
    seed: int,
    count: int,
    rate: float,
    share: Callable[[int], float],
    decay: float,
) -> Iterator[int]:
    """Train by AdamW with products in bf16, weights in float32; yields the number of steps done."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(tuned, rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for step in range(1, count + 1):
        seen = windows(text, torch.randint(len(text) - WINDOW, (BATCH,), generator=generator))
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(module, seen)
        optimizer.zero_grad()
        torch.autograd.backward(found)
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        schedule.step()
        yield step


class LoRA(nn.Module):
    """A frozen linear layer and beside it a low-rank one, with alpha = 2 r (Hu et al., arXiv:2106.09685, section 4.1)."""

    SCALE = 2.0

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = layer.weight.shape
        self.layer = layer
        self.a = nn.Parameter((2 * torch.rand(rank, columns, generator=generator) - 1) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, inputs: Float[Tensor, "... dim"]) -> Float[Tensor, "... out"]:
        """Run it."""
        made: Tensor = self.layer(inputs) + self.SCALE * ((inputs @ self.a.T) @ self.b.T)
        return made

    @property
    def update(self) -> Float[Tensor, "out dim"]:
        """What it adds to the weight."""
        return (self.SCALE * self.b @ self.a).detach()


@dataclass(frozen=True)
class Tuned:
    """A tuned network: its matrices' updates, and how it came to be."""

    updates: Weights
    steps: int
    is_matched: bool  # whether it came to the loss that it should
    seconds: float


def tune(base: GPT, code: Half, rank: int | None, rate: float, seed: int, target: float, most_steps: int) -> Tuned:
    """Train until the held-out loss is at the target, or as long as is allowed.

    Args:
        base: pre-trained; it stays as it is.
        code: to train on.
        rank: of the adapters; None tunes the matrices themselves.
        rate: of AdamW after a short warm-up; it does not fall, so that a run may end at any step.
        seed: of batches and adapters.
        target: mean loss on `code.stop`.
        most_steps: after which it gives up.
    """
    started = time.process_time()
    module, names = copy.deepcopy(base), list(matrices(base))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(1000 + seed)
    tuned: list[nn.Parameter] = []
    for name in names:
        parent, _, child = name.removesuffix(".weight").rpartition(".")
        layer = module.get_submodule(f"{parent}.{child}")
        assert isinstance(layer, nn.Linear)
        if rank is None:
            tuned.append(layer.get_parameter("weight"))
        else:
            adapted = LoRA(layer, rank, generator)
            setattr(module.get_submodule(parent), child, adapted)
            tuned += [adapted.a, adapted.b]
    for parameter in tuned:
        parameter.requires_grad_()
    is_matched, step, first = False, 0, 0.0
    for step in steps(module, tuned, code.train, seed, most_steps, rate, lambda step: min(1.0, (step + 1) / WARM_UP), 0.0):
        if step % EVERY == 0:
            with torch.autocast("cpu", torch.bfloat16):
                now = held_out_loss(module, code.stop)
            first, is_matched = first or now, now <= target
            if is_matched or (step >= HOPELESS and not now < first):
                break
    return Tuned(_updates(base, module, names), step, is_matched, time.process_time() - started)


def matrices(base: GPT) -> dict[str, Tensor]:
    """The matrices that are tuned, by name."""
    names = [f"blocks.{block}.{name}.weight" for block in range(len(base.blocks)) for name in MATRICES]
    return {name: base.get_parameter(name).detach() for name in names}


def with_updates(base: GPT, updates: Weights) -> GPT:
    """A copy of the base with updates added to its matrices."""
    module = copy.deepcopy(base)
    with torch.no_grad():
        for name, update in updates.items():
            module.get_parameter(name).add_(update)
    return module


def _updates(base: GPT, module: nn.Module, names: list[str]) -> Weights:
    layers = {name: module.get_submodule(name.removesuffix(".weight")) for name in names}
    before = matrices(base)
    return {
        name: layer.update if isinstance(layer, LoRA) else layer.get_parameter("weight").detach() - before[name]
        for name, layer in layers.items()
    }
