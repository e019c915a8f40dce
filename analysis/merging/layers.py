"""Which tensors of a model form numbered layers, by their names."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = re.compile(r"(?:^|(?<=\.))(?:0|[1-9][0-9]{0,8})(?=\.)")  # as layers are counted: "007" is a name
_FIRST = re.compile(r"embed|wte|wpe|word|position|token|stem|patch|cls", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a tensor stands.

    Attributes:
        stack: what its name has before the number of its layer.
        layer: the number.
        rest: what its name has after it.
    """

    stack: str
    layer: int
    rest: str

    @property
    def name(self) -> str:
        """The tensor's name."""
        return f"{self.stack}{self.layer}{self.rest}"

    def at(self, layer: int) -> "Place":
        """The same tensor of another layer."""
        return Place(self.stack, layer, self.rest)


def place(name: str) -> Place | None:
    """Find the layer of a tensor: the first number that stands between dots.

    Example:
        >>> place("model.layers.3.experts.0.weight")
        Place(stack='model.layers.', layer=3, rest='.experts.0.weight')
    """
    found = _NUMBER.search(name)
    return None if found is None else Place(name[: found.start()], int(found.group()), name[found.end() :])


def stands_first(name: str) -> bool:
    """Whether a tensor outside the layers comes before them: embeddings of all kinds do, final norms and heads do not."""
    return _FIRST.search(name) is not None


def stacks(names: Iterable[str]) -> dict[str, int]:
    """Count the layers of each stack of a model, by what its names have before the number.

    Example:
        >>> stacks(["h.0.w", "h.1.w", "ln.w"])
        {'h.': 2}
    """
    made: dict[str, int] = defaultdict(int)
    for found in filter(None, map(place, names)):
        made[found.stack] = max(made[found.stack], found.layer + 1)
    return dict(made)
