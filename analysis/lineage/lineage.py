"""The lineage of a set of models: the edges that hold, the families they make, and who descends from whom."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from weightspace.analysis.lineage.aligned import aligned_merges
from weightspace.analysis.lineage.declared import by_hash, declared, supported, trajectories
from weightspace.analysis.lineage.edge import Edge
from weightspace.analysis.lineage.entry import Entry, expect_distinct
from weightspace.analysis.lineage.evidence import Finding
from weightspace.analysis.lineage.merges import merges_of
from weightspace.analysis.lineage.mosaics import mosaics
from weightspace.analysis.lineage.orbits import orbits
from weightspace.analysis.lineage.search import compared, relation_of, sketches_of, spans_of
from weightspace.analysis.lineage.tree import Relation, arborescences
from weightspace.errors import UnknownNameError
from weightspace.linalg import Cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Lineage:
    """Who descends from whom.

    Attributes:
        names: of all models, in the order they came.
        edges: that hold: one a child, or several where it is a merge; the most probable arborescence.
        pairs: every pair that was compared and is related in some way, the refused ones too, most probable first.
        threshold: probability from which an edge holds.
    """

    names: tuple[str, ...]
    edges: tuple[Edge, ...]
    pairs: tuple[Edge, ...]
    threshold: float = 0.5

    @property
    def families(self) -> list[list[str]]:
        """Models that edges connect, the largest family first; a model without relatives is a family of its own."""
        leader = {name: name for name in self.names}

        def top(name: str) -> str:
            while leader[name] != name:
                leader[name] = name = leader[leader[name]]
            return name

        for edge in self.edges:
            leader[top(edge.child)] = top(edge.parent)
        made: dict[str, list[str]] = {}
        for name in self.names:
            made.setdefault(top(name), []).append(name)
        return sorted(made.values(), key=len, reverse=True)

    @cached_property
    def tree(self) -> dict[str, list[str]]:
        """The parents of every model: none, one, or those of a merge."""
        made: dict[str, list[str]] = {name: [] for name in self.names}
        for edge in self.edges:
            made[edge.child].append(edge.parent)
        return made

    def ancestors(self, name: str) -> list[Edge]:
        """The edges that lead up from a model, nearest first.

        Raises:
            UnknownNameError: no model has this name.
        """
        return self._walk(name, {child: [e for e in self.edges if e.child == child] for child in self.names}, "parent")

    def descendants(self, name: str) -> list[Edge]:
        """The edges that lead down from a model, nearest first.

        Raises:
            UnknownNameError: no model has this name.
        """
        return self._walk(name, {parent: [e for e in self.edges if e.parent == parent] for parent in self.names}, "child")

    def _walk(self, name: str, following: Mapping[str, list[Edge]], end: str) -> list[Edge]:
        if name not in following:
            raise UnknownNameError.of("model", name, self.names)
        found: list[Edge] = []
        seen, front = {name}, [name]
        while front:
            step = [edge for one in front for edge in following[one]]
            found += step
            front = [one for one in dict.fromkeys(str(getattr(edge, end)) for edge in step) if one not in seen]
            seen.update(front)
        return found

    def plot(self) -> "Figure":
        """Draw the families of two or more as trees."""
        from weightspace.family_tree import Link, family_tree

        return family_tree([Link(edge.parent, edge.child, edge.kind, edge.probability, edge.is_directed) for edge in self.edges])

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row an edge."""
        return [row(edge) for edge in self.edges]

    def _repr_html_(self) -> str:
        """One row an edge for notebooks."""
        from weightspace import html

        columns = ["parent", "child", "kind", "probability", "evidence"]
        return html.page(repr(self)[1:-1], html.rows(self.table, columns=columns))

    def __repr__(self) -> str:
        families = [family for family in self.families if len(family) > 1]
        return f"<Lineage of {len(self.names)} models: {len(self.edges)} edges, {len(families)} families of two or more>"


def row(edge: Edge) -> dict[str, Any]:
    """An edge as a row of a table."""
    return {
        "parent": edge.parent,
        "child": edge.child,
        "kind": edge.kind,
        "probability": edge.probability,
        "direction": edge.direction if edge.is_directed else None,
        "weight": edge.weight,
        "evidence": edge.evidence,
    }


