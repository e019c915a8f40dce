"""NeuMeta: weights as a smooth function of where they stand in a network, so that the network can be drawn at any width."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.manifold.coordinates import Coordinates
from weightspace.analysis.generation.manifold.distilling import distilled
from weightspace.analysis.generation.manifold.fields import WeightField
from weightspace.analysis.generation.manifold.smoothing import smoothing
from weightspace.analysis.generation.manifold.varying import made_slots, varying_groups
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.resizing import resized, resized_task, spec_of
from weightspace.analysis.generation.target import Target
from weightspace.analysis.generation.through_tasks import learn_through
from weightspace.errors import GenerationError
from weightspace.metanets.layout import Layout
from weightspace.symmetry import act_on_tensor

Sizes = Mapping[str, int]

CLIP = 1.0
"""Largest norm of a gradient: products of features make steep places."""


@weight_generator(
    "neumeta",
    learns=["networks", "tasks"],
    takes=["size"],
    reference="Yang and Wang, Neural Metamorphosis, arXiv:2410.11878; whole networks: Sommariva et al., arXiv:2505.05510",
)
class NeuMeta(WeightGenerator):
    """A trained network as a smooth function of coordinates, drawn at any width.

    The network's neurons are reordered so that its weights vary little (see `smoothing`), a small network for each tensor learns
    the weights from their coordinates, and all go on learning through the task at widths drawn anew for every step.

    We depart from the paper: a function is a product over axes (see `WeightField`); noise moves neurons, which all tensors see alike, not
    each weight alone; a learning rate that falls along a cosine takes the place of averages over steps; and the outputs of the full
    network are learned from too (`distil`). A block is what one neuron group indexes (`blockwise`). Norms that keep running statistics
    are to be folded into their layers before, or to stand on groups that do not vary.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        groups: Sequence[str] | None = None,
        smallest: float = 0.25,
        every: int = 1,
        only: Sequence[str] | None = None,
        smooth: bool = True,
        noise: float = 1.0,
        fit_steps: int = 500,
        steps: int = 2000,
        learning_rate: float = 1e-3,
        hidden: int = 64,
        depth: int = 2,
        frequencies: int = 6,
        faithful: float = 1.0,
        distil: float = 0.5,
        weight_norm: float = 1e-4,
        blockwise: bool = False,
        averaged: int = 1,
    ) -> None:
        """Make it.

        Args:
            target: of the trained network.
            condition_shape: none.
            groups: neuron groups whose size varies; all permutable ones that stand alone by default.
            smallest: share of the full size down to which widths are drawn.
            every: how far apart the widths are that are drawn, counted down from the full one.
            only: names of tensors that are made, or what they begin with; all by default. The others stay as they are, so no group that varies
                may index them.
            smooth: whether neurons are reordered before.
            noise: on the positions of neurons whose group varies and on its width, in neurons.
            fit_steps: of learning the weights of the network.
            steps: of learning through the task.
            learning_rate: at first; it falls to 0 in either phase.
            hidden: units of the network for each tensor.
            depth: its residual layers.
            frequencies: of the Fourier features of a position.
            faithful: weight of staying at the network's own weights where the full width is drawn.
            distil: share of the task's loss that is the distance from the full network's outputs (see `distilled`).
            weight_norm: weight of the sum of the tensors' norms.
            blockwise: whether the groups first vary one at a time, the rest of the network as it was, for half of the steps.
            averaged: weights that are averaged for one network, the first at coordinates without noise.

        Raises:
            GenerationError: the symmetry is not known, or the groups cannot vary.
        """
        super().__init__(target, condition_shape)
        self.smallest, self.every, self.smooth, self.noise = smallest, every, smooth, noise
        self.fit_steps, self.steps, self.learning_rate = fit_steps, steps, learning_rate
        self.faithful, self.distil, self.weight_norm = faithful, distil, weight_norm
        self.blockwise, self.averaged = blockwise, averaged
        self.layout = Layout.of(spec_of(target))
        self.slots = made_slots(self.layout, target, only)
        names = {slot.tensor for slot in self.slots}
        self.rest = replace(target, shapes={name: shape for name, shape in target.shapes.items() if name not in names})
        self.groups = varying_groups(self.layout, self.slots, groups)
        self.full: Sizes = {group: self.layout.spec.groups[group].size for group in self.layout.groups}
        self.fields = nn.ModuleList(WeightField(slot, frequencies=frequencies, hidden=hidden, depth=depth) for slot in self.slots)
        self.scales = nn.Buffer(torch.ones(len(self.slots)))
        self.kept = nn.Buffer(torch.zeros(self.rest.numel))

    def widths(self) -> list[int]:
        """The widths that are drawn, of the largest group that varies; the others shrink by the same share."""
        largest = max(self.full[group] for group in self.groups)
        least = max(1, round(self.smallest * largest))
        return list(range(largest, least - 1, -self.every))

    def sizes_at(self, width: int) -> dict[str, int]:
        """Sizes of the groups that vary at a width of the largest."""
        largest = max(self.full[group] for group in self.groups)
        return {group: max(1, round(width / largest * self.full[group])) for group in self.groups}

    def weights(
        self, sizes: Sizes | None = None, *, noise: float = 0.0, generator: torch.Generator | None = None, layout: Layout | None = None
    ) -> dict[str, Tensor]:
        """Make the tensors of one network, differentiably.

        Args:
            sizes: of groups that vary; the full ones by default.
            noise: see the class.
            generator: draws the noise.
            layout: of the architecture at these sizes, where it is at hand.
        """
        layout = layout or self._layout_at(sizes or {})
        now = {group: layout.spec.groups[group].size for group in self.full}
        coordinates = Coordinates.of(now, self.full, noise=noise, noisy=self.groups, generator=generator, device=self.scales.device)
        made = {
            slot.key: (scale * field(coordinates))[None] for slot, field, scale in zip(self.slots, self.fields, self.scales, strict=True)
        }
        tensors = {name: tensor[0] for name, tensor in layout.fold(made).items()}
        return tensors | self._kept()

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Smooth the first of the networks, fit the fields to its weights, and go on through the task."""
        network = self._network(material)
        self.to(next(iter(network.values())).device)
        values = self.layout.unfold({name: tensor[None] for name, tensor in network.items()})
        self.scales.copy_(torch.stack([values[slot.key].square().mean().sqrt().clamp_min(1e-8) for slot in self.slots]))
        if self.rest.shapes:
            self.kept.copy_(self.rest.flat(network))
        total, done = self.fit_steps + self.steps, 0

        def tell(at: int, _: int) -> None:
            progress(done + at, total)

        self._fit(network, generator, tell)
        done = self.fit_steps
        for groups, steps in self._stages():
            self._through(material, network, groups, steps, generator, tell)
            done += steps

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Make networks of the wished size, each the mean over coordinates with noise of its own."""
        layout = self._layout_for(wish.target or self.target)
        rows = []
        for _ in range(count):
            drawn = [self.weights(layout=layout, noise=self.noise * (k > 0), generator=generator) for k in range(self.averaged)]
            rows.append({name: torch.stack([one[name] for one in drawn]).mean(0) for name in drawn[0]})
        return {name: torch.stack([row[name] for row in rows]) for name in self.target.shapes}

    def _stages(self) -> list[tuple[tuple[str, ...], int]]:
        """Which groups vary in which steps: one at a time where that is wanted, then all."""
        alone = self.groups if self.blockwise and len(self.groups) > 1 else ()
        each = self.steps // 2 // max(1, len(alone))
        return [*(((group,), each) for group in alone), (self.groups, self.steps - each * len(alone))]

    def _network(self, material: Material) -> dict[str, Tensor]:
        """The network that is learned, its neurons in a smooth order."""
        assert material.networks is not None
        if len(material.tasks) != 1:
            raise GenerationError(f"generator 'neumeta' learns through one task, and was given {len(material.tasks)}; give one")
        missing = [name for name in self.target.shapes if name not in material.networks.tensors]
        if missing:
            raise GenerationError(f"the networks have no tensor '{missing[0]}', which is to be made; give a target of their own")
        network = {name: material.networks.tensors[name][0] for name in self.target.shapes}
        if not self.smooth:
            return network
        touched = {group for slot in self.slots for group in slot.groups}
        # Constants of the target stay where they are, and with them the groups that index them.
        stuck = {group for slot in self.layout.slots if slot.tensor not in network for group in slot.groups}
        moved = smoothing({slot.tensor: network[slot.tensor] for slot in self.slots}, self.layout, sorted(touched - stuck))
        return {name: act_on_tensor(moved, name, tensor) for name, tensor in network.items()}

    def _fit(self, network: Mapping[str, Tensor], generator: torch.Generator, progress: Progress) -> None:
        """Learn the weights of the full network from their coordinates."""
        optimizer, falling = self._optimizer(self.fit_steps)
        for step in range(self.fit_steps):
            loss = self._error(self.weights(noise=self.noise, generator=generator, layout=self.layout), network)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            falling.step()
            progress(step + 1, self.fit_steps)

    def _through(
        self,
        material: Material,
        network: Mapping[str, Tensor],
        groups: Sequence[str],
        steps: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        """Learn through the task at widths of some groups; where they are not all, tensors that those do not touch are the network's."""
        sizes = [{group: self.sizes_at(width)[group] for group in groups} for width in self.widths()]
        task = distilled(material.tasks[0], self.target.whole(network), self.distil)
        tasks = [resized_task(task, resized(self.target, one)) for one in sizes]
        layouts = [self._layout_at(one) for one in sizes]
        own = {slot.tensor for slot in self.slots if set(groups) & set(slot.groups)}
        rest = {} if groups == self.groups else {name: tensor for name, tensor in network.items() if name not in own}
        last: dict[str, Tensor] = {}

        def weights_of(at: int) -> Mapping[str, Tensor]:
            last.clear()
            last.update(self.weights(noise=self.noise, generator=generator, layout=layouts[at]) | rest)
            return self.target.whole(last)

        def penalty() -> Tensor:
            norms = self.weight_norm * torch.stack([last[name].norm() for name in sorted({slot.tensor for slot in self.slots})]).sum()
            is_full = all(last[name].shape == network[name].shape for name in network)
            return norms + self.faithful * self._error(last, network) if is_full else norms

        optimizer, falling = self._optimizer(steps)

        def tell(done: int, total: int) -> None:
            falling.step()
            progress(done, total)

        learn_through(
            self.parameters(),
            weights_of,
            tasks,
            steps=steps,
            learning_rate=self.learning_rate,
            generator=generator,
            progress=tell,
            penalty=penalty,
            optimizer=optimizer,
        )

    def _error(self, made: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> Tensor:
        """Squared error of the made tensors relative to the network's, the mean over tensors, large weights counting more."""
        losses = []
        for name in dict.fromkeys(slot.tensor for slot in self.slots):
            truth = network[name]
            weight = truth.abs() / truth.abs().max().clamp_min(1e-12)
            losses.append((weight * (made[name] - truth).square()).sum() / (weight * truth.square()).sum().clamp_min(1e-12))
        return torch.stack(losses).mean()

    def _optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(self.parameters(), CLIP)

        optimizer.register_step_pre_hook(clip)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))

    def _kept(self) -> dict[str, Tensor]:
        return self.rest.tensors(self.kept) if self.rest.shapes else {}

    def _layout_at(self, sizes: Sizes) -> Layout:
        return Layout.of(self.layout.spec.with_groups(**{group: {"size": size} for group, size in sizes.items()}))

    def _layout_for(self, target: Target) -> Layout:
        """The layout at the sizes of a target of the same architecture.

        Raises:
            GenerationError: the target is of another architecture, or of another size in a group that does not vary.
        """
        if dict(target.shapes) == dict(self.target.shapes):
            return self.layout
        sizes = spec_of(target).sizes
        layout = self._layout_at({group: sizes[group] for group in self.groups if group in sizes})
        expected = {name: layout.spec.shape(name) for name in self.target.shapes}
        for name in [*expected, *target.shapes]:
            if expected.get(name) != target.shapes.get(name):
                found = f"shape {list(target.shapes[name])}" if name in target.shapes else "no shape"
                raise GenerationError(
                    f"tensor '{name}' has {found} in the target that is wished for, expected {list(expected.get(name, ()))}; "
                    f"change the sizes of {', '.join(self.groups)} alone"
                )
        return layout


__all__ = ["NeuMeta"]
