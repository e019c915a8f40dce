"""What the engine is told of one model: its checkpoint, and what people or files say about where it comes from."""

from collections.abc import Iterable
from dataclasses import dataclass

from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError


@dataclass(frozen=True)
class Declared:
    """A parent that something says a model has.

    Attributes:
        parent: its name among the entries, or the first digits (8 or more) of its content id.
        kind: finetune, adapter, merge, quantized, export, ...
        source: what says so: card, adapter config, recipe, ...
    """

    parent: str
    kind: str = "finetune"
    source: str = "card"


@dataclass(frozen=True)
class Entry:
    """One model whose relatives are looked for.

    Attributes:
        name: unique among the entries.
        checkpoint: opened; its tensors are read only where sketches do not settle the question.
        declared: parents that something says it has.
        run: the training that it is a checkpoint of, if known.
        step: when in that training.
        id: content identity in hex where it is known already, so that weights need not be read to learn it.
    """

    name: str
    checkpoint: Checkpoint
    declared: tuple[Declared, ...] = ()
    run: str | None = None
    step: int | None = None
    id: str | None = None

    @property
    def content(self) -> str:
        """Content identity in hex."""
        return self.id or self.checkpoint.id


def expect_distinct(entries: Iterable[Entry]) -> None:
    """See that no two entries have one name.

    Raises:
        AnalysisError: two have.
    """
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise AnalysisError(f"two models are named '{entry.name}'; lineage needs names that are unique")
        seen.add(entry.name)
