"""Names: which groups the atoms of the weights are, called after the module that makes them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from weightspace.tracing.dims import Atom


def group_names(
    homes: Mapping[Atom, str], roles: Mapping[Atom, str], per: Mapping[Atom, Atom], taken: Iterable[str] = ()
) -> dict[Atom, str]:
    """Name atoms after the tensor that makes them; where one tensor makes several, with a word for what each counts.

    Args:
        homes: for each atom the name of the tensor that makes it.
        roles: words such as `head`, for some; the others are `outer` or `inner` as they have children or a parent.
        per: for each atom that has one, its parent.
        taken: names that are not free.
    """
    bases = {atom: module_name(tensor) for atom, tensor in homes.items()}
    shared = Counter(bases.values())
    used, out = set(taken), {}
    for atom, base in bases.items():
        word = roles.get(atom) or ("inner" if atom in per else "outer" if atom in per.values() else "part")
        wanted = f"{base}.{word}" if shared[base] > 1 else base
        name, count = wanted, 1
        while name in used:
            count += 1
            name = f"{wanted}{count}" if wanted[-1:].isalpha() else f"{wanted}_{count}"
        used.add(name)
        out[atom] = name
    return out


def module_name(tensor: str) -> str:
    """The module that a tensor belongs to, as a name that the axis grammar takes; a bare parameter's own name.

    Example:
        >>> module_name("layers.0.mlp.up_proj.weight"), module_name("0.weight"), module_name("scale")
        ('layers.0.mlp.up_proj', 'layer0', 'scale')
    """
    path = tensor.rpartition(".")[0] or tensor
    name = re.sub(r"[^\w.]", "_", path, flags=re.ASCII)
    return name if re.match(r"[A-Za-z_]", name) else f"layer{name}"


def parents(atoms: Sequence[Atom], beside: Mapping[Atom, set[Atom]]) -> dict[Atom, Atom]:
    """Choose for each atom the atom per which it may vary: one that stands beside it in every value, the innermost such.

    Args:
        atoms: groups, in the order in which they are read; an earlier one is preferred as the parent of a later one.
        beside: the atoms that stand beside each one everywhere.
    """
    order = {atom: k for k, atom in enumerate(atoms)}
    allowed = {
        atom: {
            other
            for other in beside.get(atom, set())
            if other in order and (atom not in beside.get(other, set()) or order[other] < order[atom])
        }
        for atom in atoms
    }
    chosen: dict[Atom, Atom] = {}
    for atom in atoms:
        candidates = sorted(allowed[atom], key=lambda other: (len(allowed[other]), order[other]))
        if candidates:
            chosen[atom] = candidates[-1]
    return chosen
