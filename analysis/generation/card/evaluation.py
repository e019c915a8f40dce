"""The evaluation of a generator: the rows of its card made one after another, its own, the zoo's and every baseline's."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from weightspace.analysis.generation.alignment import aligned
from weightspace.analysis.generation.card import baselines
from weightspace.analysis.generation.card.baselines import KNOBS, Knob
from weightspace.analysis.generation.card.comparison import at_novelty, likeness
from weightspace.analysis.generation.card.novelty import Stacked
from weightspace.analysis.generation.card.rows import Bench, Clock, Entry, Made, Row, timed
from weightspace.analysis.generation.drawing import sample
from weightspace.analysis.generation.generator import WeightGenerator, Wish
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.norms import settled
from weightspace.analysis.generation.resizing import resized_task
from weightspace.analysis.generation.target import Target
from weightspace.errors import WeightSpaceError
from weightspace.metanets.batch import WeightBatch
from weightspace.task import Task

TRAINED = 3
"""Networks trained from scratch."""

STEPS = 500
"""Of their training, where the generator has no setting `steps`."""

TEMPERATURES = (0.5, 0.8, 1.25)
"""What a generator's own temperature is multiplied by, where it has one."""

NO_ZOO = "no checkpoints given"

Part = Callable[[], list[Entry]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that the rows of a card are made from.

    Attributes:
        fitted: the generator.
        material: what it was fitted on.
        zoo: the networks it is compared with, in the frame that it saw them in, without conditions; None without checkpoints.
        bench: measures networks of the zoo's size.
        sized: measures networks of the size that is wished for.
        count: networks of each row.
        wish: what is asked for, conditions drawn where they are needed.
        generator: source of chance.
        clock: tells seconds.
    """

    fitted: WeightGenerator
    material: Material
    zoo: Material | None
    bench: Bench
    sized: Bench
    count: int
    wish: Wish
    generator: torch.Generator
    clock: Clock

    @classmethod
    def of(
        cls,
        fitted: WeightGenerator,
        material: Material,
        tasks: tuple[Task, Task],
        count: int,
        wish: Wish,
        zoo: WeightBatch | None,
        compared: int,
        generator: torch.Generator,
        clock: Clock,
    ) -> "Evaluation":
        """Judge the zoo, and draw conditions where the generator needs them."""
        seen = _frame(fitted, material, zoo, generator)
        made = None if seen is None or seen.networks is None else Made(seen.networks.tensors, seen.target)
        bench = Bench.of(tasks, made, None if seen is None or seen.networks is None else seen.networks.spec, compared, generator)
        if fitted.condition_shape is not None and wish.condition is None and material.conditions is not None:
            drawn = torch.randint(len(material.conditions), (count,), generator=generator)
            wish = replace(wish, condition=material.conditions[drawn])
        sized = replace(bench, validation=_sized(tasks[0], wish), test=_sized(tasks[1], wish))
        return cls(fitted, material, seen, bench, sized, count, wish, generator, clock)

    @property
    def target(self) -> Target:
        """Of the networks that are asked for."""
        return self.wish.target or self.fitted.target

    @cached_property
    def own(self) -> Entry:
        """The generator as it is."""
        return self.sized.entry("generator", timed(partial(self._sample, self.fitted), self.target, self.clock))

    def parts(self) -> list[Part]:
        """What makes the rows, in order: the generator and the zoo first."""
        knobs: list[Part] = [partial(self.turned, knob) for knob in KNOBS]
        return [
            lambda: [self.own],
            lambda: [self.bench.zoo_entry()],
            self.temperatures,
            *knobs,
            self.retrieval,
            self.pruning,
            self.training,
            self.removal,
        ]

    def temperatures(self) -> list[Entry]:
        """The generator at other temperatures, where it has one."""
        usual = getattr(self.fitted, "temperature", None)
        if "temperature" not in self.fitted.family.settings or not isinstance(usual, int | float) or not usual:
            return []
        made = []
        for factor in TEMPERATURES:
            turned = copy.deepcopy(self.fitted)
            turned.temperature = factor * usual  # type: ignore[assignment]
            networks = timed(partial(self._sample, turned), self.target, self.clock)
            made.append(self.sized.entry("generator", networks, setting="temperature", value=factor * usual))
        return made

    def turned(self, knob: Knob) -> list[Entry]:
        """A baseline at its settings, and where it is just as novel as the generator."""
        if self.zoo is None or self.zoo.networks is None:
            return [Entry(Row(knob.method, missing=NO_ZOO))]
        zoo, count = self.zoo, len(self.zoo.networks)
        values = [value for value in knob.values if knob.is_continuous or value < count]

        def make(value: float) -> Made:
            return timed(
                lambda: knob.make(zoo, value, self.count, generator=self.generator, norms=self._norms, task=self._taught),
                zoo.target,
                self.clock,
            )

        entries = [self.bench.entry(knob.method, make(value), setting=knob.setting, value=value, is_rival=True) for value in values]
        between = self._between(entries, make) if knob.is_continuous else None
        if between is None:
            return entries
        value, networks = between
        entries.append(self.bench.entry(knob.method, networks, setting=knob.setting, value=value, is_rival=True))
        return sorted(entries, key=lambda entry: entry.row.value or 0.0)

    def retrieval(self) -> list[Entry]:
        """Networks of the zoo whose conditions are nearest."""
        wished, known = self.wish.condition, self.material.conditions
        if self.zoo is None or self.zoo.networks is None or self.material.networks is None:
            return [Entry(Row("retrieval", missing=NO_ZOO))]
        if wished is None or known is None:
            return [Entry(Row("retrieval", missing="the generator was fitted without conditions"))]
        each = wished if wished.ndim > len(self.fitted.condition_shape or ()) else wished[None]
        found = partial(baselines.retrieved, self.zoo.networks.tensors, known, each)
        return [self.bench.entry("retrieval", timed(found, self.zoo.target, self.clock))]

    def pruning(self) -> list[Entry]:
        """Networks of the zoo cut down to the size that is wished for."""
        if self.wish.target is None:
            return [Entry(Row("pruned", missing="the networks are made at full size"))]
        if self.zoo is None or self.zoo.networks is None:
            return [Entry(Row("pruned", missing=NO_ZOO))]
        if self.wish.target.spec is None:
            return [Entry(Row("pruned", missing="the symmetry of the smaller networks is not known"))]
        cut = partial(baselines.pruned, self.zoo.networks, self.wish.target.spec)
        try:
            return [self.sized.entry("pruned", timed(cut, self.target, self.clock), is_rival=True)]
        except WeightSpaceError as error:
            return [Entry(Row("pruned", missing=str(error)))]

    def training(self) -> list[Entry]:
        """Networks of the size that is wished for, trained from scratch for as many steps as the generator."""
        method = "trained from scratch"
        if self.wish.target is None and self.zoo is not None and "tasks" not in self.fitted.family.learns:
            return [Entry(Row(method, missing="those of the zoo are"))]
        if not self.material.tasks:
            return [Entry(Row(method, missing="no task to learn from was given"))]
        steps = self.fitted.recipe.get("settings", {}).get("steps") or STEPS
        make = partial(
            baselines.trained,
            _sized(self._lesson, self.wish),
            self.target,
            self.sized.validation,
            count=TRAINED,
            steps=steps,
            generator=self.generator,
        )
        return [self.sized.entry(method, timed(make, self.target, self.clock), setting="steps", value=float(steps))]

    def removal(self) -> list[Entry]:
        """What is made without the part that the generator makes, where the rest of the network is given."""
        part = self._part
        if part is None:
            return [Entry(Row("block removed", missing="the generator makes all parameters"))]
        networks = baselines.removed(self._sample(self.fitted), part)
        return [self.sized.entry("block removed", Made(networks, self.target))]

    @property
    def _part(self) -> list[str] | None:
        """The tensors that are made, where that is not all of the network: the target's, or those that the setting `only` names."""
        only = self.fitted.recipe.get("settings", {}).get("only")
        if only:
            return [name for name in self.target.shapes if name.startswith(tuple(only))]
        made = {*self.target.shapes, *self.target.aliases}
        is_all = all(name in made for name, _ in self.sized.test.module.named_parameters())
        return None if is_all else list(self.target.shapes)

    @property
    def _lesson(self) -> Task:
        """The task to learn from: that of the condition nearest to the first that is wished for."""
        tasks, wished, known = self.material.tasks, self.wish.condition, self.material.conditions
        if wished is None or known is None or len(tasks) != len(known):
            return tasks[0]
        first = wished if wished.ndim == known.ndim - 1 else wished[0]
        return tasks[int(baselines.nearest(known, first[None])[0])]

    def _sample(self, fitted: WeightGenerator) -> Stacked:
        task = None if self._taught is None else _sized(self._taught, self.wish)
        return sample(fitted, self.count, self.wish, generator=self.generator, task=task)

    @property
    def _taught(self) -> Task | None:
        """The task to learn from, where there is one."""
        return self._lesson if self.material.tasks else None

    @property
    def _norms(self) -> str:
        """What becomes of a baseline's running statistics: in the frame they are fused already, where the generator's are."""
        policy = self.fitted.recipe.get("norms", "generate")
        return "generate" if policy == "fuse" else str(policy)

    def _between(self, entries: Sequence[Entry], make: Callable[[float], Made]) -> tuple[float, Made] | None:
        """The setting between those tried at which a baseline is just as novel as the generator, with the networks that showed it."""
        wanted = likeness(self.own.row)
        known = {entry.row.value: likeness(entry.row) for entry in entries}
        if wanted is None or None in known.values():
            return None
        tried: dict[float, Made] = {}

        def at(value: float) -> float:
            if value not in known:
                tried[value] = make(value)
                known[value] = self.bench.likeness(tried[value])
            found = known[value]
            assert found is not None
            return found

        found = at_novelty(at, wanted, [entry.row.value or 0.0 for entry in entries])
        return None if found is None or found not in tried else (found, tried[found])


def _frame(fitted: WeightGenerator, material: Material, zoo: WeightBatch | None, generator: torch.Generator) -> Material | None:
    """The networks as the generator saw them, without their conditions."""
    seen = replace(material, conditions=None) if zoo is None else Material(Target.of_networks(zoo), zoo)
    if seen.networks is None:
        return None
    align, several = fitted.recipe.get("align"), len(seen.networks) > 1
    seen = seen.in_float32()
    seen = aligned(seen, align, generator=generator) if align is not None and several else seen
    return settled(seen, "fuse", logarithms=False) if fitted.recipe.get("norms") == "fuse" else seen


def _sized(task: Task, wish: Wish) -> Task:
    """A task for networks of the size that is wished for."""
    if wish.target is None:
        return task
    return resized_task(task, wish.target) if wish.module is None else replace(task, module=wish.module)


__all__ = ["STEPS", "Evaluation", "Part"]
