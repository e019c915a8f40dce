"""Edges of the family tree that somebody inferred: written together, in place of what was inferred before."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightspace.errors import RecordError
from weightspace.zoo import query
from weightspace.zoo.write import Connection

DECLARED, CARD = "recipe", "card"
STATED = (DECLARED, CARD)
"""The evidence of edges that a recipe states, or a model's card; nothing inferred takes their place."""


@dataclass(frozen=True)
class Edge:
    """That one model comes from another.

    Attributes:
        parent: catalog name, id prefix or path.
        child: the same.
        kind: what was done: finetune, adapter, merge, cast, pruned, copy, ...
        evidence: what speaks for it, in words.
        confidence: its probability.
    """

    parent: str
    child: str
    kind: str
    evidence: str
    confidence: float


def write_edges(connection: Connection, edges: Sequence[Edge], among: Sequence[str], folder: Path) -> int:
    """Write inferred edges; see `Zoo.record_edges`."""
    for edge in edges:
        if not 0 <= edge.confidence <= 1:
            raise RecordError(f"the edge '{edge.parent}' -> '{edge.child}' has confidence {edge.confidence!r}, expected a probability")
        if edge.evidence in STATED:
            who = "making a model" if edge.evidence == DECLARED else "a model's card"
            raise RecordError(f"the edge '{edge.parent}' -> '{edge.child}' has the evidence '{edge.evidence}', which only {who} leaves")
    numbers = {name: query.resolve(connection, name, folder) for edge in edges for name in (edge.parent, edge.child)}
    scope = sorted({query.resolve(connection, name, folder) for name in among} | set(numbers.values()))
    connection.execute(
        "delete from edges where not list_contains(?::varchar[], evidence) and list_contains(?::integer[], parent_id) and list_contains(?::integer[], child_id)",
        [list(STATED), scope, scope],
    )
    declared = set(
        connection.execute("select parent_id, child_id from edges where list_contains(?::varchar[], evidence)", [list(STATED)]).fetchall()
    )
    fresh = {
        (numbers[edge.parent], numbers[edge.child]): edge
        for edge in edges
        if (numbers[edge.parent], numbers[edge.child]) not in declared and numbers[edge.parent] != numbers[edge.child]
    }
    for (parent, child), edge in fresh.items():
        connection.execute("insert into edges values (?, ?, ?, ?, ?)", [parent, child, edge.kind, edge.evidence, edge.confidence])
    return len(fresh)
