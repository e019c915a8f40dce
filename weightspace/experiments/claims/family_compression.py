"""That fine-tunes of one network take less than half their bytes, without loss, once they are kept as what differs from it."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.zoo import Added, Zoo
from weightspace.zoo.populations import training
from weightspace.zoo.populations.classifiers import initialise
from weightspace.zoo.populations.data import load

NETWORK, WIDTH, STEPS, RATE = "mnist1d-mlp", 256, 200, 1e-3
FINE_TUNES, FINE_STEPS, FINE_RATE = 6, 100, 1e-5


@claim(
    "family-compression",
    statement="A family of fine-tunes in bfloat16 is kept in less than half its bytes without loss, as bitwise differences from the base; unrelated networks are not.",
    source="Wang et al., ZipLLM, arXiv:2505.06252, abstract (54 % saved)",
    topic="catalog",
)
def family_compression(seeds: Sequence[int]) -> Iterator[Finding]:
    """A perceptron and six fine-tunes of it in a compacted store, as share of their bytes; as many networks of other seeds beside them."""
    of_family, of_strangers, exact = [], [], []
    for seed in seeds:
        [base] = _trained(seed, None, 1)
        share, same = _kept([base, *_trained(seed, base, FINE_TUNES)], has_parent=True)
        other, as_well = _kept(_trained(seed, None, 1 + FINE_TUNES), has_parent=False)
        of_family.append(share)
        of_strangers.append(other)
        exact.append((same + as_well) / 2)
    yield at_most("share of the bytes of a family", of_family, 0.5, baseline=of_strangers, against="networks of other seeds")
    yield at_least("share of the bytes of networks of other seeds", of_strangers, 0.5)
    yield at_least("share of networks that come out of the store as they went in", exact, 1.0)


def _trained(seed: int, base: Mapping[str, Tensor] | None, count: int) -> list[dict[str, Tensor]]:
    """Networks trained from scratch, or from a base on a fifth of the examples each."""
    data, module, trainees = load("mnist1d"), ARCHITECTURES[NETWORK](WIDTH), []
    for at in range(count):
        generator = torch.Generator().manual_seed(100 * seed + at + (0 if base is None else 50))
        initialise(module, generator, 1.0)
        state = {name: tensor.clone() for name, tensor in (module.state_dict() if base is None else base).items()}
        seen = None if base is None else torch.randperm(len(data.train), generator=generator)[: len(data.train) // 5]
        trainees.append(training.Trainee(state, generator, RATE if base is None else FINE_RATE, examples=seen))
    batches = training.drawn(data.train, data.train_classes, trainees, 64)
    steps = [STEPS if base is None else FINE_STEPS]
    [(_, made)] = training.train(module, trainees, batches, training.cross_entropy, training.Adam(), steps)
    return [{name: tensor[at] for name, tensor in made.items()} for at in range(count)]


def _kept(networks: Sequence[Mapping[str, Tensor]], *, has_parent: bool) -> tuple[float, float]:
    """Bytes after compacting over those before; and how many of the networks are then as they were."""
    states = [{name: tensor.to(torch.bfloat16) for name, tensor in one.items()} for one in networks]
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(Path(folder))
        first = zoo.add(states[0], "base")
        ids = zoo.add_many([Added(one, f"other {at}", parents=[first] if has_parent else []) for at, one in enumerate(states[1:])])
        done = zoo.compact(jobs=1)
        same = [
            all(torch.equal(zoo.open(one)[name], state[name]) for name in state) for one, state in zip([first, *ids], states, strict=True)
        ]
    return done.after / done.before, sum(same) / len(same)
