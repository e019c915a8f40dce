"""Which neuron groups of an architecture vary in size, where some of its tensors are made and the others stay."""

from collections.abc import Sequence

from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError
from weightspace.metanets.layout import Layout, Slot
from weightspace.spec import MATRIX


def made_slots(layout: Layout, target: Target, only: Sequence[str] | None) -> list[Slot]:
    """The slots whose weights are made: of all tensors, or of those whose names begin so; running statistics are none of them.

    Raises:
        GenerationError: no tensor's name begins so.
    """
    starts = tuple(only or ("",))
    found = [slot for slot in layout.slots if slot.tensor in target.shapes and slot.tensor.startswith(starts)]
    for start in starts:
        if not any(slot.tensor.startswith(start) for slot in found):
            raise GenerationError(f"no tensor's name begins with '{start}'; the tensors are {', '.join(list(target.shapes)[:8])}")
    return [slot for slot in found if slot.tensor not in layout.spec.statistics]


def varying_groups(layout: Layout, slots: Sequence[Slot], groups: Sequence[str] | None) -> tuple[str, ...]:
    """The groups whose size varies: those given, or all that can.

    Raises:
        GenerationError: there is none, one that cannot vary, or one that indexes a tensor which is not made.
    """
    made = {slot.tensor for slot in slots}
    needed = {name: [slot.tensor for slot in layout.slots if name in slot.groups and slot.tensor not in made] for name in layout.groups}
    free = [name for name in layout.groups if _can_vary(layout, name)]
    chosen = [name for name in free if not needed[name]] if groups is None else list(groups)
    for name in chosen:
        if name not in free:
            raise GenerationError(f"group '{name}' cannot vary in size; the groups that can are {', '.join(free) or 'none'}")
        if needed[name]:
            raise GenerationError(
                f"group '{name}' varies and indexes tensor '{needed[name][0]}', which is not made; "
                "add the tensor to `only`, fold running statistics into their layers, or leave the group out of `groups`"
            )
    if not chosen:
        raise GenerationError("no neuron group's size can vary: each is fixed, or indexes a tensor that is not made; make more tensors")
    return tuple(chosen)


def _can_vary(layout: Layout, name: str) -> bool:
    group = layout.spec.groups[name]
    inner = any(other.per == name for other in layout.spec.groups.values())
    return group.kind == "permutable" and group.per is None and not inner and group.symmetry not in ("rotation", *MATRIX)


__all__ = ["made_slots", "varying_groups"]
