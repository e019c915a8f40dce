"""The derivation of a spec: read the graph once for its axes, once for degrees, then name what was found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from weightspace.axes import Axis, Fixed, Leaf, Product, Sum, canonical
from weightspace.errors import SymmetryError
from weightspace.proof.sharing import overlapping, sharing_note, tied
from weightspace.spec import NeuronGroup, SymmetrySpec
from weightspace.tracing.beside import companions, unpaired
from weightspace.tracing.degrees import Equations, Solution, solve
from weightspace.tracing.dims import ONE, Atom, Dim, Factor, dim, leaves, resolve
from weightspace.tracing.graph import Graph, export
from weightspace.tracing.naming import group_names, parents
from weightspace.tracing.reader import Reader
from weightspace.tracing.values import Value


def derive(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> SymmetrySpec:
    """Derive the spec of a module; see `weightspace.tracing.trace`."""
    return derived(export(module, args, kwargs), module)[0]


def derived(graph: Graph, module: nn.Module) -> tuple[SymmetrySpec, Callable[[Node], list[Axis] | None]]:
    """Derive the spec of a module from its graph, and a function that says by which groups the value of a node is indexed.

    Of a node that yields no tensor, and of one that is not followed, the function says None.
    """
    tensors = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, torch.Tensor)}
    aliases = tied(tensors)
    rows = {name: tensor for name, tensor in tensors.items() if name not in aliases and tensor.is_floating_point()}
    fresh: dict[tuple[Node, int], Atom] = {}
    shared = [(one, other) for one, other in overlapping(tensors) if one in rows and other in rows]
    dims, notes = _first_dims(graph, rows, aliases, {name for pair in shared for name in pair})
    notes += [sharing_note(pair) for pair in shared] + [
        f"buffer '{name}' is written in eval mode, which is no output" for name in graph.written
    ]
    axes = Reader(graph.nodes, _inputs(graph, dims, aliases, fresh), fresh)
    axes.read()
    equations = Equations()
    occurrences: dict[str, list[Dim]] = {name: [_labelled(resolve(terms), equations) for terms in dims[name]] for name in rows}
    degrees = Reader(graph.nodes, _inputs(graph, occurrences, aliases, fresh), fresh, equations)
    degrees.read()
    found = {name: [resolve(terms) for terms in occurrences[name]] for name in rows}
    made = _Spec(graph, found, aliases, axes, degrees, equations, notes)
    try:
        return made.build(), made.axes_of
    except SymmetryError:  # planes that the grammar cannot place beside their coordinates
        equations.planes.clear()
        return made.build(), made.axes_of


def _new(shape: Sequence[int], *, fixed: bool) -> list[Dim]:
    return [() if n == 0 else ONE if n == 1 else dim(Atom(n, fixed=fixed)) for n in shape]


def _first_dims(
    graph: Graph, rows: Mapping[str, torch.Tensor], aliases: Mapping[str, str], shared: set[str]
) -> tuple[dict[str, list[Dim]], list[str]]:
    """An atom for every axis of every tensor; those of tensors that nothing reads or that share storage are fixed."""
    read = {aliases.get(name, name) for name in graph.held}
    notes = [f"tensor '{name}' is not read on the way to the output; its axes are fixed" for name in rows if name not in read]
    return {name: _new(tensor.shape, fixed=name not in read or name in shared) for name, tensor in rows.items()}, notes


def _inputs(
    graph: Graph, dims: Mapping[str, list[Dim]], aliases: Mapping[str, str], fresh: dict[tuple[Node, int], Atom]
) -> dict[Node, Value]:
    """What the placeholders of a graph are indexed by."""
    out: dict[Node, Value] = {}
    for name, node in graph.held.items():
        owner = aliases.get(name, name)
        out[node] = Value(dims[owner], held=owner) if owner in dims else _given(node, fresh)
    return out | {node: _given(node, fresh) for node in (*graph.inputs, *graph.constants)}


def _given(node: Node, fresh: dict[tuple[Node, int], Atom]) -> Value:
    """What the user gives, and constants: nothing about them moves."""
    shape = node.meta["val"].shape
    return Value([() if n == 0 else ONE if n == 1 else dim(fresh.setdefault((node, k), Atom(n, fixed=True))) for k, n in enumerate(shape)])


def _labelled(terms: Dim, equations: Equations) -> Dim:
    """A dimension with an unknown degree for every atom."""
    return tuple(
        tuple(
            Factor(factor.atom, equations.unknown())
            if factor.inner is None
            else Factor(factor.atom, inner=_labelled(factor.inner, equations))
            for factor in term
        )
        for term in terms
    )


@dataclass
class _Spec:
    """What was found about the tensors of a module, on its way to a spec."""

    graph: Graph
    found: Mapping[str, list[Dim]]
    aliases: Mapping[str, str]
    axes: Reader
    degrees: Reader
    equations: Equations
    notes: list[str]
    names: dict[Atom, str] = field(default_factory=dict)

    def build(self) -> SymmetrySpec:
        """Name the groups and write down the axes."""
        witnesses = [*self.axes.witnesses, *self.degrees.witnesses]
        self.equations.planes -= unpaired(witnesses, self.equations.planes)
        turning = self.equations.planes
        atoms = list(dict.fromkeys(leaf.atom for _, leaf in self._leaves() if not leaf.atom.fixed or leaf.atom in turning))
        beside = companions(witnesses, turning)
        per = parents(atoms, {atom: {other for other in others if not other.fixed} for atom, others in beside.items()})
        solutions = self._solutions(atoms, set(per.values()))
        atoms = [atom for atom in atoms if not atom.fixed or solutions[atom].symmetry == "rotation"]
        outside = self._outside()
        names = group_names(self._homes(atoms, solutions), self._roles(), per, taken=outside.values()) | outside
        self.names = names
        tensors = {name: tuple(self._axis(terms, names, solutions, name) for terms in dims) for name, dims in self.found.items()}
        groups = {
            names[atom]: NeuronGroup(
                names[atom],
                atom.size,
                kind="fixed" if atom.fixed else "permutable",
                symmetry=solutions[atom].symmetry,
                per=names[per[atom]] if atom in per else None,
            )
            for atom in atoms
        }
        used = {leaf.atom for _, leaf in self._leaves()}
        groups |= {name: NeuronGroup(name, atom.size, kind="fixed") for atom, name in outside.items() if atom in used}
        statistics = frozenset(name for name in self.axes.statistics if name in tensors)
        gains, stuck = self._folding(names, solutions)
        notes = dict.fromkeys([*self.axes.notes, *self.notes, *stuck])
        return SymmetrySpec(groups, tensors, dict(self.aliases_of_rows()), statistics, tuple(notes), gains=gains)

    def axes_of(self, node: Node) -> list[Axis] | None:
        """The axes of what a node yields, as the spec names them."""
        value = self.axes.value(node)
        if not isinstance(value, Value):
            return None

        def axis(terms: Dim) -> Axis:
            factors = [[axis(one.inner) if one.inner is not None else self._leaf(one.atom) for one in term] for term in terms]
            return canonical(Sum(tuple(canonical(Product(tuple(found))) for found in factors)))

        return [axis(resolve(terms)) for terms in value.dims]

    def _leaf(self, atom: Atom) -> Axis:
        name = self.names.get(atom.root)
        return Fixed(atom.size) if name is None or atom.root.fixed else Leaf(name)

    def aliases_of_rows(self) -> Mapping[str, str]:
        """Ties between tensors that have rows."""
        return {name: owner for name, owner in self.aliases.items() if owner in self.found}

    def _leaves(self) -> Iterator[tuple[str, Factor]]:
        for name, dims in self.found.items():
            for terms in dims:
                for leaf in leaves(terms):
                    yield name, leaf

    def _gains(self, solutions: Mapping[Atom, Solution]) -> Iterator[tuple[Atom, str, tuple[str, ...]]]:
        """The gains of RMS normalisations without which a stream could be turned about, with the tensors that read what they scale."""
        for atom in solutions:
            gains = self.equations.rigid.get(atom, set())
            if atom in self.equations.round and gains and "" not in gains:
                for gain in (name for name in self.found if name in gains):
                    yield atom, gain, tuple(dict.fromkeys(self.degrees.folds.get(gain, ())))

    def _folding(self, names: Mapping[Atom, str], solutions: Mapping[Atom, Solution]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """The gains of every stream all of whose gains can be folded away, and what stands in the way of the others."""
        tied = {*self.aliases, *self.aliases.values()}
        found = [(atom, gain, readers) for atom, gain, readers in self._gains(solutions) if atom in names]
        stuck = {atom: gain for atom, gain, readers in found if not readers or tied & set(readers)}
        notes = [
            f"group '{names[atom]}' would be orthogonal if the gain '{gain}' could be folded into what reads it"
            for atom, gain in stuck.items()
        ]
        return {gain: readers for atom, gain, readers in found if atom not in stuck}, notes

    def _homes(self, atoms: Sequence[Atom], solutions: Mapping[Atom, Solution]) -> dict[Atom, str]:
        """The tensor that makes each atom: best a matrix on whose producing side it stands and changes (of a gated unit, not the gate)."""
        best: dict[Atom, tuple[int, str]] = {}
        for name, leaf in self._leaves():
            if leaf.atom in solutions:
                moves = all(solutions[leaf.atom].exponents.get(key, 1) for key in leaf.degree)
                is_matrix = len([terms for terms in self.found[name] if terms != ONE]) > 1
                rank = 8 * (name in self.axes.statistics) + 4 * self._is_dual(leaf) + 2 * (not is_matrix) + (not moves)
                best[leaf.atom] = min(best.get(leaf.atom, (rank, name)), (rank, name), key=lambda pair: pair[0])
        return {atom: best[atom][1] for atom in atoms}

    def _is_dual(self, leaf: Factor) -> bool:
        return any(key in self.equations.duals and key not in self.equations.producers for key in leaf.degree)

    def _roles(self) -> dict[Atom, str]:
        return {atom.root: word for atom, word in self.degrees.roles.items()}

    def _outside(self) -> dict[Atom, str]:
        """Names of axes that the user sees: whole axes of tensors that are a dimension of an input or of the output."""
        whole = {terms[0][0].atom for dims in self.found.values() for terms in dims if len(terms) == 1 and len(terms[0]) == 1}
        out: dict[Atom, str] = {}
        ends = [("in", self.axes.values[node].dims) for node in self.graph.inputs] + [("out", dims) for dims in self._outputs()]
        for word, dims in ends:
            for terms in dims[1:] if len(dims) > 1 else dims:
                for leaf in leaves(resolve(terms)):
                    if leaf.atom in whole and leaf.atom.fixed and leaf.atom not in out:
                        count = sum(name.startswith(word) for name in out.values())
                        out[leaf.atom] = f"{word}{count + 1}" if count else word
        return out

    def _outputs(self) -> list[list[Dim]]:
        last = self.graph.nodes[-1]
        return [value.dims for node in last.all_input_nodes if isinstance(value := self.axes.values.get(node), Value)]

    def _solutions(self, atoms: Sequence[Atom], above: set[Atom]) -> dict[Atom, Solution]:
        """The continuous symmetry and the exponents of each group."""
        unknowns: dict[Atom, list[int]] = {atom: [] for atom in atoms}
        pinned: set[int] = set()
        for name, leaf in self._leaves():
            if leaf.atom in unknowns:
                unknowns[leaf.atom] += leaf.degree
                pinned.update(leaf.degree if name in self.degrees.statistics else ())
        return solve(self.equations, unknowns, pinned, self.degrees.gains, above)

    def _axis(self, terms: Dim, names: Mapping[Atom, str], solutions: Mapping[Atom, Solution], tensor: str) -> Axis:
        def factor(one: Factor) -> Axis:
            if one.inner is not None:
                return self._axis(one.inner, names, solutions, tensor)
            if one.atom not in names:
                return Fixed(one.atom.size)
            if one.atom not in solutions or not one.degree:
                return Leaf(names[one.atom])
            (key,) = one.degree
            dual = self._is_dual(one)
            exponent = solutions[one.atom].exponents.get(key)
            if exponent is None:
                return Leaf(names[one.atom], dual, self.axes.statistics.get(tensor, 1))
            if solutions[one.atom].symmetry in ("sign", "orthogonal"):
                return Leaf(names[one.atom], dual, exponent)
            return Leaf(names[one.atom], exponent < 0, abs(exponent))

        return canonical(Sum(_planes([canonical(Product(tuple(map(factor, term)))) for term in terms], self._turning(names, solutions))))

    @staticmethod
    def _turning(names: Mapping[Atom, str], solutions: Mapping[Atom, Solution]) -> set[str]:
        return {names[atom] for atom, solution in solutions.items() if solution.symmetry == "rotation" and atom in names}


def _planes(terms: list[Axis], turning: set[str]) -> tuple[Axis, ...]:
    """Write the two coordinates of planes among other terms as one product, `(2 plane)`; by themselves they are `plane + plane`."""
    out: list[Axis] = []
    for term in terms:
        if len(terms) > 2 and out and out[-1] == term and isinstance(term, Leaf) and term.group in turning:
            out[-1] = Product((Fixed(2), term))
        else:
            out.append(term)
    return tuple(out)
