"""An edge: one model that descends from another, how, how probable that is, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field

COPIES = frozenset({"copy", "renamed", "permuted", "rescaled"})
"""Kinds of edits that change nothing that the weights compute: which model was first, they do not tell."""


@dataclass(frozen=True)
class Reason:
    """One piece of evidence for an edge.

    Attributes:
        evidence: what gave it: declared, shared tensors, distance, ...
        text: what it says, in words.
        numbers: what it measured.
    """

    evidence: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """A parent and its child.

    Attributes:
        parent, child: names. Where the direction cannot be known, the order is that of the tree.
        kind: copy, renamed, permuted, rescaled, cast, quantised, pruned, finetune, lora, continued, merge, adapter, or what was declared.
        probability: that the one was made from the other, or both from a common trained ancestor. Which of several relatives it was is the
            tree's choice beyond that; how often it is right by kind of evidence is in `weightspace.analysis.lineage.probability`.
        direction: that the parent is the parent, given that they are; .5 where it cannot be known.
        is_directed: whether the direction can be known at all: a permuted copy has none.
        weight: share of the parent in a merge, else 1.
        reasons: why.
    """

    parent: str
    child: str
    kind: str
    probability: float
    direction: float = 0.5
    is_directed: bool = True
    weight: float = 1.0
    reasons: tuple[Reason, ...] = ()

    @property
    def evidence(self) -> str:
        """The reasons in one line."""
        return "; ".join(reason.text for reason in self.reasons)

    def __repr__(self) -> str:
        arrow = "->" if self.is_directed else "--"
        return f"<Edge {self.parent} {arrow} {self.child}: {self.kind}, probability {self.probability:.3f}, direction {self.direction:.2f}>"