def lineage(
    entries: Sequence[Entry],
    *,
    threshold: float = 0.5,
    weights: bool = True,
    cache: Cache | None = None,
    generator: torch.Generator | None = None,
) -> Lineage:
    """Find who descends from whom.

    Args:
        entries: the models.
        threshold: probability from which an edge holds.
        weights: whether to compare weights; else only what is declared and what hashes tell.
        cache: where sketches are kept, so that a second run reads the weights alone that it compares.
        generator: source of chance of the matching of permuted copies.

    Raises:
        AnalysisError: two entries have one name.
    """
    expect_distinct(entries)
    names = tuple(entry.name for entry in entries)
    told = declared(entries)
    relations = [*trajectories(entries)]
    merged: dict[int, list[Relation]] = {}
    if weights:
        stated = {(min(one.first, one.second), max(one.first, one.second)) for parents in told.values() for one in parents}
        found, merged = _measured(entries, threshold, cache, generator, stated)
        told = {child: [supported(one, found) for one in parents] for child, parents in told.items()}
        relations += [one for one in found if not any(_is_of(one, other) for other in relations)]
    else:
        relations += by_hash(entries)
    refuted = [one for parents in told.values() for one in parents if one.finding.probability < threshold]
    merged |= {child: kept for child, parents in told.items() if (kept := [one for one in parents if one not in refuted])}
    relations = [one for one in relations if not _ends_in(one, merged)]
    placed = arborescences(relations, merged, threshold)
    edges = tuple(_edge(one.relation, one.parent, one.child, one.direction, names) for one in placed)
    ranked = sorted(
        [*relations, *refuted, *(one for parents in merged.values() for one in parents)], key=lambda one: -one.finding.probability
    )
    return Lineage(names, edges, tuple(_pair(one, names) for one in ranked), threshold)


def _measured(
    entries: Sequence[Entry],
    threshold: float,
    cache: Cache | None,
    generator: torch.Generator | None,
    stated: Set[tuple[int, int]],
) -> tuple[list[Relation], dict[int, list[Relation]]]:
    """What the weights say: relations of pairs, and the parents of merges."""
    sketches = sketches_of(entries, cache)
    spans = spans_of(sketches)
    relations = [found for told in compared(entries, sketches, spans, stated) if (found := relation_of(*told)) is not None]
    edited = _paired(relations, lambda one: one.is_exact)
    merged = {
        child: parents
        for child, parents in (
            aligned_merges(entries, spans, edited)
            | mosaics(entries, spans, _paired(relations, lambda one: one.is_exact or one.kind == "lora"))
            | merges_of(entries, spans, edited)
        ).items()
        if child not in _made_exactly(relations)
    }
    relations = [one for one in relations if not _ends_in(one, merged)]
    known = [one.relation for one in arborescences(relations, merged, threshold)]
    relations += orbits(entries, sketches, [span.rows for span in spans if span.rows is span.columns], relations, known, generator)
    return relations, merged


def _is_of(one: Relation, other: Relation) -> bool:
    return {one.first, one.second} == {other.first, other.second}


def _ends_in(one: Relation, merged: Mapping[int, Sequence[Relation]]) -> bool:
    """Whether a relation is of a model and one of its known parents."""
    return any(_is_of(one, other) for end in (one.first, one.second) for other in merged.get(end, ()))


def _paired(relations: Sequence[Relation], holds: Callable[[Finding], bool]) -> dict[int, set[int]]:
    """For each model, those that what was found of the two holds for."""
    made: dict[int, set[int]] = {}
    for one in relations:
        if holds(one.finding):
            made.setdefault(one.first, set()).add(one.second)
            made.setdefault(one.second, set()).add(one.first)
    return made


def _made_exactly(relations: Sequence[Relation]) -> set[int]:
    """Models that are known element by element to have been made from one other: what that one is a sum of, they are up to rounding."""
    exact = [one for one in relations if one.finding.is_exact and one.finding.is_directed]
    return {one.second if one.finding.direction > 0.5 else one.first for one in exact}


def _pair(relation: Relation, names: Sequence[str]) -> Edge:
    ends = (relation.first, relation.second) if relation.finding.direction >= 0.5 else (relation.second, relation.first)
    return _edge(relation, *ends, relation.forward(ends[0]), names)


def _edge(relation: Relation, parent: int, child: int, direction: float, names: Sequence[str]) -> Edge:
    finding = relation.finding
    reasons = tuple(one.reason for one in relation.findings)
    return Edge(
        names[parent],
        names[child],
        finding.kind,
        finding.probability,
        direction if finding.is_directed else 0.5,
        finding.is_directed,
        relation.weight,
        reasons,
    )
