"""REPAIR: give the channels of an interpolated network the mean and deviation that those of its ends would lead one to expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor, nn

from weightspace.analysis.connectivity.layers import Calls, by_channel, channel_dim, scaled
from weightspace.analysis.connectivity.moments import Gathering, Moments
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import TaskError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Hook, Task


@dataclass(frozen=True, eq=False)
class Repaired:
    """A corrected state dict.

    Attributes:
        state_dict: a new one, of the same names and dtypes.
        layers: whose weights were corrected.
        norms: whose running statistics were measured anew.
        notes: what could not be corrected, and why.
    """

    state_dict: dict[str, Tensor] = field(repr=False)
    layers: tuple[str, ...]
    norms: tuple[str, ...]
    notes: tuple[str, ...]


def repair(
    task: Task,
    state_dict: Checkpoint | StateDict,
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    t: float,
    *,
    mode: Literal["reset", "repair"] = "repair",
    layers: Sequence[str] | None = None,
) -> Repaired:
    """Correct a state dict at time t between a and b, on the batches of a task.

    Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair" (arXiv:2211.08403): the channels of an
    interpolated network vary less than those of its ends, layer by layer ever less. `repair` gives each channel of each convolution and
    linear layer but the last one the mean `(1 - t) mu_a + t mu_b` and the standard deviation `(1 - t) sd_a + t sd_b`, by a scale and a
    shift that are folded into weight and bias. As there, one pass measures all layers, each seeing inputs that were corrected by the
    moments of their batch. Where a batch norm follows a layer directly, it is the batch norm's output that is corrected, by its
    affine. `reset` only measures the running statistics of batch norms anew; `repair` does that too.

    We differ in three points: statistics over batches are exact (batches of unequal size, the spread between batches), a layer without bias is
    scaled and not shifted, and layers that are called more than once, or share their weight, are left alone; the notes say so.

    Args:
        task: its batches are what statistics are measured on.
        state_dict: the interpolated network.
        a: the network at t = 0.
        b: that at t = 1, aligned to a.
        t: where between them.
        mode: `repair` or `reset`.
        layers: convolutions, linear layers and batch norms to correct, in place of all but the last.

    Raises:
        TaskError: a state dict does not fit the module, or a layer that was named cannot be corrected.
        UnknownNameError: there is no layer of a name.
    """
    return prepare(task, (state_of(a), state_of(b)), mode, layers).apply(state_of(state_dict), (1 - t, t))


def repair_many(
    task: Task,
    state_dict: Checkpoint | StateDict,
    ends: Sequence[Checkpoint | StateDict],
    shares: Sequence[float] | None = None,
    *,
    mode: Literal["reset", "repair"] = "repair",
    layers: Sequence[str] | None = None,
) -> Repaired:
    """Correct what many networks were merged into, as `repair` does for two: goals are means over all of them.

    Args:
        task: its batches are what statistics are measured on.
        state_dict: the merged network.
        ends: what it was merged from, aligned.
        shares: of each in the goal; equal ones by default.
        mode: `repair` or `reset`.
        layers: as for `repair`.

    Raises:
        TaskError: as for `repair`, or there is no network, or not one share for each.
    """
    shares = [1 / len(ends)] * len(ends) if shares is None and ends else list(shares or ())
    if not ends or len(shares) != len(ends):
        raise TaskError(f"found {len(ends)} networks and {len(shares)} shares; give at least one network, and a share for each")
    return prepare(task, [state_of(end) for end in ends], mode, layers).apply(state_of(state_dict), shares)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What to correct, and the moments of the ends: measured once for all times.

    Attributes:
        task: where networks run.
        layers: to be given the ends' moments.
        norms: whose running statistics are measured.
        ends: moments of the layers in each end.
        notes: what is left as it is, and why.
    """

    task: Task
    layers: tuple[str, ...]
    norms: tuple[str, ...]
    ends: tuple[Mapping[str, Moments], ...]
    notes: tuple[str, ...]

    def apply(self, state_dict: StateDict, shares: Sequence[float]) -> Repaired:
        """Correct a state dict that has these shares of the ends, in a new one."""
        goals = {name: Moments.mixed([end[name] for end in self.ends], shares) for name in self.layers}
        outputs, inputs = ({name: Gathering() for name in names} for names in (self.layers, self.norms))
        modules = dict(self.task.module.named_modules())
        hooks: dict[str, Hook] = {name: partial(_gather_input, inputs[name], modules[name]) for name in self.norms}
        for name in self.layers:
            hooks[name] = _both(hooks.get(name), partial(_correct, outputs[name], modules[name], goals[name]))
        for _ in self.task.run(state_dict, hooks, batch_statistics=True):
            pass
        names, made = tensors_of(self.task.module, state_dict), dict(state_dict)
        for name in self.norms:
            _put(made, names[f"{name}.running_mean"], inputs[name].moments.mean)
            _put(made, names[f"{name}.running_var"], inputs[name].variance)
        for name in self.layers:
            weight, bias = names[f"{name}.weight"], names.get(f"{name}.bias")
            found = outputs[name].moments
            if name in inputs and bias is not None:  # what it will give in eval mode follows from what it takes
                found = inputs[name].normalised(made[weight], made[bias], modules[name].eps)
            scale, shift = found.towards(goals[name])
            _put(made, weight, scaled(made[weight], scale, modules[name]))
            if bias is not None:
                _put(made, bias, made[bias].to(scale) * scale + shift)
        return Repaired(made, self.layers, self.norms, self.notes)


