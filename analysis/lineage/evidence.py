"""Evidence: a way to tell how one model became another, registered by a decorator in a file of its own."""

from collections.abc import Callable
from dataclasses import dataclass

from weightspace.analysis.lineage.comparison import Comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.registry import Registry


@dataclass(frozen=True)
class Finding:
    """What one kind of evidence says of two models.

    Attributes:
        kind: of edit that it speaks for.
        probability: that one was made from the other.
        direction: that the first is the parent, if one is.
        is_directed: whether a direction can be known at all.
        is_exact: whether it holds element by element, which chance does not bring about.
        reason: what it says.
        length: what the distance is multiplied by in the tree: the less, the more the evidence ties the two together beyond it.
    """

    kind: str
    probability: float
    direction: float
    reason: Reason
    is_directed: bool = True
    is_exact: bool = False
    length: float = 1.0


Evidence = Callable[[Comparison], Finding | None]

evidences: Registry[Evidence] = Registry("evidence", package="weightspace.analysis.lineage")


def evidence(name: str) -> Callable[[Evidence], Evidence]:
    """Register a way to tell under a name; it says nothing where it does not apply."""
    return lambda function: evidences.add(name, function)
