"""Soundness: every element of a spec leaves the function of its module unchanged, and every occurrence matters.

At initialisation norms are ones and biases zero, and a spec that forgets them passes; so the weights are drawn anew. And a
group that moves tensors which nothing reads passes too; so each occurrence is moved alone and must change the outputs.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from weightspace.axes import leaves, size
from weightspace.errors import SymmetryError
from weightspace.folding import fold
from weightspace.proof.arguments import expect_module, expect_spec, expect_thresholds
from weightspace.proof.draws import Trial, draw
from weightspace.proof.network import Network, network
from weightspace.proof.occurrences import Occurrence, mixed_when_folded, moved_alone, occurrences, swaps, tidy, without
from weightspace.proof.sharing import overlapping, sharing_note, tied
from weightspace.spec import Continuous, NeuronGroup, SymmetrySpec
from weightspace.symmetry import Symmetry, act, act_on_tensor, random

SPREADS = (1.0, 1.4, 0.7)  # of the matrices, in turn: signals die out in deep networks of small ones, and drown biases in large ones
LOUDER = (3.0, 10.0, 30.0, 100.0, 100.0)  # factors for tensors whose effect is weak, in further draws


def prove(
    spec: SymmetrySpec,
    module: nn.Module,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
    draws: int = 3,
    tolerance: float = 1e-9,
    contrast: float = 1e-3,
) -> SymmetrySpec:
    """Keep of a spec what preserves a module's function and matters to it; the rest is made fixed and noted.

    On a float64 copy in eval mode, with every tensor and input drawn at random and casts in the graph lifted: random elements
    of the spec must leave all outputs as they are, and moving any one occurrence of a group alone must change them; of a group
    that stands in one place only, where moving it alone is the symmetry itself, drawing that tensor anew must. Matrices on a
    group whose gains the spec can fold away are tried where they are folded. Tensors that share storage in part do not move.

    Args:
        spec: what is claimed; its tensors are the module's.
        module: left as it is.
        inputs: example inputs; floats are redrawn normal, integers in their range, masks kept.
        keywords: inputs by keyword.
        generator: source of chance; a fixed seed if not given.
        draws: how many times weights, inputs and elements are drawn.
        tolerance: the largest relative change of the outputs that still is rounding.
        contrast: the least relative change by one occurrence moved alone.

    Returns:
        The spec that passes, `proved`, with a note for each claim that did not. It is not `proved` when claims that hold each
        alone fail together.

    Raises:
        SymmetryError, ShapeMismatchError: the spec is of another architecture, the module does not run on the inputs, or a
            setting is out of range.

    Example:
        >>> spec = SymmetrySpec.parse({"0.weight": "h 2", "0.bias": "h", "2.weight": "3 h'", "2.bias": "3"}, sizes={"h": 4})
        >>> prove(spec, nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), torch.zeros(5, 2)).proved
        True
    """
    expect_spec(spec)
    expect_module(module)
    expect_thresholds(draws, tolerance, contrast)
    spec.check(module.state_dict())
    spec = _without_shared(spec, module)
    if not spec.movable:
        return replace(spec, proved=True)
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    lifted = network(module, inputs, keywords)
    tolerance = max(tolerance, lifted.tolerance)
    spec = _with_ties(spec, lifted)
    if lifted.note:
        spec = _noted(spec, lifted.note)
    mixed = mixed_when_folded(spec)
    spec = spec.with_groups(**{name: {"symmetry": "none"} for name in mixed})
    trials = [draw(lifted, spec, generator, spread=SPREADS[j % 3], tolerance=tolerance) for j in range(draws)]
    while spec.movable:
        spec, holds = _sound(spec, trials, tolerance, generator)
        if not holds:
            return spec
        silent, further = _silent(spec, trials, tolerance, contrast, generator)
        trials += further  # where an occurrence is heard at last, soundness is to be seen too
        if silent:
            spec = _silenced(spec, silent, tolerance)
        elif not further:
            break
    for name, symmetry in mixed.items():
        spec = _mixed(spec, name, symmetry, trials, tolerance, generator)
    return replace(spec, proved=True)


def _noted(spec: SymmetrySpec, *notes: str) -> SymmetrySpec:
    return replace(spec, notes=(*spec.notes, *notes))


def _without_shared(spec: SymmetrySpec, module: nn.Module) -> SymmetrySpec:
    """The spec with groups of tensors made fixed that share storage but would move apart: a copy of the module does not share it."""
    own = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, torch.Tensor)}
    known = {*spec.tensors, *spec.aliases}
    apart = [(owner, name) for name, owner in tied(own).items() if known.issuperset((owner, name)) and not _move_alike(spec, owner, name)]
    notes = {pair: sharing_note(pair) for pair in overlapping(own)}
    notes |= {
        pair: f"tensors '{pair[0]}' and '{pair[1]}' are one in the module but have different rows; their axes are fixed" for pair in apart
    }
    for pair, note in notes.items():
        if known.issuperset(pair):
            moving = {
                leaf.group for name in pair for axis in spec.axes(name) for leaf in leaves(axis) if spec.groups[leaf.group].is_movable
            }
            spec = spec.with_groups(**{name: {"kind": "fixed", "symmetry": "none"} for name in moving})
            spec = _noted(spec, note) if note not in spec.notes else spec
    return spec


def _move_alike(spec: SymmetrySpec, one: str, other: str) -> bool:
    """Whether elements do the same to two tensors (orthogonal matrices do to a producer's and a consumer's axis)."""
    rows = [spec.axes(name) for name in (one, other)]
    if rows[0] == rows[1]:
        return True
    generator = torch.Generator().manual_seed(0)
    sizes = {name: group.size for name, group in spec.groups.items()}
    trial = torch.randn([size(axis, sizes) for axis in rows[0]], generator=generator, dtype=torch.float64)
    first, second = (spec.aliases.get(name, name) for name in (one, other))
    return all(
        torch.allclose(act_on_tensor(element, first, trial), act_on_tensor(element, second, trial))
        for element in (random(spec, generator), swaps(spec, generator))
    )


def _with_ties(spec: SymmetrySpec, lifted: Network) -> SymmetrySpec:
    """The spec with tensors that the module ties declared as tied, where it gives each of them the same row."""
    for name, owner in lifted.ties.items():
        if name in spec.tensors and owner in spec.tensors and spec.tensors[name] == spec.tensors[owner]:
            tensors = {other: axes for other, axes in spec.tensors.items() if other != name}
            aliases = {other: owner if first == name else first for other, first in spec.aliases.items()}
            spec = replace(spec, tensors=tensors, aliases={**aliases, name: owner})
            spec = _noted(spec, f"tensor '{name}' is tied to '{owner}' in the module")
    return spec


def _elements(spec: SymmetrySpec, generator: torch.Generator) -> tuple[Symmetry, ...]:
    return random(spec, generator), swaps(spec, generator)


def _worst(spec: SymmetrySpec, trials: Sequence[Trial], generator: torch.Generator, only: str | None = None) -> float:
    """The largest change of the outputs by random elements of a spec, or of one of its groups."""
    worst = 0.0
    for trial in trials:
        for element in _elements(spec, generator):
            if only is not None:
                element = Symmetry(spec, {name: action for name, action in element.actions.items() if name == only})
            if element.actions:
                worst = max(worst, trial.change(act(element, trial.state)))
    return worst


def _sound(spec: SymmetrySpec, trials: Sequence[Trial], tolerance: float, generator: torch.Generator) -> tuple[SymmetrySpec, bool]:
    """Take away from each group what does not preserve the function; whether what is left does."""
    error = _worst(spec, trials, generator)
    if error <= tolerance:
        return spec, True
    for group in spec.movable:
        alone = _worst(spec, trials, generator, group.name)
        if alone > tolerance:
            spec = _weakened(spec, group, alone, trials, tolerance, generator)
    error = _worst(spec, trials, generator)
    if error > tolerance:
        return _noted(spec, f"the groups preserve the function each alone, but together change the outputs by {error:.1e}"), False
    return spec, True


def _mixed(
    spec: SymmetrySpec, name: str, symmetry: Continuous, trials: Sequence[Trial], tolerance: float, generator: torch.Generator
) -> SymmetrySpec:
    """Give a group back the matrices that act on it where gains are folded away, if they preserve the function there."""
    if name not in spec.groups or spec.groups[name].kind == "fixed":
        return spec
    claimed = spec.with_groups(**{name: {"symmetry": symmetry}})
    try:
        folded = [replace(trial, state=fold(trial.state, claimed)) for trial in trials]
    except SymmetryError as error:
        return _noted(spec, f"group '{name}' is only permuted, without '{symmetry}': {error}")
    change = max(_worst(claimed, folded, generator, name), *(trial.change(trial.state) for trial in folded))
    if change <= tolerance:
        return claimed
    return _noted(spec, f"mixing group '{name}' changes the outputs by {change:.1e} with gains folded too, so it has no '{symmetry}'")


def _weakened(
    spec: SymmetrySpec, group: NeuronGroup, error: float, trials: Sequence[Trial], tolerance: float, generator: torch.Generator
) -> SymmetrySpec:
    """The most that a group which does not preserve the function can keep: its permutations, else its symmetry, else nothing."""
    choices: list[tuple[dict[str, str], str]] = [({"kind": "fixed", "symmetry": "none"}, "it is fixed")]
    if group.symmetry != "none" and group.kind == "permutable":
        choices = [
            ({"symmetry": "none"}, f"it is only permuted, without '{group.symmetry}'"),
            ({"kind": "fixed"}, f"it keeps '{group.symmetry}', but its order is fixed"),
            *choices,
        ]
    for changes, said in choices:
        weaker = spec.with_groups(**{group.name: changes})
        is_last = changes == choices[-1][0]
        if is_last or (weaker.groups[group.name].is_movable and _worst(weaker, trials, generator, group.name) <= tolerance):
            change = f"by {error:.1e}" if math.isfinite(error) else "beyond measure"
            return _noted(weaker, f"moving group '{group.name}' changes the outputs {change}, so {said}")
    raise AssertionError("the last choice always holds")


def _silent(
    spec: SymmetrySpec, trials: Sequence[Trial], tolerance: float, contrast: float, generator: torch.Generator
) -> tuple[dict[Occurrence, float], list[Trial]]:
    """The occurrences whose moving alone changes too little at every draw, with the largest change; and further draws made.

    A contrast may be weak by chance (dead units, a saturated softmax): further draws make the tensors in question louder.
    """
    largest = dict.fromkeys(occurrences(spec), 0.0)
    count = Counter(at.group for at in largest)

    def listen(trial: Trial) -> None:
        for at, found in largest.items():
            if found <= contrast:
                is_whole = count[at.group] == 1  # moving it is the symmetry itself
                other = trial.redrawn(at.tensor, generator) if is_whole else moved_alone(spec, at, trial.state, generator)
                largest[at] = max(found, trial.change(other))

    for trial in trials:
        listen(trial)
    further: list[Trial] = []
    for j, factor in enumerate(LOUDER):
        louder = {at.tensor: factor for at, found in largest.items() if found <= contrast}
        if louder:
            further.append(draw(trials[0].network, spec, generator, spread=SPREADS[j % 3], tolerance=tolerance, louder=louder))
            listen(further[-1])
    return {at: found for at, found in largest.items() if found <= contrast}, further


def _silenced(spec: SymmetrySpec, silent: dict[Occurrence, float], tolerance: float) -> SymmetrySpec:
    """The spec without occurrences that have no effect; a group with a weak one, which nothing proves, is fixed as a whole."""
    every = {at.tensor: {other for other in occurrences(spec) if other.tensor == at.tensor} for at in silent}
    unread = [name for name, places in every.items() if all(silent.get(at, 1.0) <= tolerance for at in places)]
    for at, found in silent.items():
        if found > tolerance:
            spec = spec.with_groups(**{at.group: {"kind": "fixed", "symmetry": "none"}})
            spec = _noted(spec, f"moving {at} alone changes the outputs by only {found:.1e}, so the group is fixed")
        elif any(leaf == at for leaf in occurrences(spec)):
            spec = without(spec, at)
            if at.tensor not in unread:
                spec = _noted(spec, f"moving {at} alone changes nothing, so it is fixed there")
    notes = [f"tensor '{name}' has no effect on the outputs, so its axes are fixed" for name in unread]
    return _noted(tidy(spec), *notes)
