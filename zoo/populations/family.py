"""What the networks of one population have in common: their settings, and how each is drawn, named, split and told to the catalog."""

import json
import math
import platform
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from weightspace.errors import RecordError
from weightspace.zoo.runs.run import Run, Value
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo.populations.data import Examples

APART = 1_000_000
"""Network number i of a population of seed s has the seed `s * APART + i`, so that no two of a population's seeds are one."""

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Of the networks (or, where each is fitted to an item, of the items) that a metanet learns from, chooses by and is judged by."""

_NO_SETTING = ("seed", "count", "seeds", "skip", "jobs", "backend")  # these say which networks are trained, not how


def how(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a population without the keys of what is there already, which may be many and need not cross to workers."""
    return {key: value for key, value in given.items() if key != "skip"}


@dataclass(frozen=True, eq=False)
class Network:
    """One network that is to be trained.

    Attributes:
        seed: of the generator that everything about it is drawn from.
        generator: as drawing the hyperparameters left it.
        hyperparameters: of architecture and training.
        item: what it is fitted to, where that is one datum.
    """

    seed: int
    generator: "torch.Generator"
    hyperparameters: dict[str, Value]
    item: str | None = None

    def architecture(self, keys: Sequence[str]) -> tuple[Value, ...]:
        """The hyperparameters that say what module it is."""
        return tuple(self.hyperparameters[key] for key in keys)


@dataclass(frozen=True)
class Family:
    """The networks of one population with the same settings.

    Attributes:
        name: of the population.
        settings: keywords that the population is called with to make these networks again, apart from how many and which.
        data: what the recipes say of the data.
        kind: what recipes call the making of them.
    """

    name: str
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    kind: str = "population"
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any], examples: "Examples", **known: Any) -> "Family":
        """Take the settings out of all arguments of a population."""
        settings = json.loads(json.dumps({key: value for key, value in given.items() if key not in _NO_SETTING}))
        return cls(name, settings | ({"data": examples.name} if "data" in settings else {}), examples.described, **known)

    @cached_property
    def key(self) -> str:
        """The population's name, with a digest that tells other settings and other data apart."""
        content = {**self.settings, "data": {key: value for key, value in self.data.items() if key != "name" or "hash" not in self.data}}
        return f"{self.name}-{blake3(json.dumps(content, sort_keys=True).encode()).hexdigest(3)}"

    def seeds(self, given: Mapping[str, Any]) -> Iterator[int]:
        """The seeds of the networks that are wanted: those given, or the first `count`; without those that are there already.

        Raises:
            RecordError: a seed or count is none.
        """
        seed, count, seeds = given["seed"], given["count"], given["seeds"]
        expect(
            0 <= seed < 2**40 and 0 <= count < APART, self.name, "seed and count", (seed, count), "numbers from 0 on, count below a million"
        )
        wanted: Sequence[int] = range(seed * APART, seed * APART + count) if seeds is None else seeds
        known: Container[str] = given["skip"]
        return (one for one in wanted if self.run_key(one) not in known)

    def run_key(self, seed: int) -> str:
        """The key of the run of the network with this seed."""
        return f"population:{self.key}/{seed}"

    def run(self, network: Network, status: str = "finished") -> Run:
        """What the catalog knows of the training; only a network that is worth it has a split."""
        name = f"{self.key}/{network.seed}"
        split = split_of(network.item or name, self.settings["split_seed"]) if status == "finished" else None
        return Run(
            self.run_key(network.seed), name, "population", network.seed, network.hyperparameters,
            status=status, source_item=network.item, split=split,
        )  # fmt: skip

    def recipe(self, network: Network) -> dict[str, Any]:
        """Everything needed to make the network again: `populations[name](**settings, seeds=[seed])`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "seed": network.seed,
            "settings": dict(self.settings),
            "hyperparameters": network.hyperparameters,
            "data": dict(self.data),
            **self.more,
            "versions": dict(versions()),
        }

    def added(
        self,
        network: Network,
        step: int,
        tensors: "Checkpoint | Mapping[str, torch.Tensor]",
        metrics: Mapping[str, Any],
        *,
        run: Run | None = None,
        parents: Sequence[str] = (),
        **known: Any,
    ) -> Added:
        """One checkpoint; `known` goes into its recipe."""
        run = run or self.run(network)
        return Added(
            tensors,
            f"{run.name}/step-{step}",
            recipe={**self.recipe(network), **known, "step": step},
            parents=parents,
            run=run,
            step=step,
            metrics=finite(metrics),
            tags={"source": "population", "population": self.name},
        )


def split_of(item: str, seed: int) -> str:
    """The split that an item is in, by a digest of its name: it stays there whatever else there is."""
    at = int.from_bytes(blake3(f"{seed}:{item}".encode()).digest(6), "big") / 2**48
    return "train" if at < SHARES["train"] else "val" if at < SHARES["train"] + SHARES["val"] else "test"


def generator_of(seed: int) -> "torch.Generator":
    """The generator of one network."""
    import torch

    return torch.Generator().manual_seed(seed)


def choose(generator: "torch.Generator", options: Sequence[Any]) -> Any:
    """One of some options; the draw is made where there is only one, too."""
    return options[int(_uniform(generator) * len(options))]


def log_uniform(generator: "torch.Generator", bounds: Sequence[float]) -> float:
    """A number whose logarithm is uniform between bounds, with six digits."""
    low, high = (math.log(bound) for bound in bounds)
    return float(f"{math.exp(low + (high - low) * _uniform(generator)):.6g}")


def _uniform(generator: "torch.Generator") -> float:
    import torch

    return float(torch.rand((), generator=generator, dtype=torch.float64))


def expect(holds: bool, name: str, setting: str, value: object, expected: str) -> None:
    """See that a setting can be used.

    Raises:
        RecordError: it cannot.
    """
    if not holds:
        raise RecordError(f"population '{name}': {setting} is {value!r}, expected {expected}")


def expect_options(name: str, given: Mapping[str, Any], known: Mapping[str, object]) -> None:
    """See that lists of options hold what they may.

    Args:
        name: of the population.
        given: its arguments.
        known: by setting, the values that may be chosen from, or the least whole number.

    Raises:
        RecordError: a list is empty or holds something else.
    """
    for key, allowed in known.items():
        values = given[key]
        if isinstance(allowed, int):
            right = all(isinstance(one, int) and one >= allowed for one in values)
            said = f"a list of whole numbers from {allowed} on"
        else:
            options = list(allowed)  # type: ignore[call-overload]
            right, said = all(one in options for one in values), f"a list of some of {', '.join(map(str, options))}"
        expect(len(values) > 0 and right, name, key, values, said)


def expect_bounds(name: str, given: Mapping[str, Any], keys: Sequence[str]) -> None:
    """See that ranges are pairs of positive numbers.

    Raises:
        RecordError: one is not.
    """
    for key in keys:
        values = given[key]
        right = len(values) == 2 and all(isinstance(one, int | float) for one in values) and 0 < values[0] <= values[1]
        expect(right, name, key, values, "two positive numbers, the lower one first")


def finite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without those that are no number: a network that fell apart may have such a loss."""
    found = {key: finite(value) if isinstance(value, Mapping) else value for key, value in metrics.items()}
    return {key: value for key, value in found.items() if isinstance(value, Mapping) or math.isfinite(value)}


@cache
def versions() -> Mapping[str, str]:
    """What the networks were made with."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "scikit-learn")}}
