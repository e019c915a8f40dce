"""The model tree: of all edges that could be, those of the most probable arborescence, and how sure each direction then is."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weightspace.analysis.lineage.evidence import Finding

LEAST = 1e-60  # that a length counts, so that it has a logarithm
SHARPNESS = 3.0  # how much less probable an edge is that is so many times longer
DOUBT = 4.0  # weight of the probability that the two are related at all
PROVED = 1e3  # what an edit that is known element by element goes before all others by
EXACT = 5.0  # weight of the direction there, which is as sure
GROWN = 0.6  # weight of the prior over roots
SURE = 0.999
BASE = 0.8  # of a merge's distance to its parents, from which a relative is taken to stand above it
SURELY = 0.9  # probability from which two models are taken for relatives when a third is judged by them
DISTANCES = ("drift", "matching")  # evidence that is a distance, whose probability that of nearer relatives bounds
STRANGE = 0.02  # probability under which a relation is not even a link that would have to be cut


@dataclass(frozen=True)
class Relation:
    """Two models by number, and how the one became the other.

    Attributes:
        first, second: the models.
        findings: what was found, that which decides first.
        distance: sum of squared differences, after moving the one onto the other where they were permuted.
        step: the same as `weightspace.analysis.lineage.steps` has it, where it was taken; else None.
        weight: share of the first in the second where that is a merge.
    """

    first: int
    second: int
    findings: tuple[Finding, ...]
    distance: float
    weight: float = 1.0
    step: float | None = None

    @property
    def finding(self) -> Finding:
        """What decides."""
        return self.findings[0]

    def cost(self, parent: int) -> float:
        """What the tree pays for the edge from this one of the two: the logarithms of its length and of its probabilities."""
        doubt = -DOUBT * math.log(self.finding.probability)
        if self.finding.is_exact:
            return SHARPNESS * math.log(max(LEAST, self.distance)) - EXACT * math.log(self.forward(parent)) + doubt - PROVED
        length = self.distance if self.step is None else self.step
        return SHARPNESS * math.log(max(LEAST, length * self.finding.length)) - math.log(self.forward(parent)) + doubt

    def forward(self, parent: int) -> float:
        """Probability that this one of the two is the parent."""
        return self.finding.direction if parent == self.first else 1 - self.finding.direction


@dataclass(frozen=True)
class Placed:
    """An edge of the tree: its relation, its parent, and the probability of that direction in the tree as a whole."""

    relation: Relation
    parent: int
    child: int
    direction: float


def arborescences(relations: Sequence[Relation], merged: Mapping[int, Sequence[Relation]], threshold: float) -> list[Placed]:
    """Choose a parent for every model that has one, by minimum arborescences (Edmonds, 1967).

    An edge costs the logarithm of its length, and that of the probability of its direction. What the arborescence leaves of two
    families is the link where they come nearest; it is cut if it does not hold. A model that was found to be a merge takes its
    nearest parent in the tree, and the others besides. Each tree that is left is then directed as a whole.

    Args:
        relations: all that were compared, those that do not hold too.
        merged: the parents of merges, each relation's second the merge.
        threshold: probability from which a relation holds.
    """
    import networkx as nx

    graph = nx.DiGraph()
    possible = [one for one in _capped(relations) if one.finding.probability > STRANGE]
    for relation in [*possible, *(one for found in merged.values() for one in found)]:
        for parent, child in ((relation.first, relation.second), (relation.second, relation.first)):
            parents = {one.first for one in merged.get(child, ())}
            if (parents and parent not in parents) or child in {one.first for one in merged.get(parent, ())}:
                continue
            if not relation.finding.is_exact and _is_above(relation, merged.get(parent, ())):
                continue
            _offer(graph, relation, parent, child)
    made: list[Placed] = []
    kept = nx.Graph()
    for component in nx.weakly_connected_components(graph):
        for parent, child, relation in _chosen(graph.subgraph(component)):
            if relation.finding.probability >= threshold:
                kept.add_edge(parent, child, placed=(parent, child, relation))
    for family in nx.connected_components(kept):
        made += _oriented([edge["placed"] for _, _, edge in kept.subgraph(family).edges(data=True)], merged)
    return _with_other_parents(made, merged)


def _capped(relations: Sequence[Relation]) -> list[Relation]:
    """Believe a distance no more than those of nearer relatives: a model that came from another lies nearer to it than to its parent."""
    known: dict[int, dict[int, Relation]] = {}
    for one in relations:
        known.setdefault(one.first, {})[one.second] = known.setdefault(one.second, {})[one.first] = one
    made = []
    for one in relations:
        if one.finding.reason.evidence in DISTANCES:
            least = min([one.finding.probability, *_of_nearer(one, known)])
            one = replace(one, findings=(replace(one.finding, probability=least), *one.findings[1:]))
        made.append(one)
    return made


def _of_nearer(one: Relation, known: Mapping[int, Mapping[int, Relation]]) -> Iterator[float]:
    """For the sure relatives of either of two models that are nearer to it and to the other than the two are: what is known of them and the other."""
    for end, far in ((one.first, one.second), (one.second, one.first)):
        for relative, link in known[end].items():
            if link.finding.probability <= SURELY or link.distance >= one.distance:
                continue
            nearer = known[far].get(relative)
            if nearer is not None and nearer.distance < one.distance:
                yield nearer.finding.probability


def _is_above(relation: Relation, parents: Sequence[Relation]) -> bool:
    """Whether a relative of a merge is as far from it as its parents: their common base is, and looks like a child otherwise."""
    return bool(parents) and relation.distance >= BASE * min(one.distance for one in parents)


def _offer(graph: Any, relation: Relation, parent: int, child: int) -> None:
    """Put an edge into the graph unless a cheaper one of the two models is in it."""
    cost = relation.cost(parent)
    if not graph.has_edge(parent, child) or cost < graph.edges[parent, child]["weight"]:
        graph.add_edge(parent, child, weight=cost, relation=relation)


def _chosen(graph: Any) -> list[tuple[int, int, Relation]]:
    """The edges of the cheapest branching that has as few roots as can be."""
    import networkx as nx

    rooted = nx.DiGraph()
    rooted.add_edges_from((a, b, dict(weight=kept["weight"])) for a, b, kept in graph.edges(data=True))
    dear = 1e4 + sum(abs(kept["weight"]) for _, _, kept in graph.edges(data=True))
    rooted.add_edges_from((-1, node, {"weight": dear}) for node in graph.nodes)
    tree = nx.minimum_spanning_arborescence(rooted)
    return [(a, b, graph.edges[a, b]["relation"]) for a, b in tree.edges if a >= 0]


def _oriented(edges: Sequence[tuple[int, int, Relation]], merged: Mapping[int, Sequence[Relation]]) -> list[Placed]:
    """Direct the edges of a tree away from its most probable root, and say how probable each direction is over all roots.

    What each edge says of its direction is one part; the other is how many orders there are in which the tree can have grown from
    a root, if every model was as likely as any other to get a child (Shah and Zaman, Rumors in a Network, 2011, equation 3).
    """
    neighbours: dict[int, dict[int, tuple[Relation, float]]] = {}
    for a, b, relation in edges:
        odds = _log_odds(SURE if b in merged else relation.forward(a))
        neighbours.setdefault(a, {})[b] = relation, odds
        neighbours.setdefault(b, {})[a] = relation, -odds
    top = edges[0][0]
    order = _downward(top, neighbours)
    sizes = dict.fromkeys(neighbours, 1)
    for a, b in reversed(order):
        sizes[a] += sizes[b]
    scores = {top: 0.0}
    for a, b in order:
        scores[b] = scores[a] - neighbours[a][b][1] + GROWN * math.log(sizes[b] / (len(sizes) - sizes[b]))
    best = max(scores.values())
    chances = {node: math.exp(score - best) for node, score in scores.items()}
    below = dict(chances)
    for a, b in reversed(order):
        below[a] += below[b]
    made = []
    for a, b in _downward(max(scores, key=scores.__getitem__), neighbours):
        inside = below[b] if (a, b) in set(order) else below[top] - below[a]  # chance that the root lies on b's side
        made.append(Placed(neighbours[a][b][0], a, b, 1 - inside / below[top]))
    return made


def _downward(root: int, neighbours: Mapping[int, Iterable[int]]) -> list[tuple[int, int]]:
    """The edges of a tree, away from a root, each after the one that leads to it."""
    made, front, seen = [], [root], {root}
    while front:
        node = front.pop()
        for other in neighbours[node]:
            if other not in seen:
                seen.add(other)
                made.append((node, other))
                front.append(other)
    return made


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _with_other_parents(placed: Sequence[Placed], merged: Mapping[int, Sequence[Relation]]) -> list[Placed]:
    """Give every merge all its parents, but those that descend from it."""
    made = [replace(one, relation=_of_merge(one, merged)) for one in placed]
    parents: dict[int, set[int]] = {}
    for one in made:
        parents.setdefault(one.child, set()).add(one.parent)
    for child, relations in merged.items():
        for relation in relations:
            if relation.first not in parents.get(child, set()) and child not in _above(relation.first, parents):
                parents.setdefault(child, set()).add(relation.first)
                made.append(Placed(relation, relation.first, child, relation.finding.direction))
    return made


def _of_merge(placed: Placed, merged: Mapping[int, Sequence[Relation]]) -> Relation:
    return next((one for one in merged.get(placed.child, ()) if one.first == placed.parent), placed.relation)


def _above(node: int, parents: Mapping[int, set[int]]) -> set[int]:
    """A model and all its ancestors."""
    found, front = {node}, [node]
    while front:
        fresh = parents.get(front.pop(), set()) - found
        found |= fresh
        front += fresh
    return found