def prepare(task: Task, ends: Sequence[StateDict], mode: str, layers: Sequence[str] | None = None) -> Prepared:
    """Choose the layers, and measure all ends on the batches of a task."""
    if mode not in ("reset", "repair"):
        raise TaskError(f"expected repair to be 'reset' or 'repair', found '{mode}'; choose one, or None")
    calls = Calls.of(task, ends[0])
    chosen, notes = calls.chosen(layers) if mode == "repair" else ((), [])
    norms = calls.norms
    if mode == "reset" and not norms:
        notes = [*notes, "no layer keeps running statistics: there is nothing to reset"]
    return Prepared(task, tuple(chosen), norms, tuple(_moments(task, end, chosen) for end in ends), tuple(notes))


def _moments(task: Task, state_dict: StateDict, layers: Sequence[str]) -> dict[str, Moments]:
    """Moments of the outputs of layers, as the network runs in eval mode."""
    if not layers:
        return {}
    modules = dict(task.module.named_modules())
    gathered = {name: Gathering() for name in layers}
    for _ in task.run(state_dict, {name: partial(_gather_output, gathered[name], modules[name]) for name in layers}):
        pass
    return {name: one.moments for name, one in gathered.items()}


def _gather_output(gathering: Gathering, module: nn.Module, given: Tensor, made: Tensor) -> None:
    gathering.add(by_channel(module, made))


def _gather_input(gathering: Gathering, module: nn.Module, given: Tensor, made: Tensor) -> None:
    gathering.add(by_channel(module, given))


def _correct(gathering: Gathering, module: nn.Module, goal: Moments, given: Tensor, made: Tensor) -> Tensor:
    """Take in the outputs, and hand on what they will be once they are corrected."""
    scale, shift = gathering.add(by_channel(module, made)).towards(goal)
    shape = [1] * made.ndim
    shape[channel_dim(module, made)] = -1
    return made * scale.to(made.dtype).view(shape) + shift.to(made.dtype).view(shape)


def _both(first: Hook | None, second: Hook) -> Hook:
    def hook(given: Tensor, made: Tensor) -> Tensor | None:
        if first is not None:
            first(given, made)
        return second(given, made)

    return hook


def _put(state_dict: dict[str, Tensor], name: str, values: Tensor) -> None:
    state_dict[name] = values.to(state_dict[name])
