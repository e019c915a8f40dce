"""Eight tasks made of MNIST-1D by shifting its signals and naming its classes anew, a network for each fine-tuned from one base."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.networks import ARCHITECTURES, CLASSES, run_stacked
from weightspace.experiments.train import train
from weightspace.symmetry import StateDict

HELD_OUT = 2_000  # of the training examples: what parameters are tuned on
BATCH, RATE, PROBE_RATE = 128, 1e-3, 1e-2
SIZE = 40  # of a signal
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """A task: what is done to a signal, and what its classes are called.

    Attributes:
        name: in tables.
        shift: places by which the signal goes round.
        mirrored: whether it is read backwards.
        sign: what it is multiplied by.
        names: the new class of each of the ten.
    """

    name: str
    shift: int = 0
    mirrored: bool = False
    sign: int = 1
    names: tuple[int, ...] = tuple(range(CLASSES))

    def inputs(self, signals: Float[Tensor, "*examples inputs"]) -> Float[Tensor, "*examples inputs"]:
        """The signals as this task sees them."""
        return self.sign * (signals.flip(-1) if self.mirrored else signals).roll(self.shift, -1)

    def classes(self, classes: Int[Tensor, "*examples"]) -> Int[Tensor, "*examples"]:
        """Their classes as this task names them."""
        return torch.tensor(self.names)[classes]


VARIANTS = (
    Variant("shift 5", shift=5),
    Variant("shift 10", shift=10),
    Variant("shift -10", shift=-10),
    Variant("shift 20", shift=20),
    Variant("mirrored", mirrored=True),
    Variant("negated", sign=-1),
    Variant("odd, shift 15", shift=15, names=tuple(k % 2 for k in range(CLASSES))),
    Variant("thirds, shift -15", shift=-15, names=tuple(k % 3 for k in range(CLASSES))),
)


@dataclass(frozen=True)
class Split:
    """Examples of the tasks: to learn, to tune, and to report."""

    learn: tuple[Tensor, Tensor]
    tune: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, examples: Examples) -> "Split":
        """Keep the last training examples for tuning."""
        x, y = examples.train, examples.train_classes
        return cls((x[:-HELD_OUT], y[:-HELD_OUT]), (x[-HELD_OUT:], y[-HELD_OUT:]), (examples.test, examples.test_classes))


@dataclass(frozen=True)
class Family:
    """A base and what was fine-tuned from it, without their last layers: those are one for each task, and are not merged.

    Attributes:
        base: the trunk of the base.
        tuned: that of the network of each task.
        joint: that of one network trained on all tasks at once.
        heads: the last layer of each task, weight and bias; found on the base and never changed after.
    """

    base: Weights
    tuned: tuple[Weights, ...]
    joint: Weights
    heads: tuple[Weights, ...]


def trunk_of(shape: str, width: int) -> nn.Sequential:
    """All but the last layer."""
    return nn.Sequential(OrderedDict(list(ARCHITECTURES[shape](width).named_children())[:-1]))


def families(shape: str, width: int, seeds: Sequence[int], steps: int, cache: Path | None = None) -> list[Family]:
    """Train a base for each seed, and from it a network for each task and one for all; read those that the cache has."""
    folder = None if cache is None else cache / f"tasks-{shape}-w{width}-{steps}"
    if folder is None or not all((folder / f"{seed}.safetensors").exists() for seed in seeds):
        made = _trained(shape, width, seeds, steps)
        if folder is None:
            return made
        folder.mkdir(parents=True, exist_ok=True)
        for seed, family in zip(seeds, made, strict=True):
            ws.save(_flat(family), folder / f"{seed}.safetensors")
    return [_nested(ws.open(folder / f"{seed}.safetensors").state_dict()) for seed in seeds]


def _trained(shape: str, width: int, seeds: Sequence[int], steps: int) -> list[Family]:
    examples = mnist1d()
    signals, classes = Split.of(examples).learn
    whole = train(ARCHITECTURES[shape], width, Examples(signals, classes, examples.test, examples.test_classes), seeds, 2 * steps)
    bases = [{name: tensor for name, tensor in one.items() if not name.startswith("head.")} for one in whole]
    features = whole[0]["head.weight"].shape[1]
    of = _Learner(trunk_of(shape, width), signals, classes)
    count = len(VARIANTS)
    repeated = _stacked([base for base in bases for _ in VARIANTS])
    blank = {
        "weight": torch.zeros(len(seeds) * count, CLASSES, features),
        "bias": torch.zeros(len(seeds) * count, CLASSES),
    }
    _, heads = of.learn(repeated, blank, seeds, [(at,) for at in range(count)] * len(seeds), steps // 2, "heads")
    tuned, _ = of.learn(repeated, heads, seeds, [(at,) for at in range(count)] * len(seeds), steps, "trunk")
    joint, _ = of.learn(_stacked(bases), heads, seeds, [tuple(range(count))] * len(seeds), steps, "trunk")
    split = [_unstacked(part) for part in (tuned, heads)]
    return [
        Family(base, tuple(split[0][at * count : (at + 1) * count]), one, tuple(split[1][at * count : (at + 1) * count]))
        for at, (base, one) in enumerate(zip(bases, _unstacked(joint), strict=True))
    ]


@dataclass(frozen=True)
class _Learner:
    """Trains trunks side by side, each on the tasks that it is given."""

    trunk: nn.Sequential
    signals: Tensor
    classes: Tensor

    def learn(
        self, trunks: Weights, heads: Weights, seeds: Sequence[int], tasks: Sequence[tuple[int, ...]], steps: int, what: str
    ) -> tuple[Weights, Weights]:
        """Adam, its rate falling as a cosine: the trunk or the heads; the networks of one seed lie side by side.

        Args:
            trunks: (networks, ...).
            heads: (seeds * tasks, ...), seed after seed.
            seeds: draw the batches: all networks of one seed see the same signals.
            tasks: of each network.
            steps: how many, each of a batch for each task.
            what: learns.
        """
        trunks, heads = ({name: tensor.clone() for name, tensor in part.items()} for part in (trunks, heads))
        learnt = [tensor.requires_grad_() for tensor in (trunks if what == "trunk" else heads).values()]
        optimizer = torch.optim.Adam(learnt, RATE if what == "trunk" else PROBE_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        networks = len(tasks) // len(seeds)
        for _ in range(steps):
            drawn = torch.stack([torch.randint(len(self.signals), (BATCH,), generator=generator) for generator in generators])
            drawn = drawn.repeat_interleave(networks, 0)
            signals, classes = self.signals[drawn], self.classes[drawn]
            inputs = torch.stack([torch.cat([VARIANTS[at].inputs(x) for at in own]) for own, x in zip(tasks, signals, strict=True)])
            targets = torch.stack([torch.cat([VARIANTS[at].classes(y) for at in own]) for own, y in zip(tasks, classes, strict=True)])
            features = run_stacked(self.trunk, trunks, inputs).reshape(len(heads["bias"]), BATCH, -1)
            logits = torch.baddbmm(heads["bias"][:, None], features, heads["weight"].mT)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / BATCH
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        return {name: tensor.detach() for name, tensor in trunks.items()}, {name: tensor.detach() for name, tensor in heads.items()}


def accuracies(trunk: nn.Sequential, weights: StateDict, heads: Sequence[StateDict], examples: tuple[Tensor, Tensor]) -> list[float]:
    """Of one trunk on each task, with the head of that task."""
    signals, classes = examples
    stacked = {name: tensor.float()[None] for name, tensor in weights.items()}
    found = []
    for variant, head in zip(VARIANTS, heads, strict=True):
        features = run_stacked(trunk, stacked, variant.inputs(signals)[None])[0]
        logits = features @ head["weight"].mT + head["bias"]
        found.append((logits.argmax(1) == variant.classes(classes)).double().mean().item())
    return found


def _stacked(parts: Sequence[StateDict]) -> Weights:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def _unstacked(stacked: Mapping[str, Tensor]) -> list[Weights]:
    count = len(next(iter(stacked.values())))
    return [{name: tensor[at].clone() for name, tensor in stacked.items()} for at in range(count)]


def _flat(family: Family) -> Weights:
    """A family as one file."""
    parts = {"base": family.base, "joint": family.joint}
    parts |= {f"tuned{at}": one for at, one in enumerate(family.tuned)} | {f"head{at}": one for at, one in enumerate(family.heads)}
    return {f"{part}/{name}": tensor for part, one in parts.items() for name, tensor in one.items()}


def _nested(flat: StateDict) -> Family:
    parts: dict[str, Weights] = {}
    for path, tensor in flat.items():
        part, _, name = path.partition("/")
        parts.setdefault(part, {})[name] = tensor
    tuned, heads = (tuple(parts[f"{kind}{at}"] for at in range(len(VARIANTS))) for kind in ("tuned", "head"))
    return Family(parts["base"], tuned, parts["joint"], heads)
