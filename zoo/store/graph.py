"""Which models of a store need which: no circles, and chains of a bounded length."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

LONGEST = 3  # models that are read for one, one after the other's base


class Needs:
    """The bases of compact models, by id, grown as models are compacted."""

    def __init__(self, known: Mapping[str, Iterable[str]] | None = None) -> None:
        self.bases: dict[str, frozenset[str]] = {}
        self.users: dict[str, set[str]] = defaultdict(set)
        for model, bases in (known or {}).items():
            self.record(model, bases)

    def record(self, model: str, bases: Iterable[str]) -> None:
        """Say what a model needs now."""
        for base in self.bases.get(model, ()):
            self.users[base].discard(model)
        self.bases[model] = frozenset(bases)
        for base in self.bases[model]:
            self.users[base].add(model)

    def below(self, model: str) -> int:
        """How long the longest chain is that begins at a model's own bases; no more than one too many, should it be a circle."""
        return _longest(model, self.bases)

    def above(self, model: str) -> int:
        """The same of the longest chain that ends with this model as a base."""
        return _longest(model, self.users)

    def all_of(self, models: Iterable[str]) -> set[str]:
        """The models, and everything that they need."""
        found, waiting = set(), list(models)
        while waiting:
            model = waiting.pop()
            if model not in found:
                found.add(model)
                waiting.extend(self.bases.get(model, ()))
        return found

    def may(self, model: str, base: str) -> bool:
        """Whether a model may be kept as what differs from another.

        Example:
            >>> needs = Needs({"child": ["parent"]})
            >>> needs.may("parent", "child"), needs.may("other", "child")
            (False, True)
        """
        return model not in self.all_of([base]) and self.below(base) + 1 + self.above(model) <= LONGEST


def _longest(model: str, links: Mapping[str, Iterable[str]]) -> int:
    level = {model}
    for length in range(LONGEST + 1):
        level = {other for one in level for other in links.get(one, ())}
        if not level:
            return length
    return LONGEST + 1


__all__ = ["LONGEST", "Needs"]
